"""Steps of a series that cannot or should not be measured, found before or during reading.

Such a step is left out with the reason, and the others are measured. A step that --steps names by
number is an error instead.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from dynamics.audit.series_audit import audit_headers, audit_series
from dynamics.checkpoints.checkpoint import Checkpoint
from dynamics.checkpoints.series import CheckpointSeries
from dynamics.errors import CheckpointError, UnreachableError
from dynamics.progress import Report, no_report
from dynamics.steps import parse

_UNMEASURABLE = ("unreadable", "changed")  # kinds that allow_flagged does not keep


@dataclass(frozen=True)
class Fault:
    """A reason to leave a step out.

    Attributes:
        reason: The reason, in one line.
        flagged: Whether the audit doubts the contents of the step, which can still be measured.
    """

    reason: str
    flagged: bool = False


def find_faults(
    series: CheckpointSeries, steps: str, *, allow_flagged: bool = False
) -> dict[int, Fault]:
    """Find the faults that headers, and on a hub hashes, show; no weights are read.

    Args:
        series: The series.
        steps: The steps to check, in the step language.
        allow_flagged: Whether to ignore steps that the audit flags but that can be measured.

    Returns:
        Faults by step, ascending.

    Raises:
        CheckpointError: No checkpoint on a hub can be read, or the hub is out of reach.
        StepError: The expression is malformed or selects nothing.
    """
    if series.checkpoints[0].path is None and allow_flagged:
        return _faults_at_the_start(series.select(steps))
    if series.checkpoints[0].path is not None:
        audit = audit_headers(series.select(steps))
    else:
        audit = audit_series(series, steps=steps, tensors="none")
    audit.check_reached()
    unmeasurable = {
        step for finding in audit.wrong if finding.kind in _UNMEASURABLE for step in finding.flagged
    }
    return {
        step: Fault(reason.removeprefix("unreadable: "), flagged=step not in unmeasurable)
        for step, reason in audit.flagged_steps.items()
    }


def unreadable_because(checkpoint: Checkpoint) -> str | None:
    """Return why the headers of a checkpoint cannot be read; None when they can.

    Raises:
        UnreachableError: A hub is out of reach.
    """
    try:
        _ = checkpoint.tied
    except UnreachableError:
        raise
    except CheckpointError as error:
        return str(error)
    return None


def _faults_at_the_start(series: CheckpointSeries) -> dict[int, Fault]:
    """Faults of the checkpoints before the first readable one, which gives the model's facts."""
    faults: dict[int, Fault] = {}
    for checkpoint in series:
        reason = unreadable_because(checkpoint)
        if reason is None:
            break
        faults[checkpoint.step] = Fault(reason)
    return faults


@dataclass
class LeftOut:
    """The steps of a series that are left out, collected as they are found.

    Attributes:
        selected: The series with all steps that `steps` selects.
        steps: The step expression.
        report: Receives a line for each step that is left out.
        reasons: Why each step is left out, by step.
    """

    selected: CheckpointSeries
    steps: str
    report: Report = no_report
    reasons: dict[int, str] = field(default_factory=dict)

    def add(self, step: int, fault: Fault) -> None:
        """Leave a step out.

        Raises:
            CheckpointError: It cannot be measured and the expression names it by number, or no
                step is left.
        """
        if step in parse(self.steps).numbers and not fault.flagged:
            raise CheckpointError(
                f"step {step} cannot be measured: {fault.reason}; take {step} out of --steps "
                f"{self.steps}, or repair it"
            )
        self.reasons[step] = fault.reason
        if not self.remaining_steps:
            raise CheckpointError(self._nothing_left(step, fault))
        remedy = (
            "allow_flagged=true keeps it"
            if fault.flagged
            else "the same command adds it once it can be measured"
        )
        self.report(f"step {step} is left out: {fault.reason}; {remedy}")

    def add_all(self, faults: Mapping[int, Fault]) -> None:
        """Leave several steps out; see `add`."""
        for step, fault in faults.items():
            self.add(step, fault)

    @property
    def remaining_steps(self) -> list[int]:
        """The steps that are not left out, ascending."""
        return [step for step in self.selected.steps if step not in self.reasons]

    @property
    def remaining(self) -> CheckpointSeries:
        """The series without the steps that are left out."""
        return without(self.selected, self.reasons)

    @property
    def recorded(self) -> dict[str, str]:
        """The reasons by step, ascending, as in `run.json`."""
        return {str(step): self.reasons[step] for step in sorted(self.reasons)}

    def _nothing_left(self, step: int, fault: Fault) -> str:
        advice = (
            "measure them anyway with allow_flagged=true"
            if fault.flagged
            else "`dynamics audit` shows what is wrong"
        )
        if len(self.selected) == 1:
            return f"step {step} of {self.selected.name} cannot be used: {fault.reason}; {advice}"
        return (
            f"none of {len(self.selected)} steps of {self.selected.name} can be used; the last, "
            f"step {step}: {fault.reason}; {advice}"
        )


def without(series: CheckpointSeries, steps: Mapping[int, object]) -> CheckpointSeries:
    """Return the series without these steps."""
    remaining = tuple(checkpoint for checkpoint in series if checkpoint.step not in steps)
    return replace(series, checkpoints=remaining)
