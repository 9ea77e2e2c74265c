"""Time to half: the step at which a row has come half of the way to its last direction."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from dynamics.statistics.departures import MIN_COSINE


def times_to_half(
    steps: Sequence[int], cosines: Float[np.ndarray, "K V"], min_cosine: float = MIN_COSINE
) -> Float[np.ndarray, " V"]:
    """Step from which on the cosine to the last step stays beyond half its way to 1.

    Half of the way is (1 + c) / 2, with c the cosine at the first step. Between the two measured
    steps around it the cosine is taken to change linearly with the step, so that times are no finer
    than the steps are close. NaN for a row whose first direction is already within `min_cosine` of
    the last, which has no way to go, and for one that has no direction (NaN) at some step.

    Args:
        steps: K steps, ascending.
        cosines: Cosine of every row to itself at the last of these steps.
        min_cosine: Smallest cosine at which two directions count as one.

    Raises:
        ValueError: There are not as many steps as rows of cosines.

    Example:
        >>> times_to_half([0, 10, 20], np.array([[0.0, 1.0], [0.25, 1.0], [1.0, 1.0]]))
        array([13.33333333,         nan])
    """
    if len(steps) != len(cosines):
        raise ValueError(f"{len(steps)} steps, but cosines at {len(cosines)}")
    left = 1 - np.asarray(cosines, np.float64)
    half = left[0] / 2
    # The last step at which more than half is left; at the last step of all nothing is.
    before = len(steps) - 1 - (left[::-1] > half).argmax(axis=0)
    after = np.minimum(before + 1, len(steps) - 1)
    rows, step = np.arange(left.shape[1]), np.array(steps, dtype=float)
    has_way = np.isfinite(left).all(axis=0) & (cosines[0] < min_cosine)
    drop = np.where(has_way, left[before, rows] - left[after, rows], 1)
    share = (left[before, rows] - half) / drop
    times = step[before] + share * (step[after] - step[before])
    return np.where(has_way, times, np.nan)
