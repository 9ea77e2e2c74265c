import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dynamics.errors import MeasureError
from dynamics.statistics.slopes import log_slope, twin_log_slope

SEEDS = st.integers(0, 2**32 - 1)
reproducible = settings(deadline=None, derandomize=True, max_examples=30)


def zipf(n, rng):
    return np.ceil(1e4 / rng.permutation(np.arange(1, n + 1)))


def sandwich(design, outcome):
    """Coefficients and White's covariance, by matrices: (X'X)^-1 X' diag(e^2) X (X'X)^-1."""
    coefficients = np.linalg.lstsq(design, outcome)[0]
    inverse = np.linalg.inv(design.T @ design)
    weighted = design * (outcome - design @ coefficients)[:, None]
    return coefficients, inverse @ (weighted.T @ weighted) @ inverse


@reproducible
@given(SEEDS, st.integers(5, 200))
def test_log_slope_is_least_squares_with_whites_error(seed, n):
    rng = np.random.default_rng(seed)
    frequency = zipf(n, rng)
    norm = frequency**0.1 * np.exp(rng.standard_normal(n) / np.log(frequency + 2))
    found = log_slope(norm, frequency)
    x = np.log(frequency)
    coefficients, covariance = sandwich(np.column_stack([np.ones(n), x]), np.log(norm))
    assert found.statistic == pytest.approx(coefficients[1])
    assert found.statistic == pytest.approx(stats.linregress(x, np.log(norm)).slope)
    assert found.standard_error == pytest.approx(np.sqrt(covariance[1, 1]))
    assert found.n == n and found.influence.mean() == pytest.approx(0, abs=1e-9)
    interval = found.confidence_interval()
    assert interval.high - found.statistic == pytest.approx(1.959964 * found.standard_error)
    assert interval.low + interval.high == pytest.approx(2 * found.statistic)


@reproducible
@given(SEEDS, st.floats(0.1, 1e4), st.floats(0.1, 1e4))
def test_units_do_not_matter(seed, unit, other):
    rng = np.random.default_rng(seed)
    frequency, norm = zipf(50, rng), rng.random(50) + 0.1
    one, two = log_slope(norm, frequency), log_slope(unit * norm, other * frequency)
    assert one.statistic == pytest.approx(two.statistic)
    assert one.standard_error == pytest.approx(two.standard_error)


@reproducible
@given(SEEDS, st.integers(4, 100))
def test_twin_slope_is_least_squares_through_the_origin(seed, pairs):
    rng = np.random.default_rng(seed)
    frequency, twin = rng.integers(50, 1000, pairs), rng.integers(5, 40, pairs)
    norms = rng.random((2, pairs)) + 0.5
    found = twin_log_slope(*norms, frequency, twin)
    x = np.log(frequency) - np.log(twin)
    y = np.log(norms[0]) - np.log(norms[1])
    (slope,), ((variance,),) = sandwich(x[:, None], y)
    assert (found.statistic, found.n) == (pytest.approx(slope), pairs)
    assert found.standard_error == pytest.approx(np.sqrt(variance * pairs / (pairs - 1)))
    interval = found.confidence_interval(0.9)
    reach = stats.t(pairs - 1).ppf(0.95) * found.standard_error
    assert interval.low == pytest.approx(slope - reach)
    assert interval.high == pytest.approx(slope + reach)
    swapped = twin_log_slope(*norms[::-1], twin, frequency)
    assert swapped.statistic == pytest.approx(found.statistic)


def test_pairs_of_one_token_are_one_unit():
    """With errors of a token's own in all its pairs, intervals hold; over pairs they do not."""
    rng, covered = np.random.default_rng(4), np.zeros(2)
    for _ in range(200):
        token = np.repeat(np.arange(40), 3)
        frequency, twin = 1000 * np.ones(120), np.tile([500, 250, 125], 40)
        own = np.exp(0.2 * rng.standard_normal(40))[token]  # noise in the norm of the token
        norms = own, 0.5 ** (0.1 * np.tile([1, 2, 3], 40)) * np.exp(0.05 * rng.standard_normal(120))
        alone, together = (
            twin_log_slope(*norms, frequency, twin, *rest) for rest in ((), (token,))
        )
        assert together.statistic == alone.statistic and (alone.n, together.n) == (120, 40)
        for index, interval in enumerate(each.confidence_interval() for each in (alone, together)):
            covered[index] += interval.low <= 0.1 <= interval.high
    assert 181 <= covered[1] <= 198  # of 200; 95 % are 190
    assert covered[0] < 170


def test_naming_the_tokens_of_single_twins_changes_nothing():
    rng = np.random.default_rng(5)
    norms = rng.random((2, 9)) + 0.5
    norms[0, 3] = 0  # does not enter
    counts = rng.integers(50, 90, 9), rng.integers(5, 40, 9)
    alone = twin_log_slope(*norms, *counts)
    named = twin_log_slope(*norms, *counts, rng.permutation(9))
    assert (named.statistic, named.n) == (alone.statistic, 8)
    assert named.standard_error == pytest.approx(alone.standard_error)
    assert np.isnan(twin_log_slope([], [], [], [], []).statistic)
    undefined = twin_log_slope([1] * 4, [2] * 4, [5] * 4, [5] * 4, range(4))
    assert np.isnan([undefined.statistic, undefined.standard_error]).all()


