"""Verdicts on claims, from the intervals over seeds alone."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dynamics.runs.compare import Arm, arm_difference, arm_mean
from dynamics.statistics.seeds import OverSeeds
from dynamics.verdicts.claims import CLAIMS, Claim


@dataclass(frozen=True, eq=False)
class Verdict:
    """Outcome of a claim for one arm, or for several arms with identical numbers.

    Attributes:
        claim: The claim.
        arms: The arms measured; several where the numbers are equal, as those at step 0 of arms
            that share their initialisation.
        estimates: Mean over seeds and interval, under each centring that the claim is about.
        verdict: `confirmed` if every interval lies wholly in the claimed range, `contradicted` if
            every interval lies wholly outside it, `undecided` otherwise and without an interval.
    """

    claim: Claim
    arms: tuple[Arm, ...]
    estimates: tuple[OverSeeds, ...]
    verdict: str


def judge(arms: Sequence[Arm], claims: Sequence[Claim] = CLAIMS) -> Iterator[Verdict]:
    """Judge each claim on each arm that it applies to and that has its quantities.

    A claim on the difference of two arms is judged only if exactly one arm has the recipe of the
    first but for the settings that the claim changes and leaves free.

    Args:
        arms: Arms of one study; those that `dynamics` did not train are skipped.
        claims: The claims to judge.
    """
    for claim in claims:
        verdicts: dict[tuple[float, ...], Verdict] = {}
        for arm in arms:
            if not arm.training or not _has(arm, claim.arms):
                continue
            estimates = _estimates(claim, arm, arms)
            if not estimates or not all(estimate.n > 0 for estimate in estimates):
                continue
            numbers = _numbers(estimates)  # arms with the same numbers are judged once
            if numbers in verdicts:
                same = verdicts[numbers]
                verdicts[numbers] = replace(same, arms=(*same.arms, arm))
            else:
                verdicts[numbers] = Verdict(claim, (arm,), estimates, verdict(claim, *estimates))
        yield from verdicts.values()


def verdict(claim: Claim, *estimates: OverSeeds) -> str:
    """`confirmed`, `contradicted` or `undecided`, from the intervals alone; all have to agree."""
    verdicts = {_verdict(claim, estimate) for estimate in estimates}
    return verdicts.pop() if len(verdicts) == 1 else "undecided"


def _verdict(claim: Claim, estimate: OverSeeds) -> str:
    """Verdict from a single interval; `undecided` without one."""
    low, high = float(estimate.low), float(estimate.high)
    if math.isnan(low):
        return "undecided"
    if claim.above <= low and high <= claim.below:
        return "confirmed"
    return "contradicted" if high < claim.above or low > claim.below else "undecided"


def _numbers(estimates: Sequence[OverSeeds]) -> tuple[float, ...]:
    """Value, interval and seeds; -inf for a missing end, because NaN does not equal itself."""
    numbers = (float(x) for e in estimates for x in (e.value, e.low, e.high, e.n))
    return tuple(-math.inf if math.isnan(x) else x for x in numbers)


def _estimates(claim: Claim, arm: Arm, arms: Sequence[Arm]) -> tuple[OverSeeds, ...]:
    """Estimates of the quantities of a claim; none where no arm, or several, can be subtracted."""
    if not claim.minus_arm:
        return tuple(arm_mean(arm, quantity, minus) for quantity, minus in claim.quantities)
    subtracted = [candidate for candidate in arms if _is_minus_arm(candidate, arm, claim)]
    if len(subtracted) != 1:
        return ()
    return tuple(arm_difference(arm, subtracted[0], quantity) for quantity, _ in claim.quantities)


def _has(arm: Arm, settings: Mapping[str, Any]) -> bool:
    """Return whether the training of an arm has these settings."""
    return all(arm.setting(key) == value for key, value in settings.items())


def _is_minus_arm(candidate: Arm, arm: Arm, claim: Claim) -> bool:
    """Return whether `candidate` has the recipe of `arm` but for the settings the claim changes."""
    expected, recipe = dict(arm.recipe) | dict(claim.minus_arm), candidate.recipe
    fixed_keys = (expected.keys() | recipe.keys()) - set(claim.free)
    return all(recipe.get(key) == expected.get(key) for key in fixed_keys)
