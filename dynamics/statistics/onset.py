"""Onset of a change: the step from which on a trajectory stays near its final value."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from dynamics.statistics.intervals import Band


def onset(
    steps: Sequence[int], change: Float[np.ndarray, " K"], band: Band, share: float = 0.5
) -> int | None:
    """First step from which on the value stays beyond half its final distance from the first step.

    "The interval excludes 0" would be no onset: it moves with the number of tokens, and over many
    steps it happens to many series in which there is nothing.

    Args:
        steps: K steps, ascending.
        change: Difference of the value at each step from that at the first.
        band: Simultaneous band of `change`.
        share: Share of the final distance; a value that lies exactly there counts as beyond.

    Returns:
        The step; None where the band covers 0 at the last step, because then nothing has changed
        for certain, or where the last value is undefined. Steps in between whose value is undefined
        (NaN) are not beyond anything.

    Raises:
        ValueError: The lengths differ, or there are no steps.

    Example:
        >>> change = np.array([0.0, 0.1, 0.3, 0.4])
        >>> onset([0, 10, 100, 1000], change, Band(change - 0.1, change + 0.1))
        100
    """
    if not len(steps) == len(change) == len(band.low) == len(band.high) or not len(steps):
        raise ValueError(
            f"an onset needs equally many steps, changes and ends of a band, not {len(steps)}, "
            f"{len(change)}, {len(band.low)} and {len(band.high)}"
        )
    decided = band.low[-1] > 0 or band.high[-1] < 0
    if not decided:
        return None
    beyond = change * np.sign(change[-1]) >= share * abs(change[-1])
    not_beyond = np.flatnonzero(~beyond)
    return int(steps[not_beyond[-1] + 1 if len(not_beyond) else 0])


def step_before(steps: Sequence[int], step: int) -> int:
    """Last of ascending steps before an onset; 0, where training begins, if there is none.

    A change whose onset is at a step came after the step before. Where no step before was looked
    at, "at or before" is all that can be said.

    Example:
        >>> step_before([0, 16, 64], 64), step_before([200, 400], 200)
        (16, 0)
    """
    return max((earlier for earlier in steps if earlier < step), default=0)
