"""When rows leave where they began, against following each by hand."""

import numpy as np
import pytest

from dynamics.statistics.departures import MIN_COSINE, departures


def followed(steps, cosines):
    for at, step in enumerate(steps):
        if all(cosine < MIN_COSINE for cosine in cosines[at:]):
            return step
    return np.nan


def test_each_row_followed_on_its_own(rng):
    steps = [0, 1, 2, 8, 64]
    cosines = rng.uniform(0.97, 1, (5, 500))
    cosines[0] = 1
    expected = [followed(steps, row) for row in cosines.T]
    np.testing.assert_array_equal(departures(steps, cosines), expected)
    assert np.isnan(expected).any()


def test_a_row_that_only_shrinks_stays():
    rows = np.array([[3.0, 4.0]]) * 0.9 ** np.arange(30)[:, None]
    cosines = rows @ rows[0] / np.linalg.norm(rows, axis=1) / 5
    assert np.isnan(departures(list(range(30)), cosines[:, None])).all()


def test_coming_back_does_not_count_as_leaving():
    cosines = np.array([[1.0], [0.5], [0.995], [0.7], [0.6]])
    assert departures([0, 10, 20, 30, 40], cosines) == [30]


def test_steps_and_rows_must_match():
    with pytest.raises(ValueError, match="3 steps, but cosines at 2"):
        departures([0, 1, 2], np.ones((2, 4)))
