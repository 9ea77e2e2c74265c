"""Means and differences over seeds, against scipy and closed forms."""

import numpy as np
import pytest
from scipy import stats

from dynamics.statistics.seeds import seed_difference, seed_mean

RNG = np.random.default_rng(5)


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
@pytest.mark.parametrize("level", [0.5, 0.95])
def test_the_mean_has_scipys_t_interval(seeds, level):
    values = RNG.normal(2, 3, (seeds, 4))
    found = seed_mean(values, level=level)
    for at in range(4):
        expected = stats.ttest_1samp(values[:, at], 0).confidence_interval(level)
        assert found.value[at] == pytest.approx(values[:, at].mean())
        assert (found.low[at], found.high[at]) == pytest.approx((expected.low, expected.high))
    assert (found.n == seeds).all()
    assert (found.descriptive == (seeds < 5)).all()


def test_correlations_are_averaged_on_fishers_scale():
    rho = np.array([0.2, 0.9, 0.95, -0.1, 0.5])
    found = seed_mean(rho, fisher=True)
    expected = stats.ttest_1samp(np.arctanh(rho), 0).confidence_interval()
    assert found.value == pytest.approx(np.tanh(np.arctanh(rho).mean()))
    assert (found.low, found.high) == pytest.approx((np.tanh(expected.low), np.tanh(expected.high)))
    assert -1 < found.low < found.value < found.high < 1


def test_a_seed_without_a_value_is_left_out():
    values = np.array([[1.0, np.nan, np.nan], [2.0, 4.0, np.nan], [4.0, 6.0, np.nan]])
    found = seed_mean(values)
    alone = seed_mean([4.0, 6.0])
    assert list(found.n) == [3, 2, 0]
    assert (found.value[1], found.low[1]) == pytest.approx((alone.value, alone.low))
    assert np.isnan([found.value[2], found.low[2], found.high[2]]).all()


def test_one_seed_has_a_value_and_no_interval():
    for fisher in (False, True):
        found = seed_mean([0.25], fisher=fisher)
        assert found.value == pytest.approx(0.25)
        assert np.isnan(found.low) and np.isnan(found.high)
        assert found.n == 1 and found.descriptive


def test_a_perfect_correlation_leaves_no_interval():
    found = seed_mean(np.array([[1.0, 1.0], [1.0, 0.5], [1.0, 0.6]]), fisher=True)
    assert list(found.value) == [1, 1]
    assert np.isnan([found.low, found.high]).all()


@pytest.mark.parametrize("level", [0.9, 0.95])
def test_unpaired_arms_have_welchs_interval(level):
    a, b = RNG.normal(0, 1, 5), RNG.normal(1, 4, 8)
    found = seed_difference(a, b, paired=False, level=level)
    expected = stats.ttest_ind(a, b, equal_var=False).confidence_interval(level)
    assert found.value == pytest.approx(a.mean() - b.mean())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.n == 5


def test_paired_arms_have_the_interval_of_their_differences():
    common = RNG.normal(0, 10, 6)
    a, b = common + RNG.normal(1, 0.1, 6), common + RNG.normal(0, 0.1, 6)
    found = seed_difference(a, b, paired=True)
    expected = stats.ttest_rel(a, b).confidence_interval()
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    wider = seed_difference(a, b, paired=False)
    assert wider.high - wider.low > 10 * (found.high - found.low)
    b[2] = np.nan
    assert seed_difference(a, b, paired=True).n == 5


def test_arms_that_do_not_vary_have_an_interval_of_no_width():
    found = seed_difference([1.0, 1.0, 1.0], [0.5, 0.5], paired=False)
    assert (found.value, found.low, found.high, found.n) == (0.5, 0.5, 0.5, 2)


def test_the_interval_covers_as_often_as_it_says():
    draws = RNG.normal(0.3, 1, (5, 4000))
    found = seed_mean(draws)
    covered = ((found.low < 0.3) & (found.high > 0.3)).mean()
    assert covered == pytest.approx(0.95, abs=3 * np.sqrt(0.95 * 0.05 / 4000))


def test_what_cannot_be_averaged_is_told():
    with pytest.raises(ValueError, match="level must lie between 0 and 1, not 1"):
        seed_mean([1.0, 2.0], level=1)
    with pytest.raises(ValueError, match="a correlation lies beyond -1 or 1"):
        seed_mean([0.5, 1.2], fisher=True)
    with pytest.raises(ValueError, match="3 and 2 seeds cannot be paired"):
        seed_difference([1, 2, 3], [1, 2], paired=True)
