"""Split-half reliability of a value per token, and correlations corrected for attenuation."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from dynamics.statistics.correlation import Correlation, Difference, Estimate, spearman
from dynamics.statistics.intervals import Interval

RELIABLE = 0.7
"""Reliability below which a correlation is drawn hollow and reported with a warning."""


@dataclass(frozen=True, eq=False)
class Reliability(Estimate):
    """Split-half reliability of a measurement over tokens.

    Attributes:
        halves: Spearman's correlation of the two halves, over the tokens that have both.
    """

    halves: Correlation

    def confidence_interval(self, level: float = 0.95) -> Interval:
        """The ends of the halves' interval, each stepped up by Spearman and Brown's formula.

        Raises:
            ValueError: `level` does not lie between 0 and 1.
        """
        ends = self.halves.confidence_interval(level)
        low, high = spearman_brown([ends.low, ends.high])
        return Interval(float(low), float(high))


def spearman_brown(correlations: ArrayLike) -> Float[np.ndarray, " K"]:
    """Reliability of the mean of two halves that correlate by r: 2 r / (1 + r).

    Spearman (1910) and Brown (1910). Halves that correlate by 0 or less have nothing in common that
    more contexts would bring out: reliability 0. NaN stays NaN.

    Example:
        >>> spearman_brown([0.5, 1.0, 0.0, -0.2])
        array([0.66666667, 1.        , 0.        , 0.        ])
    """
    # Spearman 1910, Brown 1910: 2 r / (1 + r)
    positive = np.maximum(np.asarray(correlations, dtype=np.float64), 0)
    return 2 * positive / (1 + positive)


def split_half_reliability(half_1: ArrayLike, half_2: ArrayLike) -> Reliability:
    """Reliability of the mean of two half measurements.

    Args:
        half_1: n values from half of the contexts of each token; NaN where there is none.
        half_2: As many, of the same tokens, from the other half.

    Returns:
        The reliability, between 0 and 1. Tokens without both halves do not enter and have influence
        0; NaN where a half is constant over those that do, or there are none.

    Raises:
        MeasureError: A value is infinite.
        ValueError: The halves differ in length.
    """
    first, second = np.asarray(half_1), np.asarray(half_2)
    if first.shape != second.shape:
        raise ValueError(f"the halves differ in length: {first.shape} and {second.shape}")
    measured = ~(np.isnan(first) | np.isnan(second))
    halves = spearman(first[measured], second[measured])
    slope = 2 / (1 + max(halves.statistic, 0)) ** 2  # d (2 r / (1 + r)) / dr
    influence = np.zeros(len(measured))
    influence[measured] = slope * halves.influence * len(measured) / max(halves.n, 1)
    if np.isnan(halves.statistic):
        influence[:] = np.nan
    reliability = float(spearman_brown(halves.statistic))
    return Reliability(reliability, halves.n, influence, halves)


def disattenuated(correlation: Correlation, reliability: Reliability) -> Difference:
    """Correct a correlation with a measurement for the measurement's error.

    Spearman (1904): rho / sqrt(reliability). The other variable counts as measured exactly, as a
    norm is. The formula is Pearson's; for ranks it is an approximation, good where errors are small
    beside the spread over tokens. The interval has the error of the reliability in it, tokens
    paired.

    Args:
        correlation: Correlation with the mean of the two halves.
        reliability: Reliability of that mean, over the same tokens in the same order.

    Returns:
        The estimate, its interval symmetric. It is not cut at -1 and 1: a value beyond them
        means that the reliability is rough, or that both variables share an error. NaN where
        the reliability is 0 or undefined.

    Raises:
        ValueError: They are not over equally many tokens.
    """
    if len(correlation.influence) != len(reliability.influence):
        raise ValueError(
            f"a correlation over {len(correlation.influence)} tokens cannot be corrected by a "
            f"reliability over {len(reliability.influence)}; compute both over the same tokens"
        )
    share = reliability.statistic if reliability.statistic > 0 else np.nan
    # Spearman 1904: rho / sqrt(reliability)
    corrected = correlation.statistic / np.sqrt(share)
    influence = (
        correlation.influence / np.sqrt(share) - corrected / (2 * share) * reliability.influence
    )
    return Difference(float(corrected), correlation.n, influence)
