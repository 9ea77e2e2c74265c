"""Paths of rows against closed forms, a direct computation, and simulated random walks."""

import numpy as np
import pytest
import torch

from dynamics.scores import paths
from dynamics.scores.paths import RowPaths


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def followed(points):
    """Cosines to the last point and ray shares of paths, of shape points x rows x columns."""
    points = torch.as_tensor(points)
    row_paths = RowPaths(points[0], points[-1], len(points))
    cosines = np.array([row_paths.add(rows).numpy() for rows in points])
    shares = row_paths.ray_shares()
    return cosines, shares.observed.numpy(), shares.random_walk.numpy()


def walks(rng, step_lengths, rows, width):
    """Random walks whose steps have these root mean squares of length."""
    steps = rng.standard_normal((len(step_lengths), rows, width)) / np.sqrt(width)
    steps *= np.asarray(step_lengths)[:, None, None]
    return np.concatenate([np.zeros((1, rows, width)), steps.cumsum(axis=0)])


def direct_share(points):
    """Variance along the line from first to last point, over the whole variance of one path."""
    line = points[-1] - points[0]
    covariance = np.cov(points.T, bias=True)
    return line @ covariance @ line / (line @ line) / np.trace(covariance)


def test_shares_and_cosines_are_those_computed_directly(rng, monkeypatch):
    monkeypatch.setattr(paths, "_CHUNK_ELEMENTS", 60)  # several chunks and a part
    points = rng.standard_normal((7, 33, 8)) + np.arange(7)[:, None, None]
    cosines, observed, _ = followed(points)
    expected = [direct_share(points[:, row]) for row in range(33)]
    np.testing.assert_allclose(observed, expected, rtol=1e-10)
    norms = np.linalg.norm(points, axis=2)
    expected = (points * points[-1]).sum(axis=2) / norms / norms[-1]
    np.testing.assert_allclose(cosines, expected, atol=1e-12)
    assert (cosines[-1] == 1).all()


def test_a_straight_line_has_a_share_of_1_however_it_is_paced(rng):
    start, line = rng.standard_normal((2, 20, 12))
    pace = np.array([0, 0.5, 0.4, 3, 5])[:, None, None]
    _, observed, walk = followed(start + pace * line)
    np.testing.assert_allclose(observed, 1, atol=1e-12)
    assert (walk < 1).all()


def test_a_walk_of_many_equal_steps_has_half_its_variance_on_the_line(rng):
    _, _, walk = followed(np.cumsum(np.ones((4001, 1, 1)), axis=0))
    assert walk == pytest.approx(1 / 2, abs=2e-3)


@pytest.mark.parametrize("lengths", [np.ones(4), np.ones(40), np.arange(1, 20.0), [9, 1, 1, 1, 5]])
def test_random_walks_have_the_share_of_the_closed_form(rng, lengths):
    _, observed, walk = followed(walks(rng, lengths, rows=300, width=500))
    error = observed.std() / np.sqrt(len(observed))
    assert observed.mean() == pytest.approx(walk.mean(), abs=4 * error + 2e-3)
    # Orthogonal steps are the limit in which the closed form is exact.
    orthogonal = np.diag(lengths).cumsum(axis=0)
    points = np.concatenate([np.zeros((1, len(lengths))), orthogonal])[:, None]
    _, exact, of_walk = followed(points)
    np.testing.assert_allclose(exact, of_walk, rtol=1e-10)


def test_rows_that_do_not_move_or_come_back_have_no_share():
    points = np.array(
        [[[3.0, 4], [1, 0], [0, 0]], [[3, 4], [0, 1], [0, 0]], [[3, 4], [1, 0], [0, 0]]]
    )
    cosines, observed, walk = followed(points)
    assert np.isnan(observed).all()
    assert np.isnan(walk).all()
    np.testing.assert_array_equal(cosines.T, [[1, 1, 1], [1, 0, 1], [1, 1, 1]])


def test_a_row_that_is_zero_somewhere_has_no_cosine_there():
    points = np.array([[[0.0, 0], [2, 0]], [[1, 1], [1, 1]], [[2, 2], [0, 0]]])
    cosines, _, _ = followed(points)
    np.testing.assert_allclose(cosines.T, [[np.nan, 1, 1], [np.nan, np.nan, 1]])


def test_a_row_that_moves_once_is_on_a_line_as_a_walk_of_one_step_is():
    _, observed, walk = followed(np.array([[[0.0, 1]], [[0, 1]], [[2, 5]], [[2, 5]]]))
    np.testing.assert_allclose([observed, walk], 1)


def test_low_precision_is_computed_in_float64(rng):
    points = torch.tensor(rng.standard_normal((6, 10, 16))).bfloat16()
    _, observed, walk = followed(points)
    _, expected, expected_walk = followed(points.double())
    np.testing.assert_allclose(observed, expected)
    np.testing.assert_allclose(walk, expected_walk)
