"""The part of a study's page in which claims are held against its runs."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from dynamics.report.study_cells import cell, markdown
from dynamics.runs.compare import Arm
from dynamics.statistics.seeds import FEWEST_SEEDS
from dynamics.verdicts.claims import CLAIMS
from dynamics.verdicts.judge import Verdict, judge


def claims_against(arms: Sequence[Arm]) -> Iterator[str]:
    """How the claims fared, and a table of them; nothing where none is about these arms."""
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
                    if before is not None and before.claim is each.claim
                    else (
                        each.claim.name,
                        each.claim.expected,
                        _range(each.claim.above, each.claim.below),
                    )
                ),
                ", ".join(arm.name for arm in each.arms),
                _measured(each),
                _seeds(each),
                each.verdict + ("*" if _descriptive(each) else ""),
            ]
            for before, each in pairwise([None, *verdicts])
            if each is not None
        ],
    )
    if any(map(_descriptive, verdicts)):
        yield f"\\* fewer than {FEWEST_SEEDS} seeds: descriptive."


def _headline(verdicts: Sequence[Verdict]) -> str:
    """How claims fared: each counts once, however many arms it is held against."""
    by_claim: dict[str, set[str]] = {}
    for each in verdicts:
        by_claim.setdefault(each.claim.name, set()).add(each.verdict)
    judged = len(by_claim)
    everywhere = sum(found == {"confirmed"} for found in by_claim.values())
    somewhere = sum("confirmed" in found for found in by_claim.values()) - everywhere
    contradicted = sum("contradicted" in found for found in by_claim.values())
    alone = [all(np.isnan(mean.low) for mean in each.measured) for each in verdicts]
    unadjusted = (
        "Intervals are not adjusted for the number of claims: one in twenty misses what it is "
        f"about by chance, of {judged} true claims about {judged / 20:.1f}."
    )
    no_interval = "With one seed there is no interval, so that nothing is decided."
    intervals = " ".join([unadjusted] * (not all(alone)) + [no_interval] * any(alone))
    return (
        f"{len(CLAIMS)} claims were stated before, from pilots of one training each; {judged} can "
        f"be held against these runs. Of {judged} claims {everywhere} were confirmed in every arm "
        f"they are about, {somewhere} in some of them and {judged - everywhere - somewhere} in "
        f"none; contradicted in at least one: {contradicted}. The verdict is whether the "
        "interval over seeds lies wholly inside, wholly outside or across the ends of the claimed "
        "range; where two centrings count, both have to say the same. Arms with the very same "
        f"numbers, as those of one initialisation at step 0, are judged once. {intervals}"
    )


def _measured(each: Verdict) -> str:
    """What was measured; of two centrings both."""
    cells = [cell(mean, "+.3g") for mean in each.measured]
    if len(cells) == 1:
        return cells[0]
    return "; ".join(
        f"{mean} {text}" for mean, text in zip(("uniform", "unigram"), cells, strict=True)
    )


def _seeds(each: Verdict) -> str:
    n, of = min(int(mean.n) for mean in each.measured), len(each.arms[0].runs)
    return str(n) if n == of else f"{n} of {of}"


def _descriptive(each: Verdict) -> bool:
    return any(bool(mean.descriptive) for mean in each.measured)


def _range(above: float, below: float) -> str:
    if np.isinf(above):
        return f"below {below:g}"
    return f"above {above:g}" if np.isinf(below) else f"{above:g} to {below:g}"
