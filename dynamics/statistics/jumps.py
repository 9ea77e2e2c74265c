"""Jumps of a trajectory of vectors: points off the path, and breaks in it.

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
"""Fewest steps of a trajectory in which jumps are looked for."""

OFF_PATH = 2.2
"""Detour above which a point is off the path, if it is also 1.5 times those around it."""

BREAK = 4.0
"""Ratio of an interval's length to that at its neighbours' speed above which the path breaks."""

_FIRST_BREAK = 30.0  # the first interval has one neighbour, and steps out of the initialisation
_LAST_BREAK = 10.0  # and the last one has one neighbour
_AROUND = 1.5  # times the largest detour around a point
_ROUNDING = 0.5
"""Share of coordinates that change; fewer do where steps are so small that storage rounds them."""

_SHORT = 0.1
"""Share of the steps below which a stretch between breaks is taken to be the part that is wrong."""


@dataclass(frozen=True)
class Jump:
    """A step at which a trajectory leaves its course.

    Attributes:
        steps: The steps that are off the course; empty where that is ambiguous.
        at: The first step after the jump.
        ratio: Size of the jump.
        kind: `detour`, where the ratio is that of the way over a single step to the direct one;
            `break`, where it is that of an interval's length to what its neighbours allow.
    """

    steps: tuple[int, ...]
    at: int
    ratio: float
    kind: Literal["detour", "break"]


def find_jumps(steps: Sequence[int], points: Float[np.ndarray, "K n"]) -> list[Jump]:
    """Find the jumps of a trajectory, by ascending step.

    Args:
        steps: Steps, ascending.
        points: The vector at each step. Consecutive ones differ.

    Returns:
        Single steps off the path; and breaks of the remaining path, with the stretch they separate
        if it has less than a tenth of the steps. Empty for fewer than `FEWEST_STEPS` steps.
    """
    if len(steps) < FEWEST_STEPS:
        return []
    on_path = list(range(len(steps)))
    jumps: list[Jump] = []
    while len(on_path) > 2:
        detours = _detours(points[on_path])
        worst = int(np.argmax(detours))
        around = points[on_path[max(0, worst - 2) : worst + 1] + on_path[worst + 2 : worst + 5]]
        if detours[worst] <= max(OFF_PATH, _AROUND * max(_detours(around), default=0)):
            break
        step = steps[on_path.pop(worst + 1)]
        jumps.append(Jump((step,), step, float(detours[worst]), "detour"))
    path_steps = [steps[index] for index in on_path]
    ratios = _excess(path_steps, points[on_path])
    breaks = [index + 1 for index in np.flatnonzero(ratios > 1)]
    edges = [0, *breaks, len(path_steps)]
    short = [
        path_steps[start:end]
        for start, end in pairwise(edges)
        if end - start < max(2, _SHORT * len(path_steps))
    ]
    for index in breaks:
        ends = path_steps[index - 1 : index + 1]
        stretch = next((part for part in short if ends[1] in part or ends[0] in part), [])
        jumps.append(Jump(tuple(stretch), path_steps[index], float(ratios[index - 1]), "break"))
    return sorted(jumps, key=lambda jump: jump.at)


def best_fit(
    steps: Sequence[int], points: Float[np.ndarray, "K n"], candidates: Sequence[int]
) -> int | None:
    """Find the step to which a vector belongs that several steps hold.

    Args:
        steps: Steps, ascending.
        points: The vector at each step.
        candidates: The steps that hold the same vector.

    Returns:
        The step whose neighbours are nearest to the vector, None unless they are less than half as
        far as those of any other candidate.
    """
    unshared = [index for index, step in enumerate(steps) if step not in candidates]
    mean_distance: dict[int, float] = {}
    for candidate in candidates:
        index = steps.index(candidate)
        neighbours = [i for i in unshared if i < index][-1:]
        neighbours += [i for i in unshared if i > index][:1]
        distances = [_distance(points[index], points[i]) for i in neighbours]
        mean_distance[candidate] = float(np.mean(distances)) if distances else np.inf
    first, second = sorted(mean_distance, key=lambda step: mean_distance[step])[:2]
    return first if mean_distance[first] < 0.5 * mean_distance[second] else None


def _detours(points: Float[np.ndarray, "K n"]) -> Float[np.ndarray, " K-2"]:
    """Detour (|ab| + |bc|) / |ac| of each inner point; 0 where storage rounds the steps off."""
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
        neighbour = np.roll(lengths, shift) * stretch  # its speed over the gap of this interval
        neighbour[0 if shift == 1 else -1] = 0
        reach = np.maximum(reach, neighbour)
    return lengths / np.maximum(allowed * reach, np.finfo(float).tiny)


def _distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Euclidean distances along the last axis, in float64."""
    return np.linalg.norm(a.astype(np.float64) - b.astype(np.float64), axis=-1)
