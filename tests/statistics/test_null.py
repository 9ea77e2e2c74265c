import numpy as np
import pytest
from scipy import stats

from dynamics.statistics.controlled import within_bin_spearman
from dynamics.statistics.null import null_band, permutation_test, within_bin_permutation_test
from dynamics.statistics.ranks import rank
from tests.statistics.resampling import spearman_rows


def test_p_value_is_scipys(rng):
    x, noise = rng.standard_normal((2, 40))
    y = np.round(0.3 * x + noise)
    ours = permutation_test(x, y, rng, permutations=9999)
    theirs = stats.permutation_test(
        (x,),
        lambda permuted, axis: spearman_rows(permuted, y),
        permutation_type="pairings",
        vectorized=True,
        n_resamples=9999,
        rng=rng,
    )
    assert 0.01 < ours.pvalue < 0.5
    assert ours.statistic == pytest.approx(float(theirs.statistic))
    assert ours.pvalue == pytest.approx(float(theirs.pvalue), abs=0.015)


def test_p_value_is_exact_where_all_permutations_can_be_listed(rng):
    exact = stats.permutation_test(
        ([1, 2, 3, 4, 5],),
        lambda x: stats.spearmanr(x, [2, 1, 3, 5, 4]).statistic,
        permutation_type="pairings",
        vectorized=False,
        n_resamples=np.inf,
    )
    ours = permutation_test([1, 2, 3, 4, 5], [2, 1, 3, 5, 4], rng, permutations=20_000)
    assert ours.pvalue == pytest.approx(float(exact.pvalue), abs=0.01)


def test_smallest_p_value_is_one_in_all_arrangements(rng):
    test = permutation_test(range(30), range(30), rng, permutations=99)
    assert test.pvalue == 1 / 100
    assert len(test.null) == 99


def test_null_interval_is_that_of_independence(rng):
    x, y = rng.standard_normal((2, 400))
    interval = permutation_test(x, y, rng, permutations=4000).null_interval(0.95)
    assert interval.high == pytest.approx(1.96 / np.sqrt(399), rel=0.08)
    assert interval.low == pytest.approx(-interval.high, rel=0.1)


@pytest.mark.parametrize("x", [[], [1.0] * 6])
def test_a_constant_has_no_test(x, rng):
    assert np.isnan(permutation_test(x, range(len(x)), rng).pvalue)
    test = within_bin_permutation_test(x, range(len(x)), np.zeros(len(x), dtype=int), rng)
    assert np.isnan(test.pvalue)
    assert np.isnan(test.null).all()


def test_bins_hold_their_effect_fixed():
    rng = np.random.default_rng(11)
    bins = np.repeat(np.arange(8), 30)
    found = 0
    for _ in range(200):
        x, y = bins + 0.5 * rng.standard_normal((2, 240))
        found += within_bin_permutation_test(x, y, bins, rng, permutations=99).pvalue <= 0.1
    assert permutation_test(x, y, rng, permutations=99).pvalue == 1 / 100
    assert found / 200 == pytest.approx(0.1, abs=0.06)


def test_an_association_beyond_the_bins_is_found(rng):
    bins = np.repeat(np.arange(8), 30)
    x, noise = rng.standard_normal((2, 240))
    y = x + noise - 2 * bins
    test = within_bin_permutation_test(x, y, bins, rng, permutations=199)
    assert test.pvalue == 1 / 200
    assert test.statistic == within_bin_spearman(x, y, bins).statistic


def test_within_bin_null_is_that_of_permuting_inside_bins(rng):
    bins = np.repeat([3, 0, 1], [30, 9, 3])
    x, y = np.round(rng.standard_normal((2, 42)))
    ours = within_bin_permutation_test(x, y, bins, rng, permutations=2000)
    slow = []
    for _ in range(2000):
        shuffled = y.copy()
        for label in (3, 0):
            shuffled[bins == label] = rng.permutation(y[bins == label])
        slow.append(within_bin_spearman(x, shuffled, bins).statistic)
    assert stats.ks_2samp(ours.null, slow).pvalue > 0.01
    assert ours.null.std() == pytest.approx(np.std(slow), rel=0.08)


def family(n, rng):
    """Six measures that share much, two frequencies that share some, every pair of them."""
    norms = rng.standard_normal(n) + 0.7 * rng.standard_normal((6, n))
    frequency = rng.standard_normal(n)
    exposure = np.maximum(frequency + rng.standard_normal(n), 0.5)
    return [(row, other) for row in norms for other in (frequency, exposure)]


def test_null_band_holds_a_family_under_common_permutations(rng):
    pairs = family(60, rng)
    band = null_band(pairs, 0.9, rng)
    largest, each = [], []
    for _ in range(3000):
        order = rng.permutation(60)
        drawn = spearman_rows(
            np.stack([x for x, _ in pairs]), np.stack([y[order] for _, y in pairs])
        )
        largest.append(np.abs(drawn).max())
        each.append(np.abs(drawn))
    assert np.mean(np.array(largest) <= band.simultaneous) == pytest.approx(0.9, abs=0.02)
    assert np.mean(np.array(each) <= band.pointwise) == pytest.approx(0.9, abs=0.02)
    assert band.pointwise == pytest.approx(1.6449 / np.sqrt(59), rel=1e-4)


def test_null_band_of_one_or_of_repetitions_is_pointwise(rng):
    pair = rank(rng.standard_normal(100)), rank(rng.standard_normal(100))
    for pairs in ([pair], [pair] * 50):
        band = null_band(pairs, 0.95, rng)
        assert band.simultaneous == pytest.approx(band.pointwise, rel=0.02)


def test_null_band_of_independent_members_is_sidaks(rng):
    pairs = [(row, rng.standard_normal(4000)) for row in rng.standard_normal((20, 4000))]
    expected = stats.norm.ppf((1 + 0.95 ** (1 / 20)) / 2) / np.sqrt(3999)
    assert null_band(pairs, 0.95, rng).simultaneous == pytest.approx(expected, rel=0.01)


def test_null_band_leaves_constants_out(rng):
    pairs = family(50, rng)
    constant = (np.ones(50), pairs[0][1])
    without, with_it = (
        null_band(members, 0.95, np.random.default_rng(2))
        for members in (pairs, [constant, *pairs])
    )
    assert without == with_it
    assert np.isnan(null_band([constant], 0.95, rng).simultaneous)
    assert np.isnan(null_band([], 0.95, rng).pointwise)


def test_null_band_needs_the_same_tokens(rng):
    pairs = [(range(5), range(5)), (range(6), range(6))]
    with pytest.raises(ValueError, match=r"of the same tokens, found \[5, 6\] tokens"):
        null_band(pairs, 0.95, rng)


def test_unrelated_tokens_are_found_related_no_more_often_than_promised():
    rng = np.random.default_rng(3)
    pvalues = [
        permutation_test(*rng.standard_normal((2, 20)), rng, permutations=99).pvalue
        for _ in range(500)
    ]
    assert np.mean(np.array(pvalues) <= 0.1) == pytest.approx(0.1, abs=0.04)
