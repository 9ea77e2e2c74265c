"""Simulated error rates of every estimator: how often it errs where the truth is known.

    python -m scripts.error_rates docs/error-rates.json

writes the results that docs/error-rates.md shows; it takes about half an hour of one core. Each
cell plants a truth, draws data many times, and counts how often an interval misses the truth and
how often a null band is left where there is nothing.
"""

import json
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np

from dynamics.statistics.bins import equal_count_bins
from dynamics.statistics.controlled import Controls, WithinBins
from dynamics.statistics.correlation import spearman
from dynamics.statistics.null import null_band
from dynamics.statistics.null_controlled import partial_null_band, within_bin_null_band
from dynamics.statistics.seeds import seed_mean
from dynamics.statistics.twin_curve import twin_curve

LEVEL = 0.95
REPETITIONS = 2000

EFFECTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "linear": lambda z: z,
    "inverted U": lambda z: -((z - 0.3) ** 2) / 1.5,
    "saturating": lambda z: 2 * np.minimum(z, -0.3),
}
"""Effects of frequency on two variables that are independent given it; z is standardised."""


@dataclass(frozen=True)
class Draw:
    """One repetition: whether the interval misses the truth, and the value leaves the null band."""

    value: float
    misses: bool
    leaves_null: bool | None = None


@dataclass(frozen=True)
class Cell:
    """Error rates of one estimator under one planted truth.

    Attributes:
        estimator: The estimator.
        truth: What was planted.
        n: Tokens, pairs or seeds.
        expected: True value.
        mean: Mean estimate.
        misses: Share of intervals that miss the true value; 0.05 is nominal.
        leaves_null: Share of values outside the pointwise null band; None where there is none.
        repetitions: Number of draws.
    """

    estimator: str
    truth: str
    n: int
    expected: float
    mean: float
    misses: float
    leaves_null: float | None
    repetitions: int


def zipf_log_counts(n: int) -> np.ndarray:
    """Standardised log counts of n tokens that follow Zipf's law with exponent 0.9."""
    z = -0.9 * np.log(np.arange(1, n + 1))
    return (z - z.mean()) / z.std()


def pair_given_frequency(
    n: int, effect: str, strength: float, rho: float, rng: np.random.Generator
) -> tuple[np.ndarray, ...]:
    """Log counts and two variables that follow them, correlated by rho given them."""
    z = zipf_log_counts(n)
    x, other = rng.standard_normal((2, n))
    y = rho * x + np.sqrt(1 - rho**2) * other
    moved = strength * EFFECTS[effect](z)
    return z, moved + x, moved + y


def spearman_of_normal(rho: float) -> float:
    """Spearman's correlation of two normal variables of Pearson's correlation rho."""
    # Pearson 1907: 6 / pi asin(rho / 2)
    return float(6 / np.pi * np.arcsin(rho / 2))


def given_spline(
    n: int, effect: str, strength: float, rho: float, rng: np.random.Generator
) -> Draw:
    """Partial correlation given frequency."""
    z, x, y = pair_given_frequency(n, effect, strength, rho, rng)
    controls = Controls([z])
    x, y = controls.residual(x), controls.residual(y)
    band = partial_null_band([(x, y)], controls, LEVEL, rng, draws=1)
    return _draw(controls.spearman(x, y), spearman_of_normal(rho), band.pointwise, rho == 0)


def within_bins(n: int, effect: str, strength: float, rho: float, rng: np.random.Generator) -> Draw:
    """Partial correlation inside bins of frequency."""
    z, x, y = pair_given_frequency(n, effect, strength, rho, rng)
    within = WithinBins(equal_count_bins(z, 20), z)
    band = within_bin_null_band([(x, y)], within, LEVEL, rng, draws=1)
    return _draw(within.spearman(x, y), spearman_of_normal(rho), band.pointwise, rho == 0)


def plain(n: int, rho: float, rng: np.random.Generator) -> Draw:
    """Spearman's correlation without controls."""
    x, y = rng.standard_normal((2, n))
    y = rho * x + np.sqrt(1 - rho**2) * y
    band = null_band([(x, y)], LEVEL, rng, draws=1)
    return _draw(spearman(x, y), spearman_of_normal(rho), band.pointwise, rho == 0)


