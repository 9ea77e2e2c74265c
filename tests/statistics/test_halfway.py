"""Times to half against paths made by hand, and against following each row on its own."""

import numpy as np
import pytest

from dynamics.statistics.departures import MIN_COSINE
from dynamics.statistics.halfway import times_to_half


def followed(steps, cosines):
    """Time to half of one row, searched for from the end on a fine grid of steps."""
    if np.isnan(cosines).any() or cosines[0] >= MIN_COSINE:
        return np.nan
    grid = np.linspace(steps[0], steps[-1], 200_001)
    beyond = np.interp(grid, steps, cosines) >= (1 + cosines[0]) / 2
    return grid[len(grid) - np.argmin(beyond[::-1])]


def test_each_row_followed_on_its_own(rng):
    steps = [0, 1, 2, 8, 64]
    cosines = np.vstack([rng.uniform(-1, 1, (4, 40)), np.ones(40)])
    cosines[0, :3] = 0.999
    times = times_to_half(steps, cosines)
    np.testing.assert_allclose(times, [followed(steps, row) for row in cosines.T], atol=1e-3)
    assert np.isnan(times[:3]).all()


@pytest.mark.parametrize(
    ("cosines", "time"),
    [
        ([0, 0.5, 1], 10),  # half at a measured step
        ([0, 0.25, 1], 10 + 10 / 3),  # between two
        ([-1, -1, 1], 15),
        ([0.6, 0.9, 1], 20 / 3),
        ([0, 0.9, 0.4, 1], 20 + 10 / 6),  # it turned back in between
    ],
)
def test_paths_by_hand(cosines, time):
    steps = [0, 10, 20, 30][: len(cosines)]
    assert times_to_half(steps, np.array(cosines)[:, None]) == pytest.approx(time)


def test_a_row_without_a_way_or_without_a_direction_has_no_time():
    cosines = np.array([[MIN_COSINE, np.nan, 0.2], [0.5, 0.5, np.nan], [1, 1, 1]])
    assert np.isnan(times_to_half([0, 1, 2], cosines)).all()


def test_steps_and_rows_must_match():
    with pytest.raises(ValueError, match="3 steps, but cosines at 2"):
        times_to_half([0, 1, 2], np.ones((2, 4)))
