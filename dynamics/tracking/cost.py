"""What tracking a series will read, before it is read."""

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
from dynamics.tracking.faulty_steps import LeftOut, find_faults, unreadable_because

if TYPE_CHECKING:
    from dynamics.tracking.live_stage import LiveSettings


@dataclass(frozen=True)
class TrackCost:
    """What tracking reads, extrapolated from the last checkpoint, whose index is read for it.

    Attributes:
        series: Name of the series.
        checkpoints: How many are measured.
        bytes_per_checkpoint: Bytes of the embeddings of one, a tied matrix once.
        file_bytes_per_checkpoint: Bytes of the files that hold them, which are not all read.
        requests_per_checkpoint: Requests to a hub for one: where its files are, what is in them,
            and its ranges; 0 for a folder.
        rows: Which rows are read, all of them when None.
        left_out: Why steps of a folder cannot be measured, by step; on a hub it is not known
            before they are read.
        notes: What was passed over in the place of the series, one line each.
    """

    series: str
    checkpoints: int
    bytes_per_checkpoint: int
    file_bytes_per_checkpoint: int
    requests_per_checkpoint: int
    rows: str | None = None
    left_out: Mapping[int, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def describe(self) -> str:
        """The cost for people."""
        needed = self.checkpoints * self.bytes_per_checkpoint
        whole = self.checkpoints * self.file_bytes_per_checkpoint
        share = self.bytes_per_checkpoint / self.file_bytes_per_checkpoint
        requests = self.checkpoints * self.requests_per_checkpoint
        read = "embeddings" if self.rows is None else f"rows {self.rows} of the embeddings"
        places = 1 if self.rows is None else 3
        return (
            f"{self.series}: {self.checkpoints:,} checkpoints, {read}\n"
            f"to read     {self.bytes_per_checkpoint / 1e6:12,.{places}f} MB each  "
            f"{needed / 1e9:10,.{places + 1}f} GB in all\n"
            f"their files {self.file_bytes_per_checkpoint / 1e6:12,.1f} MB each  "
            f"{whole / 1e9:10,.2f} GB in all, of which {share:.{places}%} is read\n"
            f"requests    {self.requests_per_checkpoint:12,} each     {requests:10,} in all"
            + "".join(f"\nstep {step} is left out: {why}" for step, why in self.left_out.items())
            + "".join(f"\n{note}" for note in self.notes)
        )


@dataclass(frozen=True)
class LiveCost:
    """What running the models takes, at most: rare tokens have fewer contexts.

    Attributes:
        checkpoints: How many models are run.
        contexts: Contexts of tokens for each of them.
        length: Ids of a context.
        forwards: Forward passes over contexts for each of them, of a causal LM.
        held_out_forwards: Forward passes over held-out rows, or the beginnings of them.
    """

    checkpoints: int
    contexts: int
    length: int
    forwards: int
    held_out_forwards: int

    def describe(self) -> str:
        """The cost for people."""
        return (
            f"to run      {self.forwards:12,} forward passes over {self.contexts:,} contexts of "
            f"{self.length} tokens and {self.held_out_forwards:,} over held-out rows, at most, for "
            f"each of {self.checkpoints:,} models"
        )


def live_cost(series: CheckpointSeries, steps: str, live: "LiveSettings") -> LiveCost:
    """What asking the models of these steps takes, faults of steps aside; nothing is read.

    Raises:
        StepError: A step does not exist.
    """
    from dynamics.importance.importances import forwards_per_context
    from dynamics.importance.surgery import DRAWS
    from dynamics.tracking.live_stage import HELD_OUT_ROWS

    probes = live.probes
    contexts = probes.most_tokens * probes.contexts if live.importance else 0
    passes = forwards_per_context(live.importance, probes.length)
    chosen = series.select(steps).select(live.steps)
    of_rows = {
        "surgery": 3 + 2 * DRAWS,  # as it is, equalised, fitted, and two that shuffle
        "agreement": 2 + probes.length,  # as it is, its gradient, and without each token
    }
    held_out = HELD_OUT_ROWS * sum(of_rows[part] for part in live.parts)
    return LiveCost(len(chosen), contexts, probes.length, contexts * passes, held_out)


def track_cost(series: CheckpointSeries, steps: str = "all", rows: str | None = None) -> TrackCost:
    """What tracking these steps, or some rows of them, costs.

    The headers of every step of a folder are read for it; of a hub's series only the last one's
    that can be read.

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
    chosen = left_out.kept
    last = _last_readable(chosen)
    before = last.traffic.requests
    wanted = ROLES[:1] if last.tied else ROLES
    roles: list[Role] = [role for role in wanted if last.has(role)]
    tensors = [last.locate(role) for role in roles]
    files = {located.filename: located.file_bytes for located in tensors}
    opening = last.traffic.requests - before
    if selection is None:
        sizes = [located.nbytes for located in tensors]
    else:
        selection.check(last.vocab_size, chosen.name)
        sizes = [size for located in tensors for size in located.part_bytes(selection.ids)]
    ranges = sum(len(split(0, size, CONNECTIONS)) for size in sizes)
    requests = opening + ranges if last.path is None else 0
    return TrackCost(
        chosen.name,
        len(chosen),
        sum(sizes),
        sum(files.values()),
        requests,
        None if selection is None else str(selection),
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
