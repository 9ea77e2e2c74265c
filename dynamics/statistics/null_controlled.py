"""Null bands of partial and within-bin correlations, from permuting under control.

As `null_band`, for correlations of `controlled`: a whole family at once, jointly normal with
the second moments of the permutation.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float, Integer
from numpy.typing import ArrayLike

from dynamics.statistics.bins import tokens_by_bin
from dynamics.statistics.controlled import FEWEST_TOKENS_IN_BIN
from dynamics.statistics.intervals import largest_deviation, normal_quantile
from dynamics.statistics.null import NullBand, gram
from dynamics.statistics.ranks import Ranked, Values, finite, rank

_UNEXPLAINED = 1e-5
"""Share of its length below which a variable counts as a combination of the covariates."""


def partial_null_band(
    pairs: Iterable[tuple[Values, Values]],
    covariates: Sequence[Values],
    level: float,
    rng: np.random.Generator,
    draws: int = 20_000,
) -> NullBand:
    """Null band of a family of `partial_spearman`, from permuting the residuals of y.

    With a_s, b_s the residuals of the ranks of x and y after regression on those of the covariates,
    of unit length, and b permuted (Freedman & Lane 1983), k covariates that are not collinear give

        Cov(rho_s, rho_t) = <a_s, a_t> <b_s, b_t> / (n - 1 - k).

    What covariates do beyond a linear effect on ranks stays in the statistic and is in no band.

    Args:
        pairs: The x and y of each correlation, n values each, all of the same tokens; give
            values that recur as `Ranked`, in consecutive pairs.
        covariates: Variables that are controlled for, n values each; constant ones are ignored.
        level: Probability of the simultaneous and of the pointwise band.
        rng: Simulates the largest of the correlated normal deviates.
        draws: Number of simulations.

    Returns:
        Half-widths. Pairs in which x or y is constant or a combination of the covariates are left
        out; NaN if that leaves none.

    Raises:
        MeasureError: A value is NaN or infinite.
        ValueError: The lengths differ, or `level` does not lie between 0 and 1.
    """
    basis = _orthonormal([rank(v, f"covariate {i}").centered for i, v in enumerate(covariates)])
    a: list[Float[np.ndarray, " n"]] = []
    b: list[Float[np.ndarray, " n"]] = []
    previous_y = None
    for x, y in pairs:
        x, y = rank(x, "x"), rank(y, "y")
        a.append(_residual(x, basis))
        b.append(b[-1] if y is previous_y else _residual(y, basis))
        previous_y = y
    # Freedman & Lane 1983: Cov(rho_s, rho_t) = <a_s, a_t> <b_s, b_t> / (n - 1 - k)
    free = len(a[0]) - 1 - basis.shape[1] if a else 0
    covariance = gram(a) * gram(b) / free if free > 0 else np.zeros((0, 0))
    return _half_widths(covariance, level, rng, draws)


def within_bin_null_band(
    pairs: Iterable[tuple[ArrayLike, ArrayLike]],
    bins: Integer[np.ndarray, " n"],
    level: float,
    rng: np.random.Generator,
    draws: int = 20_000,
) -> NullBand:
    """Null band of a family of `within_bin_spearman`, from permuting y inside bins.

    With w_g = n_g - 3 the weight of bin g and a_sg, b_sg the ranks inside it, of unit length,

        Cov(rho_s, rho_t) = sum_g w_g^2 <a_sg, a_tg> <b_sg, b_tg> / (n_g - 1) / (sum_g w_g)^2,

    to first order in Fisher's z. With bins of frequency it is the null of "beyond frequency".

    Args:
        pairs: The x and y of each correlation, n values each, all of the same tokens.
        bins: Label of each token's bin.
        level: Probability of the simultaneous and of the pointwise band.
        rng: Simulates the largest of the correlated normal deviates.
        draws: Number of simulations.

    Returns:
        Half-widths, of the member that varies most should members differ in the bins that enter;
        NaN where no bin has 5 tokens and varying x and y.

    Raises:
        MeasureError: A value is NaN or infinite.
        ValueError: The lengths differ, or `level` does not lie between 0 and 1.
    """
    bins = np.asarray(bins)
    sides = [[finite(values) for values in side] for side in zip(*pairs, strict=True)]
    members = len(sides[0]) if sides else 0
    if any(len(values) != len(bins) for side in sides for values in side):
        raise ValueError(f"all values must be of the {len(bins)} tokens that have a bin")
    covariance, weights = np.zeros((members, members)), np.zeros(members)
    for tokens in tokens_by_bin(bins):
        if len(tokens) < FEWEST_TOKENS_IN_BIN or not members:
            continue
        a, b = ([_unit(rank(values[tokens]).centered) for values in side] for side in sides)
        products = gram(a) * gram(b)
        weight = len(tokens) - 3
        # sum over bins of w_g^2 <a_sg, a_tg> <b_sg, b_tg> / (n_g - 1)
        covariance += weight**2 / (len(tokens) - 1) * products
        weights += weight * (np.diag(products) > 0)
    total_weights = np.maximum(weights, 1)  # a member without a bin has covariance 0
    return _half_widths(covariance / np.outer(total_weights, total_weights), level, rng, draws)


def _half_widths(
    covariance: Float[np.ndarray, "K K"], level: float, rng: np.random.Generator, draws: int
) -> NullBand:
    """Half-widths for correlations with this covariance; NaN if none of them varies."""
    pointwise = normal_quantile(level)
    varies = np.diag(covariance) > 0
    if not varies.any():
        return NullBand(float("nan"), float("nan"))
    covariance = covariance[np.ix_(varies, varies)]
    deviations = np.sqrt(np.diag(covariance))
    reach = largest_deviation(covariance / np.outer(deviations, deviations), level, rng, draws)
    widest = float(deviations.max())
    return NullBand(reach * widest, pointwise * widest)


def _orthonormal(covariates: Sequence[Float[np.ndarray, " n"]]) -> Float[np.ndarray, "n k"]:
    """Orthonormal columns that span the covariates; constant ones are 0 and add none."""
    columns = [_unit(values) for values in covariates]
    if not columns:
        return np.zeros((0, 0))
    left, lengths, _ = np.linalg.svd(np.stack(columns, axis=1), full_matrices=False)
    return left[:, lengths > _UNEXPLAINED]


def _residual(ranked: Ranked, basis: Float[np.ndarray, "n k"]) -> Float[np.ndarray, " n"]:
    """Residual of the ranks given the covariates, of unit length; 0 if they explain it all."""
    unit = _unit(ranked.centered)
    residual = unit - basis @ (basis.T @ unit) if basis.size else unit
    explained = np.linalg.norm(residual) < _UNEXPLAINED
    return (np.zeros_like(residual) if explained else _unit(residual)).astype(np.float32)


def _unit(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Values divided by their length; zeros stay zeros."""
    length = np.linalg.norm(values)
    return values / length if length > 0 else values
