"""Spearman's correlation with the influence of each token on it, from which its interval follows.

The influence value psi_i is the derivative of the correlation when token i gains weight. Its root
mean square over sqrt(n) is the standard error, and because psi is kept per token, correlations
over the same tokens can be compared (`difference`) and followed (`trajectory`) as pairs.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from dynamics.statistics.intervals import (
    Interval,
    fisher_limits,
    normal_quantile,
    standard_errors,
)
from dynamics.statistics.ranks import Values, rank


@dataclass(frozen=True, eq=False)
class Estimate:
    """A statistic over tokens.

    Attributes:
        statistic: Value of the statistic; NaN where it is undefined (a constant, no tokens).
        n: Number of tokens that entered.
        influence: Influence of every token, mean 0; all NaN where `statistic` is, 0 for tokens
            that did not enter.
    """

    statistic: float
    n: int
    influence: Float[np.ndarray, " tokens"]

    @property
    def standard_error(self) -> float:
        """Standard deviation of `statistic` over resampled tokens; NaN below 4 tokens."""
        return float(standard_errors(self.influence[np.newaxis])[0])

    @property
    def contributions(self) -> Float[np.ndarray, " tokens"]:
        """Influence values scaled so that the root of their sum of squares is `standard_error`."""
        return self.influence * self.standard_error / np.linalg.norm(self.influence)


class NormalEstimate(Estimate):
    """A statistic whose interval is symmetric."""

    def confidence_interval(self, level: float = 0.95) -> Interval:
        """Symmetric normal interval; NaN where the statistic is or below 4 tokens.

        Raises:
            ValueError: `level` does not lie between 0 and 1.
        """
        reach = normal_quantile(level) * self.standard_error
        return Interval(self.statistic - reach, self.statistic + reach)


class Correlation(Estimate):
    """A correlation over tokens."""

    def confidence_interval(self, level: float = 0.95) -> Interval:
        """Interval that is symmetric on Fisher's z scale, brought back to correlations.

        At 300 tokens its ends are those of the percentile bootstrap to 0.2 standard errors, where
        the untransformed interval is off by up to 0.4. A correlation of exactly -1 or 1 is both
        its ends; the interval is NaN for a NaN statistic and for fewer than 4 tokens.

        Raises:
            ValueError: `level` does not lie between 0 and 1.
        """
        low, high = fisher_limits(
            np.array([self.statistic]), np.array([self.standard_error]), normal_quantile(level)
        )
        return Interval(float(low[0]), float(high[0]))


class Difference(NormalEstimate):
    """One correlation minus another over the same tokens; `n` is the smaller of the two."""


def spearman(x: Values, y: Values) -> Correlation:
    """Spearman's correlation of two values per token, with influence values, in O(n log n).

    The statistic is Pearson's correlation of average ranks, as in `scipy.stats.spearmanr`. The
    influence function is Croux & Dehon's (2010), extended to ties: with mid-distribution functions
    F, G (a tie counts half) and rho = C / sqrt(A B), C = cov(F, G), A = var F, B = var G,

        psi_i = IF_i(C) / sqrt(A B) - rho / 2 (IF_i(A) / A + IF_i(B) / B)
        IF_i(C) = (F_i - 1/2)(G_i - 1/2) + mean_j (G_j - 1/2) [x_j > x_i]
                  + mean_j (F_j - 1/2) [y_j > y_i] - 3 C,    [.] counting ties half

    where IF(A), IF(B) vanish without ties. Fixed ranks with resampled weights would understate the
    spread by up to a tenth.

    Args:
        x: n values, or their `Ranked` order when it is used more than once.
        y: n values of the same tokens.

    Returns:
        The correlation. If x or y is constant or empty, statistic and influence are NaN, without
        a warning.

    Raises:
        MeasureError: A value is NaN or infinite.
        ValueError: x and y differ in length.

    Example:
        >>> round(spearman([1, 2, 3, 4, 5], [2, 1, 4, 3, 5]).statistic, 12)
        0.8
    """
    x, y = rank(x, "x"), rank(y, "y")
    if x.n != y.n:
        raise ValueError(f"x has {x.n} values and y has {y.n}; they must be of the same tokens")
    if x.is_constant or y.is_constant:
        return undefined(x.n)
    # Croux & Dehon 2010, extended to ties: IF(C) / sqrt(A B) - rho / 2 (IF(A) / A + IF(B) / B)
    product = x.centered * y.centered
    covariance = product.mean()
    scale = np.sqrt(x.variance * y.variance)
    rho = covariance / scale
    if_covariance = product + x.mean_above(y.centered) + y.mean_above(x.centered) - 3 * covariance
    if_variances = x.variance_influence / x.variance + y.variance_influence / y.variance
    influence = if_covariance / scale - rho / 2 * if_variances
    return Correlation(float(np.clip(rho, -1, 1)), x.n, influence)


def undefined(n: int) -> Correlation:
    """Correlation of n tokens that is NaN, because x or y is constant."""
    return Correlation(float("nan"), n, np.full(n, np.nan))


def difference(a: Correlation, b: Correlation) -> Difference:
    """Difference a - b of two correlations over the same tokens, in the same order.

    The tokens are paired, so what moves both cancels: the influence of a token on the difference
    is the difference of its influences. NaN if one of them is.

    Raises:
        ValueError: They are not over equally many tokens.
    """
    if len(a.influence) != len(b.influence):
        raise ValueError(
            f"correlations over {len(a.influence)} and {len(b.influence)} tokens have no paired "
            "difference; compute both over the same tokens"
        )
    return Difference(a.statistic - b.statistic, min(a.n, b.n), a.influence - b.influence)
