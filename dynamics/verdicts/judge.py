"""Whether runs bear a claim out: the verdict comes from the interval over seeds alone."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dynamics.runs.compare import Arm, arm_difference, arm_mean
from dynamics.statistics.seeds import OverSeeds
from dynamics.verdicts.claims import CLAIMS, Claim


@dataclass(frozen=True, eq=False)
class Verdict:
    """A claim held against one arm, or against several with the very same numbers.

    Attributes:
        claim: Which.
        arms: Whose quantity was measured; several where the numbers are equal, as those at step 0
            of arms that share their initialisation.
        measured: Mean over seeds and interval, under each centring that the claim is about.
        verdict: `confirmed` where every interval lies wholly in the claimed range, `contradicted`
            where none has anything in it, `undecided` otherwise and where there is no interval.
    """

    claim: Claim
    arms: tuple[Arm, ...]
    measured: tuple[OverSeeds, ...]
    verdict: str


def judge(arms: Sequence[Arm], claims: Sequence[Claim] = CLAIMS) -> Iterator[Verdict]:
    """Each claim on each arm that it is about, where the arm has what it speaks of.

    A claim on the difference of two arms is judged where the other is one arm and no more: the
    recipe of the first but for what the claim changes and leaves free.

    Args:
        arms: Arms of one study, of trainings of ours; of others nothing is claimed.
        claims: What is judged.
    """
    for claim in claims:
        found: dict[tuple[float, ...], Verdict] = {}
        for arm in arms:
            if not arm.training or not _has(arm, claim.arms):
                continue
            measured = _measured(claim, arm, arms)
            if not measured or not all(each.n > 0 for each in measured):
                continue
            numbers = _numbers(measured)
            if numbers in found:
                found[numbers] = replace(found[numbers], arms=(*found[numbers].arms, arm))
            else:
                found[numbers] = Verdict(claim, (arm,), measured, verdict(claim, *measured))
        yield from found.values()


def verdict(claim: Claim, *measured: OverSeeds) -> str:
    """`confirmed`, `contradicted` or `undecided`, from the intervals alone; all have to agree."""
    verdicts = {_verdict(claim, each) for each in measured}
    return verdicts.pop() if len(verdicts) == 1 else "undecided"


def _verdict(claim: Claim, measured: OverSeeds) -> str:
    low, high = float(measured.low), float(measured.high)
    if math.isnan(low):
        return "undecided"
    if claim.above <= low and high <= claim.below:
        return "confirmed"
    return "contradicted" if high < claim.above or low > claim.below else "undecided"


def _numbers(measured: Sequence[OverSeeds]) -> tuple[float, ...]:
    """Value, interval and seeds; -inf for an end that there is not, because NaN equals nothing."""
    numbers = (float(x) for each in measured for x in (each.value, each.low, each.high, each.n))
    return tuple(-math.inf if math.isnan(x) else x for x in numbers)


def _measured(claim: Claim, arm: Arm, arms: Sequence[Arm]) -> tuple[OverSeeds, ...]:
    if not claim.minus_arm:
        return tuple(arm_mean(arm, quantity, minus) for quantity, minus in claim.measured)
    others = [each for each in arms if _differs_in(each, arm, claim)]
    if len(others) != 1:
        return ()
    return tuple(arm_difference(arm, others[0], quantity) for quantity, _ in claim.measured)


def _has(arm: Arm, settings: Mapping[str, Any]) -> bool:
    return all(arm.setting(key) == value for key, value in settings.items())


def _differs_in(other: Arm, arm: Arm, claim: Claim) -> bool:
    """Whether an arm has the recipe of another, but for what the claim changes and leaves free."""
    wanted, found = dict(arm.recipe) | dict(claim.minus_arm), other.recipe
    held = (wanted.keys() | found.keys()) - set(claim.free)
    return all(found.get(key) == wanted.get(key) for key in held)