def test_pairs_that_differ_equally_are_averaged():
    """Then the slope is the mean of the pairs' own, with the t interval of that mean."""
    rng = np.random.default_rng(0)
    frequency = rng.integers(1, 9, 20)
    norms = np.exp(rng.standard_normal((2, 20)))
    found = twin_log_slope(*norms, 7 * frequency, frequency)
    own = (np.log(norms[0]) - np.log(norms[1])) / np.log(7)
    expected = stats.ttest_1samp(own, 0).confidence_interval(0.95)
    assert found.statistic == pytest.approx(own.mean())
    interval = found.confidence_interval()
    assert (interval.low, interval.high) == (pytest.approx(expected[0]), pytest.approx(expected[1]))


def test_a_causal_effect_under_a_confounder_is_seen_within_twins_only():
    """Norms fall by f^-0.2 for frequency itself, and rise with a meaning that frequent tokens have.

    The confounder outweighs the effect, so the observational slope has the wrong sign; within
    twins, who share the meaning, it cancels.
    """
    rng = np.random.default_rng(1)
    causal, covered_by_twins, covered_by_tokens = -0.2, 0, 0
    for _ in range(200):
        meaning = rng.standard_normal(600)
        frequency = np.ceil(np.exp(6 + 1.2 * meaning + 0.5 * rng.standard_normal(600)))
        twin = rng.binomial(frequency.astype(int), 0.125)

        def norm(count, meaning=meaning):
            noise = 0.1 * rng.standard_normal(len(meaning))
            return np.exp(causal * np.log(np.maximum(count, 1)) + 0.4 * meaning + noise)

        norms, norms_twin = norm(frequency - twin), norm(twin)
        twinned = slice(0, 96)
        within = twin_log_slope(
            norms[twinned], norms_twin[twinned], (frequency - twin)[twinned], twin[twinned]
        ).confidence_interval()
        tokens = log_slope(norms, frequency).confidence_interval()
        covered_by_twins += within.low <= causal <= within.high
        covered_by_tokens += tokens.low <= causal <= tokens.high
        assert within.high < 0 < tokens.low
    assert 180 <= covered_by_twins <= 198  # of 200; 95 % are 190
    assert covered_by_tokens == 0


def test_what_has_no_logarithm_does_not_enter():
    rng = np.random.default_rng(2)
    frequency, norm = zipf(30, rng), rng.random(30) + 0.1
    padded = log_slope([0, *norm, 3], [5, *frequency, 0])
    alone = log_slope(norm, frequency)
    assert padded.n == 30 and padded.influence[[0, -1]].tolist() == [0, 0]
    assert padded.statistic == pytest.approx(alone.statistic)
    assert padded.standard_error == pytest.approx(alone.standard_error)
    pairs = twin_log_slope([1, *norm], [0, *norm[::-1]], [8, *7 * frequency], [1, *frequency])
    assert pairs.n == 30
    assert pairs.statistic == pytest.approx(
        twin_log_slope(norm, norm[::-1], 7 * frequency, frequency).statistic
    )


@pytest.mark.parametrize(
    "slope",
    [
        log_slope([], []),
        log_slope([1.0], [3]),
        log_slope([1, 2, 3, 4, 5], [7] * 5),
        log_slope([0, 0, 0, 0], [1, 2, 3, 4]),
        twin_log_slope([], [], [], []),
        twin_log_slope([1, 2, 3, 4], [4, 3, 2, 1], [5] * 4, [5] * 4),
    ],
)
def test_undefined(slope):
    interval = slope.confidence_interval()
    assert np.isnan([slope.statistic, slope.standard_error, interval.low, interval.high]).all()
    assert np.isnan(slope.influence).all()


@pytest.mark.parametrize("padding", [0, 9])
def test_few_have_a_slope_but_no_interval(padding):
    zeros = [0] * padding
    for slope in (
        log_slope([1, 2, 5, *zeros], [1, 2, 3, *zeros]),
        twin_log_slope([1, 2, 5, *zeros], [1, 1, 1, *zeros], [2, 4, 6, *zeros], [1, 2, 3, *zeros]),
    ):
        assert np.isfinite(slope.statistic) and slope.n == 3
        assert np.isnan(slope.confidence_interval().low)


def test_bad_input():
    with pytest.raises(MeasureError, match="norm"):
        log_slope([1, np.nan], [1, 2])
    with pytest.raises(MeasureError, match="frequency_twin"):
        twin_log_slope([1, 2], [1, 2], [1, 2], [1, np.inf])
    with pytest.raises(ValueError, match="differ in number: norm 2, frequency 3"):
        log_slope([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="level must lie between 0 and 1, not 2"):
        twin_log_slope([1] * 4, [2] * 4, [7] * 4, [1] * 4).confidence_interval(2)
