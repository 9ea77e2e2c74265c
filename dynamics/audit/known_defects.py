"""Known defects of a public series, compared with the findings of an audit."""

from collections.abc import Iterator, Sequence

from dynamics.audit.facts import SeriesFacts
from dynamics.audit.finding import Finding, Severity, name_steps
from dynamics.checkpoints.catalog.public_series import Defect
from dynamics.checkpoints.catalog.revision_names import expand_steps

_KIND = "known defect"
_SHOWN_BY = {
    "repeated": ("repeated", "jump"),
    "wrong_shard": ("repeated", "jump"),
    "missing": ("missing", "unreadable"),
    "discontinuous": ("jump",),
    "wrong_run": ("jump", "repeated"),
}
"""Kinds of findings that show a kind of defect."""

_NEED_TENSORS = ("discontinuous", "wrong_run")


def known_defects(facts: SeriesFacts, findings: Sequence[Finding]) -> Iterator[Finding]:
    """Verdicts on the defects that the catalog lists: confirmed, gone or not checkable."""
    if facts.catalog_entry is None:
        return
    for defect in facts.catalog_entry.defects:
        if defect.steps is None:
            yield _report(defect, "note", (), "not checkable: the catalog does not say which steps")
            continue
        steps = {*expand_steps(defect.steps, facts.catalog_entry.last)}
        if steps := steps & _possible_steps(facts, defect):
            yield _check_defect(facts, findings, defect, tuple(sorted(steps)))


def _possible_steps(facts: SeriesFacts, defect: Defect) -> set[int]:
    """Return the steps at which a defect could show; a missing step need not be a selected one."""
    if defect.kind != "missing":
        return {*facts.selected_steps}
    first, last = min(facts.selected_steps), max(facts.selected_steps)
    return {*range(first, last + 1)} - ({*facts.existing_steps} - {*facts.selected_steps})


def _check_defect(
    facts: SeriesFacts, findings: Sequence[Finding], defect: Defect, steps: tuple[int, ...]
) -> Finding:
    """Return the verdict on a defect, from the findings at its steps."""
    if defect.kind == "explained":
        explained = [finding for finding in findings if finding.severity == "explained"]
        if len(steps) > 1 and any({*steps} <= {*finding.steps} for finding in explained):
            return _report(defect, "explained", steps, "confirmed")
        if len(steps) == 1 or {*steps} & {step for finding in findings for step in finding.flagged}:
            return _report(defect, "note", steps, "not checkable")
        return _report(defect, "note", steps, "not seen")
    seen_steps = _seen_steps(findings, defect, steps)
    if defect.kind == "missing":
        seen_steps |= {*steps} - {*facts.existing_steps}
    if seen_steps:
        every = len(seen_steps) == len(steps)
        share = "" if every else f" at {len(seen_steps)} of {len(steps)} steps"
        severity: Severity = "wrong" if seen_steps & {*facts.selected_steps} else "note"
        verdict = "seen again" if defect.repaired else "confirmed"
        return _report(defect, severity, tuple(sorted(seen_steps)), f"{verdict}{share}")
    if facts.level == "none" and defect.kind in _NEED_TENSORS and not defect.repaired:
        verdict = "not checkable without reading rows; run with `--tensors rows`"
        return _report(defect, "note", steps, verdict)
    if any(finding.kind == "not compared" for finding in findings):
        return _report(defect, "note", steps, "not checkable: no hash is known")
    verdict = "repaired, and not seen" if defect.repaired else "not seen"
    return _report(defect, "note", steps, verdict)


def _seen_steps(findings: Sequence[Finding], defect: Defect, steps: tuple[int, ...]) -> set[int]:
    """Return the steps at which findings show the defect, in the tensors that it concerns."""
    return {
        step
        for finding in findings
        if finding.kind in _SHOWN_BY[defect.kind] and finding.severity == "wrong"
        if finding.role is None or not defect.tensors or finding.role in defect.tensors
        for step in finding.steps
        if step in steps
    }


def _report(defect: Defect, severity: Severity, steps: tuple[int, ...], verdict: str) -> Finding:
    """Return the finding of a verdict on a defect."""
    place = f" (steps {name_steps(steps)})" if steps else ""
    return Finding(_KIND, severity, steps, f"{verdict}{place}: {defect.what}", link=defect.url)
