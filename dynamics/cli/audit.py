"""The command that audits a series."""

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dynamics.cli.output import Stages, emit, size, table

if TYPE_CHECKING:
    from dynamics.audit.finding import Finding
    from dynamics.audit.series_audit import Audit

_FOUND_WRONG = 1
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
            help="What to read of each embedding: none (hubs tell hashes), 1,024 rows of one "
            "beyond 4 MiB, or all. By default none on a hub, rows in a folder. Rows that are not "
            "finite are found among those read."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Check that every step is there, holds what it should, and lies on one trajectory.

    Exit status 1 when something is wrong; what is explained or merely noted is not.
    """
    from dynamics.audit.series_audit import audit_series
    from dynamics.checkpoints.opening import open_any

    opened = open_any(series)
    with Stages() as stages:
        found = audit_series(
            opened, steps=steps, tensors=tensors, on_checkpoint=stages.counter("audit")
        )
    order = ("wrong", "explained", "note")
    rows = [_row(each) for each in sorted(found.findings, key=lambda f: order.index(f.severity))]
    shown = [table([_COLUMNS, *rows])] if rows else []
    emit(as_json, _result(found), "\n".join([*shown, _verdict(found)]))
    if found.wrong:
        sys.exit(_FOUND_WRONG)


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


def _verdict(found: "Audit") -> str:
    looked = f"{found.series}: {len(found.steps):,} checkpoints, {found.rows_read} read"
    if found.requests:
        looked += f", {found.requests:,} requests, {size(found.received)}"
    if not found.wrong:
        return f"{looked}: nothing is wrong"
    wrong, flagged = len(found.wrong), len(found.flagged_steps)
    findings = "1 finding is" if wrong == 1 else f"{wrong} findings are"
    steps = "1 step" if flagged == 1 else f"{flagged or 'no'} steps"
    return f"{looked}: {findings} wrong, {steps} should be left out"


def _result(found: "Audit") -> dict[str, Any]:
    return asdict(found) | {"wrong": len(found.wrong), "flagged_steps": found.flagged_steps}
