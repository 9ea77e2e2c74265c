"""Where a trajectory of vectors leaves its course: points off the path, and breaks in it.

Only ratios of distances are used, so that neither the scale of the weights nor how far apart steps
are matters. With a, b, c in this order, the detour (|ab| + |bc|) / |ac| is 1 on a straight path,
sqrt(2) on a random walk, and 2 where points fluctuate about a place that no longer moves; a point
from elsewhere is far from both neighbours, which are close to each other.

K steps, n coordinates.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from jaxtyping import Float

FEWEST_STEPS = 7
"""Steps below which nothing is said."""

OFF_PATH = 2.2
"""Detour above which a point is off the path, if it is also half as much again as those around."""

BREAK = 4.0
"""How many times further than at its neighbours' speed an interval leads when the path breaks."""

_FIRST_BREAK = 30.0  # the first interval has one neighbour, and steps out of the initialisation
_LAST_BREAK = 10.0  # and the last one has one neighbour
_AROUND = 1.5
_ROUNDING = (
    0.5  # of the numbers: fewer differ where steps are so small that storage rounds them off
)
_SHORT = 0.1  # of the steps: a stretch between breaks that is the wrong part


@dataclass(frozen=True)
class Jump:
    """A place where a trajectory leaves its course.

    Attributes:
        steps: The steps that are off the course; empty when it cannot be told which are.
        at: The first step after the jump.
        ratio: How large it is.
        kind: Of a `detour` the ratio is that of the way over a single step to the direct one; at
            a `break`, of the length of an interval to what its neighbours allow.
    """

    steps: tuple[int, ...]
    at: int
    ratio: float
    kind: Literal["detour", "break"]


def find_jumps(steps: Sequence[int], points: Float[np.ndarray, "K n"]) -> list[Jump]:
    """The jumps of a trajectory, by step.

    Args:
        steps: Steps, ascending.
        points: The vector at each of them. Consecutive ones differ.

    Returns:
        Single steps off the path; and breaks of what is left, with the stretch they separate when
        it has less than a tenth of the steps. Empty for fewer than `FEWEST_STEPS` steps.
    """
    if len(steps) < FEWEST_STEPS:
        return []
    kept = list(range(len(steps)))
    jumps: list[Jump] = []
    while len(kept) > 2:
        detours = _detours(points[kept])
        worst = int(np.argmax(detours))
        around = points[kept[max(0, worst - 2) : worst + 1] + kept[worst + 2 : worst + 5]]
        if detours[worst] <= max(OFF_PATH, _AROUND * max(_detours(around), default=0)):
            break
        step = steps[kept.pop(worst + 1)]
        jumps.append(Jump((step,), step, float(detours[worst]), "detour"))
    left = [steps[at] for at in kept]
    ratios = _excess(left, points[kept])
    after = [at + 1 for at in np.flatnonzero(ratios > 1)]
    edges = [0, *after, len(left)]
    short = [
        left[start:end]
        for start, end in pairwise(edges)
        if end - start < max(2, _SHORT * len(left))
    ]
    for at in after:
        stretch = next((part for part in short if left[at] in part or left[at - 1] in part), [])
        jumps.append(Jump(tuple(stretch), left[at], float(ratios[at - 1]), "break"))
    return sorted(jumps, key=lambda jump: jump.at)


def best_fit(
    steps: Sequence[int], points: Float[np.ndarray, "K n"], candidates: Sequence[int]
) -> int | None:
    """Which of several steps that hold one and the same vector it belongs to.

    Args:
        steps: Steps, ascending.
        points: The vector at each of them.
        candidates: The steps that share one.

    Returns:
        The step whose neighbours are nearest to the vector, None unless they are less than half as
        far as those of any other candidate.
    """
    others = [at for at, step in enumerate(steps) if step not in candidates]
    far: dict[int, float] = {}
    for candidate in candidates:
        at = steps.index(candidate)
        near = [max((o for o in others if o < at), default=None)]
        near.append(min((o for o in others if o > at), default=None))
        distances = [_distance(points[at], points[o]) for o in near if o is not None]
        far[candidate] = float(np.mean(distances)) if distances else np.inf
    first, second = sorted(far, key=lambda step: far[step])[:2]
    return first if far[first] < 0.5 * far[second] else None


def _detours(points: Float[np.ndarray, "K n"]) -> Float[np.ndarray, " K-2"]:
    along = _distance(points[1:], points[:-1])
    direct = _distance(points[2:], points[:-2])
    detours = (along[1:] + along[:-1]) / np.maximum(direct, np.finfo(float).tiny)
    differs = (points[1:] != points[:-1]).mean(axis=-1)
    return np.where(np.minimum(differs[1:], differs[:-1]) < _ROUNDING, 0, detours)


def _excess(steps: Sequence[int], points: Float[np.ndarray, "K n"]) -> Float[np.ndarray, " K-1"]:
    """Length of each interval over what the faster of its neighbours allows; above 1 is a break."""
    lengths, gaps = _distance(points[1:], points[:-1]), np.diff(steps)
    allowed = np.full(len(lengths), BREAK)
    if len(lengths):
        allowed[0], allowed[-1] = _FIRST_BREAK, _LAST_BREAK
    reach = np.zeros(len(lengths))
    for shift in (1, -1):
        stretch = np.maximum(1, gaps / np.roll(gaps, shift))
        neighbour = np.roll(lengths, shift) * stretch
        neighbour[0 if shift == 1 else -1] = 0
        reach = np.maximum(reach, neighbour)
    return lengths / np.maximum(allowed * reach, np.finfo(float).tiny)


def _distance(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.linalg.norm(one.astype(np.float64) - other.astype(np.float64), axis=-1)
