import numpy as np
import pytest

from dynamics.statistics.correlation import difference, spearman
from dynamics.statistics.intervals import largest_deviation, normal_quantile
from dynamics.statistics.ranks import rank
from dynamics.statistics.trajectory import stack
from tests.statistics.resampling import resamples, spearman_rows

PEARSON = np.linspace(-0.2, 0.9, 8)


def simulate(n, rng):
    """Norms at 8 steps that come to follow frequency, successive steps alike; with frequency."""
    frequency, common = rng.standard_normal((2, n))
    noise = 0.8 * common + 0.6 * rng.standard_normal((8, n))
    return PEARSON[:, None] * frequency + np.sqrt(1 - PEARSON[:, None] ** 2) * noise, frequency


def follow(norms, frequency):
    frequency = rank(frequency)
    return stack([spearman(row, frequency) for row in norms])


def inside(band, truth):
    return bool(np.all((band.low <= truth) & (truth <= band.high)))


def test_one_step_of_a_trajectory_is_its_correlation(rng):
    norms, frequency = simulate(300, rng)
    trajectory = follow(norms, frequency)
    band = trajectory.confidence_intervals(0.9)
    for step, row in enumerate(norms):
        alone = spearman(row, frequency)
        interval = alone.confidence_interval(0.9)
        assert trajectory.values[step] == alone.statistic
        assert trajectory.standard_errors[step] == pytest.approx(alone.standard_error)
        assert (band.low[step], band.high[step]) == pytest.approx((interval.low, interval.high))


def test_bands_cover_whole_trajectories_at_their_level():
    rng = np.random.default_rng(8)
    truth = 6 / np.pi * np.arcsin(PEARSON / 2)
    runs = 1000
    pointwise = simultaneous = changes = 0
    for _ in range(runs):
        trajectory = follow(*simulate(150, rng))
        pointwise += inside(trajectory.confidence_intervals(0.9), truth)
        simultaneous += inside(trajectory.simultaneous_band(0.9, rng, draws=2000), truth)
        band = trajectory.differences(2).simultaneous_band(0.9, rng, draws=2000)
        changes += inside(band, truth - truth[2])
    assert pointwise / runs < 0.8
    assert 0.87 <= simultaneous / runs <= 0.93
    assert 0.87 <= changes / runs <= 0.93


def test_simultaneous_band_is_the_bootstraps(rng):
    norms, frequency = simulate(800, rng)
    trajectory = follow(norms, frequency)
    band = trajectory.simultaneous_band(0.95, rng)
    tokens = resamples(800, 1000, rng)
    drawn = np.stack([spearman_rows(row[tokens], frequency[tokens]) for row in norms], axis=1)
    held = np.all((band.low <= drawn) & (drawn <= band.high), axis=1).mean()
    assert held == pytest.approx(0.95, abs=0.025)
    point = trajectory.confidence_intervals(0.95)
    assert np.all(band.low < point.low)
    assert np.all(band.high > point.high)


def test_differences_are_paired_and_start_from_nothing(rng):
    norms, frequency = simulate(400, rng)
    changes = follow(norms, frequency).differences(from_index=1)
    assert changes.values[1] == changes.standard_errors[1] == 0
    for band in (changes.confidence_intervals(), changes.simultaneous_band(0.95, rng)):
        assert band.low[1] == band.high[1] == 0
    for step in (0, 7):
        pair = difference(spearman(norms[step], frequency), spearman(norms[1], frequency))
        interval = pair.confidence_interval()
        assert changes.values[step] == pytest.approx(pair.statistic)
        assert changes.confidence_intervals().low[step] == pytest.approx(interval.low)


def test_steps_that_cannot_vary_neither_widen_the_band_nor_break_it(rng):
    norms, frequency = simulate(200, rng)
    alone = follow(norms, frequency).simultaneous_band(0.95, np.random.default_rng(1))
    extended = np.vstack([norms, np.ones(200), frequency, -frequency])
    trajectory = follow(extended, frequency)
    band = trajectory.simultaneous_band(0.95, np.random.default_rng(1))
    np.testing.assert_allclose(band.low[:8], alone.low, atol=1e-12)
    np.testing.assert_array_equal(band.low[8:], [np.nan, 1, -1])
    np.testing.assert_array_equal(band.high[8:], [np.nan, 1, -1])
    assert np.isnan(trajectory.differences(8).simultaneous_band(0.95, rng).low).all()


def test_a_trajectory_of_constants_has_no_band(rng):
    band = follow(np.ones((3, 50)), np.arange(50)).simultaneous_band(0.95, rng)
    assert np.isnan(band.low).all()


def test_a_step_seen_twice_counts_once(rng):
    norms, frequency = simulate(200, rng)
    once = follow(norms[:1], frequency).simultaneous_band(0.95, rng)
    often = follow(norms[[0] * 30], frequency).simultaneous_band(0.95, rng)
    assert often.low[0] == pytest.approx(once.low[0], abs=0.005)


def test_the_same_generator_gives_the_same_band(rng):
    trajectory = follow(*simulate(100, rng))
    one, other = (trajectory.simultaneous_band(0.95, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(one.low, other.low)


def test_trajectories_need_the_same_tokens():
    correlations = [spearman(range(n), range(n)) for n in (5, 6)]
    with pytest.raises(ValueError, match=r"over the same tokens, found \[5, 6\] tokens"):
        stack(correlations)
    with pytest.raises(ValueError, match=r"found \[\] tokens"):
        stack([])


@pytest.mark.parametrize("members", [1, 4, 30])
def test_largest_of_independent_deviates_has_its_known_quantile(members, rng):
    expected = normal_quantile(0.9 ** (1 / members))
    result = largest_deviation(np.eye(members), 0.9, rng, draws=100_000)
    assert result == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0, float("nan")])
def test_levels_are_probabilities(level, rng):
    trajectory = follow(*simulate(50, rng))
    with pytest.raises(ValueError, match="level must lie between 0 and 1"):
        trajectory.simultaneous_band(level, rng)
