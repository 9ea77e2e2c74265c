"""Arms that are nearly one training, which count once in verdicts.

An arm that shares its seeds with another and hardly differs from it, as one without a weak weight
decay, repeats the other's verdicts: its seeds are no new sample of trainings.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dynamics.runs.compare import Arm, Quantity
from dynamics.verdicts.claims import Claim

TOLERANCE = 0.1
"""Largest difference between the values of two arms for one seed, as a share of the width of the
claimed range, with which the arms count as one."""


@dataclass(frozen=True, eq=False)
class CountedOnce:
    """Arms that get one verdict.

    Attributes:
        arms: The arms; the first stands for all.
        differences: For each further arm the largest difference from the first, as a share of the
            width of a claimed range; None where the study declares that it counts with the first.
    """

    arms: tuple[Arm, ...]
    differences: tuple[float | None, ...] = ()


def counted_once(
    arms: Sequence[Arm],
    claims: Sequence[Claim],
    counts_with: Mapping[str, str] | None = None,
    tolerance: float = TOLERANCE,
) -> list[CountedOnce]:
    """Group arms that are nearly one training, in the order of their first arms.

    An arm joins the first group that holds the arm it is declared to count with, or from whose
    first arm it differs by at most `tolerance`.

    Args:
        arms: Arms of one study.
        claims: The claims that they are judged by.
        counts_with: Name of the arm that an arm counts with, by name; both may be absent.
        tolerance: Largest `largest_difference` of arms that count once.
    """
    groups: list[CountedOnce] = []
    declared = counts_with or {}
    for arm in sorted(arms, key=lambda arm: arm.name in declared):  # those declared come last
        for index, group in enumerate(groups):
            is_declared = declared.get(arm.name) in [member.name for member in group.arms]
            difference = None if is_declared else largest_difference(group.arms[0], arm, claims)
            if is_declared or (difference is not None and difference <= tolerance):
                groups[index] = CountedOnce((*group.arms, arm), (*group.differences, difference))
                break
        else:
            groups.append(CountedOnce((arm,)))
    return groups


def largest_difference(first: Arm, second: Arm, claims: Sequence[Claim]) -> float | None:
    """Largest difference of two arms for one seed, over all quantities judged in both.

    In units of the width of the claimed range. Quantities of the first step are left out, because
    arms that share an initialisation agree in them, and so are onsets, which jump from checkpoint
    to checkpoint, and claims on the difference of two arms.

    Returns:
        The difference; infinite where one arm has a value for a seed and the other has none. None
        where the arms differ in their seeds, have one seed, or share no judged quantity.
    """
    if set(first.seeds) != set(second.seeds) or len(first.seeds) < 2:
        return None
    shares = []
    for claim in claims:
        if claim.minus_arm or claim.of_steps or claim.quantity.at == "first":
            continue
        if not (claim.applies_to(first) and claim.applies_to(second)):
            continue
        for quantities in claim.quantities:
            values, others = (_values(arm, claim, *quantities) for arm in (first, second))
            known = ~(np.isnan(values) & np.isnan(others))
            differences = np.abs(values - others)[known]
            shares += list(np.where(np.isnan(differences), np.inf, differences) / claim.width)
    return max(shares, default=None)


def _values(arm: Arm, claim: Claim, quantity: Quantity, minus: Quantity | None) -> np.ndarray:
    """Value of a claim's quantity for each seed, in the order of the seeds' names."""
    values = arm.values(quantity)
    if minus is not None:
        values = values - claim.minus_times * arm.values(minus)
    return values.sort_index().to_numpy()
