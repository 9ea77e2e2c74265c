"""Null bands of correlations, from permuting the tokens."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from dynamics.statistics.intervals import largest_deviation, normal_quantile
from dynamics.statistics.ranks import Ranked, Values, rank


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
