"""Cross-validated ridge regression against solving each fold on its own, and closed forms."""

import numpy as np
import pytest
from scipy import stats

from dynamics.statistics.onset import onset
from dynamics.statistics.readout import (
    FOLDS,
    PENALTIES,
    change_from_first,
    cross_validated_ridge,
    fold_of,
    moments,
)
from tests.statistics.fold_by_fold import solved_fold_by_fold


def readout(x, y):
    fold = fold_of(len(y))
    (found,) = moments((x[fold == k], y[fold == k]) for k in range(FOLDS))
    return cross_validated_ridge(found)


@pytest.fixture(params=[(400, 12), (60, 90), (300, 1), (90, 9)], ids=str)
def planted(request, rng):
    """More tokens than features and the other way round, features of very different variance."""
    n, features = request.param
    x = rng.standard_normal((n, features)) * np.geomspace(3, 0.1, features)
    return x, x @ rng.standard_normal(features) + 2 * rng.standard_normal(n)


def test_the_share_is_that_of_a_dense_solution_for_every_fold(planted):
    found = readout(*planted)
    expected, left, whole = solved_fold_by_fold(*planted)
    assert found.r2 == pytest.approx(expected, abs=1e-9)
    assert found.n == len(planted[1])
    ratio = (left - left.sum() / whole.sum() * whole) / whole.mean()
    np.testing.assert_allclose(found.fold_influence, -ratio, atol=1e-9)
    assert found.fold_influence.mean() == pytest.approx(0, abs=1e-12)


def test_the_interval_is_student_s_over_folds(planted):
    found = readout(*planted)
    interval = found.confidence_interval(0.95)
    error = np.std(found.fold_influence, ddof=1) / np.sqrt(FOLDS)
    assert interval.high - found.r2 == pytest.approx(2.262157 * error, rel=1e-6)
    assert found.r2 - interval.low == pytest.approx(interval.high - found.r2)


def test_a_planted_share_is_found(rng):
    """y = w'x + e: of var y the part w' cov(x) w is there to be predicted."""
    x = rng.standard_normal((20_000, 5))
    y = x @ np.array([1.0, -2.0, 0.5, 0.0, 0.25]) + np.sqrt(5.3125) * rng.standard_normal(20_000)
    found = readout(x, y)
    interval = found.confidence_interval()
    assert interval.low < 0.5 < interval.high
    assert interval.high - interval.low < 0.05


def test_a_line_without_noise_is_predicted_to_the_smallest_penalty(rng):
    """One feature of n tokens: the slope shrinks by 1 / (1 + penalty), exactly."""
    x = rng.standard_normal((1000, 1))
    found = readout(x, 3 * x[:, 0])
    assert found.r2 == pytest.approx(1, abs=3 * PENALTIES[0] ** 2)
    assert found.r2 < 1


def test_nothing_to_predict_from(rng):
    y = rng.standard_normal(200)
    noise = readout(rng.standard_normal((200, 20)), y)
    assert -0.2 < noise.r2 < 0.02
    constant = readout(np.zeros((200, 3)), y)
    assert constant.r2 == pytest.approx(0, abs=1e-12)
    assert constant.confidence_interval().high == pytest.approx(0, abs=1e-12)


def test_a_constant_target_has_no_share(rng):
    found = readout(rng.standard_normal((50, 3)), np.zeros(50))
    assert np.isnan(found.r2)
    assert np.isnan(found.confidence_interval().low)


def test_a_rotation_and_a_shift_change_nothing(planted, rng):
    x, y = planted
    rotation = np.linalg.qr(rng.standard_normal((x.shape[1],) * 2))[0]
    moved = readout(7 * x @ rotation + 0.5, 4 * y - 3)
    assert moved.r2 == pytest.approx(readout(x, y).r2, abs=1e-8)


def test_sets_of_features_are_those_of_their_columns(rng):
    x, y = rng.standard_normal((100, 6)), rng.standard_normal(100)
    fold = fold_of(100)
    both = [(x[fold == k], y[fold == k]) for k in range(FOLDS)]
    first, all_of_them = moments(both, [slice(0, 4), slice(None)])
    expected = readout(x[:, :4], y).r2
    assert cross_validated_ridge(first).r2 == pytest.approx(expected, abs=1e-9)
    assert cross_validated_ridge(all_of_them.of(slice(0, 4))).r2 == pytest.approx(
        expected, abs=1e-9
    )
    assert cross_validated_ridge(all_of_them).r2 == pytest.approx(readout(x, y).r2, abs=1e-9)


def test_float32_features_cost_no_digits_that_are_shown(planted):
    x, y = planted
    assert readout(x.astype(np.float32), y).r2 == pytest.approx(readout(x, y).r2, abs=2e-4)


@pytest.mark.parametrize("n", [10, 11, 99, 1000])
def test_folds_are_even_and_always_the_same(n):
    fold = fold_of(n)
    sizes = np.bincount(fold)
    assert len(sizes) == FOLDS
    assert sizes.max() - sizes.min() <= 1
    assert (fold == fold_of(n)).all()


def shares(rng, steps, change=0.0):
    """Ends of the intervals of a share at each step, from folds that are drawn anew."""
    folds = rng.standard_normal((steps, FOLDS)) + np.where(np.arange(steps) > 0, change, 0)[:, None]
    reach = 2.262157 * folds.std(axis=1, ddof=1) / np.sqrt(FOLDS)
    return folds.mean(axis=1) - reach, folds.mean(axis=1) + reach


def begins(low, high):
    value = (low + high) / 2
    return onset(range(len(value)), value - value[0], change_from_first(low, high))


@pytest.mark.parametrize("steps", [2, 17])
def test_of_shares_that_do_not_change_one_in_twenty_at_most_has_an_onset(rng, steps):
    null = [shares(rng, steps) for _ in range(1000)]
    assert np.mean([begins(low, high) is not None for low, high in null]) <= 0.05
    excluded = [not low[-1] <= (low[0] + high[0]) / 2 <= high[-1] for low, high in null]
    assert np.mean(excluded) > 0.1  # what the last interval alone would have called a change


def test_a_change_that_is_there_begins_where_it_begins(rng):
    found = [begins(*shares(rng, 17, change=4)) for _ in range(100)]
    assert found == [1] * 100


def test_a_band_of_changes_is_student_s_with_both_errors_and_bonferroni():
    low, high = np.array([0.1, 0.3, np.nan]), np.array([0.3, 0.9, np.nan])
    band = change_from_first(low, high)
    reach = stats.t(9).ppf(1 - 0.025 / 3) * np.hypot(0.1, 0.3) / stats.t(9).ppf(0.975)
    assert (band.low[1], band.high[1]) == pytest.approx((0.4 - reach, 0.4 + reach))
    assert np.isnan(band.low[2]) and np.isnan(band.high[2])
