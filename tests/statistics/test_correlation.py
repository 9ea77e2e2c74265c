import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from dynamics.errors import MeasureError
from dynamics.statistics.correlation import difference, spearman
from dynamics.statistics.ranks import rank
from tests.statistics.resampling import RELATIONS, relation, resamples, spearman_rows

few_values = arrays(np.int64, 12, elements=st.integers(-3, 3))
reproducible = settings(deadline=None, derandomize=True)


def weighted_spearman(weights, x, y):
    """Correlation of weighted mid-ranks, the functional of which spearman is the value."""

    def mid_ranks(values):
        below = (values[:, None] > values) + (values[:, None] == values) / 2
        return below @ weights

    f, g = mid_ranks(x), mid_ranks(y)
    f, g = f - weights @ f, g - weights @ g
    return weights @ (f * g) / np.sqrt((weights @ (f * f)) * (weights @ (g * g)))


def numerical_influence(x, y):
    """Derivative in the weight of each token, by a complex step: exact to rounding."""
    n, step = len(x), 1e-30
    toward = np.eye(n) - 1 / n
    return np.array([weighted_spearman(1 / n + 1j * step * d, x, y).imag / step for d in toward])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64])
def test_agrees_with_scipy_with_and_without_ties(dtype, rng):
    x = (100 * rng.standard_normal(400)).astype(dtype)
    y = np.round(x / 50 + rng.standard_normal(400))
    assert spearman(x, y).statistic == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-14)


def test_agrees_with_scipy_on_a_vocabulary_most_of_which_never_occurs(rng):
    counts = np.where(np.arange(128_000) < 58_000, rng.zipf(1.5, 128_000), 0)
    norms = (rng.standard_normal(128_000) + 0.1 * np.log1p(counts)).astype(np.float16)
    result = spearman(norms, counts)
    assert result.n == 128_000
    assert result.statistic == pytest.approx(stats.spearmanr(norms, counts).statistic, abs=1e-13)


@pytest.mark.parametrize("name", RELATIONS)
@pytest.mark.parametrize("n", [7, 150])
def test_influence_is_the_derivative_in_a_tokens_weight(name, n, rng):
    x, y = relation(name, n, rng)
    np.testing.assert_allclose(spearman(x, y).influence, numerical_influence(x, y), atol=1e-12)


@reproducible
@given(few_values, few_values)
def test_influence_is_the_derivative_under_any_ties(x, y):
    result = spearman(x, y)
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert np.isnan(result.influence).all()
    else:
        np.testing.assert_allclose(result.influence, numerical_influence(x, y), atol=1e-12)
        assert result.influence.mean() == pytest.approx(0, abs=1e-14)


def test_influence_is_croux_and_dehons_without_ties(rng):
    x, y = relation("normal .6", 2000, rng)
    f, g = (stats.rankdata(values) / 2000 for values in (x, y))
    above_x, above_y = (values >= values[:, None] for values in (x, y))
    expected = (
        12 * (f * g + above_y @ f / 2000 + above_x @ g / 2000) - 9 - 3 * spearman(x, y).statistic
    )
    np.testing.assert_allclose(spearman(x, y).influence, expected, atol=24 / 2000)


@pytest.mark.parametrize("name", RELATIONS)
def test_standard_error_and_interval_are_the_bootstraps(name, rng):
    x, y = relation(name, 1500, rng)
    tokens = resamples(1500, 1500, rng)
    bootstrap = spearman_rows(x[tokens], y[tokens])
    result = spearman(x, y)
    assert result.standard_error == pytest.approx(bootstrap.std(), rel=0.07)
    interval = result.confidence_interval()
    ends = np.quantile(bootstrap, [0.025, 0.975])
    np.testing.assert_allclose(
        [interval.low, interval.high], ends, atol=0.3 * result.standard_error
    )


def test_standard_errors_measured_before_by_bootstrap(rng):
    for pearson, known in [(0.6, 0.0098), (0.955, 0.00163)]:
        x, noise = rng.standard_normal((2, 5000))
        y = pearson * x + np.sqrt(1 - pearson**2) * noise
        assert spearman(x, y).standard_error == pytest.approx(known, rel=0.1)


