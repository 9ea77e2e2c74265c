"""Known defects of a public series, held against what an audit found."""

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
"""Kinds of findings in which a kind of defect shows."""

_NEED_TENSORS = ("discontinuous", "wrong_run")


def known_defects(facts: SeriesFacts, found: Sequence[Finding]) -> Iterator[Finding]:
    """Each defect of the catalog at the steps looked at: still there, gone, or not to be seen."""
    if facts.known is None:
        return
    for defect in facts.known.defects:
        if defect.steps is None:
            yield _told(defect, "note", (), "not checkable: the catalog does not say which steps")
            continue
        steps = {*expand_steps(defect.steps, facts.known.last)} & _looked_at(facts, defect)
        if steps:
            yield _check(facts, found, defect, tuple(sorted(steps)))


def _looked_at(facts: SeriesFacts, defect: Defect) -> set[int]:
    """Steps at which a defect could show: of those missing also the ones nobody expects."""
    if defect.kind != "missing":
        return {*facts.wanted}
    first, last = min(facts.wanted), max(facts.wanted)
    return {*range(first, last + 1)} - ({*facts.existing} - {*facts.wanted})


def _check(
    facts: SeriesFacts, found: Sequence[Finding], defect: Defect, steps: tuple[int, ...]
) -> Finding:
    if defect.kind == "explained":
        alike = [{*each.steps} for each in found if each.severity == "explained"]
        if len(steps) > 1 and any({*steps} <= each for each in alike):
            return _told(defect, "explained", steps, "confirmed")
        if len(steps) == 1 or {*steps} & {step for each in found for step in each.flagged}:
            return _told(defect, "note", steps, "not checkable")
        return _told(defect, "note", steps, "not seen")
    if defect.kind == "missing":
        seen = {*steps} - {*facts.existing} | _seen(found, defect, steps)
    else:
        seen = _seen(found, defect, steps)
    if seen:
        share = "" if len(seen) == len(steps) else f" at {len(seen)} of {len(steps)} steps"
        severity: Severity = "wrong" if seen & {*facts.wanted} else "note"
        again = "seen again" if defect.repaired else "confirmed"
        return _told(defect, severity, tuple(sorted(seen)), f"{again}{share}")
    if facts.level == "none" and defect.kind in _NEED_TENSORS and not defect.repaired:
        return _told(defect, "note", steps, "not checkable without reading; `--tensors rows` can")
    if any(finding.kind == "not compared" for finding in found):
        return _told(defect, "note", steps, "not checkable: no hash is told")
    return _told(defect, "note", steps, "repaired, and not seen" if defect.repaired else "not seen")


def _seen(found: Sequence[Finding], defect: Defect, steps: tuple[int, ...]) -> set[int]:
    """The steps at which findings show the defect, in the tensors it is said to concern."""
    return {
        step
        for finding in found
        if finding.kind in _SHOWN_BY[defect.kind] and finding.severity == "wrong"
        if finding.role is None or not defect.tensors or finding.role in defect.tensors
        for step in finding.steps
        if step in steps
    }


def _told(defect: Defect, severity: Severity, steps: tuple[int, ...], verdict: str) -> Finding:
    where = f" (steps {name_steps(steps)})" if steps else ""
    return Finding(_KIND, severity, steps, f"{verdict}{where}: {defect.what}", link=defect.url)
