"""Measures the checkpoints of a series, each read once, several at a time where that helps."""

from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Executor, Future
from dataclasses import dataclass

from torch import Tensor

from dynamics.checkpoints.architectures import Role
from dynamics.checkpoints.checkpoint import Checkpoint
from dynamics.errors import MeasureError
from dynamics.scores.norms import Rows
from dynamics.tracking.measures import ROLES
from dynamics.tracking.measuring import Taken, Wanted, measure_tensors
from dynamics.tracking.references import References, stored


@dataclass(frozen=True)
class Measured:
    """What one checkpoint gave.

    Attributes:
        taken: What was measured.
        file_sha256: What a hub says of the file that holds each embedding; empty for a folder.
        commit: Hash of the commit on a hub, None for a folder.
        notes: What a reader of the numbers should know of the checkpoint's files.
    """

    taken: Taken
    file_sha256: dict[str, str | None]
    commit: str | None
    notes: tuple[str, ...] = ()


def walk(
    checkpoints: Iterable[Checkpoint],
    first: Checkpoint,
    wanted: Wanted,
    *,
    executor: Executor | None = None,
    ahead: int = 1,
) -> Generator[Measured]:
    """Measure checkpoints in order.

    Args:
        checkpoints: What to measure.
        first: The checkpoint that distances are taken to.
        wanted: What is measured of each.
        executor: Does the work, on threads, processes or other machines; None does it here.
        ahead: Checkpoints under way at once, each of which holds one tensor.

    Close what this returns when it is not walked to its end.

    Raises:
        MeasureError: A matrix changes its shape, or a row is not finite.
        CheckpointError: A file cannot be read.
        OutputError: There is no room for a copy of the first checkpoint's embeddings.
    """
    references = References(first, wanted.rows)
    waiting: deque[Future[Measured]] = deque()
    try:
        for checkpoint in checkpoints:
            if executor is None:
                yield measure_checkpoint(checkpoint, references, wanted)
                continue
            waiting.append(executor.submit(measure_checkpoint, checkpoint, references, wanted))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        references.end()
        for future in waiting:
            future.cancel()


def measure_checkpoint(checkpoint: Checkpoint, references: References, wanted: Wanted) -> Measured:
    """Everything that is measured of both embeddings of one checkpoint.

    Raises:
        MeasureError: A matrix has another shape than in the first checkpoint, or a row is not
            finite.
        CheckpointError: A file cannot be read.
        OutputError: There is no room for a copy of an embedding.
    """
    same = checkpoint.store.name == references.first.store.name

    def read(role: Role) -> Tensor:
        _check_shape(checkpoint, references.first, role)
        return references.get(role)[:] if same else checkpoint.tensor(role, wanted.rows)

    def again(matrix: Tensor) -> Rows:
        if same:
            return references.get("input_embedding")
        return stored(checkpoint, "input_embedding", wanted.rows, matrix)

    with references:
        taken = measure_tensors(checkpoint, wanted, read=read, first=references.get, again=again)
        files = {
            role: checkpoint.file_sha256(role)
            for role in ROLES
            if role in taken.tensor_sha256 and checkpoint.path is None
        }
    return Measured(taken, files, checkpoint.commit, checkpoint.notes)


def _check_shape(checkpoint: Checkpoint, first: Checkpoint, role: Role) -> None:
    found, expected = (each.locate(role).shape for each in (checkpoint, first))
    if found != expected:
        raise MeasureError(
            f"the {role.replace('_', ' ')} has shape {found} at step {checkpoint.step} and "
            f"{expected} at step {first.step}; choose steps of one shape with --steps"
        )
