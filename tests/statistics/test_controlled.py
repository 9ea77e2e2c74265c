import numpy as np
import pytest
from scipy.stats import rankdata

from dynamics.errors import MeasureError
from dynamics.statistics.controlled import partial_spearman, within_bin_spearman
from dynamics.statistics.correlation import spearman
from tests.statistics.resampling import resamples, spearman_rows


@pytest.fixture
def variables(rng):
    """x, y and three covariates of 800 tokens, one with ties, one a yes or no."""
    frequency, length, noise_x, noise_y = rng.standard_normal((4, 800))
    covariates = np.stack([frequency, np.round(length), frequency + noise_x > 0.5])
    x = frequency + 0.5 * length + noise_x
    y = frequency - 0.5 * length + 0.5 * noise_x + noise_y
    return x, y, covariates


def correlation_of_rank_residuals(x, y, covariates):
    design = np.column_stack([np.ones(len(x)), *(rankdata(row) for row in covariates)])
    ranks = np.column_stack([rankdata(x), rankdata(y)])
    residuals = ranks - design @ np.linalg.lstsq(design, ranks)[0]
    return np.corrcoef(residuals.T)[0, 1]


def test_partial_is_the_correlation_of_rank_residuals(variables):
    x, y, covariates = variables
    expected = correlation_of_rank_residuals(x, y, covariates)
    assert partial_spearman(x, y, covariates).statistic == pytest.approx(expected, abs=1e-12)
    inverse = np.linalg.inv(np.corrcoef(rankdata([x, y, *covariates], axis=1)))
    by_inverse = -inverse[0, 1] / np.sqrt(inverse[0, 0] * inverse[1, 1])
    assert partial_spearman(x, y, covariates).statistic == pytest.approx(by_inverse, abs=1e-12)


def test_partial_agrees_with_the_closed_form_for_one_covariate(variables):
    x, y, (z, *_) = variables
    xy, xz, yz = (spearman(a, b).statistic for a, b in [(x, y), (x, z), (y, z)])
    expected = (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))
    assert partial_spearman(x, y, {"z": z}).statistic == pytest.approx(expected, abs=1e-12)


def test_partial_standard_error_is_the_bootstraps(variables, rng):
    x, y, covariates = variables
    bootstrap = [
        correlation_of_rank_residuals(x[tokens], y[tokens], covariates[:, tokens])
        for tokens in resamples(800, 1500, rng)
    ]
    result = partial_spearman(x, y, covariates)
    assert result.standard_error == pytest.approx(np.std(bootstrap), rel=0.07)
    assert result.influence.mean() == pytest.approx(0, abs=1e-13)


def test_partial_without_covariates_is_spearman(variables):
    x, y, _ = variables
    for covariates in ([], {"constant": np.ones(800)}):
        result = partial_spearman(x, y, covariates)
        assert result.statistic == pytest.approx(spearman(x, y).statistic, abs=1e-14)
        np.testing.assert_allclose(result.influence, spearman(x, y).influence, atol=1e-13)


def test_covariates_that_say_the_same_count_once(variables):
    x, y, covariates = variables
    once = partial_spearman(x, y, covariates)
    twice = partial_spearman(x, y, [*covariates, 1 - covariates[2], covariates[0] ** 3])
    assert twice.statistic == pytest.approx(once.statistic, abs=1e-12)
    np.testing.assert_allclose(twice.influence, once.influence, atol=1e-10)


def test_partial_of_a_variable_with_itself_is_perfect(variables):
    x, _, covariates = variables
    result = partial_spearman(x, x, covariates)
    assert result.statistic == pytest.approx(1, abs=1e-12)
    assert result.standard_error == pytest.approx(0, abs=1e-12)


def test_partial_is_undefined_where_nothing_is_left(variables):
    x, y, covariates = variables
    for a, b in [(x, covariates[0]), (np.exp(covariates[0]), y), (x, np.zeros(800))]:
        assert np.isnan(partial_spearman(a, b, covariates).statistic)
    assert np.isnan(partial_spearman([1, 2, 3], [1, 3, 2], [[2, 1, 3], [3, 1, 2]]).statistic)


