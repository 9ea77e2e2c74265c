"""Whether a series holds what its steps say: gather facts, check them, say what it cost."""

from dataclasses import dataclass

from dynamics.audit.checks import run_checks
from dynamics.audit.facts import Level, OnCheckpoint, gather, gather_headers
from dynamics.audit.finding import Finding
from dynamics.checkpoints.catalog.public_series import PublicSeries, find
from dynamics.checkpoints.series import CheckpointSeries
from dynamics.errors import CheckpointError, UnreachableError


@dataclass(frozen=True)
class Audit:
    """What an audit of a series found.

    Attributes:
        series: Name of the series.
        level: What was to be read of the tensors: `none`, a block of `rows`, or `all`.
        rows_read: Which rows were read, in words.
        steps: Steps that were looked at.
        findings: Everything that is worth telling.
        requests: Requests made since the series was opened.
        received: Bytes received since then.
    """

    series: str
    level: Level
    rows_read: str
    steps: tuple[int, ...]
    findings: tuple[Finding, ...]
    requests: int = 0
    received: int = 0

    @property
    def wrong(self) -> list[Finding]:
        """What is neither explained nor a mere note."""
        return [finding for finding in self.findings if finding.severity == "wrong"]

    def check_reached(self) -> None:
        """Refuse a series of which the hub did not let a step be looked at.

        Raises:
            UnreachableError: There is such a step.
        """
        for finding in self.findings:
            if finding.kind == "unreachable":
                raise UnreachableError(finding.message)

    @property
    def flagged_steps(self) -> dict[int, str]:
        """Steps that should be left out, ascending, and why, in one line."""
        reasons: dict[int, str] = {}
        for finding in self.wrong:
            about = "" if finding.role is None else f"{finding.role.replace('_', ' ')}: "
            for step in finding.flagged:
                reasons.setdefault(step, f"{finding.kind}: {about}{finding.message}")
        return dict(sorted(reasons.items()))


def audit_series(
    series: CheckpointSeries,
    *,
    steps: str = "all",
    tensors: Level | None = None,
    known: PublicSeries | None = None,
    on_checkpoint: OnCheckpoint = lambda done, total: None,
) -> Audit:
    """Check that every step is there, holds what it should, and lies on one trajectory.

    Args:
        series: The series.
        steps: Which steps, in the step language; numbers that do not exist are findings.
        tensors: What to read of embeddings: `none` (files are told apart by the hashes that a hub
            gives), a block of 1,024 `rows` (every row of a matrix of at most 4 MiB), or `all`.
            When None, the cheapest that tells repetitions: `none` on a hub, `rows` in a folder.
        known: Entry of the catalog; that of the repository when None.
        on_checkpoint: Called with how many checkpoints are done and how many there are.

    Raises:
        CheckpointError: No checkpoint can be read.
        StepError: The expression is malformed or selects nothing.
    """
    remote = series.checkpoints[0].path is None
    level: Level = tensors or ("none" if remote else "rows")
    known = known or _known(series)
    facts = gather(series, steps, level, known, on_checkpoint)
    traffic = series.checkpoints[0].traffic
    traffic = traffic.whole or traffic
    return Audit(
        series=series.name,
        level=level,
        rows_read=facts.rows_read,
        steps=tuple(each.step for each in facts.checkpoints),
        findings=tuple(run_checks(facts)),
        requests=traffic.requests,
        received=traffic.received,
    )


def audit_headers(series: CheckpointSeries) -> Audit:
    """Check that every checkpoint can be opened and has tensors of one shape; nothing more is read.

    Args:
        series: The checkpoints to compare, those of a folder.
    """
    facts = gather_headers(series)
    return Audit(
        series.name, "none", facts.rows_read, tuple(series.steps), tuple(run_checks(facts))
    )


def cheap_audit(
    series: CheckpointSeries,
    steps: str = "all",
    on_checkpoint: OnCheckpoint = lambda done, total: None,
) -> Audit:
    """The audit that reads next to nothing, to be run before anything else is made of a series.

    Args:
        series: The series.
        steps: Which steps, in the step language.
        on_checkpoint: Called with how many checkpoints are done and how many there are.

    Returns:
        The audit; its `flagged_steps` are better left out.

    Raises:
        CheckpointError: No checkpoint can be read.
        StepError: The expression is malformed or selects nothing.
    """
    return audit_series(series, steps=steps, on_checkpoint=on_checkpoint)


def _known(series: CheckpointSeries) -> PublicSeries | None:
    """The entry of the catalog for a series on a hub; a folder may be called anything."""
    if series.checkpoints[0].path is not None:
        return None
    try:
        return find(series.name)
    except CheckpointError:
        return None
