"""The section of a study's page that judges claims on its runs."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from dynamics.report.study_cells import cell, markdown
from dynamics.runs.compare import Arm
from dynamics.statistics.seeds import FEWEST_SEEDS
from dynamics.verdicts.claims import CLAIMS
from dynamics.verdicts.judge import Verdict, judge


def claims_against(arms: Sequence[Arm]) -> Iterator[str]:
    """Summary and table of the verdicts on claims; empty where no claim applies to these arms."""
    verdicts = list(judge(arms))
    if not verdicts:
        return
    yield "## Against the pilots"
    yield _headline(verdicts)
    yield markdown(
        ["claim", "in the pilots", "claimed range", "arms", "measured", "seeds", "verdict"],
        [
            [
                *(
                    ("", "", "")
                    if previous is not None and previous.claim is verdict.claim
                    else (
                        verdict.claim.name,
                        verdict.claim.expected,
                        _range(verdict.claim.above, verdict.claim.below),
                    )
                ),
                ", ".join(arm.name for arm in verdict.arms),
                _estimates(verdict),
                _seeds(verdict),
                verdict.verdict + ("*" if _descriptive(verdict) else ""),
            ]
            for previous, verdict in pairwise([None, *verdicts])
            if verdict is not None
        ],
    )
    if any(map(_descriptive, verdicts)):
        yield f"\\* fewer than {FEWEST_SEEDS} seeds: descriptive."


def _headline(verdicts: Sequence[Verdict]) -> str:
    """Summary of the verdicts, in which each claim counts once, whatever the number of arms."""
    by_claim: dict[str, set[str]] = {}
    for verdict in verdicts:
        by_claim.setdefault(verdict.claim.name, set()).add(verdict.verdict)
    judged = len(by_claim)
    everywhere = sum(outcomes == {"confirmed"} for outcomes in by_claim.values())
    somewhere = sum("confirmed" in outcomes for outcomes in by_claim.values()) - everywhere
    contradicted = sum("contradicted" in outcomes for outcomes in by_claim.values())
    single_seed = [all(np.isnan(mean.low) for mean in verdict.estimates) for verdict in verdicts]
    unadjusted = (
        "Intervals are not adjusted for the number of claims: by chance one in twenty misses "
        f"the true value, of {judged} true claims about {judged / 20:.1f}."
    )
    no_interval = "With one seed there is no interval, so that nothing is decided."
    intervals = " ".join([unadjusted] * (not all(single_seed)) + [no_interval] * any(single_seed))
    return (
        f"{len(CLAIMS)} claims were stated before, from pilots of one training each; {judged} can "
        f"be judged on these runs. Of {judged} claims {everywhere} were confirmed in every arm "
        f"they are about, {somewhere} in some of them and {judged - everywhere - somewhere} in "
        f"none; contradicted in at least one: {contradicted}. The verdict is whether the "
        "interval over seeds lies wholly inside, wholly outside or across the ends of the claimed "
        "range; a claim about two centrings needs both verdicts to agree. Arms with identical "
        f"numbers (those of one initialisation at step 0) are judged once. {intervals}"
    )


def _estimates(verdict: Verdict) -> str:
    """Mean and interval, for each centring where there are two."""
    cells = [cell(mean, "+.3g") for mean in verdict.estimates]
    if len(cells) == 1:
        return cells[0]
    return "; ".join(
        f"{mean} {text}" for mean, text in zip(("uniform", "unigram"), cells, strict=True)
    )


def _seeds(verdict: Verdict) -> str:
    """Number of seeds that entered, and of how many."""
    n, seeds = min(int(mean.n) for mean in verdict.estimates), len(verdict.arms[0].runs)
    return str(n) if n == seeds else f"{n} of {seeds}"


def _descriptive(verdict: Verdict) -> bool:
    """Return whether an estimate has too few seeds for inference."""
    return any(bool(mean.descriptive) for mean in verdict.estimates)


def _range(above: float, below: float) -> str:
    """Range of a claim in words."""
    if np.isinf(above):
        return f"below {below:g}"
    return f"above {above:g}" if np.isinf(below) else f"{above:g} to {below:g}"
