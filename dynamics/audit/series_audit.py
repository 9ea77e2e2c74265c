"""Audit of a series: gather facts, run the checks, count the requests and bytes."""

from dataclasses import dataclass

from dynamics.audit.checks import run_checks
from dynamics.audit.facts import Level, gather, gather_headers
from dynamics.audit.finding import Finding
from dynamics.checkpoints.catalog.public_series import PublicSeries, find
from dynamics.checkpoints.series import CheckpointSeries
from dynamics.errors import CheckpointError, UnreachableError
from dynamics.progress import OnProgress, no_progress


@dataclass(frozen=True)
class Audit:
    """Result of auditing a series.

    Attributes:
        series: Name of the series.
        level: How much of the tensors was to be read: `none`, a block of `rows`, or `all`.
        rows_read: The rows that were read, in words.
        steps: Steps that were audited.
        findings: All findings.
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
        """Findings of severity `wrong`."""
        return [finding for finding in self.findings if finding.severity == "wrong"]

    def check_reached(self) -> None:
        """Refuse a series of which a step could not be fetched from the hub.

        Raises:
            UnreachableError: A step could not be fetched.
        """
        for finding in self.findings:
            if finding.kind == "unreachable":
                raise UnreachableError(finding.message)

    @property
    def flagged_steps(self) -> dict[int, str]:
        """Steps that should be left out, ascending, each with a reason in one line."""
        reasons: dict[int, str] = {}
        for finding in self.wrong:
            tensor_name = "" if finding.role is None else f"{finding.role.replace('_', ' ')}: "
            for step in finding.flagged:
                reasons.setdefault(step, f"{finding.kind}: {tensor_name}{finding.message}")
        return dict(sorted(reasons.items()))


def audit_series(
    series: CheckpointSeries,
    *,
    steps: str = "all",
    tensors: Level | None = None,
    catalog_entry: PublicSeries | None = None,
    on_checkpoint: OnProgress = no_progress,
) -> Audit:
    """Check that every step is there, holds what it should, and lies on one trajectory.

    Args:
        series: The series.
        steps: Which steps, in the step language; numbers that do not exist are findings.
        tensors: Rows of embeddings to read: `none` (files are compared by the hashes that a hub
            gives), a block of 1,024 `rows` (every row of a matrix of at most 4 MiB), or `all`.
            When None, the cheapest that finds repetitions: `none` on a hub, `rows` in a folder.
        catalog_entry: Entry of the catalog; that of the repository when None.
        on_checkpoint: Called with how many checkpoints are done and how many there are.

    Raises:
        CheckpointError: No checkpoint can be read.
        StepError: The expression is malformed or selects nothing.
    """
    remote = series.checkpoints[0].path is None
    level: Level = tensors or ("none" if remote else "rows")
    catalog_entry = catalog_entry or _find_catalog_entry(series)
    facts = gather(series, steps, level, catalog_entry, on_checkpoint)
    return Audit(
        series=series.name,
        level=level,
        rows_read=facts.rows_read,
        steps=tuple(checkpoint.step for checkpoint in facts.checkpoints),
        findings=tuple(run_checks(facts)),
        requests=series.traffic.requests,
        received=series.traffic.received,
    )


def audit_headers(series: CheckpointSeries) -> Audit:
    """Check that every checkpoint opens and that shapes agree; only headers are read.

    Args:
        series: The checkpoints to compare, those of a folder.
    """
    facts = gather_headers(series)
    return Audit(
        series.name, "none", facts.rows_read, tuple(series.steps), tuple(run_checks(facts))
    )


def _find_catalog_entry(series: CheckpointSeries) -> PublicSeries | None:
    """Return the catalog entry of a series on a hub; the name of a folder proves nothing."""
    if series.checkpoints[0].path is not None:
        return None
    try:
        return find(series.name)
    except CheckpointError:
        return None