def test_interval_covers_the_truth_at_its_level():
    rng = np.random.default_rng(4)
    truth = 6 / np.pi * np.arcsin(0.8 / 2)
    covered = 0
    for _ in range(1000):
        x, noise = rng.standard_normal((2, 100))
        interval = spearman(x, 0.8 * x + 0.6 * noise).confidence_interval(0.9)
        covered += interval.low <= truth <= interval.high
    assert 0.87 <= covered / 1000 <= 0.92


@reproducible
@given(few_values, few_values, st.randoms(use_true_random=False))
def test_only_order_counts_and_tokens_have_none(x, y, random):
    result = spearman(x, y)
    order = random.sample(range(12), 12)
    for other, sign in [
        (spearman(x**3 + 7 * x, np.exp(y)), 1),
        (spearman(y, x), 1),
        (spearman(-x, y), -1),
    ]:
        np.testing.assert_allclose(other.statistic, sign * result.statistic, atol=1e-14)
        np.testing.assert_allclose(other.influence, sign * result.influence, atol=1e-13)
    shuffled = spearman(x[order], y[order])
    np.testing.assert_allclose(shuffled.influence, result.influence[order], atol=1e-13)


def test_ranked_values_give_the_same_as_raw_ones(rng):
    x, y = relation("ties", 100, rng)
    np.testing.assert_array_equal(spearman(rank(x), rank(y)).influence, spearman(x, y).influence)


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_perfect_correlation_is_its_own_interval(sign, rng):
    x = np.append(rng.standard_normal(97), [0, 0, 0])
    result = spearman(x, sign * x)
    assert result.statistic == sign
    assert result.standard_error == pytest.approx(0, abs=1e-15)
    assert result.confidence_interval().low == result.confidence_interval().high == sign


@pytest.mark.parametrize("x", [[], [3.0], [2.0] * 9])
def test_a_constant_has_no_correlation(x):
    result = spearman(x, range(len(x)))
    interval = result.confidence_interval()
    assert result.n == len(x)
    assert np.isnan([result.statistic, result.standard_error, interval.low, interval.high]).all()


def test_three_tokens_have_a_correlation_but_no_interval():
    result = spearman([1, 2, 3], [1, 3, 2])
    assert result.statistic == pytest.approx(0.5)
    assert np.isnan(result.confidence_interval().low)
    assert np.isnan(spearman([1, 2, 3], [1, 2, 3]).confidence_interval().high)
    assert not np.isnan(spearman([1, 2, 3, 4], [1, 3, 2, 4]).confidence_interval().low)


def test_what_cannot_be_ranked_is_an_error_that_says_how_much():
    with pytest.raises(MeasureError, match="2 of the 3 values of y are NaN or infinite"):
        spearman([1, 2, 3], [np.nan, 1, -np.inf])
    with pytest.raises(ValueError, match="x has 3 values and y has 2"):
        spearman([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match=r"x must be one-dimensional; its shape is \(1, 2\)"):
        spearman([[1, 2]], [1, 2])
    with pytest.raises(ValueError, match="between 0 and 1, not 95"):
        spearman([1, 2, 3], [1, 2, 3]).confidence_interval(95.0)


def test_difference_pairs_the_tokens(rng):
    y, x_early = relation("normal .6", 1500, rng)
    x_late = x_early + 0.5 * rng.standard_normal(1500) + 0.3 * y
    early, late = spearman(x_early, y), spearman(x_late, y)
    result = difference(late, early)
    tokens = resamples(1500, 1500, rng)
    bootstrap = spearman_rows(x_late[tokens], y[tokens]) - spearman_rows(x_early[tokens], y[tokens])
    assert result.statistic == late.statistic - early.statistic
    assert result.standard_error == pytest.approx(bootstrap.std(), rel=0.07)
    assert result.standard_error < 0.8 * np.hypot(early.standard_error, late.standard_error)
    interval = result.confidence_interval()
    np.testing.assert_allclose(
        [interval.low, interval.high],
        np.quantile(bootstrap, [0.025, 0.975]),
        atol=0.3 * result.standard_error,
    )
    reverse = difference(early, late)
    assert reverse.confidence_interval().low == -interval.high


def test_difference_needs_the_same_tokens():
    with pytest.raises(ValueError, match="over 4 and 5 tokens have no paired difference"):
        difference(spearman(range(4), range(4)), spearman(range(5), range(5)))
