"""Verdicts on claims, from the intervals over seeds alone."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dynamics.runs.compare import Arm, arm_difference, arm_mean
from dynamics.statistics.seeds import FEWEST_SEEDS, OverSeeds
from dynamics.verdicts.claims import Claim

DESCRIPTIVE = "descriptive"
"""In place of a verdict where fewer than five seeds entered."""


@dataclass(frozen=True, eq=False)
class Verdict:
    """Outcome of a claim for one arm, or for arms that count once.

    Attributes:
        claim: The claim.
        arms: The arms judged; several where they are nearly one training, or where the numbers are
            equal, as those at step 0 of arms that share their initialisation.
        estimates: Mean over seeds and interval of the first arm, under each centring that the claim
            is about.
        verdict: `confirmed` if every interval lies wholly in the claimed range, `contradicted` if
            every interval lies wholly outside it, `undecided` otherwise and without an interval;
            `descriptive` with fewer than five seeds.
    """

    claim: Claim
    arms: tuple[Arm, ...]
    estimates: tuple[OverSeeds, ...]
    verdict: str


def judge(
    arms: Sequence[Arm],
    claims: Sequence[Claim],
    counted_once: Sequence[Sequence[Arm]] | None = None,
) -> Iterator[Verdict]:
    """Judge each claim on each arm that it applies to and that has its quantities.

    A claim on the difference of two arms is judged only if exactly one arm has the recipe of the
    first but for the settings that the claim changes and leaves free.

    Args:
        arms: Arms of one study; those that `dynamics` did not train are skipped.
        claims: The claims to judge.
        counted_once: The same arms in groups that get one verdict each, `undecided` where the arms
            of a group have several; every arm by itself by default.
    """
    for claim in claims:
        verdicts: dict[tuple[float, ...], Verdict] = {}
        for group in counted_once or [(arm,) for arm in arms]:
            verdict = _group_verdict(claim, group, arms)
            if verdict is None:
                continue
            numbers = _numbers(verdict.estimates)  # arms with the same numbers are judged once
            if numbers in verdicts:
                verdict = replace(verdicts[numbers], arms=(*verdicts[numbers].arms, *verdict.arms))
            verdicts[numbers] = verdict
        yield from verdicts.values()


def verdict(claim: Claim, *estimates: OverSeeds) -> str:
    """`confirmed`, `contradicted` or `undecided`, from the intervals alone; all have to agree.

    `descriptive` where fewer than five seeds entered an estimate.
    """
    if any(estimate.n < FEWEST_SEEDS for estimate in estimates):
        return DESCRIPTIVE
    return _agreed([_verdict(claim, estimate) for estimate in estimates])


def confirms(claim: Claim, estimate: OverSeeds) -> np.ndarray:
    """Return whether an interval lies wholly in the claimed range; False without an interval."""
    return (claim.above <= estimate.low) & (estimate.high <= claim.below)


def _verdict(claim: Claim, estimate: OverSeeds) -> str:
    """Verdict from a single interval; `undecided` without one."""
    if confirms(claim, estimate):
        return "confirmed"
    outside = estimate.high < claim.above or estimate.low > claim.below
    return "contradicted" if outside else "undecided"


def _agreed(verdicts: Sequence[str]) -> str:
    """The verdict that all share; `undecided` where they differ."""
    return verdicts[0] if len(set(verdicts)) == 1 else "undecided"


def _group_verdict(claim: Claim, group: Sequence[Arm], arms: Sequence[Arm]) -> Verdict | None:
    """Return the verdict on arms that count once; None where the claim applies to none of them."""
    judged_arms, estimates = [], []
    for arm in group:
        if not claim.applies_to(arm):
            continue
        arm_estimates = _estimates(claim, arm, arms)
        if arm_estimates and all(estimate.n > 0 for estimate in arm_estimates):
            judged_arms.append(arm)
            estimates.append(arm_estimates)
    if not judged_arms:
        return None
    verdicts = [verdict(claim, *arm_estimates) for arm_estimates in estimates]
    return Verdict(claim, tuple(judged_arms), estimates[0], _agreed(verdicts))


def _numbers(estimates: Sequence[OverSeeds]) -> tuple[float, ...]:
    """Value, interval and seeds; -inf for a missing end, because NaN does not equal itself."""
    numbers = (float(x) for e in estimates for x in (e.value, e.low, e.high, e.n))
    return tuple(-math.inf if math.isnan(x) else x for x in numbers)


def _estimates(claim: Claim, arm: Arm, arms: Sequence[Arm]) -> tuple[OverSeeds, ...]:
    """Estimates of the quantities of a claim; none where no arm, or several, can be subtracted."""
    if not claim.minus_arm:
        return tuple(
            arm_mean(arm, quantity, minus, claim.minus_times)
            for quantity, minus in claim.quantities
        )
    subtracted = [candidate for candidate in arms if _is_minus_arm(candidate, arm, claim)]
    if len(subtracted) != 1:
        return ()
    return tuple(arm_difference(arm, subtracted[0], quantity) for quantity, _ in claim.quantities)


def _is_minus_arm(candidate: Arm, arm: Arm, claim: Claim) -> bool:
    """Return whether `candidate` has the recipe of `arm` but for the settings the claim changes."""
    expected, recipe = dict(arm.recipe) | dict(claim.minus_arm), candidate.recipe
    fixed_keys = (expected.keys() | recipe.keys()) - set(claim.free)
    return all(recipe.get(key) == expected.get(key) for key in fixed_keys)