def planted_twins(
    effect: float, share: float, rng: np.random.Generator, ordinary: int = 1500, pairs: int = 96
) -> tuple[np.ndarray, ...]:
    """Counts and norms of ordinary tokens, tokens with a twin and their twins, and their places.

    Norms follow a curve of log count that bends; within pairs they follow `effect` times log count
    beside it.
    """
    zipf = rng.zipf(1.6, 40 * ordinary)
    counts = rng.choice(zipf[(zipf >= 10) & (zipf < 40_000)], ordinary)
    total = rng.choice(counts[counts > 160], pairs)
    twin = rng.binomial(total, share)
    count = np.concatenate([counts, total - twin, twin])
    log_count = np.log(np.maximum(count, 1))
    own = rng.normal(0, 0.2, ordinary + pairs)  # what a token and its twin have in common
    common = np.concatenate([own, own[ordinary:]])
    within = np.where(np.arange(len(count)) < ordinary, 0, effect) * log_count
    curve = 0.3 * np.sin(log_count) + 0.1 * log_count
    norm = np.exp(curve + common + within + rng.normal(0, 0.05, len(count)))
    places = ordinary + np.arange(pairs)
    return count, norm, places, places + pairs, np.arange(len(count)) < ordinary


def twins(statistic: str, effect: float, share: float, rng: np.random.Generator) -> Draw:
    """Slope within twins minus that of the curve, or the mean over pairs."""
    count, norm, originals, duplicates, ordinary = planted_twins(effect, share, rng)
    curve = twin_curve(count, originals, duplicates, ordinary)
    assert curve is not None
    estimate = curve.slope(norm) if statistic == "slope" else curve.mean(norm)
    return _draw(estimate, effect if statistic == "slope" else 0.0)


def over_seeds(n: int, rng: np.random.Generator) -> Draw:
    """Mean over seeds."""
    mean = seed_mean(rng.standard_normal(n), level=LEVEL)
    return Draw(float(mean.value), not mean.low <= 0 <= mean.high)


def _draw(estimate, truth: float, band: float | None = None, is_null: bool = False) -> Draw:
    interval = estimate.confidence_interval(LEVEL)
    value = estimate.statistic
    leaves = abs(value) > band if is_null and band is not None else None
    return Draw(value, not interval.low <= truth <= interval.high, leaves)


def cells(repetitions: int = REPETITIONS) -> Iterator[Callable[[], Cell]]:
    """Each cell of the table, as a function that simulates it."""
    estimators = {"partial given frequency": given_spline, "within bins": within_bins}
    for (name, draw), n, effect, strength in product(
        estimators.items(), (300, 1854), EFFECTS, (1, 2, 3)
    ):
        about = f"independent given frequency, {effect}, strength {strength}"
        function = partial(draw, n, effect, strength, 0.0)
        yield partial(simulate, name, about, n, 0.0, function, repetitions)
    for n, effect, rho in product((300, 1854), EFFECTS, (0.3, 0.6)):
        about = f"rho {rho} given frequency, {effect}, strength 1"
        function = partial(given_spline, n, effect, 1, rho)
        name = "partial given frequency"
        yield partial(simulate, name, about, n, spearman_of_normal(rho), function, repetitions)
    for n, rho in product((50, 300, 1854), (0.0, 0.6)):
        expected = spearman_of_normal(rho)
        function = partial(plain, n, rho)
        yield partial(simulate, "Spearman", f"rho {rho}", n, expected, function, repetitions)
    for effect, share in product((0.0, 0.1), (0.125, 0.03125)):
        about = f"effect {effect} beyond the curve, share {share:g}"
        function = partial(twins, "slope", effect, share)
        yield partial(simulate, "twin minus curve", about, 96, effect, function, repetitions)
    function = partial(twins, "mean", 0.3, 0.5)
    about = "effect 0.3, share 0.5"
    yield partial(simulate, "mean of pairs", about, 96, 0.0, function, repetitions)
    for n in (3, 5):
        function = partial(over_seeds, n)
        yield partial(simulate, "mean over seeds", "normal", n, 0.0, function, repetitions)


def simulate(
    estimator: str,
    truth: str,
    n: int,
    expected: float,
    draw: Callable[[np.random.Generator], Draw],
    repetitions: int,
) -> Cell:
    """Draw a cell many times; the same numbers at each call."""
    rng = np.random.default_rng(0)
    draws = [draw(rng) for _ in range(repetitions)]
    leaves = [d.leaves_null for d in draws if d.leaves_null is not None]
    return Cell(
        estimator,
        truth,
        n,
        expected,
        round(float(np.mean([d.value for d in draws])), 4),
        round(float(np.mean([d.misses for d in draws])), 4),
        round(float(np.mean(leaves)), 4) if leaves else None,
        repetitions,
    )


def _run(cell: Callable[[], Cell]) -> Cell:
    return cell()


if __name__ == "__main__":
    with ProcessPoolExecutor(2) as processes:
        simulated = [asdict(cell) for cell in processes.map(_run, list(cells()))]
    Path(sys.argv[1]).write_text(json.dumps(simulated, indent=1) + "\n")
