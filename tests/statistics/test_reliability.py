import numpy as np
import pytest
from scipy.stats import spearmanr

from dynamics.errors import MeasureError
from dynamics.statistics.correlation import spearman
from dynamics.statistics.reliability import (
    disattenuated,
    spearman_brown,
    split_half_reliability,
)
from tests.statistics.resampling import resamples


@pytest.fixture
def halves(rng):
    """Two noisy halves of a true value, 900 tokens, and something that correlates with it."""
    truth, noise_1, noise_2, noise = rng.standard_normal((4, 900))
    return truth + noise_1, truth + noise_2, 0.8 * truth + 0.6 * noise


def direct(half_1, half_2):
    r = spearmanr(half_1, half_2).statistic
    return 2 * r / (1 + r)


def test_reliability_is_spearman_and_brown_of_the_halves(halves):
    half_1, half_2, _ = halves
    found = split_half_reliability(half_1, half_2)
    assert found.statistic == pytest.approx(direct(half_1, half_2), abs=1e-12)
    assert found.n == 900
    ends = found.confidence_interval()
    assert ends.low < found.statistic < ends.high
    r = 6 / np.pi * np.arcsin(0.5 / 2)  # Pearson .5 between the halves
    assert ends.low < 2 * r / (1 + r) < ends.high


def test_doubled_halves_have_the_reliability_that_the_formula_foretells():
    """The mean of two halves correlates with another such mean as Spearman and Brown say."""
    rng = np.random.default_rng(1)
    truth = rng.standard_normal(40_000)
    quarters = truth + 1.5 * rng.standard_normal((4, 40_000))
    foretold = split_half_reliability(quarters[0], quarters[1]).statistic
    found = spearman(quarters[:2].mean(axis=0), quarters[2:].mean(axis=0)).statistic
    assert found == pytest.approx(foretold, abs=0.02)


def test_standard_error_of_a_reliability_is_the_bootstraps(halves, rng):
    half_1, half_2, _ = halves
    bootstrap = [direct(half_1[t], half_2[t]) for t in resamples(900, 800, rng)]
    found = split_half_reliability(half_1, half_2)
    assert found.standard_error == pytest.approx(np.std(bootstrap), rel=0.1)
    assert found.influence.mean() == pytest.approx(0, abs=1e-12)


def test_tokens_without_both_halves_do_not_enter(halves):
    half_1, half_2, _ = halves
    holes = half_1.copy()
    holes[::3] = np.nan
    found = split_half_reliability(holes, half_2)
    kept = ~np.isnan(holes)
    alone = split_half_reliability(half_1[kept], half_2[kept])
    assert (found.statistic, found.n) == (alone.statistic, 600)
    assert found.standard_error == pytest.approx(alone.standard_error)
    assert not found.influence[::3].any()


def test_halves_that_have_nothing_in_common_have_reliability_0(rng):
    values = rng.standard_normal(50)
    opposite = split_half_reliability(values, -values)
    assert opposite.statistic == 0
    assert np.isnan(disattenuated(spearman(values, values), opposite).statistic)
    np.testing.assert_array_equal(spearman_brown([-1, 0, 1, np.nan]), [0, 0, 1, np.nan])


def test_what_is_not_there_has_no_reliability():
    for half in (np.full(20, np.nan), np.ones(20)):
        found = split_half_reliability(half, np.arange(20.0))
        assert np.isnan(found.statistic)
        assert np.isnan(found.standard_error)
        assert np.isnan(found.confidence_interval().low)
    assert split_half_reliability([], []).n == 0


def test_disattenuation_recovers_a_planted_correlation():
    """True values correlate by .8; what is measured of them does by .57."""
    rng = np.random.default_rng(3)
    truth, noise, *errors = rng.standard_normal((4, 20_000))
    norm = 0.8 * truth + 0.6 * noise
    half_1, half_2 = truth + np.sqrt(2) * np.array(errors)
    raw = spearman(norm, (half_1 + half_2) / 2)
    found = disattenuated(raw, split_half_reliability(half_1, half_2))
    truly = spearman(norm, truth).statistic
    assert raw.statistic < truly - 0.2
    assert found.statistic == pytest.approx(truly, abs=0.03)
    ends = found.confidence_interval(0.999)
    assert ends.low < truly < ends.high


def test_standard_error_of_the_corrected_is_the_bootstraps(halves, rng):
    half_1, half_2, norm = halves

    def corrected(tokens):
        both = half_1[tokens], half_2[tokens]
        return spearmanr(norm[tokens], sum(both)).statistic / np.sqrt(direct(*both))

    bootstrap = [corrected(tokens) for tokens in resamples(900, 800, rng)]
    found = disattenuated(spearman(norm, half_1 + half_2), split_half_reliability(half_1, half_2))
    assert found.statistic == pytest.approx(corrected(np.arange(900)), abs=1e-12)
    assert found.standard_error == pytest.approx(np.std(bootstrap), rel=0.1)


def test_without_error_nothing_is_corrected(halves):
    half_1, _, norm = halves
    raw = spearman(norm, half_1)
    exact = disattenuated(raw, split_half_reliability(half_1, half_1))
    assert exact.statistic == pytest.approx(raw.statistic, abs=1e-14)
    np.testing.assert_allclose(exact.influence, raw.influence, atol=1e-12)


def test_what_cannot_be_paired_is_refused(halves):
    half_1, half_2, norm = halves
    with pytest.raises(ValueError, match="the halves differ in length"):
        split_half_reliability(half_1, half_2[1:])
    with pytest.raises(ValueError, match=r"over 899 tokens cannot be corrected by a .* over 900"):
        disattenuated(spearman(norm[1:], half_1[1:]), split_half_reliability(half_1, half_2))
    with pytest.raises(MeasureError, match="1 of the 900 values of x are NaN or infinite"):
        split_half_reliability(np.where(np.arange(900) == 3, np.inf, half_1), half_2)
