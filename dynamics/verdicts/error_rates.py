"""Error rates of verdicts: how often chance alone confirms a claim that is false.

Seeds' values are drawn from a normal distribution around a true value, and judged as runs are. The
worst false case is a true value at an end of the claimed range. S seeds, R repetitions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from dynamics.statistics.seeds import FEWEST_SEEDS, LEVEL, OverSeeds, seed_mean
from dynamics.statistics.student import student_quantile
from dynamics.verdicts.claims import Claim
from dynamics.verdicts.judge import Verdict, confirms

REPETITIONS = 20_000


@dataclass(frozen=True)
class SimulatedClaim:
    """A claim, and how its quantity varies over seeds.

    Attributes:
        claim: The claim.
        seed_sd: Standard deviation over seeds; on Fisher's z scale for a correlation.
        seeds: Number of seeds S.
    """

    claim: Claim
    seed_sd: float
    seeds: int = FEWEST_SEEDS


@dataclass(frozen=True)
class ErrorRates:
    """Shares of simulated studies in which claims are confirmed.

    Attributes:
        at_lower_end: For each claim, where the true value lies at the lower end of its range.
        at_upper_end: For each claim, where it lies at the upper end.
        at_middle: For each claim, where it lies in the middle: the power of the claim.
        any_of_list: Studies in which at least one claim is confirmed, where every true value lies
            at that end of its range at which the claim is confirmed more often.
    """

    at_lower_end: tuple[float, ...]
    at_upper_end: tuple[float, ...]
    at_middle: tuple[float, ...]
    any_of_list: float

    @property
    def of_one_claim(self) -> float:
        """Rate of false confirmation of a single claim, the mean over claims and ends."""
        return float(np.mean([*self.at_lower_end, *self.at_upper_end]))


def simulate_error_rates(
    simulated: Sequence[SimulatedClaim],
    *,
    shared: float = 0.0,
    repetitions: int = REPETITIONS,
    random: np.random.Generator,
) -> ErrorRates:
    """Simulate the rates at which claims are confirmed.

    A claim under two centrings is false if one of them is: the first has the stated true value, the
    second the middle of the range.

    Args:
        simulated: The claims of the list; at least one.
        shared: Correlation of the noise of any two claims in one seed; 0 for independent claims.
        repetitions: Number R of simulated studies.
        random: Source of the noise.
    """
    seeds = max(case.seeds for case in simulated)
    common = random.standard_normal((seeds, repetitions))
    rates: list[tuple[float, float, float]] = []
    any_confirmed = np.zeros(repetitions, dtype=bool)
    for case in simulated:
        noise = np.sqrt(shared) * common[: case.seeds] + np.sqrt(1 - shared) * (
            random.standard_normal((case.seeds, repetitions))
        )
        claim, middle = case.claim, _middle(case.claim)
        confirmed = [_confirmed(case, truth, noise) for truth in (claim.above, claim.below, middle)]
        if claim.centrings:
            second = random.standard_normal((case.seeds, repetitions))
            confirmed = [first & _confirmed(case, middle, second) for first in confirmed]
        lower, upper, power = (float(share.mean()) for share in confirmed)
        rates.append((lower, upper, power))
        any_confirmed |= confirmed[int(upper > lower)]
    lower, upper, power = zip(*rates, strict=True)
    return ErrorRates(lower, upper, power, float(any_confirmed.mean()))


def seed_sd(claim: Claim, estimate: OverSeeds) -> float:
    """Standard deviation over seeds that an interval was made from; NaN without an interval.

    Args:
        claim: The claim, which says on which scale the mean was taken.
        estimate: Its estimate on some runs.
    """
    low, high = float(estimate.low), float(estimate.high)
    if claim.on_fisher_scale:
        low, high = float(np.arctanh(low)), float(np.arctanh(high))
    n = int(estimate.n)
    # half width of Student's interval: t s / sqrt(n)
    return (high - low) / 2 * np.sqrt(n) / float(student_quantile(LEVEL, n - 1))


def as_simulated(verdicts: Sequence[Verdict]) -> list[SimulatedClaim]:
    """Return the claims of verdicts with the spread that these runs have.

    Left out are those with fewer than five seeds, those without an interval, those that did not
    vary over seeds, and onsets, whose interval reaches over a step of the grid.
    """
    simulated = []
    for verdict in verdicts:
        n = min(int(estimate.n) for estimate in verdict.estimates)
        spreads = [seed_sd(verdict.claim, estimate) for estimate in verdict.estimates]
        varies = all(0 < spread < np.inf for spread in spreads)
        if n >= FEWEST_SEEDS and varies and not verdict.claim.of_steps:
            simulated.append(SimulatedClaim(verdict.claim, max(spreads), n))
    return simulated


def _middle(claim: Claim) -> float:
    """Middle of the claimed range, on the scale of the mean."""
    if claim.on_fisher_scale:
        return float(np.tanh(np.mean(_scaled(claim, np.array([claim.above, claim.below])))))
    return (claim.above + claim.below) / 2


def _confirmed(
    case: SimulatedClaim, truth: float, noise: Float[np.ndarray, "S R"]
) -> Bool[np.ndarray, " R"]:
    """Return in which simulated studies a true value is confirmed."""
    values = _scaled(case.claim, np.array(truth)) + case.seed_sd * noise
    if case.claim.on_fisher_scale:
        values = np.tanh(values)
    return confirms(case.claim, seed_mean(values, fisher=case.claim.on_fisher_scale))


def _scaled(claim: Claim, values: Any) -> np.ndarray:
    """Values on Fisher's z scale where the mean is taken there."""
    return np.arctanh(values) if claim.on_fisher_scale else values
