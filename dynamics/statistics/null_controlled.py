"""Null bands of partial and within-bin correlations: how far they stray without an association.

As `null_band`, for correlations of `controlled`: a whole family at once, jointly normal.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from dynamics.statistics.controlled import Controls, Residual, WithinBins
from dynamics.statistics.intervals import largest_deviation, normal_quantile
from dynamics.statistics.null import NullBand
from dynamics.statistics.ranks import Values, finite


def partial_null_band(
    pairs: Iterable[tuple[Values | Residual, Values | Residual]],
    controls: Controls,
    level: float,
    rng: np.random.Generator,
    draws: int = 20_000,
) -> NullBand:
    """Null band of a family of `partial_spearman`, x and y being independent given the controls.

    With e_s, f_s the residuals of x and y of member s, of unit length, p_s = e_s f_s without its
    mean, and k degrees of freedom of the controls,

        Cov(rho_s, rho_t) = <p_s, p_t> n / (n - 1 - k),

    which lets the spread of the residuals change with the controls (White 1980), as a permutation
    does not: at the ends of frequency residuals are shorter.

    Args:
        pairs: The x and y of each correlation, n values or their residuals.
        controls: The controls.
        level: Probability of the simultaneous and of the pointwise band.
        rng: Simulates the largest of the correlated normal deviates.
        draws: Number of simulations.

    Returns:
        Half-widths. Pairs in which x or y is constant or a function of the controls are left out;
        NaN if that leaves none, or the tokens are too few.

    Raises:
        MeasureError: A value is NaN or infinite.
        ValueError: The lengths differ, or `level` does not lie between 0 and 1.
    """
    residuals = ((controls.residual(x, "x"), controls.residual(y, "y")) for x, y in pairs)
    return null_band_of_products([null_products(x, y) for x, y in residuals], level, rng, draws)


def null_products(x: Residual, y: Residual) -> Float[np.ndarray, " n"]:
    """Products of two residuals whose inner products are the covariances of `partial_null_band`.

    0 where x or y is constant or a function of the controls, or the tokens are too few.
    """
    free = x.ranked.n - 1 - x.controls.degrees_of_freedom
    if x.explained or y.explained or free <= 0:
        return np.zeros(x.ranked.n, np.float32)
    products = x.values * y.values / (np.linalg.norm(x.values) * np.linalg.norm(y.values))
    # White 1980, with n / (n - 1 - k) for the degrees of freedom
    scale = np.sqrt(x.ranked.n / free)
    return (scale * (products - products.mean())).astype(np.float32)


def null_band_of_products(
    products: Sequence[Float[np.ndarray, " n"]],
    level: float,
    rng: np.random.Generator,
    draws: int = 20_000,
) -> NullBand:
    """Null band of a family of `partial_spearman`, each given its own controls.

    Args:
        products: `null_products` of each correlation, over the same n tokens; those of 0 are left
            out.
        level: Probability of the simultaneous and of the pointwise band.
        rng: Simulates the largest of the correlated normal deviates.
        draws: Number of simulations.

    Raises:
        ValueError: `level` does not lie between 0 and 1.
    """
    return _half_widths(_gram(products), level, rng, draws)


def within_bin_null_band(
    pairs: Iterable[tuple[ArrayLike, ArrayLike]],
    within: WithinBins,
    level: float,
    rng: np.random.Generator,
    draws: int = 20_000,
) -> NullBand:
    """Null band of a family of `WithinBins.spearman`.

    With w_g = n_g - 4 the weight of bin g and p_sg the products of `partial_null_band` inside it,

        Cov(rho_s, rho_t) = sum_g w_g^2 <p_sg, p_tg> n_g / (n_g - 2) / (sum_g w_g)^2,

    to first order in Fisher's z.

    Args:
        pairs: The x and y of each correlation, n values each, all of the same tokens.
        within: The bins, and the control inside them.
        level: Probability of the simultaneous and of the pointwise band.
        rng: Simulates the largest of the correlated normal deviates.
        draws: Number of simulations.

    Returns:
        Half-widths, of the member that varies most should members differ in the bins that enter;
        NaN where no bin has 6 tokens and varying x and y.

    Raises:
        MeasureError: A value is NaN or infinite.
        ValueError: The lengths differ, or `level` does not lie between 0 and 1.
    """
    sides = [(finite(x, "x"), finite(y, "y")) for x, y in pairs]
    if any(len(values) != within.n for side in sides for values in side):
        raise ValueError(f"all values must be of the {within.n} tokens that have a bin")
    covariance, weights = np.zeros((len(sides), len(sides))), np.zeros(len(sides))
    for tokens, controls in within.bins if sides else ():
        covariances = _gram(
            [
                null_products(controls.residual(x[tokens]), controls.residual(y[tokens]))
                for x, y in sides
            ]
        )
        weight = len(tokens) - 3 - controls.degrees_of_freedom
        covariance += weight**2 * covariances
        weights += weight * (np.diag(covariances) > 0)
    total_weights = np.maximum(weights, 1)  # a member without a bin has covariance 0
    return _half_widths(covariance / np.outer(total_weights, total_weights), level, rng, draws)


def _gram(rows: Sequence[Float[np.ndarray, " n"]]) -> Float[np.ndarray, "K K"]:
    """Inner products of the rows."""
    stacked = np.stack(rows) if len(rows) else np.zeros((0, 0))
    return (stacked @ stacked.T).astype(np.float64)


def _half_widths(
    covariance: Float[np.ndarray, "K K"], level: float, rng: np.random.Generator, draws: int
) -> NullBand:
    """Half-widths of the bands of jointly normal correlations, widest where members differ."""
    pointwise = normal_quantile(level)
    varies = np.diag(covariance) > 0
    if not varies.any():
        return NullBand(float("nan"), float("nan"))
    covariance = covariance[np.ix_(varies, varies)]
    deviations = np.sqrt(np.diag(covariance))
    reach = largest_deviation(covariance / np.outer(deviations, deviations), level, rng, draws)
    widest = float(deviations.max())
    return NullBand(reach * widest, pointwise * widest)
