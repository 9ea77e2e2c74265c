"""New norms of each surgery against norms computed by sorting."""

import numpy as np

from dynamics.runs import surgeries
from dynamics.runs.surgeries import SURGERIES
from dynamics.statistics.bins import equal_count_bins


def test_shuffles_keep_the_norms_there_are():
    rng = np.random.default_rng(0)
    norms, counts = rng.random(400), rng.integers(1, 10_000, 400)
    bins = equal_count_bins(counts, surgeries.BINS)
    assert bins.max() > 3
    for kind in ("shuffled", "shuffled_within_bins"):
        new = SURGERIES[kind].new_norms(norms, counts, rng)
        assert not np.array_equal(new, norms)
        assert np.array_equal(np.sort(new), np.sort(norms))
    for label in range(bins.max() + 1):
        inside = bins == label
        assert np.array_equal(np.sort(new[inside]), np.sort(norms[inside]))
    across = surgeries.shuffled(norms, counts, rng)
    assert any(set(across[bins == label]) != set(norms[bins == label]) for label in bins)


def test_the_top_bin_and_the_others_are_the_two_parts_of_the_bins():
    """By sorting: 1,000 tokens in 20 bins are 50 in each, none equally frequent."""
    rng = np.random.default_rng(1)
    norms, counts = rng.random(1000), rng.permutation(1000) + 1
    top = counts > 950
    within, only_top, others = (
        SURGERIES[f"shuffled_within_{part}"].new_norms(norms, counts, np.random.default_rng(2))
        for part in ("bins", "top_bin", "other_bins")
    )
    assert np.array_equal(only_top[~top], norms[~top])
    assert np.array_equal(others[top], norms[top])
    assert np.array_equal(only_top[top], within[top]) and (only_top != norms)[top].mean() > 0.9
    assert np.array_equal(others[~top], within[~top]) and (others != norms)[~top].mean() > 0.9


def test_neighbours_are_ten_by_frequency():
    rng = np.random.default_rng(1)
    norms, counts = rng.random(205), rng.permutation(205) + 1
    new = surgeries.shuffled_among_neighbours(norms, counts, rng)
    by_frequency = np.argsort(-counts)
    groups = [*np.split(by_frequency[:190], 19), by_frequency[190:]]  # the rarest are 15
    for group in groups:
        assert sorted(new[group]) == sorted(norms[group])
        assert not np.array_equal(new[group], norms[group])


def test_the_fit_recovers_a_power_law():
    counts = np.random.default_rng(0).integers(1, 10_000, 100)
    law = 0.3 * counts**-0.2
    np.testing.assert_allclose(surgeries.fitted(law, counts, np.random.default_rng(0)), law)
    alike = surgeries.fitted(np.array([1.0, 4.0]), np.array([5, 5]), np.random.default_rng(0))
    np.testing.assert_allclose(alike, [2, 2])