def test_partial_names_the_covariate_that_is_wrong():
    with pytest.raises(MeasureError, match="1 of the 2 values of covariate length are NaN"):
        partial_spearman([1, 2], [1, 2], {"length": [1, np.nan]})
    with pytest.raises(ValueError, match="y and the covariates differ in length: 2, 3"):
        partial_spearman([1, 2], [1, 2], {"length": [1, 2, 3]})
    with pytest.raises(ValueError, match="x has 2 values, y and the covariates have 3"):
        partial_spearman([1, 2], [1, 2, 3], {})


@pytest.fixture
def binned(rng):
    """Within bins x and y go together, across bins against each other; tiny and constant bins."""
    bins = np.repeat([0, 1, 2, 3, 7, 9], [400, 300, 200, 90, 4, 6])
    common, noise_x, noise_y = rng.standard_normal((3, 1000))
    x = common + noise_x - 5 * bins
    y = common + (1 + bins) * noise_y + 5 * bins
    y[bins == 9] = 1.0
    return x, y, bins


def average_z(x, y, bins, labels=(0, 1, 2, 3)):
    zs = [np.arctanh(spearman_rows(x[..., bins == b], y[..., bins == b])) for b in labels]
    weights = [np.count_nonzero(bins == b) - 3 for b in labels]
    return np.tanh(np.average(zs, axis=0, weights=weights))


def test_within_bins_averages_fishers_z(binned):
    result = within_bin_spearman(*binned)
    assert result.statistic == pytest.approx(average_z(*binned), abs=1e-12)
    assert result.n == 990
    assert result.statistic > 0 > spearman(*binned[:2]).statistic
    assert (result.influence[990:] == 0).all()


def test_within_bin_standard_error_is_that_of_resampling_inside_bins(binned, rng):
    x, y, bins = binned
    tokens = np.hstack(
        [
            np.flatnonzero(bins == b)[resamples(np.count_nonzero(bins == b), 1500, rng)]
            for b in np.unique(bins)
        ]
    )
    bootstrap = average_z(x[tokens], y[tokens], bins)
    result = within_bin_spearman(x, y, bins)
    assert result.standard_error == pytest.approx(bootstrap.std(), rel=0.07)


def test_one_bin_is_spearman(binned):
    x, y, _ = binned
    result, plain = within_bin_spearman(x, y, np.zeros(1000, dtype=int)), spearman(x, y)
    assert result.statistic == pytest.approx(plain.statistic, abs=1e-14)
    np.testing.assert_allclose(result.influence, plain.influence, atol=1e-12)


def test_labels_and_the_order_of_tokens_are_names_only(binned, rng):
    x, y, bins = binned
    result, order = within_bin_spearman(x, y, bins), rng.permutation(1000)
    shuffled = within_bin_spearman(x[order], y[order], 100 - 3 * bins[order])
    assert shuffled.statistic == pytest.approx(result.statistic, abs=1e-14)
    np.testing.assert_allclose(shuffled.influence, result.influence[order], atol=1e-12)


def test_a_bin_in_perfect_order_does_not_decide_alone(rng):
    bins = np.repeat([0, 1], [5, 500])
    x, y = np.arange(505), rng.permutation(505)
    y[:5] = x[:5]
    result = within_bin_spearman(x, y, bins)
    assert result.statistic == pytest.approx(
        np.tanh((2 * np.arctanh(0.95) + 497 * np.arctanh(spearman(x[5:], y[5:]).statistic)) / 499)
    )


def test_no_usable_bin_is_undefined():
    for n in (0, 8):
        result = within_bin_spearman(np.arange(n), np.arange(n), np.arange(n) // 4)
        assert np.isnan(result.statistic)
        assert np.isnan(result.confidence_interval().low)


def test_within_bins_counts_what_is_not_finite_over_all_bins():
    with pytest.raises(MeasureError, match="2 of the 3 values of y are NaN or infinite"):
        within_bin_spearman([1, 2, 3], [np.nan, np.inf, 1], np.array([0, 1, 2]))


def test_bins_of_other_tokens_are_an_error():
    with pytest.raises(ValueError, match=r"differ in shape: \(3,\), \(3,\), \(2,\)"):
        within_bin_spearman([1, 2, 3], [1, 2, 3], np.array([0, 0]))
