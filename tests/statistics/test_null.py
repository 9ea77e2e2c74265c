import numpy as np
import pytest
from scipy import stats

from dynamics.statistics.null import null_band
from dynamics.statistics.ranks import rank
from tests.statistics.resampling import spearman_rows


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
