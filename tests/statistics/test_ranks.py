import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import rankdata

from dynamics.statistics.ranks import rank

values_with_ties = arrays(np.int64, st.integers(1, 30), elements=st.integers(-4, 4))
reproducible = settings(deadline=None, derandomize=True)


@reproducible
@given(values_with_ties)
def test_centered_ranks_are_scipys_average_ranks(values):
    n = len(values)
    expected = (rankdata(values) - 0.5) / n - 0.5
    np.testing.assert_allclose(rank(values).centered, expected, atol=1e-15)
    np.testing.assert_array_equal(rank(-values).centered, -rank(values).centered)


@reproducible
@given(values_with_ties)
def test_variance_and_its_influence_follow_from_the_shares_of_ties(values):
    ranked = rank(values)
    shares = ranked.sizes / ranked.n
    assert ranked.variance == pytest.approx((1 - (shares**3).sum()) / 12, abs=1e-15)
    assert ranked.variance_influence.mean() == pytest.approx(0, abs=1e-15)
    assert ranked.is_constant == (len(set(values)) == 1)


def test_mean_above_counts_larger_values_and_half_of_ties():
    weights = np.array([1.0, 10.0, 100.0, 1000.0])
    result = rank([2, 1, 2, 3]).mean_above(weights)
    np.testing.assert_allclose(result, np.array([1050.5, 1106, 1050.5, 500]) / 4)


def test_ranking_twice_is_ranking_once():
    ranked = rank([3.0, 1.0, 2.0])
    assert rank(ranked) is ranked


def test_negative_zero_ties_with_zero():
    assert rank([0.0, -0.0]).is_constant
