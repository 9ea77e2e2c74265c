"""Repeated tensors: which repetitions are explained, and to which step the tensor belongs."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from dynamics.audit.facts import SeriesFacts
from dynamics.audit.finding import Finding, name_steps
from dynamics.checkpoints.architectures import Role
from dynamics.checkpoints.catalog.revision_names import expand_steps
from dynamics.statistics.jumps import best_fit


def repeated_tensors(facts: SeriesFacts, findings: Sequence[Finding]) -> Iterator[Finding]:
    """Groups of steps that hold the same tensor."""
    for role in facts.roles:
        groups: dict[str, set[int]] = defaultdict(set)
        for checkpoint in facts.with_last:
            if (payload := checkpoint.payload(role)) is not None:
                groups[payload].add(checkpoint.step)
        for payload, steps in groups.items():
            if len(steps) > 1:
                yield from _repetition(facts, role, payload, steps)


def _repetition(facts: SeriesFacts, role: Role, payload: str, steps: set[int]) -> Iterator[Finding]:
    """Findings on steps that share a tensor; those that should hold another one are flagged."""
    last = facts.last.step
    is_main = facts.main is not None and facts.main.payload(role) == payload
    explained, why = _explained(facts, steps)
    late = (last in steps or is_main) and last not in explained
    if explained == steps and not late:
        message = f"one and the same; {why}"
        yield Finding("repeated", "explained", tuple(sorted(steps)), message, role)
        return
    genuine, reason = _genuine(facts, role, steps)
    if not genuine and late:
        genuine = {last} & steps
        holder = f"step {last}" if last in steps else "main"
        reason = f"it is what {holder} holds, so they are late weights under early names"
    elif not genuine and len(explained) > 1:
        genuine = explained
    if genuine & explained:
        genuine |= explained
        message = f"one and the same; {why}"
        yield Finding("repeated", "explained", tuple(sorted(explained)), message, role)
    flagged = tuple(sorted((steps - genuine) & {*facts.selected_steps}))
    if flagged:
        remark = f"; step {name_steps(genuine)} is kept" if genuine else ""
        message = f"{len(steps)} steps ({name_steps(steps)}) are one and the same; {reason}{remark}"
        yield Finding("repeated", "wrong", flagged, message, role, flagged)


def _genuine(facts: SeriesFacts, role: Role, steps: set[int]) -> tuple[set[int], str]:
    """Return the step whose neighbours are closest to what all of `steps` hold, and the reason."""
    sketches = {
        checkpoint.step: block.sketch
        for checkpoint in facts.with_last
        if (block := checkpoint.block(role)) is not None
    }
    shared = sketches.get(min(steps))
    if shared is None:
        return set(), "which of them it belongs to is not known"
    comparable_steps = [step for step in sorted(sketches) if sketches[step].shape == shared.shape]
    best_step = None
    if len(comparable_steps) > len(steps):
        points = np.stack([sketches[step] for step in comparable_steps])
        best_step = best_fit(comparable_steps, points, sorted(steps))
    if best_step is None:
        return set(), "the neighbouring steps do not show which of them it belongs to"
    return {best_step}, f"the steps around {best_step} are like it, those around the others are not"


def _explained(facts: SeriesFacts, steps: set[int]) -> tuple[set[int], str]:
    """Return the steps that are allowed to be equal, and the reason."""
    reasons: list[str] = []
    explained: set[int] = set()
    entry = facts.catalog_entry
    in_catalog = entry is not None and entry.warmup_from_zero
    if {0, 1} <= steps and (in_catalog or facts.first_learning_rate == 0):
        explained |= {0, 1}
        source = "catalog" if in_catalog else "trainer_state.json"
        reasons.append(f"the first update has learning rate 0 ({source})")
    for defect in entry.defects if entry is not None else ():
        if defect.kind == "explained" and defect.steps is not None:
            defect_steps = {*expand_steps(defect.steps, entry and entry.last)}
            if len(defect_steps) > 1 and defect_steps <= steps and not defect_steps <= explained:
                explained |= defect_steps
                reasons.append(f"{defect.what} ({defect.url or defect.source})")
    return explained, "; ".join(reasons)
