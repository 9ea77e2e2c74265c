"""The section of a study's page that judges claims on its runs."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from dynamics.report.study_cells import cell, markdown, plain
from dynamics.runs.compare import Arm
from dynamics.statistics.seeds import FEWEST_SEEDS
from dynamics.verdicts.claims import Claim
from dynamics.verdicts.error_rates import as_simulated, simulate_error_rates
from dynamics.verdicts.judge import DESCRIPTIVE, Verdict
from dynamics.verdicts.judgement import Judgement
from dynamics.verdicts.same_training import TOLERANCE, CountedOnce

SHARED_NOISE = 0.5
"""Correlation of claims in the second simulation of the list, in which they are not independent."""

SEEN = "†"


def claims_section(judgement: Judgement) -> Iterator[str]:
    """Summary and table of the verdicts on claims; empty where no claim applies to these arms."""
    verdicts = judgement.verdicts
    if not verdicts:
        return
    yield "## Claims stated before the runs"
    yield _headline(judgement)
    if judgement.change is not None:
        yield judgement.change
    yield from _remarks(judgement)
    yield markdown(
        ["claim", "earlier runs", "claimed range", "arms", "measured", "seeds", "verdict"],
        [
            [
                *(
                    ("", "", "")
                    if previous is not None and previous.claim is verdict.claim
                    else (verdict.claim.name, verdict.claim.expected, _range(verdict.claim))
                ),
                ", ".join(arm.name for arm in verdict.arms),
                _estimates(verdict),
                _seeds(verdict),
                verdict.verdict + SEEN * bool(_seen_seeds(verdict.arms, judgement)),
            ]
            for previous, verdict in pairwise([None, *verdicts])
            if verdict is not None
        ],
    )
    yield from _error_rates(verdicts)
    judged_names = {verdict.claim.name for verdict in verdicts}
    not_judged = [
        claim.name for claim in judgement.file.contents.claims if claim.name not in judged_names
    ]
    if not_judged:
        yield "Not judged, because no arm has the settings and the quantity: " + " ".join(
            f"({number}) {plain(name)}" for number, name in enumerate(not_judged, start=1)
        )


def _headline(judgement: Judgement) -> str:
    """Summary of the verdicts, in which each claim counts once, whatever the number of arms."""
    file, by_claim = judgement.file, dict[str, set[str]]()
    for verdict in judgement.verdicts:
        if verdict.verdict != DESCRIPTIVE:
            by_claim.setdefault(verdict.claim.name, set()).add(verdict.verdict)
    judged = len(by_claim)
    everywhere = sum(outcomes == {"confirmed"} for outcomes in by_claim.values())
    somewhere = sum("confirmed" in outcomes for outcomes in by_claim.values()) - everywhere
    contradicted = sum("contradicted" in outcomes for outcomes in by_claim.values())
    return (
        f"{len(file.contents.claims)} claims were stated on {file.contents.stated} in {file.name} "
        f"(SHA-256 {file.sha256}). {plain(file.contents.source)} {judged} of them get a verdict on "
        f"these runs. Of {judged} claims {everywhere} were confirmed in every arm they are about, "
        f"{somewhere} in some of them and {judged - everywhere - somewhere} in none; contradicted "
        f"in at least one: {contradicted}. The verdict is whether the interval over seeds lies "
        "wholly inside, wholly outside or across the ends of the claimed range, which has two so "
        "that a reversal cannot confirm it; a claim about two centrings needs both verdicts to "
        "agree. Arms with identical numbers (those of one initialisation at step 0) are judged "
        "once."
    )


def _remarks(judgement: Judgement) -> Iterator[str]:
    """What limits the verdicts: few seeds, seeds seen before, rules, arms that count once."""
    verdicts, contents = judgement.verdicts, judgement.file.contents
    if any(verdict.verdict == DESCRIPTIVE for verdict in verdicts):
        yield f"With fewer than {FEWEST_SEEDS} seeds numbers are descriptive and get no verdict."
    seen = _seen_seeds([arm for verdict in verdicts for arm in verdict.arms], judgement)
    if seen:
        yield (
            f"{SEEN} Runs of the seeds {', '.join(seen)} had been looked at when the claims were "
            "stated: a verdict on them describes these runs and is no test, unless their recipe or "
            "corpus is new."
        )
    if judgement.other_rule:
        names = ", ".join(plain(arm.name) for arm in judgement.other_rule)
        yield f"Not judged, under another vocabulary rule than {contents.rule}: {names}."
    yield from map(_group, judgement.counted_once)


def _group(group: CountedOnce) -> str:
    """Sentence on arms that count once: which, and why."""
    first, *others = (plain(arm.name) for arm in group.arms)
    reasons = [
        f"{name} ({_reason(difference)})"
        for name, difference in zip(others, group.differences, strict=True)
    ]
    return (
        f"Counted once with {first}, whose numbers stand for both: {', '.join(reasons)}. Arms of "
        "the same seeds that are nearly one training are no second confirmation; where their "
        "verdicts differ, the claim is undecided."
    )


def _reason(difference: float | None) -> str:
    """Reason why an arm counts once with another."""
    if difference is None:
        return "declared by the study"
    return (
        f"the same seeds, and every judged quantity differs by at most {difference:.3f} of the "
        f"width of its claimed range; the limit is {TOLERANCE:g}"
    )


def _error_rates(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """Sentence on false confirmations of these verdicts, simulated with these runs' spread."""
    simulated = as_simulated(verdicts)
    if not simulated:
        return
    alone, together = (
        simulate_error_rates(simulated, shared=shared, random=np.random.default_rng(0))
        for shared in (0.0, SHARED_NOISE)
    )
    yield (
        f"False confirmations, simulated for the {len(simulated)} verdicts whose values vary over "
        "seeds, with the spread and number of seeds that these runs have: if the true value lay at "
        "an end of the claimed range, where the claim is just false, a verdict would confirm it in "
        f"{alone.of_one_claim:.1%} of studies. If that were so of all of them, at least one "
        f"would be confirmed in {alone.any_of_list:.0%} of studies where claims are independent, "
        f"in {together.any_of_list:.0%} where their noise correlates by {SHARED_NOISE:g}. If the "
        f"true value lay in the middle of the range, a verdict would confirm it in "
        f"{min(alone.at_middle):.0%} to {max(alone.at_middle):.0%} of studies, by claim."
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


def _seen_seeds(arms: Sequence[Arm], judgement: Judgement) -> list[str]:
    """Seeds of arms that had been looked at when the claims were stated, ascending."""
    seen = set(map(str, judgement.file.contents.seen_seeds))
    return sorted(seen.intersection(seed for arm in arms for seed in arm.seeds), key=int)


def _range(claim: Claim) -> str:
    """Range of a claim in words."""
    return f"{claim.above:g} to {claim.below:g}"
