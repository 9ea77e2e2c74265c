"""Measures the checkpoints of a series, each read once, several at a time where that helps."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch

from dynamics.checkpoints.architectures import Role
from dynamics.checkpoints.checkpoint import Checkpoint
from dynamics.checkpoints.tensors import digest
from dynamics.errors import MeasureError
from dynamics.scores.norms import Rows
from dynamics.tracking.measures import ROLES, View, measure
from dynamics.tracking.references import References

Tokens = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Measured:
    """What one checkpoint gave.

    Attributes:
        columns: `token_id` and every measure, one value per token.
        tensor_sha256: Digest of each embedding, or of the rows of it that were read.
        file_sha256: What a hub says of the file that holds it; empty for a folder.
        commit: Hash of the commit on a hub, None for a folder.
    """

    columns: dict[str, np.ndarray]
    tensor_sha256: dict[str, str]
    file_sha256: dict[str, str | None]
    commit: str | None


def walk(
    checkpoints: Iterable[Checkpoint],
    first: Checkpoint,
    tokens: Tokens | None,
    *,
    rows: np.ndarray | None = None,
    executor: Executor | None = None,
    ahead: int = 1,
) -> Generator[Measured]:
    """Measure checkpoints in order.

    Args:
        checkpoints: What to measure.
        first: The checkpoint that distances are taken to.
        tokens: `count` and `kind` of each row, None without counts.
        rows: Ids of the rows to read, ascending, of which `tokens` is; all of them when None.
        executor: Does the work, on threads, processes or other machines; None does it here.
        ahead: Checkpoints under way at once, each of which holds one tensor.

    Close what this returns when it is not walked to its end.

    Raises:
        MeasureError: A matrix changes its shape, or a row is not finite.
        CheckpointError: A file cannot be read.
        OutputError: There is no room for a copy of the first checkpoint's embeddings.
    """
    references = References(first, rows)
    waiting: deque[Future[Measured]] = deque()
    try:
        for checkpoint in checkpoints:
            if executor is None:
                yield measure_checkpoint(checkpoint, references, tokens)
                continue
            waiting.append(executor.submit(measure_checkpoint, checkpoint, references, tokens))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        references.end()
        for future in waiting:
            future.cancel()


def measure_checkpoint(
    checkpoint: Checkpoint, references: References, tokens: Tokens | None
) -> Measured:
    """Every measure of both embeddings of one checkpoint; a tied matrix is read once.

    Raises:
        MeasureError: A matrix has another shape than in the first checkpoint, or a row is not
            finite.
        CheckpointError: A file cannot be read.
        OutputError: There is no room for a copy of the first checkpoint's embeddings.
    """

    def read(role: Role) -> torch.Tensor:
        _check_shape(checkpoint, references.first, role)
        same = checkpoint.store.name == references.first.store.name
        return references.get(role)[:] if same else checkpoint.tensor(role, references.rows)

    with references:
        columns, digests = measure_tensors(
            checkpoint, read, references.get, tokens, rows=references.rows
        )
        files = {
            role: checkpoint.file_sha256(role)
            for role in ROLES
            if role in digests and checkpoint.path is None
        }
    return Measured(columns, digests, files, checkpoint.commit)


class Described(Protocol):
    """A model at one step, in files or in memory, without its matrices."""

    @property
    def step(self) -> int:
        """Training steps taken."""
        ...

    @property
    def tied(self) -> bool:
        """Whether the output embedding is the input embedding."""
        ...

    @property
    def final_norm(self) -> str | None:
        """Type of the norm before the output embedding, None when there is none or unknown."""
        ...

    def has(self, role: Role) -> bool:
        """Whether there is a tensor in this role."""
        ...

    def final_norm_gain(self) -> torch.Tensor | None:
        """What the final norm multiplies each feature by; None without a weight for it."""
        ...


def measure_tensors(
    model: Described,
    read: Callable[[Role], torch.Tensor],
    first: Callable[[Role], torch.Tensor | Rows],
    tokens: Tokens | None,
    *,
    rows: np.ndarray | None = None,
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Every measure of both embeddings, wherever they are; a tied matrix is read once.

    Args:
        model: What is measured.
        read: Reads one of its matrices.
        first: The same matrix at the first step.
        tokens: `count` and `kind` of each row, None without counts.
        rows: Ids of the rows that are read, all of them when None.

    Returns:
        `token_id` and every measure, one value per token; the digest of each matrix.

    Raises:
        MeasureError: A row is not finite.
    """
    columns: dict[str, np.ndarray] = {}
    digests: dict[str, str] = {}
    gain = model.final_norm_gain()
    view = None
    for role in ROLES:
        if not model.has(role):
            continue
        if view is None or not model.tied:
            view = None  # let go of one matrix before the next is read
            view = View(
                matrix=read(role),
                first=first(role),
                counts=None if tokens is None else torch.tensor(tokens["count"]),
                entries=None if tokens is None else torch.tensor(tokens["kind"] != "padding"),
                final_norm=model.final_norm,
                gain=gain if role == "output_embedding" else None,
                whole=rows is None,
            )
            digests[role] = digest(view.matrix)
        else:
            view = replace(view, gain=gain)
            digests[role] = digests["input_embedding"]
        ids = np.arange(len(view.matrix)) if rows is None else rows
        columns["token_id"] = ids.astype(np.int32)
        for name, scores in measure(role, view, step=model.step).items():
            columns[name] = scores.numpy()
    return columns, digests


def _check_shape(checkpoint: Checkpoint, first: Checkpoint, role: Role) -> None:
    found, expected = (each.locate(role).entry.shape for each in (checkpoint, first))
    if found != expected:
        raise MeasureError(
            f"the {role.replace('_', ' ')} has shape {found} at step {checkpoint.step} and "
            f"{expected} at step {first.step}; choose steps of one shape with --steps"
        )
