"""Mid-ranks: the rank of a value among n values, ties sharing the mean of their ranks."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Integer, Real
from numpy.typing import ArrayLike

from dynamics.errors import MeasureError


@dataclass(frozen=True, eq=False)
class Ranked:
    """The order of n values, sorted once and shared by every correlation they enter.

    All quantities are those of the mid-distribution function F(x) = P(X < x) + P(X = x) / 2,
    which at a value is (average rank - 1/2) / n; its mean is 1/2 whatever the ties.

    Attributes:
        group: Tie group of each value; groups are numbered by ascending value.
        sizes: Number of values in each tie group.
    """

    group: Integer[np.ndarray, " n"]
    sizes: Integer[np.ndarray, " groups"]

    @property
    def n(self) -> int:
        """Number of values."""
        return len(self.group)

    @property
    def is_constant(self) -> bool:
        """Return whether all values are equal (or there are none), so that nothing correlates."""
        return len(self.sizes) < 2

    @cached_property
    def centered(self) -> Float[np.ndarray, " n"]:
        """F - 1/2 at each value: 0 in the middle, antisymmetric under reversal."""
        below = np.cumsum(self.sizes) - self.sizes / 2  # n F, a tie counts half
        return ((below - self.n / 2) / self.n)[self.group]

    @cached_property
    def variance(self) -> float:
        """Variance of F, (1 - sum p^3) / 12 with p the shares of the tie groups."""
        return float(np.mean(self.centered * self.centered))

    @cached_property
    def variance_influence(self) -> Float[np.ndarray, " n"]:
        """Influence of each value on `variance`, (sum p^3 - p_i^2) / 4: zero without ties."""
        shares = self.sizes / self.n
        return (((shares**3).sum() - shares**2) / 4)[self.group]

    def mean_above(self, weights: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """At each value i, the mean over all j of `weights[j]` where j is larger, half if tied."""
        sums = np.bincount(self.group, weights)
        return ((sums.sum() - np.cumsum(sums) + sums / 2) / self.n)[self.group]


Values = ArrayLike | Ranked


def rank(values: Values, name: str = "values") -> Ranked:
    """Sort n values once; `Ranked` values are returned unchanged.

    Args:
        values: One number per token. Equal values are ties; no values give an empty order.
        name: Name of the values in an error message.

    Raises:
        MeasureError: A value is NaN or infinite.
        ValueError: `values` is not one-dimensional.

    Example:
        >>> rank([3.0, 1.0, 3.0]).group
        array([1, 0, 1])
    """
    if isinstance(values, Ranked):
        return values
    _, group, sizes = np.unique(finite(values, name), return_inverse=True, return_counts=True)
    return Ranked(group, sizes)


def finite(values: ArrayLike, name: str = "values") -> Real[np.ndarray, " n"]:
    """The values as a one-dimensional array, none of them NaN or infinite.

    Raises:
        MeasureError: A value is NaN or infinite.
        ValueError: `values` is not one-dimensional.
    """
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional; its shape is {array.shape}")
    if bad := array.size - np.count_nonzero(np.isfinite(array)):
        raise MeasureError(
            f"{bad} of the {array.size} values of {name} are NaN or infinite; leave these tokens "
            "out or repair the tensor they come from"
        )
    return array
