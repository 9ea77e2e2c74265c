"""When each row of a matrix leaves where it began."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

STAYS = 0.99
"""Cosine to the first row from which on a row counts as being where it began."""


def departures(
    steps: Sequence[int], cosines: Float[np.ndarray, "K V"], stays: float = STAYS
) -> Float[np.ndarray, " V"]:
    """First step from which on the cosine to the first row is below `stays`, for good.

    A direction, not a distance, so that a row that weight decay merely shrinks has not left. NaN
    for a row that is where it began at the last step.

    Args:
        steps: K steps, ascending.
        cosines: Cosine of every row to itself at the first step.
        stays: Cosine from which on a row counts as being where it began.

    Raises:
        ValueError: There are not as many steps as rows of cosines.

    Example:
        >>> departures([0, 1, 2], np.array([[1.0, 1.0, 1.0], [0.9, 1.0, 0.9], [0.8, 0.9, 1.0]]))
        array([ 1.,  2., nan])
    """
    if len(steps) != len(cosines):
        raise ValueError(f"{len(steps)} steps, but cosines at {len(cosines)}")
    back = cosines[::-1] >= stays
    after = np.where(back.any(axis=0), back.argmax(axis=0), len(steps))
    return np.append(np.array(steps, dtype=float), np.nan)[len(steps) - after]
