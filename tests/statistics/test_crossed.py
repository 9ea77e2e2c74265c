"""Intervals over seeds and tokens: closed forms, the limits, and simulated coverage."""

import numpy as np
import pytest

from dynamics.statistics.correlation import spearman
from dynamics.statistics.crossed import crossed_mean
from dynamics.statistics.seeds import seed_mean
from dynamics.statistics.slopes import twin_log_slope


def means(table):
    """Mean of each row over its columns, with what each column contributes."""
    n = table.shape[1]
    return table.mean(axis=1), (table - table.mean(axis=1, keepdims=True)) / n


def analysis_of_variance(table):
    """Variance of the grand mean of a two-way table by Searle's estimates of the components."""
    seeds, tokens = table.shape
    grand, of_seed, of_token = table.mean(), table.mean(axis=1), table.mean(axis=0)
    rest = table - of_seed[:, None] - of_token + grand
    within = (rest**2).sum() / ((seeds - 1) * (tokens - 1))
    between_seeds = tokens * of_seed.var(ddof=1)
    between_tokens = seeds * of_token.var(ddof=1)
    return (between_seeds + between_tokens - within) / (seeds * tokens)


def test_of_a_table_of_means_it_is_the_analysis_of_variance():
    rng = np.random.default_rng(0)
    seeds, tokens = 6, 4000
    table = rng.standard_normal((seeds, 1)) / 20 + rng.standard_normal(tokens)
    table = table + rng.standard_normal((seeds, tokens))
    found = crossed_mean(*means(table))
    assert found.value == pytest.approx(table.mean())
    half = (found.high - found.low) / 2
    variance = analysis_of_variance(table)
    # 1.96 to 2.02: the degrees of freedom lie between those of seeds and tokens
    assert 1.95 * np.sqrt(variance) < half < 2.6 * np.sqrt(variance)
    alone = seed_mean(table.mean(axis=1))
    assert half > (alone.high - alone.low) / 2


def test_seeds_that_share_no_token_have_their_interval_over_seeds():
    rng = np.random.default_rng(1)
    values = rng.standard_normal(5)
    contributions = np.zeros((5, 500))
    for seed in range(5):
        contributions[seed, 100 * seed : 100 * (seed + 1)] = rng.standard_normal(100) / 1000
    found, expected = crossed_mean(values, contributions), seed_mean(values)
    np.testing.assert_allclose((found.low, found.high), (expected.low, expected.high), rtol=1e-4)


def test_seeds_that_agree_wholly_have_the_interval_over_their_tokens():
    rng = np.random.default_rng(2)
    estimate = spearman(x := rng.standard_normal(300), x + rng.standard_normal(300))
    found = crossed_mean(
        np.full(4, estimate.statistic), np.tile(estimate.contributions, (4, 1)), fisher=True
    )
    alone = estimate.confidence_interval()
    np.testing.assert_allclose((found.low, found.high), (alone.low, alone.high), atol=2e-3)


def test_a_seed_without_a_value_does_not_enter_and_one_alone_has_no_interval():
    contributions = np.ones((3, 10)) / 10
    found = crossed_mean(np.array([0.1, np.nan, 0.3]), contributions)
    assert (found.n, found.value) == (2, pytest.approx(0.2))
    assert np.isfinite(found.low)
    alone = crossed_mean(np.array([0.1, np.nan, np.nan]), contributions)
    assert alone.n == 1 and np.isnan(alone.low)
    none = crossed_mean(np.full(3, np.nan), contributions)
    assert none.n == 0 and np.isnan(none.value)


def correlation(rng, seeds, tokens, of_seed):
    """Spearman's correlation over tokens that all seeds share; true value with a slope of .6."""
    x, own = rng.standard_normal((2, tokens))
    estimates = [
        spearman(
            x, (0.6 + of_seed * rng.standard_normal()) * x + own / 2 + rng.standard_normal(tokens)
        )
        for _ in range(seeds)
    ]
    return estimates, 6 / np.pi * np.arcsin(0.6 / np.sqrt(0.36 + 0.25 + 1) / 2)


def slope(rng, seeds, tokens, of_seed):
    """Slope within pairs that all seeds share; true value .1."""
    ratio, own = rng.normal(2, 0.5, tokens), 0.5 * rng.standard_normal(tokens)
    estimates = []
    for _ in range(seeds):
        norms = (0.1 + of_seed * rng.standard_normal()) * ratio + own
        norms += 0.5 * rng.standard_normal(tokens)
        ones = np.ones(tokens)
        estimates.append(twin_log_slope(np.exp(norms), ones, np.exp(ratio), ones))
    return estimates, 0.1


@pytest.mark.parametrize("of_seed", [0.005, 0.05])
@pytest.mark.parametrize("draw", [correlation, slope])
def test_it_covers_the_truth_where_one_over_seeds_does_not(draw, of_seed):
    rng = np.random.default_rng(3)
    draws, covered, by_seeds = 400, 0, 0
    for _ in range(draws):
        estimates, truth = draw(rng, 5, 96, of_seed)
        values = np.array([estimate.statistic for estimate in estimates])
        contributions = np.stack([estimate.contributions for estimate in estimates])
        is_correlation = draw is correlation
        found = crossed_mean(values, contributions, fisher=is_correlation)
        covered += found.low <= truth <= found.high
        alone = seed_mean(values, fisher=is_correlation)
        by_seeds += alone.low <= truth <= alone.high
    assert 0.92 <= covered / draws <= 0.99
    assert by_seeds / draws < 0.9


def test_contributions_have_the_standard_error_for_their_length():
    rng = np.random.default_rng(4)
    x, y = rng.standard_normal((2, 50))
    estimate = spearman(x, y)
    assert np.linalg.norm(estimate.contributions) == pytest.approx(estimate.standard_error)
    pairs = twin_log_slope(np.exp(x), np.exp(y), np.exp(2 * x), np.ones(50))
    assert np.linalg.norm(pairs.contributions) == pytest.approx(pairs.standard_error)
