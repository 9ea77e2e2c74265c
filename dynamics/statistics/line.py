"""A straight line through two values per token: its slope, and how much it explains."""

import numpy as np
from numpy.typing import ArrayLike

from dynamics.statistics.correlation import NormalEstimate
from dynamics.statistics.ranks import finite


def least_squares_line(
    x: ArrayLike, y: ArrayLike, *, through_origin: bool = False
) -> tuple[NormalEstimate, NormalEstimate]:
    """Slope of y on x by least squares, and R2 = 1 - mean squared residual / variance of y.

    Influence values are those of the M-estimator, psi_i = x_i e_i / mean(x^2) with x centred unless
    the line goes through the origin, e its residuals (White's heteroscedastic errors); and, since
    the slope makes the squared residual stationary, (1 - R2) (y_i - mean y)^2 - e_i^2 over the
    variance of y.

    Args:
        x: n values.
        y: n values of the same tokens.
        through_origin: Fit y proportional to x. R2 is then below 0 where the line is worse than
            the mean of y.

    Returns:
        Slope and R2. The slope is NaN for a constant x (through the origin: x of zeros), R2 for a
        constant y as well.

    Raises:
        MeasureError: A value is NaN or infinite.
        ValueError: x and y differ in length.
    """
    x, y = finite(x, "x").astype(np.float64), finite(y, "y").astype(np.float64)
    if len(x) != len(y):
        raise ValueError(f"x has {len(x)} values and y has {len(y)}; give the same tokens")
    undefined = NormalEstimate(float("nan"), len(x), np.full(len(x), np.nan))
    if not x.any() or (not through_origin and np.ptp(x) == 0):
        return undefined, undefined
    deviation = y - y.mean()
    left, right = (x, y) if through_origin else (x - x.mean(), deviation)
    square = np.mean(left * left)
    slope = float(np.mean(left * right) / square)
    residual = right - slope * left
    # White 1980 (HC0): psi_i = x_i e_i / mean(x^2)
    estimate = NormalEstimate(slope, len(x), left * residual / square)
    if np.ptp(y) == 0:
        return estimate, undefined
    variance = np.mean(deviation * deviation)
    r2 = 1 - np.mean(residual * residual) / variance
    influence = ((1 - r2) * deviation * deviation - residual * residual) / variance
    return estimate, NormalEstimate(float(r2), len(x), influence)
