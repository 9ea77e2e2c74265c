"""Null distributions and null bands of correlations, from permuting the tokens."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer
from numpy.typing import ArrayLike

from dynamics.statistics.bins import tokens_by_bin
from dynamics.statistics.controlled import (
    FEWEST_TOKENS_IN_BIN,
    largest_imperfect,
    within_bin_spearman,
)
from dynamics.statistics.correlation import spearman
from dynamics.statistics.intervals import Interval, largest_deviation, normal_quantile
from dynamics.statistics.ranks import Ranked, Values, rank

_ROUNDING = 1e-12
"""A permuted statistic this close to the observed one counts as equal to it."""


@dataclass(frozen=True, eq=False)
class PermutationTest:
    """A correlation compared with its permutation null.

    Attributes:
        statistic: The observed correlation.
        pvalue: Two-sided, (b + 1) / (m + 1) with b of m permutations at least as far from 0.
        null: The m permuted correlations.
    """

    statistic: float
    pvalue: float
    null: Float[np.ndarray, " m"]

    def null_interval(self, level: float = 0.95) -> Interval:
        """Central interval that holds a share `level` of the permuted correlations.

        Raises:
            ValueError: `level` lies outside 0 to 1.
        """
        low, high = np.quantile(self.null, [(1 - level) / 2, (1 + level) / 2])
        return Interval(float(low), float(high))


@dataclass(frozen=True)
class NullBand:
    """Half-widths around 0 of bands in which correlations without an association stay.

    Attributes:
        simultaneous: Half-width that all members of the family together keep to, with the
            probability of the level.
        pointwise: Half-width that each member by itself keeps to, with that probability.
    """

    simultaneous: float
    pointwise: float


def permutation_test(
    x: Values,
    y: Values,
    rng: np.random.Generator,
    permutations: int = 999,
) -> PermutationTest:
    """Test Spearman's correlation of x and y by permuting y over tokens.

    Args:
        x: n values.
        y: n values of the same tokens.
        rng: Draws the permutations.
        permutations: Number of permutations; the smallest p-value is 1 / (permutations + 1).

    Returns:
        The test; all NaN if x or y is constant or empty.

    Raises:
        MeasureError: A value is NaN or infinite.
        ValueError: x and y differ in length.
    """
    x, y = rank(x, "x"), rank(y, "y")
    statistic = spearman(x, y).statistic
    if np.isnan(statistic):
        return PermutationTest(statistic, statistic, np.full(permutations, np.nan))
    return _compared(statistic, _permuted(x, y, rng, permutations))


def within_bin_permutation_test(
    x: ArrayLike,
    y: ArrayLike,
    bins: Integer[np.ndarray, " n"],
    rng: np.random.Generator,
    permutations: int = 999,
) -> PermutationTest:
    """Test `within_bin_spearman` by permuting y over the tokens of each bin.

    With bins of frequency this tests for an association beyond frequency.

    Args:
        x: n values.
        y: n values of the same tokens.
        bins: Label of each token's bin.
        rng: Draws the permutations.
        permutations: Number of permutations; the smallest p-value is 1 / (permutations + 1).

    Returns:
        The test; all NaN if no bin has 5 tokens and varying x and y.

    Raises:
        MeasureError: A value is NaN or infinite.
        ValueError: x, y and bins differ in length.
    """
    x, y = np.asarray(x), np.asarray(y)
    statistic = within_bin_spearman(x, y, bins).statistic
    z, weights = np.zeros(permutations), 0
    for tokens in tokens_by_bin(bins):
        bin_x, bin_y = rank(x[tokens], "x"), rank(y[tokens], "y")
        if len(tokens) < FEWEST_TOKENS_IN_BIN or bin_x.is_constant or bin_y.is_constant:
            continue
        weight, largest = len(tokens) - 3, largest_imperfect(len(tokens))
        rho = _permuted(bin_x, bin_y, rng, permutations)
        z += weight * np.arctanh(np.clip(rho, -largest, largest))
        weights += weight
    if weights == 0:
        return PermutationTest(statistic, statistic, np.full(permutations, np.nan))
    return _compared(statistic, np.tanh(z / weights))


def null_band(
    pairs: Iterable[tuple[Values, Values]],
    level: float,
    rng: np.random.Generator,
    draws: int = 20_000,
) -> NullBand:
    """Null band of a family of Spearman correlations, from permuting the tokens of all y.

    The family may run over steps and over measures: every member sees the same permutation, so
    members that resemble each other count as fewer. With a_s, b_s the mid-ranks of member s,
    centred and of unit length, a permutation gives mean 0 and exactly

        Cov(rho_s, rho_t) = <a_s, a_t> <b_s, b_t> / (n - 1);

    their joint distribution is taken as normal (Hoeffding 1951), good from some 30 tokens on.

    Args:
        pairs: The x and y of each correlation, n values each, all of the same tokens. They are
            consumed one by one; give values that recur as `Ranked`, in consecutive pairs.
        level: Probability of the simultaneous and of the pointwise band.
        rng: Simulates the largest of the correlated normal deviates.
        draws: Number of simulations.

    Returns:
        Half-widths. Pairs with a constant are left out; NaN if that leaves none.

    Raises:
        MeasureError: A value is NaN or infinite.
        ValueError: The lengths differ, or `level` does not lie between 0 and 1.
    """
    pointwise = normal_quantile(level)
    lengths: set[int] = set()
    a: list[Float[np.ndarray, " n"]] = []
    b: list[Float[np.ndarray, " n"]] = []
    previous_y = None
    for x, y in pairs:
        x, y = rank(x, "x"), rank(y, "y")
        lengths |= {x.n, y.n}
        if len(lengths) > 1:
            raise ValueError(
                f"all values must be of the same tokens, found {sorted(lengths)} tokens"
            )
        if x.is_constant or y.is_constant:
            continue
        a.append(_standardized(x).astype(np.float32))
        b.append(b[-1] if y is previous_y else _standardized(y).astype(np.float32))
        previous_y = y
    if not a:
        return NullBand(float("nan"), float("nan"))
    # Hoeffding 1951: Cov(rho_s, rho_t) = <a_s, a_t> <b_s, b_t> / (n - 1)
    deviation = float(1 / np.sqrt(lengths.pop() - 1))
    simultaneous = largest_deviation(gram(a) * gram(b), level, rng, draws)
    return NullBand(simultaneous * deviation, pointwise * deviation)


def gram(rows: list[Float[np.ndarray, " n"]]) -> Float[np.ndarray, "K K"]:
    """Inner products of rows of length 1 or 0; quick where all rows are the same object."""
    if all(row is rows[0] for row in rows):
        return np.full((len(rows), len(rows)), float(rows[0].any()))
    stacked = np.stack(rows)
    return (stacked @ stacked.T).astype(np.float64)


def _standardized(ranked: Ranked) -> Float[np.ndarray, " n"]:
    """Mid-ranks with mean 0 and length 1."""
    return ranked.centered / np.sqrt(ranked.n * ranked.variance)


def _permuted(
    x: Ranked, y: Ranked, rng: np.random.Generator, permutations: int
) -> Float[np.ndarray, " m"]:
    """Spearman's correlation under random permutations of y."""
    a, b = _standardized(x), _standardized(y)
    return np.array([(a * rng.permutation(b)).sum() for _ in range(permutations)])


def _compared(statistic: float, null: Float[np.ndarray, " m"]) -> PermutationTest:
    """Test with the two-sided p-value of a statistic among permuted ones."""
    beyond = int(np.count_nonzero(np.abs(null) >= abs(statistic) - _ROUNDING))
    return PermutationTest(statistic, (beyond + 1) / (len(null) + 1), null)
