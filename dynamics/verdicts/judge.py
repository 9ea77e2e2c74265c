"""Whether runs bear a claim out: the verdict comes from the interval over seeds alone."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dynamics.statistics.seeds import OverSeeds
from dynamics.tracking.compare import Arm, arm_difference, arm_mean
from dynamics.verdicts.claims import CLAIMS, Claim


@dataclass(frozen=True, eq=False)
class Verdict:
    """A claim held against one arm.

    Attributes:
        claim: Which.
        arm: Whose quantity was measured.
        measured: Mean over seeds and interval.
        verdict: `confirmed` where the whole interval lies in the claimed range, `contradicted`
            where none of it does, `undecided` between and where there is no interval.
    """

    claim: Claim
    arm: Arm
    measured: OverSeeds
    verdict: str


def judge(arms: Sequence[Arm], claims: Sequence[Claim] = CLAIMS) -> Iterator[Verdict]:
    """Each claim on each arm that it is about, where the arm has what it speaks of.

    Args:
        arms: Arms of one study, of trainings of ours; of others nothing is claimed.
        claims: What is judged.
    """
    for claim in claims:
        for arm in arms:
            if not arm.training or not _has(arm, claim.arms):
                continue
            measured = _measured(claim, arm, arms)
            if measured is not None and measured.n > 0:
                yield Verdict(claim, arm, measured, verdict(claim, measured))


def verdict(claim: Claim, measured: OverSeeds) -> str:
    """`confirmed`, `contradicted` or `undecided`, from the interval alone."""
    low, high = float(measured.low), float(measured.high)
    if math.isnan(low):
        return "undecided"
    if claim.above <= low and high <= claim.below:
        return "confirmed"
    return "contradicted" if high < claim.above or low > claim.below else "undecided"


def _measured(claim: Claim, arm: Arm, arms: Sequence[Arm]) -> OverSeeds | None:
    if not claim.minus_arm:
        return arm_mean(arm, claim.quantity, claim.minus)
    other = next((each for each in arms if _differs_in(each, arm, claim.minus_arm)), None)
    return None if other is None else arm_difference(arm, other, claim.quantity)


def _has(arm: Arm, settings: Mapping[str, Any]) -> bool:
    return all(arm.setting(key) == value for key, value in settings.items())


def _differs_in(other: Arm, arm: Arm, settings: Mapping[str, Any]) -> bool:
    """Whether an arm has these settings, and no other tie, optimizer or weight decay."""
    compared = ("model.tied", "training.optimizer", "training.weight_decay")
    wanted = {key: arm.setting(key) for key in compared} | dict(settings)
    return bool(other.training) and _has(other, wanted)
