"""Measuring the checkpoints of a series, each read once, several at a time with an executor.

The first checkpoint that can be measured is the reference of all distances. One that cannot be
measured is yielded as `Unmeasurable` and does not end the walk. An unreachable hub does: it says
nothing about the checkpoint.
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
from dynamics.tracking.measuring import MeasureSettings, StepMeasures, measure_tensors
from dynamics.tracking.references import References, stored


@dataclass(frozen=True)
class MeasuredCheckpoint:
    """The measures of one checkpoint, and its identity on a hub.

    Attributes:
        step_measures: The measures.
        file_sha256: Digest, by the hub, of the file that holds each embedding; empty for a folder.
        commit: Hash of the commit on a hub, None for a folder.
        notes: Notes on the checkpoint's files for a reader of the numbers.
        device: Device that it was measured on.
    """

    step_measures: StepMeasures
    file_sha256: dict[str, str | None]
    commit: str | None
    notes: tuple[str, ...] = ()
    device: str = "cpu"

    @property
    def measure_names(self) -> list[str]:
        """Names of the measures, in the order of their columns."""
        return [name for name in self.step_measures.columns if name != "token_id"]


@dataclass(frozen=True)
class Unmeasurable:
    """A checkpoint that cannot be measured.

    Attributes:
        reason: The reason, in one line.
    """

    reason: str


WalkResult = MeasuredCheckpoint | Unmeasurable


def walk(
    checkpoints: Iterable[Checkpoint],
    measured_steps: Collection[int],
    settings: MeasureSettings,
    *,
    reference_step: int | None = None,
    executor: Executor | None = None,
    ahead: int = 1,
) -> Generator[WalkResult]:
    """Measure checkpoints in order.

    Args:
        checkpoints: All checkpoints of the run, by ascending step.
        measured_steps: Steps that an earlier call has measured, which are skipped; unless a step
            before them can be measured now, which all distances are then taken to.
        settings: Settings of the measures.
        reference_step: The step that distances of an earlier call are to.
        executor: Measures on threads, processes or other machines; None uses this thread.
        ahead: Checkpoints measured at once, each of which holds one tensor in memory.

    Yields:
        The result for each checkpoint that is not skipped.

    Close the generator when it is not exhausted.

    Raises:
        UnreachableError: A hub is out of reach.
        OutputError: There is no room for a copy of the reference's embeddings.
    """
    references: References | None = None
    waiting: deque[Future[MeasuredCheckpoint]] = deque()

    def measure_alone(checkpoint: Checkpoint, references: References) -> WalkResult:
        if executor is None:
            return _settled(partial(measure_checkpoint, checkpoint, references, settings))
        return _settled(
            executor.submit(measure_checkpoint, checkpoint, references, settings).result
        )

    try:
        for checkpoint in checkpoints:
            if references is None:  # nothing else can be measured without a reference
                references = References(checkpoint, settings.rows)
                if checkpoint.step in measured_steps:
                    continue
                result = measure_alone(checkpoint, references)
                if not isinstance(result, MeasuredCheckpoint):
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
                waiting.append(
                    executor.submit(measure_checkpoint, checkpoint, references, settings)
                )
                if len(waiting) >= ahead:
                    yield _settled(waiting.popleft().result)
        while waiting:
            yield _settled(waiting.popleft().result)
    finally:
        if references is not None:
            references.end()
        for future in waiting:
            future.cancel()


def _settled(measure: Callable[[], MeasuredCheckpoint]) -> WalkResult:
    try:
        return measure()
    except UnreachableError:
        raise
    except (CheckpointError, MeasureError) as error:
        return Unmeasurable(str(error))


def measure_checkpoint(
    checkpoint: Checkpoint, references: References, settings: MeasureSettings
) -> MeasuredCheckpoint:
    """Take all measures of both embeddings of one checkpoint.

    Raises:
        MeasureError: A matrix has another shape than in the first checkpoint, or a row is not
            finite.
        CheckpointError: A file cannot be read.
        OutputError: There is no room for a copy of an embedding.
    """
    is_reference = checkpoint.store.name == references.first.store.name

    def read(role: Role) -> Tensor:
        _check_shape(checkpoint, references.first, role)
        return references.get(role)[:] if is_reference else checkpoint.tensor(role, settings.rows)

    def reread(matrix: Tensor) -> Rows:
        if is_reference:
            return references.get("input_embedding")
        return stored(checkpoint, "input_embedding", settings.rows, matrix)

    with references:
        step_measures = measure_tensors(
            checkpoint, settings, read=read, first=references.get, reread=reread
        )
        files = {
            role: checkpoint.file_sha256(role)
            for role in ROLES
            if role in step_measures.tensor_sha256 and checkpoint.path is None
        }
    return MeasuredCheckpoint(
        step_measures, files, checkpoint.commit, checkpoint.notes, settings.device
    )


def _check_shape(checkpoint: Checkpoint, first: Checkpoint, role: Role) -> None:
    shape, first_shape = checkpoint.locate(role).shape, first.locate(role).shape
    if shape != first_shape:
        raise MeasureError(
            f"the {role.replace('_', ' ')} has shape {shape} at step {checkpoint.step} and "
            f"{first_shape} at step {first.step}"
        )
