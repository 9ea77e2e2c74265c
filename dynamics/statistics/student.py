"""Student's t quantile, for every interval of a mean."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit


def student_quantile(level: float, freedom: ArrayLike) -> np.ndarray:
    """Half width, in standard errors, of a two-sided interval of Student's t; NaN without freedom.

    Args:
        level: Coverage of the interval, between 0 and 1.
        freedom: Degrees of freedom, one less than the number of values; one or an array.

    Raises:
        ValueError: `level` does not lie between 0 and 1.

    Example:
        >>> round(float(student_quantile(0.95, 9)), 3)
        2.262
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, not {level}")
    freedom = np.asarray(freedom, dtype=float)
    return stdtrit(np.where(freedom > 0, freedom, np.nan), (1 + level) / 2)
