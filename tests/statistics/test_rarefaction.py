from itertools import combinations
from math import comb, log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import hypergeom

from dynamics.statistics.rarefaction import rarefied_x_log_x


def x_log_x(k):
    return k * log(k) if k else 0.0


@settings(deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.data())
def test_is_the_mean_over_every_way_to_draw(counts, data):
    things = [at for at, count in enumerate(counts) for _ in range(count)]
    draws = data.draw(st.integers(1, len(things)))
    ways = [
        sum(x_log_x(drawn.count(at)) for at in range(len(counts)))
        for drawn in combinations(things, draws)
    ]
    found = rarefied_x_log_x(np.array(counts), len(things), draws).sum()
    assert found == pytest.approx(sum(ways) / comb(len(things), draws), abs=1e-12)


@pytest.mark.parametrize("draws", [2, 80, 1000])
def test_equals_scipys_hypergeometric(draws):
    rng = np.random.default_rng(0)
    totals = rng.integers(draws, 10**7, 60)
    counts = np.minimum(totals, np.exp(rng.uniform(0, 17, 60)).astype(int))
    counts[:3] = totals[:3] - [0, 1, 2]  # nearly all marked: the least possible k is not 0
    k = np.arange(1, draws + 1)
    expected = [
        np.sum(hypergeom.pmf(k, total, count, draws) * k * np.log(k))
        for count, total in zip(counts.tolist(), totals.tolist(), strict=True)
    ]
    np.testing.assert_allclose(rarefied_x_log_x(counts, totals, draws), expected, rtol=3e-7)


def test_all_drawn_is_the_plain_sum_and_none_or_one_marked_is_nothing():
    found = rarefied_x_log_x(np.array([0, 1, 5, 9]), np.array([9, 9, 9, 9]), 9)
    np.testing.assert_allclose(found, [0, 0, 5 * log(5), 9 * log(9)], rtol=1e-12)
    assert rarefied_x_log_x(np.zeros(0, int), np.zeros(0, int), 3).shape == (0,)


@pytest.mark.parametrize(("count", "draws"), [(2, 9), (9, 3)])
def test_more_than_there_is(count, draws):
    with pytest.raises(
        ValueError, match=f"at most 8 draws, .*; got {draws} draws and counts up to {count}"
    ):
        rarefied_x_log_x(np.array([count]), 8, draws)
