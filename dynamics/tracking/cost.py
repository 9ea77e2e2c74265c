"""Estimates of what tracking a series reads and runs, made before it does."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dynamics.checkpoints.architectures import ROLES, Role
from dynamics.checkpoints.checkpoint import Checkpoint
from dynamics.checkpoints.hub.http import split
from dynamics.checkpoints.hub.transport import CONNECTIONS
from dynamics.checkpoints.rows import parse_rows
from dynamics.checkpoints.series import CheckpointSeries
from dynamics.errors import CheckpointError
from dynamics.runs.surgeries import model_passes
from dynamics.tracking.faulty_steps import LeftOut, find_faults, unreadable_because

if TYPE_CHECKING:
    from dynamics.config import TrackingSettings


@dataclass(frozen=True)
class TrackCost:
    """Bytes and requests of tracking, extrapolated from the index of the last checkpoint.

    Attributes:
        series: Name of the series.
        checkpoints: Number of checkpoints to measure.
        bytes_per_checkpoint: Bytes of the embeddings of one checkpoint, a tied matrix once.
        file_bytes_per_checkpoint: Bytes of the files that hold them, which are not all read.
        requests_per_checkpoint: Requests to a hub for one checkpoint (file list, headers and byte
            ranges); 0 for a folder.
        rows: The rows that are read, all of them when None.
        passes: How often each checkpoint is read; twice where rows are followed over all steps.
        left_out: Why steps of a folder cannot be measured, by step; on a hub this is not known
            before they are read.
        notes: One line for each file or folder of the series that was skipped.
    """

    series: str
    checkpoints: int
    bytes_per_checkpoint: int
    file_bytes_per_checkpoint: int
    requests_per_checkpoint: int
    rows: str | None = None
    passes: int = 1
    left_out: Mapping[int, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def describe(self) -> str:
        """Return the cost as text for a terminal."""
        embedding_bytes = self.checkpoints * self.bytes_per_checkpoint
        file_bytes = self.checkpoints * self.file_bytes_per_checkpoint
        share = self.bytes_per_checkpoint / self.file_bytes_per_checkpoint
        requests = self.checkpoints * self.requests_per_checkpoint
        read = "embeddings" if self.rows is None else f"rows {self.rows} of the embeddings"
        decimals = 1 if self.rows is None else 3
        return (
            f"{self.series}: {self.checkpoints:,} checkpoints, {read}\n"
            f"to read     {self.bytes_per_checkpoint / 1e6:12,.{decimals}f} MB each  "
            f"{embedding_bytes / 1e9:10,.{decimals + 1}f} GB in all\n"
            f"their files {self.file_bytes_per_checkpoint / 1e6:12,.1f} MB each  "
            f"{file_bytes / 1e9:10,.2f} GB in all, of which {share:.{decimals}%} is read\n"
            f"requests    {self.requests_per_checkpoint:12,} each     {requests:10,} in all"
            + f"\nread twice, to follow rows: {embedding_bytes / 1e9:,.{decimals + 1}f} GB more"
            * (self.passes - 1)
            + "".join(f"\nstep {step} is left out: {why}" for step, why in self.left_out.items())
            + "".join(f"\n{note}" for note in self.notes)
        )


@dataclass(frozen=True)
class LiveCost:
    """Forward passes of running the models, at most: rare tokens have fewer contexts.

    Attributes:
        checkpoints: Number of models to run.
        contexts: Contexts of tokens per model.
        length: Ids of a context.
        forwards: Forward passes over contexts per model, of a causal LM.
        held_out_forwards: Forward passes per model over held-out rows, or their beginnings.
    """

    checkpoints: int
    contexts: int
    length: int
    forwards: int
    held_out_forwards: int

    def describe(self) -> str:
        """Return the cost as text for a terminal."""
        return (
            f"to run      {self.forwards:12,} forward passes over {self.contexts:,} contexts of "
            f"{self.length} tokens and {self.held_out_forwards:,} over held-out rows, at most, for "
            f"each of {self.checkpoints:,} models"
        )


def live_cost(series: CheckpointSeries, steps: str, live: "TrackingSettings") -> LiveCost:
    """Estimate the cost of running the models of these steps as if none were faulty; reads nothing.

    Raises:
        StepError: A step does not exist.
    """
    from dynamics.importance.importances import forwards_per_context
    from dynamics.tracking.live_stage import HELD_OUT_ROWS

    length = live.context_length
    contexts = live.most_tokens * live.contexts if live.importance else 0
    passes = forwards_per_context(live.importance, length)
    selected = series.select(steps).select(live.live_steps)
    passes_per_row = {
        "surgery": model_passes(),
        "agreement": 2 + length,  # unchanged, its gradient, and without each token
    }
    held_out = HELD_OUT_ROWS * sum(passes_per_row[part] for part in live.live_parts)
    return LiveCost(len(selected), contexts, length, contexts * passes, held_out)


def track_cost(
    series: CheckpointSeries, steps: str = "all", rows: str | None = None, *, paths: bool = False
) -> TrackCost:
    """Estimate the cost of tracking these steps, or some rows of them.

    Reads the headers of every step of a folder; on a hub only those of the last readable step.

    Args:
        series: Checkpoints of one model.
        steps: Steps to measure, in the step language.
        rows: Rows to read; all of them when None.
        paths: Whether rows are followed over all steps, in a second pass.

    Raises:
        ConfigError: The rows are malformed, or the embedding has no such rows.
        StepError: A step does not exist.
        CheckpointError: A step that `steps` names cannot be measured, or none can, or a hub is
            out of reach.
    """
    selection = None if rows is None else parse_rows(rows)
    left_out = LeftOut(series.select(steps), steps)
    if series.checkpoints[0].path is not None:
        left_out.add_all(find_faults(series, steps))
    measurable = left_out.remaining
    last = _last_readable(measurable)
    earlier_requests = last.traffic.requests
    distinct_roles = ROLES[:1] if last.tied else ROLES
    roles: list[Role] = [role for role in distinct_roles if last.has(role)]
    tensors = [last.locate(role) for role in roles]
    files = {located.filename: located.file_bytes for located in tensors}
    header_requests = last.traffic.requests - earlier_requests
    if selection is None:
        sizes = [located.nbytes for located in tensors]
    else:
        selection.check(last.vocab_size, measurable.name)
        sizes = [size for located in tensors for size in located.part_bytes(selection.ids)]
    ranges = sum(len(split(0, size, CONNECTIONS)) for size in sizes)
    requests = header_requests + ranges if last.path is None else 0
    return TrackCost(
        measurable.name,
        len(measurable),
        sum(sizes),
        sum(files.values()),
        requests,
        None if selection is None else str(selection),
        2 if paths else 1,
        left_out.reasons,
        series.notes,
    )


def _last_readable(series: CheckpointSeries) -> Checkpoint:
    """The last checkpoint whose headers can be read.

    Raises:
        CheckpointError: There is none, or a hub is out of reach.
    """
    reasons = []
    for checkpoint in reversed(series.checkpoints):
        if (reason := unreadable_because(checkpoint)) is None:
            return checkpoint
        reasons.append(reason)
    raise CheckpointError(f"no step of {series.name} can be read: {reasons[0]}")
