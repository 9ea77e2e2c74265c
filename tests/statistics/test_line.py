"""Slopes and shares against scipy, the bootstrap, and lines that are known."""

import numpy as np
import pytest
from scipy.stats import linregress

from dynamics.errors import MeasureError
from dynamics.statistics.line import least_squares_line


@pytest.fixture
def points(rng):
    x = rng.gamma(2, size=400)
    return x, 1.5 * x + 0.2 + (0.3 + 0.4 * x) * rng.standard_normal(400)


def test_slope_and_share_are_those_of_scipy(points):
    slope, r2 = least_squares_line(*points)
    expected = linregress(*points)
    assert slope.statistic == pytest.approx(expected.slope, rel=1e-12)
    assert r2.statistic == pytest.approx(expected.rvalue**2, rel=1e-12)
    assert slope.n == r2.n == 400


def test_through_the_origin_is_least_squares_without_a_constant(points):
    x, y = points
    slope, r2 = least_squares_line(x, y, through_origin=True)
    (expected,), (residual,), *_ = np.linalg.lstsq(x[:, None], y)
    assert slope.statistic == pytest.approx(expected, rel=1e-12)
    assert r2.statistic == pytest.approx(1 - residual / np.sum((y - y.mean()) ** 2), rel=1e-12)


@pytest.mark.parametrize("through_origin", [False, True])
def test_standard_errors_are_the_bootstrap_s(points, rng, through_origin):
    x, y = points
    drawn = rng.integers(0, 400, (1500, 400))
    again = [
        [each.statistic for each in least_squares_line(x[i], y[i], through_origin=through_origin)]
        for i in drawn
    ]
    found = least_squares_line(x, y, through_origin=through_origin)
    for estimate, spread in zip(found, np.std(again, axis=0), strict=True):
        assert estimate.standard_error == pytest.approx(spread, rel=0.12)
        interval = estimate.confidence_interval()
        assert interval.high - interval.low == pytest.approx(2 * 1.959964 * estimate.standard_error)


def test_a_perfect_line():
    slope, r2 = least_squares_line([1, 2, 3, 4], [3, 5, 7, 9])
    assert (slope.statistic, r2.statistic) == pytest.approx((2, 1))
    assert slope.confidence_interval().low == pytest.approx(2)
    through, share = least_squares_line([1, 2, 3, 4], [-1, 1, -1, 1], through_origin=True)
    assert through.statistic == pytest.approx(2 / 30)
    assert share.statistic < 1


@pytest.mark.parametrize("through_origin", [False, True])
def test_what_has_no_line(through_origin):
    for x, y in [([], []), ([0, 0, 0, 0], [1, 2, 3, 4])]:
        for estimate in least_squares_line(x, y, through_origin=through_origin):
            assert np.isnan(estimate.statistic)
    slope, r2 = least_squares_line([1, 2, 3, 4], [0, 0, 0, 0], through_origin=through_origin)
    assert slope.statistic == 0
    assert np.isnan(r2.statistic)


def test_a_constant_x_has_a_line_through_the_origin_only():
    assert np.isnan(least_squares_line([2, 2, 2, 2], [1, 2, 3, 4])[0].statistic)
    assert least_squares_line([2, 2, 2, 2], [1, 2, 3, 4], through_origin=True)[0].statistic == 1.25


def test_values_that_no_line_can_use_are_told():
    with pytest.raises(MeasureError, match="1 of the 2 values of x are NaN or infinite"):
        least_squares_line([1, np.nan], [1, 2])
    with pytest.raises(ValueError, match="x has 2 values and y has 3; give the same tokens"):
        least_squares_line([1, 2], [1, 2, 3])
