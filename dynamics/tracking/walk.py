"""Measures the checkpoints of a series, each read once, several at a time where that helps.

The first one that can be measured is the reference, which distances of the others are to. One that
cannot be measured is told and does not end the walk. A hub out of reach does: it says nothing of a
checkpoint.
"""

from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from dynamics.checkpoints.architectures import ROLES, Role
from dynamics.checkpoints.checkpoint import Checkpoint
from dynamics.errors import CheckpointError, MeasureError, UnreachableError
from dynamics.scores.norms import Rows
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

    @property
    def measures(self) -> list[str]:
        """Names of the measures, in the order of their columns."""
        return [name for name in self.taken.columns if name != "token_id"]


@dataclass(frozen=True)
class Unmeasurable:
    """A checkpoint that cannot be measured.

    Attributes:
        reason: Why not, in one line.
    """

    reason: str


def walk(
    checkpoints: Iterable[Checkpoint],
    measured_steps: Collection[int],
    wanted: Wanted,
    *,
    reference_step: int | None = None,
    executor: Executor | None = None,
    ahead: int = 1,
) -> Generator[Measured | Unmeasurable]:
    """Measure checkpoints in order.

    Args:
        checkpoints: All checkpoints of the run, by ascending step.
        measured_steps: Steps that a former call has measured, which are not measured again; but
            for when an earlier one can be measured by now: all distances are to that one then.
        wanted: What is measured of each.
        reference_step: The step that distances of a former call are to.
        executor: Does the work, on threads, processes or other machines; None does it here.
        ahead: Checkpoints under way at once, each of which holds one tensor.

    Yields:
        What came of each checkpoint that was to be measured.

    Close what this returns when it is not walked to its end.

    Raises:
        UnreachableError: A hub does not give a checkpoint.
        OutputError: There is no room for a copy of the reference's embeddings.
    """
    references: References | None = None
    waiting: deque[Future[Measured]] = deque()

    def measure_alone(checkpoint: Checkpoint, references: References) -> Measured | Unmeasurable:
        if executor is None:
            return _settled(partial(measure_checkpoint, checkpoint, references, wanted))
        return _settled(executor.submit(measure_checkpoint, checkpoint, references, wanted).result)

    try:
        for checkpoint in checkpoints:
            if references is None:  # nothing else can be measured before there is a reference
                references = References(checkpoint, wanted.rows)
                if checkpoint.step in measured_steps:
                    continue
                result = measure_alone(checkpoint, references)
                if not isinstance(result, Measured):
                    references.end()
                    references = None
                elif checkpoint.step != reference_step:
                    measured_steps = ()
                yield result
            elif checkpoint.step in measured_steps:
                continue
            elif executor is None:
                yield measure_alone(checkpoint, references)
            else:
                waiting.append(executor.submit(measure_checkpoint, checkpoint, references, wanted))
                if len(waiting) >= ahead:
                    yield _settled(waiting.popleft().result)
        while waiting:
            yield _settled(waiting.popleft().result)
    finally:
        if references is not None:
            references.end()
        for future in waiting:
            future.cancel()


def _settled(measure: Callable[[], Measured]) -> Measured | Unmeasurable:
    try:
        return measure()
    except UnreachableError:
        raise
    except (CheckpointError, MeasureError) as error:
        return Unmeasurable(str(error))


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
            f"{expected} at step {first.step}"
        )
