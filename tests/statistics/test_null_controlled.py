import numpy as np
import pytest

from dynamics.statistics.bins import equal_count_bins
from dynamics.statistics.controlled import Controlled, within_bin_spearman
from dynamics.statistics.null import null_band
from dynamics.statistics.null_controlled import partial_null_band, within_bin_null_band
from dynamics.statistics.ranks import rank

N = 150


@pytest.fixture
def family(rng):
    """Four measures that resemble each other and follow two covariates; what to hold them to."""
    frequency, length, common, own = rng.standard_normal((4, N))
    x = frequency + 0.5 * common + 0.5 * rng.standard_normal((4, N))
    return x, frequency - length + own, [frequency, length, np.ones(N)]


def residuals(values, covariates):
    design = np.column_stack([np.ones(len(values)), *(rank(c).centered for c in covariates)])
    ranks = rank(values).centered
    return ranks - design @ np.linalg.lstsq(design, ranks)[0]


def share_inside(statistics, reach):
    return np.mean(np.abs(statistics).max(axis=1) <= reach)


def test_partial_band_holds_a_family_of_permuted_residuals(family, rng):
    x, y, covariates = family
    left = residuals(y, covariates)
    of_x = np.stack([residuals(row, covariates) for row in x])
    of_x /= np.linalg.norm(of_x, axis=1, keepdims=True)
    permuted = []
    for _ in range(2000):
        again = residuals_of_vector(rng.permutation(left), covariates)
        permuted.append(of_x @ (again / np.linalg.norm(again)))
    band = partial_null_band([(row, y) for row in x], covariates, 0.9, rng)
    assert band.pointwise < band.simultaneous < 2.5 / np.sqrt(N - 3)
    assert share_inside(np.array(permuted), band.simultaneous) == pytest.approx(0.9, abs=0.02)
    assert np.mean(np.abs(permuted) <= band.pointwise) == pytest.approx(0.9, abs=0.02)


def residuals_of_vector(values, covariates):
    design = np.column_stack([np.ones(len(values)), *(rank(c).centered for c in covariates)])
    return values - design @ np.linalg.lstsq(design, values)[0]


def test_partial_band_holds_what_is_independent_given_the_covariates():
    """The covariate is a yes or no, whose effect on ranks is linear whatever it is."""
    rng = np.random.default_rng(4)
    beyond = 0
    for _ in range(300):
        given = rng.random(N) > 0.5
        x, y = (given + rng.standard_normal((3, N)) for _ in range(2))
        pairs = list(zip(x, y, strict=True))
        partial = [Controlled(b, [given]).spearman(a).statistic for a, b in pairs]
        band = partial_null_band(pairs, [given], 0.9, rng, draws=1000)
        beyond += np.abs(partial).max() > band.simultaneous
    assert 0.06 <= beyond / 300 <= 0.14


def test_without_covariates_the_partial_band_is_the_ordinary_one(family):
    x, y, _ = family
    pairs = [(row, y) for row in x]
    ordinary = null_band(pairs, 0.95, np.random.default_rng(0))
    for covariates in ([], [np.ones(N)]):
        band = partial_null_band(pairs, covariates, 0.95, np.random.default_rng(0))
        assert band.pointwise == pytest.approx(ordinary.pointwise, rel=1e-6)
        assert band.simultaneous == pytest.approx(ordinary.simultaneous, rel=0.01)


def test_within_bin_band_holds_a_family_permuted_inside_bins(family, rng):
    x, y, (frequency, *_) = family
    bins = equal_count_bins(frequency, 5, minimum=20)
    order = np.argsort(bins, kind="stable")
    permuted = []
    for _ in range(500):
        shuffled = y.copy()
        for label in np.unique(bins):
            inside = order[bins[order] == label]
            shuffled[inside] = y[rng.permutation(inside)]
        permuted.append([within_bin_spearman(row, shuffled, bins).statistic for row in x])
    band = within_bin_null_band([(row, y) for row in x], bins, 0.9, rng)
    assert share_inside(np.array(permuted), band.simultaneous) == pytest.approx(0.9, abs=0.04)
    assert np.mean(np.abs(permuted) <= band.pointwise) == pytest.approx(0.9, abs=0.03)


def test_members_without_anything_to_vary_are_left_out(family, rng):
    x, y, covariates = family
    bins = np.arange(N) % 5
    alone = partial_null_band([(x[0], y)], covariates, 0.95, rng)
    for odd in (np.ones(N), covariates[0], -np.exp(covariates[1])):
        pairs = [(x[0], y), (odd, y), (x[1], odd)]
        band = partial_null_band(pairs, covariates, 0.95, rng)
        assert band.simultaneous == pytest.approx(alone.simultaneous, rel=0.03)
    some = within_bin_null_band([(x[0], y), (np.ones(N), y)], bins, 0.95, rng)
    assert some.pointwise == within_bin_null_band([(x[0], y)], bins, 0.95, rng).pointwise


def test_nothing_to_vary_gives_no_band(family, rng):
    x, y, covariates = family
    bins = np.zeros(N, dtype=int)
    nothing = [
        partial_null_band([], covariates, 0.95, rng),
        partial_null_band([(x[0], covariates[0])], covariates, 0.95, rng),
        partial_null_band([(x[0][:2], y[:2])], [covariates[0][:2]], 0.95, rng),
        within_bin_null_band([], bins, 0.95, rng),
        within_bin_null_band([(np.ones(N), y)], bins, 0.95, rng),
        within_bin_null_band([(x[0], y)], np.arange(N), 0.95, rng),
    ]
    for band in nothing:
        assert np.isnan([band.simultaneous, band.pointwise]).all()


def test_other_tokens_are_refused(family, rng):
    x, y, covariates = family
    with pytest.raises(ValueError, match="must be of the 150 tokens that have a bin"):
        within_bin_null_band([(x[0][1:], y[1:])], np.zeros(N, dtype=int), 0.95, rng)
    with pytest.raises(ValueError, match="149"):
        partial_null_band([(x[0][1:], y[1:])], covariates, 0.95, rng)
