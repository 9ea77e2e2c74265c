"""Rank correlation under control: covariates regressed out, or inside bins."""

from collections.abc import Iterable, Mapping
from itertools import combinations

import numpy as np
from jaxtyping import Integer
from numpy.typing import ArrayLike

from dynamics.statistics.bins import tokens_by_bin
from dynamics.statistics.correlation import Correlation, spearman, undefined
from dynamics.statistics.ranks import Values, finite, rank

FEWEST_TOKENS_IN_BIN = 5

_UNEXPLAINED = 1e-10
"""Share of variance below which a variable counts as a combination of the covariates."""


def partial_spearman(
    x: Values, y: Values, covariates: Mapping[str, Values] | Iterable[Values]
) -> Correlation:
    """Spearman's correlation of x and y given covariates.

    All variables are ranked; the statistic is the correlation of the residuals of the ranks of x
    and y regressed on those of the covariates, which is -P_xy / sqrt(P_xx P_yy) for P the inverse
    of the rank correlation matrix R. The residuals' covariance is S = L' R L, L = (1; -slopes);
    least squares makes it stationary in the slopes, so dS = L' dR L gives influence values from
    those of R's entries. Only effects linear in ranks are held fixed; `within_bin_spearman` holds
    any effect of one covariate fixed.

    Args:
        x: n values.
        y: n values of the same tokens.
        covariates: k times as many, as rows or by name. Constant ones are left out, collinear ones
            share what they explain (pseudo-inverse); with none this is `spearman`.

    Returns:
        The correlation; NaN if x or y is constant or a combination of the covariates, as it must
        be when covariates are as many as tokens.

    Raises:
        MeasureError: A value is NaN or infinite.
        ValueError: The variables differ in length.
    """
    return Controlled(y, covariates).spearman(x)


class Controlled:
    """One variable and its covariates, prepared for the partial correlation with many others.

    Args:
        y: n values.
        covariates: k times as many, as rows or by name.

    Raises:
        MeasureError: A value is NaN or infinite.
        ValueError: The variables differ in length.
    """

    def __init__(self, y: Values, covariates: Mapping[str, Values] | Iterable[Values]) -> None:
        named = covariates.items() if isinstance(covariates, Mapping) else enumerate(covariates)
        ranked = [rank(values, f"covariate {name}") for name, values in named]
        self._y = rank(y, "y")
        if any(covariate.n != self._y.n for covariate in ranked):
            lengths = ", ".join(str(variable.n) for variable in (self._y, *ranked))
            raise ValueError(f"y and the covariates differ in length: {lengths}")
        varying = (covariate for covariate in ranked if not covariate.is_constant)
        self._variables = [self._y, *varying]
        self._pairs = {
            (i + 1, j + 1): spearman(self._variables[i], self._variables[j])
            for i, j in combinations(range(len(self._variables)), 2)
        }

    def spearman(self, x: Values) -> Correlation:
        """`partial_spearman` of x and y given the covariates.

        Raises:
            MeasureError: A value is NaN or infinite.
            ValueError: x has another length.
        """
        x = rank(x, "x")
        if x.n != self._y.n:
            raise ValueError(f"x has {x.n} values, y and the covariates have {self._y.n}")
        if x.is_constant or self._y.is_constant:
            return undefined(x.n)
        pairs = {(0, j + 1): spearman(x, values) for j, values in enumerate(self._variables)}
        return _residual_correlation(pairs | self._pairs, 1 + len(self._variables))


def _residual_correlation(
    pairs: Mapping[tuple[int, int], Correlation], variables: int
) -> Correlation:
    """Correlation of the residuals of variables 0 and 1 after regression on the others."""
    correlations = np.eye(variables)
    for (i, j), pair in pairs.items():
        correlations[i, j] = correlations[j, i] = pair.statistic
    n = pairs[0, 1].n
    inverse = np.linalg.pinv(correlations[2:, 2:], rcond=_UNEXPLAINED, hermitian=True)
    # Rows of x and y in L = (1; -slopes): S = L' R L is the covariance of their residuals.
    residual_of = np.vstack([np.eye(2), -inverse @ correlations[2:, :2]])
    covariance = residual_of.T @ correlations @ residual_of
    variances = np.diag(covariance)
    if variances.min() < _UNEXPLAINED:
        return undefined(n)
    scale = np.sqrt(variances.prod())
    rho = covariance[0, 1] / scale
    of_x, of_y = residual_of.T
    # d rho / d R from dS = L' dR L, because least squares makes S stationary in the slopes.
    slopes = np.outer(of_x, of_y) / scale - rho / 2 * (
        np.outer(of_x, of_x) / variances[0] + np.outer(of_y, of_y) / variances[1]
    )
    influence = np.zeros(n)
    for (i, j), pair in pairs.items():
        influence += (slopes[i, j] + slopes[j, i]) * pair.influence
    return Correlation(float(np.clip(rho, -1, 1)), n, influence)


def within_bin_spearman(x: ArrayLike, y: ArrayLike, bins: Integer[np.ndarray, " n"]) -> Correlation:
    """Spearman's correlation of x and y inside bins, averaged over bins.

    Fisher's z of each bin, weighted by its inverse variance n_bin - 3, averaged and brought back
    to a correlation. With bins of frequency this holds frequency fixed whatever the shape of its
    effect. A bin in perfect order, whose z is infinite, enters halfway between 1 and the largest
    other correlation its size allows, 1 - 12 / (n_bin^3 - n_bin).

    Bin sizes are taken as given: the interval is that of a bootstrap within bins.

    Args:
        x: n values; they are ranked anew inside each bin.
        y: n values of the same tokens.
        bins: Label of each token's bin.

    Returns:
        The correlation, its `n` the tokens that entered. Bins of fewer than 5 tokens, and those
        in which x or y is constant, are left out; NaN if that leaves none.

    Raises:
        MeasureError: A value is NaN or infinite.
        ValueError: x, y and bins differ in length.
    """
    x, y, bins = finite(x, "x"), finite(y, "y"), np.asarray(bins)
    if not x.shape == y.shape == bins.shape:
        raise ValueError(f"x, y and bins differ in shape: {x.shape}, {y.shape}, {bins.shape}")
    influence = np.zeros(len(bins))
    weights, zs = [], []
    for tokens in tokens_by_bin(bins):
        in_bin = spearman(x[tokens], y[tokens])
        if in_bin.n < FEWEST_TOKENS_IN_BIN or np.isnan(in_bin.statistic):
            continue
        largest = largest_imperfect(in_bin.n)
        rho = np.clip(in_bin.statistic, -largest, largest)
        weight = in_bin.n - 3  # 1 / variance of Fisher's z
        weights.append(weight)
        zs.append(np.arctanh(rho))
        influence[tokens] = weight * in_bin.influence / (1 - rho**2) * len(bins) / in_bin.n
    if not weights:
        return undefined(len(bins))
    statistic = float(np.tanh(np.average(zs, weights=weights)))
    influence *= (1 - statistic**2) / sum(weights)  # d tanh(z) / dz = 1 - tanh(z)^2
    return Correlation(statistic, sum(weights) + 3 * len(weights), influence)


def largest_imperfect(n: int) -> float:
    """Correlation that replaces 1 for n ranks: halfway to the next lower, so that z is finite."""
    # rho = 1 - 6 sum d^2 / (n^3 - n), where the smallest sum d^2 above 0 is 2.
    return 1 - 6 / (n**3 - n)
