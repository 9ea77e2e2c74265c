"""Bins of tokens by count or value, and profiles of a measure over the bins."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer
from numpy.typing import ArrayLike
from scipy.stats import binom

from dynamics.statistics.intervals import normal_quantile
from dynamics.statistics.ranks import Values, finite, rank

Labels = Integer[np.ndarray, " n"]


@dataclass(frozen=True, eq=False)
class Profile:
    """A measure summarised in each of B bins, by ascending label.

    Attributes:
        label: The bins' labels.
        n: Tokens per bin.
        mean: Mean, with `mean_low` and `mean_high` its normal interval; NaN for a single token.
        median: Median, with `median_low` and `median_high` two order statistics that cover it at
            least with the level's probability, whatever the distribution; NaN where even the
            smallest and largest do not (fewer than 6 tokens at 95 %).
        deviation: Standard deviation with n - 1 in the denominator; NaN for a single token.
    """

    label: Integer[np.ndarray, " B"]
    n: Integer[np.ndarray, " B"]
    mean: Float[np.ndarray, " B"]
    mean_low: Float[np.ndarray, " B"]
    mean_high: Float[np.ndarray, " B"]
    median: Float[np.ndarray, " B"]
    median_low: Float[np.ndarray, " B"]
    median_high: Float[np.ndarray, " B"]
    deviation: Float[np.ndarray, " B"]


def equal_count_bins(values: Values, bins: int, minimum: int = 50) -> Labels:
    """Bins of about equally many tokens.

    A token's bin follows from its mid-rank, so that ties share a bin, however large it becomes.
    From the top, bins are merged downwards until each has `minimum` tokens (a remainder at the
    bottom joins the lowest), so that fewer than `bins` can result.

    Args:
        values: n values, such as log frequency.
        bins: Number of bins before merging.
        minimum: Fewest tokens in a bin; all go into one bin if there are fewer.

    Returns:
        Label of each token, 0 for the lowest values, without gaps.

    Raises:
        MeasureError: A value is NaN or infinite.
        ValueError: `bins` or `minimum` is below 1.

    Example:
        >>> equal_count_bins([5, 1, 1, 9, 7, 1], bins=2, minimum=1)
        array([1, 0, 0, 1, 1, 0])
    """
    _check(bins, minimum)
    ranked = rank(values)
    # F in (0, 1), cut into equal parts
    return _merged(((ranked.centered + 0.5) * bins).astype(np.int64), minimum)


def neighbour_bins(values: ArrayLike, size: int) -> Labels:
    """Bins of neighbours in rank, `size` values each from the largest down.

    Unlike in `equal_count_bins`, equal values may fall into two bins: their order is that of their
    positions, the later counting as the larger. What is left over joins the lowest bin, which so
    holds up to 2 `size` - 1 values.

    Args:
        values: n values, such as counts.
        size: Values in a bin; all go into one bin if there are fewer than twice as many.

    Returns:
        Label of each value, 0 for the lowest, without gaps.

    Raises:
        MeasureError: A value is NaN or infinite.
        ValueError: `size` is below 1.

    Example:
        >>> neighbour_bins([5, 1, 1, 9, 7, 1, 2], size=2)
        array([1, 0, 0, 2, 2, 0, 1])
    """
    if size < 1:
        raise ValueError(f"size must be at least 1; got {size}")
    values = finite(values)
    places = np.empty(len(values), dtype=np.int64)  # 0 for the largest value
    places[np.argsort(values, kind="stable")[::-1]] = np.arange(len(values))
    bins = max(1, len(values) // size)
    return bins - 1 - np.minimum(places // size, bins - 1)


def log_spaced_bins(
    counts: Integer[np.ndarray, " n"], bins: int = 200, minimum: int = 50
) -> Labels:
    """Bins equally wide in log count between 1 and the largest, merged until large enough.

    The rule of Oyama et al. (2023, sec. 6.1): merge from the top until each bin has 50 tokens.

    Args:
        counts: Occurrences of n tokens, each at least once.
        bins: Number of bins before merging.
        minimum: Fewest tokens in a bin; all go into one bin if there are fewer.

    Returns:
        Label of each token, 0 for the rarest, without gaps.

    Raises:
        ValueError: A count is below 1, or `bins` or `minimum` is.
    """
    _check(bins, minimum)
    counts = np.asarray(counts)
    if counts.size == 0:
        return np.zeros(0, dtype=np.int64)
    if counts.min() < 1:
        raise ValueError(
            f"{np.count_nonzero(counts < 1)} counts are below 1 and have no place on a log scale; "
            "leave these tokens out"
        )
    # Oyama et al. 2023, sec. 6.1
    edges = np.geomspace(1, counts.max(), bins + 1)
    labels = np.searchsorted(edges, counts, side="right") - 1
    return _merged(np.clip(labels, 0, bins - 1), minimum)


def binned_profile(values: ArrayLike, labels: Labels, level: float = 0.95) -> Profile:
    """Mean, median and spread of a measure in each bin, in float64 whatever its dtype.

    Args:
        values: n values of the measure.
        labels: Bin of each; labels may have gaps, and bins of one token are kept.
        level: Coverage of the intervals.

    Raises:
        MeasureError: A value is NaN or infinite.
        ValueError: The lengths differ, or `level` does not lie between 0 and 1.
    """
    values, labels = finite(values).astype(np.float64), np.asarray(labels)
    if values.shape != labels.shape:
        raise ValueError(f"{len(values)} values but {len(labels)} labels")
    label, n = np.unique(labels, return_counts=True)
    rows = [_summary(values[tokens], level) for tokens in tokens_by_bin(labels)]
    return Profile(label, n, *np.reshape(rows, (-1, 7)).T)


def tokens_by_bin(labels: Labels) -> list[Integer[np.ndarray, " tokens"]]:
    """Positions of the tokens of each bin, ascending, bins by ascending label."""
    _, sizes = np.unique(labels, return_counts=True)
    return np.split(np.argsort(labels, kind="stable"), np.cumsum(sizes))[:-1]


def _summary(values: Float[np.ndarray, " n"], level: float) -> tuple[float, ...]:
    """Mean and median, each with its interval, and standard deviation."""
    n = len(values)
    mean, median = np.mean(values), np.median(values)
    deviation = np.std(values, ddof=1) if n > 1 else np.nan
    reach = normal_quantile(level) * deviation / np.sqrt(n)
    # P(the k-th smallest > median) = P(Binomial(n, 1/2) < k) must not exceed (1 - level) / 2.
    k = int(binom.ppf((1 - level) / 2, n, 0.5))
    low, high = np.sort(values)[[k - 1, n - k]] if k else (np.nan, np.nan)
    summary = (mean, mean - reach, mean + reach, median, low, high, deviation)
    return tuple(map(float, summary))


def _check(bins: int, minimum: int) -> None:
    """Raise a ValueError for numbers below 1."""
    if bins < 1 or minimum < 1:
        raise ValueError(f"bins and minimum must be at least 1, not {bins} and {minimum}")


def _merged(labels: Labels, minimum: int) -> Labels:
    """Labels without gaps in which each has `minimum` tokens, merged downwards from the top."""
    starts: list[int] = []
    merged_size = 0
    sizes = np.bincount(labels)
    for label in reversed(range(len(sizes))):
        merged_size += sizes[label]
        if merged_size >= minimum:
            starts.append(label)
            merged_size = 0
    return np.clip(np.searchsorted(starts[::-1], labels, side="right") - 1, 0, None)
