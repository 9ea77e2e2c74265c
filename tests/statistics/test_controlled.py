import numpy as np
import pytest
from scipy.stats import rankdata

from dynamics.errors import MeasureError
from dynamics.statistics.controlled import Controls, WithinBins, partial_spearman, spline_degrees
from dynamics.statistics.correlation import spearman
from tests.statistics.resampling import resamples


@pytest.fixture
def variables(rng):
    """x, y and three controls of 800 tokens: one curved, one with ties, one a yes or no."""
    frequency, length, noise_x, noise_y = rng.standard_normal((4, 800))
    controls = np.stack([frequency, np.round(length), frequency + noise_x > 0.5])
    x = frequency**2 + 0.5 * length + noise_x
    y = frequency - 0.5 * length + 0.5 * noise_x + noise_y
    return x, y, controls


def truncated_powers(control):
    """Columns that span the splines of one control: powers, and cubes beyond each knot."""
    ranks = (rankdata(control) - 0.5) / len(control)
    degrees = spline_degrees(len(control), len(np.unique(control)))
    degree = min(3, degrees)
    knots = np.arange(1, degrees - degree + 1) / (degrees - degree + 1)
    powers = [ranks**power for power in range(1, degree + 1)]
    return [*powers, *(np.maximum(ranks - knot, 0) ** degree for knot in knots)]


def correlation_of_rank_residuals(x, y, controls):
    columns = [column for control in controls for column in truncated_powers(control)]
    design = np.column_stack([np.ones(len(x)), *columns])
    ranks = np.column_stack([rankdata(x), rankdata(y)])
    residuals = ranks - design @ np.linalg.lstsq(design, ranks)[0]
    return np.corrcoef(residuals.T)[0, 1]


def test_partial_is_the_correlation_of_what_splines_leave_of_the_ranks(variables):
    x, y, controls = variables
    expected = correlation_of_rank_residuals(x, y, controls)
    assert partial_spearman(x, y, controls).statistic == pytest.approx(expected, abs=1e-10)


def test_effects_linear_in_ranks_have_a_closed_form(variables):
    x, y, (z, *_) = variables
    xy, xz, yz = (spearman(a, b).statistic for a, b in [(x, y), (x, z), (y, z)])
    expected = (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))
    linear = Controls([z], linear=True)
    assert linear.spearman(x, y).statistic == pytest.approx(expected, abs=1e-12)


def test_partial_standard_error_is_the_bootstraps(variables, rng):
    x, y, controls = variables
    bootstrap = [
        partial_spearman(x[tokens], y[tokens], controls[:, tokens]).statistic
        for tokens in resamples(800, 400, rng)
    ]
    result = partial_spearman(x, y, controls)
    assert result.standard_error == pytest.approx(np.std(bootstrap), rel=0.1)
    assert result.influence.mean() == pytest.approx(0, abs=1e-13)


def test_influence_is_the_derivative_by_the_weight_of_a_token(variables, monkeypatch):
    """Each token stands 40 times; four more of one move the statistic by its influence."""
    x, y, controls = (values[..., :120] for values in variables)
    # degrees of freedom stay those of 120 tokens
    monkeypatch.setattr("dynamics.statistics.controlled.spline_degrees", lambda n, d: min(7, d - 1))
    often = np.repeat(np.arange(120), 40)
    before = partial_spearman(x[often], y[often], controls[:, often])
    for token in (0, 17, 60, 119):
        more = np.append(often, [token] * 4)
        after = partial_spearman(x[more], y[more], controls[:, more])
        change = (after.statistic - before.statistic) * len(often) / 4
        assert change == pytest.approx(before.influence[token * 40], rel=0.02, abs=0.02)


def test_partial_without_controls_is_spearman(variables):
    x, y, _ = variables
    for controls in ([], {"constant": np.ones(800)}):
        result = partial_spearman(x, y, controls)
        assert result.statistic == pytest.approx(spearman(x, y).statistic, abs=1e-14)
        np.testing.assert_allclose(result.influence, spearman(x, y).influence, atol=1e-13)


def test_controls_that_say_the_same_count_once(variables):
    x, y, controls = variables
    once = partial_spearman(x, y, controls)
    twice = partial_spearman(x, y, [*controls, 1 - controls[2], controls[0] ** 3])
    assert Controls([*controls, controls[0] ** 3]).degrees_of_freedom == (
        Controls(controls).degrees_of_freedom
    )
    assert twice.statistic == pytest.approx(once.statistic, abs=1e-10)
    np.testing.assert_allclose(twice.influence, once.influence, atol=1e-7)


def test_partial_of_a_variable_with_itself_is_perfect(variables):
    x, _, controls = variables
    result = partial_spearman(x, x, controls)
    assert result.statistic == pytest.approx(1, abs=1e-12)
    assert result.standard_error == pytest.approx(0, abs=1e-12)


def test_partial_is_undefined_where_nothing_is_left(variables):
    x, y, controls = variables
    for a, b in [(x, controls[2]), (np.exp(controls[0]), y), (x, np.zeros(800))]:
        assert np.isnan(partial_spearman(a, b, controls).statistic)
    assert np.isnan(partial_spearman([1, 2, 3], [1, 3, 2], [[2, 1, 3], [3, 1, 2]]).statistic)
    assert np.isnan(partial_spearman([], [], [[]]).statistic)


