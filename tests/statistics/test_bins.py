import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from dynamics.errors import MeasureError
from dynamics.statistics.bins import (
    binned_profile,
    equal_count_bins,
    log_spaced_bins,
    neighbour_bins,
    tokens_by_bin,
)

reproducible = settings(deadline=None, derandomize=True)
counts = arrays(np.int64, st.integers(0, 80), elements=st.integers(1, 60))


def test_distinct_values_fall_into_equal_bins(rng):
    labels = equal_count_bins(rng.permutation(1000) / 7, bins=8, minimum=50)
    assert np.bincount(labels).tolist() == [125] * 8


@reproducible
@given(counts, st.integers(1, 20), st.integers(1, 30))
def test_bins_ascend_never_split_ties_and_are_large_enough(values, bins, minimum):
    for labels in (
        equal_count_bins(values, bins, minimum),
        log_spaced_bins(values, bins, minimum),
    ):
        order = np.argsort(values, kind="stable")
        assert np.all(np.diff(labels[order]) >= 0)
        assert all(len(set(labels[values == value])) == 1 for value in set(values))
        sizes = np.bincount(labels)
        assert len(sizes) <= bins
        assert np.all(sizes >= min(minimum, len(values)))


@reproducible
@given(counts, st.integers(1, 12))
def test_neighbours_are_consecutive_in_rank(values, size):
    labels = neighbour_bins(values, size)
    order = sorted(range(len(values)), key=lambda index: (values[index], index), reverse=True)
    bins = max(1, len(values) // size)
    wanted = [bins - 1 - min(place // size, bins - 1) for place in range(len(values))]
    assert [labels[index] for index in order] == wanted


def test_neighbours_of_nothing_and_of_no_size():
    assert neighbour_bins(np.array([], dtype=np.int64), 10).tolist() == []
    assert neighbour_bins([3, 3, 3, 3], 2).tolist() == [0, 0, 1, 1]
    with pytest.raises(ValueError, match="size must be at least 1; got 0"):
        neighbour_bins([1, 2], 0)
    with pytest.raises(MeasureError, match="NaN"):
        neighbour_bins([1, np.nan], 1)


def test_a_tie_larger_than_a_bin_stays_whole():
    values = np.append(np.zeros(700), np.arange(1, 301))
    sizes = np.bincount(equal_count_bins(values, bins=10, minimum=50))
    assert sizes.tolist() == [700, 100, 100, 100]


def test_oyamas_bins_merge_from_the_top():
    values = np.repeat([1, 10, 100, 1000, 10_000], [60, 40, 20, 30, 25])
    for minimum, sizes in [
        (20, [60, 40, 20, 55]),
        (50, [60, 60, 55]),
        (58, [100, 75]),
        (110, [175]),
    ]:
        assert np.bincount(log_spaced_bins(values, 4, minimum)).tolist() == sizes


def test_log_spaced_bins_are_equally_wide_in_log_count():
    labels = log_spaced_bins(2 ** np.arange(12), bins=4, minimum=1)
    assert labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_too_few_tokens_share_one_bin():
    for bin_tokens in (equal_count_bins, log_spaced_bins):
        assert bin_tokens(np.array([1, 5, 9]), 3).tolist() == [0, 0, 0]
        assert bin_tokens(np.array([], dtype=np.int64), 3).tolist() == []
    assert log_spaced_bins(np.ones(4, dtype=np.int64), 5, 2).tolist() == [0, 0, 0, 0]


def test_tokens_by_bin_lists_every_token_once():
    groups = tokens_by_bin(np.array([4, 0, 4, -1]))
    assert [group.tolist() for group in groups] == [[3], [1], [0, 2]]


def test_profile_summarises_each_bin(rng):
    values = rng.gamma(2.0, size=300)
    labels = np.repeat([0, 4], [100, 200])
    profile = binned_profile(values, labels)
    assert profile.label.tolist() == [0, 4]
    assert profile.n.tolist() == [100, 200]
    for row, inside in enumerate((values[:100], values[100:])):
        assert profile.mean[row] == pytest.approx(inside.mean())
        assert profile.median[row] == np.median(inside)
        assert profile.deviation[row] == pytest.approx(inside.std(ddof=1))
        low, high = stats.norm.interval(0.95, inside.mean(), stats.sem(inside))
        assert (profile.mean_low[row], profile.mean_high[row]) == pytest.approx((low, high))
        exact = stats.quantile_test(inside, q=np.median(inside)).confidence_interval(0.95)
        assert (profile.median_low[row], profile.median_high[row]) == (exact.low, exact.high)


def test_half_precision_is_averaged_in_full():
    values = np.append(np.full(4095, 30, dtype=np.float16), np.float16(31))
    assert binned_profile(values, np.zeros(4096, dtype=int)).mean[0] == 30 + 1 / 4096


def test_median_interval_covers_at_least_at_its_level():
    rng = np.random.default_rng(6)
    profile = binned_profile(rng.exponential(size=20_000), np.arange(20_000) // 10)
    covered = (profile.median_low <= np.log(2)) & (np.log(2) <= profile.median_high)
    assert covered.mean() == pytest.approx(0.979, abs=0.01)


def test_small_bins_say_what_they_cannot_know():
    profile = binned_profile([3.0, 1.0, 2.0, 5.0, 4.0, 9.0], np.array([0, 1, 1, 1, 1, 1]))
    assert profile.mean.tolist() == [3.0, 4.2]
    assert np.isnan([profile.deviation[0], profile.mean_low[0]]).all()
    assert np.isnan(profile.median_low).all()
    assert binned_profile([], np.array([], dtype=int)).mean.size == 0


def test_what_cannot_be_binned_is_an_error():
    with pytest.raises(ValueError, match="bins and minimum must be at least 1, not 0 and 50"):
        equal_count_bins([1, 2], 0)
    with pytest.raises(ValueError, match="2 counts are below 1"):
        log_spaced_bins(np.array([0, 3, 0]))
    with pytest.raises(MeasureError, match="1 of the 2 values"):
        binned_profile([np.inf, 1.0], np.array([0, 0]))
    with pytest.raises(MeasureError, match="1 of the 2 values"):
        equal_count_bins([np.nan, 1.0], 3)
    with pytest.raises(ValueError, match="2 values but 1 labels"):
        binned_profile([1.0, 2.0], np.array([0]))
