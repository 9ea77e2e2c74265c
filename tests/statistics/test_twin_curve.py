"""Planted curves and planted effects: the difference is found, and only it."""

import numpy as np
import pytest
from scipy.interpolate import make_lsq_spline

from dynamics.statistics.twin_curve import between_counts, curve_tokens, twin_curve
from scripts.error_rates import planted_twins

ORDINARY, PAIRS = 1500, 96


def planted(rng, effect=0.0, share=1 / 8):
    return planted_twins(effect, share, rng, ORDINARY, PAIRS)


def test_slope_is_that_of_pairs_minus_that_of_scipys_spline(rng):
    count, norm, originals, twins, ordinary = planted(rng, 0.1)
    curve = twin_curve(count, originals, twins, ordinary)
    order = curve.ordinary[np.argsort(count[curve.ordinary], kind="stable")]
    x = np.log(count[order])
    knots = np.quantile(x, [1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6])
    knots = np.concatenate([[x[0]] * 4, np.unique(knots), [x[-1]] * 4])
    g = make_lsq_spline(x, np.log(norm[order]), knots)
    a, b = curve.originals, curve.twins
    d = np.log(count[a] / count[b])
    r = np.log(norm[a] / norm[b]) - (g(np.log(count[a])) - g(np.log(count[b])))
    assert curve.slope(norm).statistic == pytest.approx((d @ r) / (d @ d), abs=1e-9)
    assert curve.mean(norm).statistic == pytest.approx(r.mean(), abs=1e-9)


@pytest.mark.parametrize("effect", [0.0, 0.15])
def test_planted_effects_are_covered(effect):
    rng = np.random.default_rng(3)
    covered, values = 0, []
    for _ in range(100):
        count, norm, originals, twins, ordinary = planted(rng, effect)
        estimate = twin_curve(count, originals, twins, ordinary).slope(norm)
        interval = estimate.confidence_interval()
        covered += interval.low <= effect <= interval.high
        values.append(estimate.statistic)
    assert np.mean(values) == pytest.approx(effect, abs=0.004)
    assert 0.9 <= covered / 100 <= 0.985


def test_error_is_that_of_resampling_tokens(rng):
    count, norm, originals, twins, ordinary = planted(rng)
    estimate = twin_curve(count, originals, twins, ordinary).slope(norm)
    values, places = [], np.flatnonzero(ordinary)
    for _ in range(300):
        pairs = rng.integers(0, PAIRS, PAIRS)
        drawn = np.concatenate([rng.choice(places, ORDINARY), originals[pairs], twins[pairs]])
        at = ORDINARY + np.arange(PAIRS)
        again = twin_curve(count[drawn], at, at + PAIRS, np.arange(len(drawn)) < ORDINARY)
        values.append(again.slope(norm[drawn]).statistic)
    assert estimate.standard_error == pytest.approx(np.std(values), rel=0.12)


def test_pseudo_pairs_have_no_effect_where_twins_have_one(rng):
    count, norm, originals, twins, ordinary = planted(rng, 0.15)
    curve = twin_curve(count, originals, twins, ordinary)
    pseudo = curve.pseudo_pairs(norm, rng, 200)
    assert abs(pseudo.mean()) < 0.02
    assert curve.slope(norm).statistic > 0.12
    assert np.isnan(curve.pseudo_pairs(norm, rng, 5, np.zeros(PAIRS, bool))).all()
    of_some = curve.pseudo_pairs(norm, rng, 200, np.arange(PAIRS) < 30)
    assert of_some.std() > pseudo.std()


def test_mean_is_zero_where_both_ids_are_equally_likely():
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(100):
        count, norm, originals, twins, ordinary = planted(rng, 0.3, share=0.5)
        interval = twin_curve(count, originals, twins, ordinary).mean(norm).confidence_interval()
        covered += interval.low <= 0 <= interval.high
    assert 0.9 <= covered / 100 <= 0.985


def test_twins_of_one_token_are_one_unit(rng):
    count, norm, originals, twins, ordinary = planted(rng)
    once = twin_curve(count, originals, twins, ordinary).slope(norm)
    doubled = twin_curve(count, np.repeat(originals, 2), np.repeat(twins, 2), ordinary).slope(norm)
    assert doubled.n == once.n == PAIRS
    assert doubled.statistic == pytest.approx(once.statistic)
    assert doubled.standard_error == pytest.approx(once.standard_error)


def test_the_curve_is_of_ordinary_tokens_of_such_counts():
    count = np.array([100, 20, 9, 10, 200, 201, 50, 60, 5, 0])
    ordinary = np.arange(10) != 6
    ids = np.array([0, 7]), np.array([1, 9])  # 60 and a twin that never occurs
    mask = curve_tokens(count, *ids, ordinary)
    assert np.flatnonzero(mask).tolist() == [3, 4]  # 10 to 200, neither a twin nor with one
    assert between_counts(count, mask, *ids).tolist() == [True, False]
    assert not curve_tokens(count, np.array([7]), np.array([9]), ordinary).any()


def test_without_a_curve_or_pairs_there_is_nothing(rng):
    count, norm, originals, twins, ordinary = planted(rng)
    few = ordinary & (np.cumsum(ordinary) <= 99)
    assert twin_curve(count, originals, twins, few) is None
    assert twin_curve(count, originals[:0], twins[:0], ordinary) is None
    never = np.where(np.isin(np.arange(len(count)), twins), 0, count)
    assert twin_curve(never, originals, twins, ordinary) is None
    curve = twin_curve(count, originals, twins, ordinary)
    nothing = curve.slope(norm, np.zeros(len(curve.twins), bool))
    assert nothing.n == 0
    assert np.isnan([nothing.statistic, nothing.confidence_interval().low]).all()
