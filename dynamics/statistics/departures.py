"""Steps at which the rows of a matrix leave their initial direction."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

MIN_COSINE = 0.99
"""Smallest cosine to the first step at which a row still counts as having its first direction."""


def departures(
    steps: Sequence[int], cosines: Float[np.ndarray, "K V"], min_cosine: float = MIN_COSINE
) -> Float[np.ndarray, " V"]:
    """First step from which on the cosine to the first step stays below `min_cosine`.

    A direction, not a distance, so that a row that weight decay merely shrinks has not left. NaN
    for a row that has its first direction at the last step.

    Args:
        steps: K steps, ascending.
        cosines: Cosine of every row to itself at the first step.
        min_cosine: Smallest cosine at which a row still has its first direction.

    Raises:
        ValueError: There are not as many steps as rows of cosines.

    Example:
        >>> departures([0, 1, 2], np.array([[1.0, 1.0, 1.0], [0.9, 1.0, 0.9], [0.8, 0.9, 1.0]]))
        array([ 1.,  2., nan])
    """
    if len(steps) != len(cosines):
        raise ValueError(f"{len(steps)} steps, but cosines at {len(cosines)}")
    near = cosines[::-1] >= min_cosine  # last step first
    steps_away = np.where(near.any(axis=0), near.argmax(axis=0), len(steps))
    return np.append(np.array(steps, dtype=float), np.nan)[len(steps) - steps_away]
