"""Steps that hold one and the same tensor: which are explained, which one it belongs to."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from dynamics.audit.facts import SeriesFacts
from dynamics.audit.finding import Finding, name_steps
from dynamics.checkpoints.architectures import Role
from dynamics.checkpoints.catalog.revision_names import expand_steps
from dynamics.statistics.jumps import best_fit


def repeated(facts: SeriesFacts, found: Sequence[Finding]) -> Iterator[Finding]:
    """Steps that hold one and the same tensor."""
    for role in facts.roles:
        groups: dict[str, set[int]] = defaultdict(set)
        for each in facts.read:
            if (payload := each.payload(role)) is not None:
                groups[payload].add(each.step)
        for payload, steps in groups.items():
            if len(steps) > 1:
                yield from _repetition(facts, role, payload, steps)


def _repetition(facts: SeriesFacts, role: Role, payload: str, steps: set[int]) -> Iterator[Finding]:
    """What to say of steps that share a tensor, and which of them are not what they should be."""
    last = facts.last.step
    is_main = facts.main is not None and facts.main.payload(role) == payload
    explained, why = _explained(facts, steps)
    late = (last in steps or is_main) and last not in explained
    if explained == steps and not late:
        yield Finding(
            "repeated", "explained", tuple(sorted(steps)), f"one and the same; {why}", role
        )
        return
    genuine, reason = _genuine(facts, role, steps)
    if not genuine and late:
        genuine = {last} & steps
        of_last = f"step {last}" if last in steps else "main"
        reason = f"it is what {of_last} holds, so they are late weights under early names"
    elif not genuine and len(explained) > 1:
        genuine = explained
    if genuine & explained:
        genuine |= explained
        message = f"one and the same; {why}"
        yield Finding("repeated", "explained", tuple(sorted(explained)), message, role)
    flagged = tuple(sorted((steps - genuine) & {*facts.wanted}))
    if flagged:
        others = f"; step {name_steps(genuine)} is kept" if genuine else ""
        message = f"{len(steps)} steps ({name_steps(steps)}) are one and the same; {reason}{others}"
        yield Finding("repeated", "wrong", flagged, message, role, flagged)


def _genuine(facts: SeriesFacts, role: Role, steps: set[int]) -> tuple[set[int], str]:
    """The step whose neighbours are like what all of `steps` hold, and why."""
    blocks = {each.step: block for each in facts.read if (block := each.block(role)) is not None}
    shared = blocks.get(min(steps))
    if shared is None:
        return set(), "which of them it belongs to is not known"
    like = [step for step in sorted(blocks) if blocks[step].sketch.shape == shared.sketch.shape]
    best = None
    if len(like) > len(steps):
        points = np.stack([blocks[step].sketch for step in like])
        best = best_fit(like, points, sorted(steps))
    if best is None:
        return set(), "the steps around do not tell which of them it belongs to"
    return {best}, f"the steps around {best} are like it, those around the others are not"


def _explained(facts: SeriesFacts, steps: set[int]) -> tuple[set[int], str]:
    """Which of the steps may be equal, and why."""
    why: list[str] = []
    may: set[int] = set()
    if {0, 1} <= steps and (facts.known is not None and facts.known.warmup_from_zero):
        may |= {0, 1}
        why.append("the first update has learning rate 0 (catalog)")
    elif {0, 1} <= steps and facts.first_learning_rate == 0:
        may |= {0, 1}
        why.append("the first update has learning rate 0 (trainer_state.json)")
    last = facts.known and facts.known.last
    for defect in facts.known.defects if facts.known is not None else ():
        if defect.kind == "explained" and defect.steps is not None:
            told = {*expand_steps(defect.steps, last)}
            if len(told) > 1 and told <= steps and not told <= may:
                may |= told
                why.append(f"{defect.what} ({defect.url or defect.source})")
    return may, "; ".join(why)