def test_degrees_of_freedom_grow_with_tokens_and_shrink_with_few_values():
    assert [spline_degrees(n, n) for n in (10, 40, 300, 1854, 50_304)] == [1, 4, 8, 13, 30]
    assert [spline_degrees(5000, distinct) for distinct in (2, 3, 5)] == [1, 2, 4]


def test_partial_names_the_control_that_is_wrong():
    with pytest.raises(MeasureError, match="1 of the 2 values of control length are NaN"):
        partial_spearman([1, 2], [1, 2], {"length": [1, np.nan]})
    with pytest.raises(ValueError, match=r"the controls differ in length: \[2, 3\]"):
        partial_spearman([1, 2], [1, 2], {"length": [1, 2, 3]})
    with pytest.raises(ValueError, match="y has 3 values, the controls have 2"):
        partial_spearman([1, 2], [1, 2, 3], {})


@pytest.fixture
def binned(rng):
    """Within bins x and y go together, across bins against each other; tiny and constant bins."""
    bins = np.repeat([0, 1, 2, 3, 7, 9], [400, 300, 200, 90, 5, 6])
    common, noise_x, noise_y = rng.standard_normal((3, 1001))
    x = common + noise_x - 5 * bins
    y = common + (1 + bins) * noise_y + 5 * bins
    y[bins == 9] = 1.0
    return x, y, bins, rng.standard_normal(1001) + bins


def average_z(x, y, bins, control, labels=(0, 1, 2, 3)):
    zs, weights = [], []
    for inside in (bins == label for label in labels):
        ranks = rankdata([x[inside], y[inside], control[inside]], axis=1)
        inverse = np.linalg.inv(np.corrcoef(ranks))
        zs.append(np.arctanh(-inverse[0, 1] / np.sqrt(inverse[0, 0] * inverse[1, 1])))
        weights.append(np.count_nonzero(inside) - 4)
    return np.tanh(np.average(zs, weights=weights))


def test_within_bins_averages_fishers_z_of_partial_correlations(binned):
    x, y, bins, control = binned
    result = WithinBins(bins, control).spearman(x, y)
    assert result.statistic == pytest.approx(average_z(*binned), abs=1e-12)
    assert result.n == 990
    assert result.statistic > 0 > spearman(x, y).statistic
    assert (result.influence[990:] == 0).all()


def test_within_bin_standard_error_is_that_of_resampling_inside_bins(binned, rng):
    x, y, bins, control = binned
    within = WithinBins(bins, control).spearman(x, y)
    places = [np.flatnonzero(bins == label) for label in range(4)]
    bootstrap = []
    for _ in range(400):
        tokens = np.hstack([inside[rng.integers(0, len(inside), len(inside))] for inside in places])
        bootstrap.append(average_z(x[tokens], y[tokens], bins[tokens], control[tokens]))
    assert within.standard_error == pytest.approx(np.std(bootstrap), rel=0.1)


def test_labels_and_the_order_of_tokens_are_names_only(binned, rng):
    x, y, bins, control = binned
    result, order = WithinBins(bins, control).spearman(x, y), rng.permutation(1001)
    renamed = WithinBins(100 - 3 * bins[order], control[order]).spearman(x[order], y[order])
    assert renamed.statistic == pytest.approx(result.statistic, abs=1e-14)
    np.testing.assert_allclose(renamed.influence, result.influence[order], atol=1e-12)


def test_a_bin_in_perfect_order_does_not_decide_alone(rng):
    bins, control = np.repeat([0, 1], [6, 500]), np.zeros(506)
    x, y = np.arange(506), rng.permutation(506)
    y[:6] = x[:6]
    result = WithinBins(bins, control).spearman(x, y)
    perfect, other = np.arctanh(1 - 6 / 210), np.arctanh(spearman(x[6:], y[6:]).statistic)
    assert result.statistic == pytest.approx(np.tanh((3 * perfect + 497 * other) / 500))


def test_no_usable_bin_is_undefined():
    for n in (0, 8):
        result = WithinBins(np.arange(n) // 4, np.arange(n)).spearman(np.arange(n), np.arange(n))
        assert np.isnan(result.statistic)
        assert np.isnan(result.confidence_interval().low)


def test_within_bins_counts_what_is_not_finite_over_all_bins():
    within = WithinBins(np.array([0, 1, 2]), [1, 2, 3])
    with pytest.raises(MeasureError, match="2 of the 3 values of y are NaN or infinite"):
        within.spearman([1, 2, 3], [np.nan, np.inf, 1])


def test_bins_of_other_tokens_are_an_error():
    with pytest.raises(ValueError, match="3 tokens have a bin and 2 a control"):
        WithinBins(np.array([0, 0, 1]), [1, 2])
    with pytest.raises(ValueError, match="x, y and the bins are of different tokens: 2, 3, 3"):
        WithinBins(np.array([0, 0, 1]), [1, 2, 3]).spearman([1, 2], [1, 2, 3])
