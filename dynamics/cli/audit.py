"""The command that audits a series."""

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dynamics.cli.output import Stages, emit, size, table

if TYPE_CHECKING:
    from dynamics.audit.finding import Finding
    from dynamics.audit.series_audit import Audit

_EXIT_WRONG = 1
_COLUMNS = ("", "kind", "steps", "tensor", "what")


def audit(
    series: Annotated[
        str,
        typer.Argument(help="A catalog name, a hub repository, a training or a checkpoint folder."),
    ],
    steps: Annotated[
        str, typer.Option(help="Steps: all, last, 0,1,512, log2(512)+every(1000).")
    ] = "all",
    tensors: Annotated[
        Literal["none", "rows", "all"] | None,
        typer.Option(
            help="Rows to read of each embedding: none (hubs list hashes), rows (1,024 rows if it "
            "is beyond 4 MiB), or all (default: none on a hub, rows in a folder). NaN and infinity "
            "are found in the rows read only."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Check that every step exists, has the expected contents, and lies on one trajectory.

    The exit status is 1 if a finding is wrong; findings that are explained or notes do not count.
    """
    from dynamics.audit.series_audit import audit_series
    from dynamics.checkpoints.opening import open_any

    opened = open_any(series)
    with Stages() as stages:
        audited = audit_series(
            opened, steps=steps, tensors=tensors, on_checkpoint=stages.counter("audit")
        )
    order = ("wrong", "explained", "note")
    rows = [_row(f) for f in sorted(audited.findings, key=lambda f: order.index(f.severity))]
    shown = [table([_COLUMNS, *rows])] if rows else []
    emit(as_json, _result(audited), "\n".join([*shown, _verdict(audited)]))
    if audited.wrong:
        sys.exit(_EXIT_WRONG)


def _row(finding: "Finding") -> list[str]:
    from dynamics.audit.finding import name_steps

    link = f" [{finding.link}]" if finding.link else ""
    count = f" ({len(finding.steps)})" if len(finding.steps) > 1 else ""
    return [
        finding.severity,
        finding.kind,
        name_steps(finding.steps) + count,
        (finding.role or "").replace("_", " "),
        finding.message + link,
    ]


def _verdict(audit: "Audit") -> str:
    summary = f"{audit.series}: {len(audit.steps):,} checkpoints, {audit.rows_read} read"
    if audit.requests:
        summary += f", {audit.requests:,} requests, {size(audit.received)}"
    if not audit.wrong:
        return f"{summary}: nothing is wrong"
    wrong, flagged = len(audit.wrong), len(audit.flagged_steps)
    findings = "1 finding is" if wrong == 1 else f"{wrong} findings are"
    steps = "1 step" if flagged == 1 else f"{flagged or 'no'} steps"
    return f"{summary}: {findings} wrong, {steps} should be left out"


def _result(audit: "Audit") -> dict[str, Any]:
    return asdict(audit) | {"wrong": len(audit.wrong), "flagged_steps": audit.flagged_steps}
