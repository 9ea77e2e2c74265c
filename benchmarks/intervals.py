"""How much faster influence values give Spearman's interval than resampling does.

    python benchmarks/intervals.py            5,000 and 50,000 tokens
    python benchmarks/intervals.py 20000      any number of tokens

Both times are taken in this run, on the same data; the ratio is what carries over between machines.
Then a whole trajectory: 154 checkpoints of 50,000 tokens with its simultaneous and its null band.
"""

import argparse
from collections.abc import Callable
from time import perf_counter

import numpy as np
from scipy import stats

from dynamics.statistics.correlation import spearman
from dynamics.statistics.null import null_band
from dynamics.statistics.ranks import rank
from dynamics.statistics.trajectory import stack

RESAMPLES = 1000
CHECKPOINTS, TOKENS = 154, 50_000


def seconds(run: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = perf_counter()
    run()
    return perf_counter() - start


def simulate(tokens: int, checkpoints: int, rng: np.random.Generator):
    """Norms that come to follow frequency, checkpoint by checkpoint, and log counts with ties."""
    frequency = np.log(rng.zipf(1.3, tokens).astype(np.float64))
    signal = np.argsort(np.argsort(frequency + rng.random(tokens))) / tokens - 0.5
    shared = rng.standard_normal(tokens)
    growth = np.linspace(0, 3, checkpoints)[:, None]
    noise = shared + 0.3 * rng.standard_normal((checkpoints, tokens))
    return (growth * signal + noise).astype(np.float32), frequency


def one_checkpoint(tokens: int, rng: np.random.Generator) -> str:
    """A line of the table: both times, their ratio, and both intervals."""
    norms, frequency = simulate(tokens, 2, rng)
    x = norms[-1]
    start = perf_counter()
    bootstrap = stats.bootstrap(
        (x, frequency),
        lambda a, b: float(stats.spearmanr(a, b).statistic),
        paired=True,
        vectorized=False,
        method="percentile",
        n_resamples=RESAMPLES,
        rng=rng,
    ).confidence_interval
    resampling = perf_counter() - start
    ours = min(seconds(lambda: spearman(x, frequency).confidence_interval()) for _ in range(5))
    interval = spearman(x, frequency).confidence_interval()
    return (
        f"{tokens:>8,}  {resampling:>11.2f}  {1000 * ours:>8.2f}  {resampling / ours:>7,.0f}  "
        f"[{bootstrap.low:.4f}, {bootstrap.high:.4f}]  [{interval.low:.4f}, {interval.high:.4f}]"
    )


def whole_trajectory(rng: np.random.Generator) -> str:
    """Times of everything a figure of one trajectory needs."""
    norms, frequency = simulate(TOKENS, CHECKPOINTS, rng)
    start = perf_counter()
    y = rank(frequency)
    rows = [rank(row) for row in norms]
    trajectory = stack([spearman(row, y) for row in rows])
    correlated = perf_counter()
    trajectory.simultaneous_band(0.95, rng)
    banded = perf_counter()
    null_band([(row, y) for row in rows], 0.95, rng)
    end = perf_counter()
    return (
        f"{CHECKPOINTS} checkpoints of {TOKENS:,} tokens: {end - start:.1f} s (correlations with "
        f"intervals {correlated - start:.1f}, simultaneous band {banded - correlated:.1f}, "
        f"null band {end - banded:.1f})"
    )


def main() -> None:
    """Print the table, then the time of a trajectory."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("tokens", nargs="*", type=int, default=[5_000, 50_000])
    rng = np.random.default_rng(0)
    print(f"scipy.stats.bootstrap, percentile, {RESAMPLES} resamples, against influence values\n")
    print(f"{'tokens':>8}  {'bootstrap s':>11}  {'ours ms':>8}  {'ratio':>7}  ", end="")
    print(f"{'bootstrap 95 %':<16}  ours 95 %")
    for tokens in parser.parse_args().tokens:
        print(one_checkpoint(tokens, rng), flush=True)
    print(f"\n{whole_trajectory(rng)}")


if __name__ == "__main__":
    main()
