import numpy as np
import pytest

from dynamics.statistics.bins import equal_count_bins
from dynamics.statistics.controlled import Controls, WithinBins
from dynamics.statistics.null import null_band
from dynamics.statistics.null_controlled import partial_null_band, within_bin_null_band

N = 150


@pytest.fixture
def family(rng):
    """Four measures that resemble each other and follow two controls; what to hold them to."""
    frequency, length, common, own = rng.standard_normal((4, N))
    x = frequency + 0.5 * common + 0.5 * rng.standard_normal((4, N))
    return x, frequency - length + own, [frequency, length, np.ones(N)]


def independent_family(rng):
    """Three pairs that follow one control in a curve, with errors that grow with it."""
    given = rng.standard_normal(N)
    spread = np.exp(given / 2)
    x = given**2 + spread * rng.standard_normal((3, N))
    return given, x, np.sin(2 * given) + spread * rng.standard_normal(N)


def test_partial_band_holds_a_family_that_is_independent_given_the_controls():
    rng = np.random.default_rng(4)
    beyond, beyond_pointwise = 0, []
    for _ in range(300):
        given, x, y = independent_family(rng)
        controls = Controls([given])
        residuals = [controls.residual(row) for row in x]
        of_y = controls.residual(y)
        band = partial_null_band(((row, of_y) for row in residuals), controls, 0.9, rng, 1000)
        rho = np.array([controls.spearman(row, of_y).statistic for row in residuals])
        beyond += np.abs(rho).max() > band.simultaneous
        beyond_pointwise.append(abs(rho[0]) > band.pointwise)
    assert 0.06 <= beyond / 300 <= 0.14
    assert 0.06 <= np.mean(beyond_pointwise) <= 0.14


def test_without_controls_the_partial_band_is_near_the_ordinary_one(rng):
    """The two differ as the products of few ranks do from their mean."""
    x, y = rng.standard_normal((4, 3000)), rng.standard_normal(3000)
    pairs = [(row, y) for row in x]
    ordinary = null_band(pairs, 0.95, np.random.default_rng(0))
    for controls in (Controls([], 3000), Controls([np.ones(3000)])):
        band = partial_null_band(pairs, controls, 0.95, np.random.default_rng(0))
        assert band.pointwise == pytest.approx(ordinary.pointwise, rel=0.05)
        assert band.simultaneous == pytest.approx(ordinary.simultaneous, rel=0.05)


def test_within_bin_band_holds_a_family_permuted_inside_bins(family, rng):
    x, y, _ = family
    bins = equal_count_bins(rng.standard_normal(N), 5, minimum=20)
    within = WithinBins(bins, np.zeros(N))
    order = np.argsort(bins, kind="stable")
    permuted = []
    for _ in range(500):
        shuffled = y.copy()
        for label in np.unique(bins):
            inside = order[bins[order] == label]
            shuffled[inside] = y[rng.permutation(inside)]
        permuted.append([within.spearman(row, shuffled).statistic for row in x])
    band = within_bin_null_band([(row, y) for row in x], within, 0.9, rng)
    largest = np.abs(permuted).max(axis=1)
    assert np.mean(largest <= band.simultaneous) == pytest.approx(0.9, abs=0.05)
    assert np.mean(np.abs(permuted) <= band.pointwise) == pytest.approx(0.9, abs=0.04)


def test_members_without_anything_to_vary_are_left_out(family, rng):
    x, y, values = family
    controls, within = Controls(values), WithinBins(np.arange(N) % 5, values[0])
    alone = partial_null_band([(x[0], y)], controls, 0.95, rng)
    constant = np.ones(N)
    band = partial_null_band([(x[0], y), (constant, y), (x[0], constant)], controls, 0.95, rng)
    assert band.simultaneous == pytest.approx(alone.simultaneous, rel=0.03)
    some = within_bin_null_band([(x[0], y), (constant, y)], within, 0.95, rng)
    without = within_bin_null_band([(x[0], y)], within, 0.95, rng)
    assert some.pointwise == pytest.approx(without.pointwise, rel=1e-6)


def test_nothing_to_vary_gives_no_band(family, rng):
    x, y, values = family
    one_bin, own_bins = (WithinBins(b, values[0]) for b in (np.zeros(N, int), np.arange(N)))
    few = Controls([values[0][:2]])
    nothing = [
        partial_null_band([], Controls(values), 0.95, rng),
        partial_null_band([(x[0], np.ones(N))], Controls(values), 0.95, rng),
        partial_null_band([(x[0][:2], y[:2])], few, 0.95, rng),
        within_bin_null_band([], one_bin, 0.95, rng),
        within_bin_null_band([(np.ones(N), y)], one_bin, 0.95, rng),
        within_bin_null_band([(x[0], y)], own_bins, 0.95, rng),
    ]
    for band in nothing:
        assert np.isnan([band.simultaneous, band.pointwise]).all()


def test_other_tokens_are_refused(family, rng):
    x, y, values = family
    within = WithinBins(np.zeros(N, int), values[0])
    with pytest.raises(ValueError, match="must be of the 150 tokens that have a bin"):
        within_bin_null_band([(x[0][:5], y[:5])], within, 0.95, rng)
    with pytest.raises(ValueError, match="x has 5 values, the controls have 150"):
        partial_null_band([(x[0][:5], y[:5])], Controls(values), 0.95, rng)
    with pytest.raises(ValueError, match="level must lie between 0 and 1"):
        partial_null_band([(x[0], y)], Controls(values), 1, rng)
