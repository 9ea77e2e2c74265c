"""Measures the checkpoints of a series, each read once, several at a time where that helps."""

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass

import numpy as np
import torch

from dynamics.checkpoints.architectures import Role
from dynamics.checkpoints.checkpoint import Checkpoint
from dynamics.checkpoints.tensors import digest
from dynamics.errors import MeasureError
from dynamics.tracking.measures import ROLES, View, measure

Tokens = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Measured:
    """What one checkpoint gave.

    Attributes:
        columns: `token_id` and every measure, one value per token.
        tensor_sha256: Digest of each embedding that was read.
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
    executor: Executor | None = None,
    ahead: int = 1,
) -> Iterator[Measured]:
    """Measure checkpoints in order.

    Args:
        checkpoints: What to measure.
        first: The checkpoint that distances are taken to.
        tokens: `count` and `kind` of each row, None without counts.
        executor: Does the work, on threads, processes or other machines; None does it here.
        ahead: Checkpoints under way at once, each of which holds one tensor.

    Raises:
        MeasureError: A matrix changes its shape, or a row is not finite.
        CheckpointError: A file cannot be read.
    """
    try:
        if executor is None:
            yield from (measure_checkpoint(each, first, tokens) for each in checkpoints)
            return
        waiting: deque[Future[Measured]] = deque()
        try:
            for checkpoint in checkpoints:
                waiting.append(executor.submit(measure_checkpoint, checkpoint, first, tokens))
                if len(waiting) >= ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
    finally:
        _References.held.clear()


def measure_checkpoint(
    checkpoint: Checkpoint, first: Checkpoint, tokens: Tokens | None
) -> Measured:
    """Every measure of both embeddings of one checkpoint; a tied matrix is read once.

    Raises:
        MeasureError: A matrix has another shape than in `first`, or a row is not finite.
        CheckpointError: A file cannot be read.
    """
    columns: dict[str, np.ndarray] = {}
    digests: dict[str, str] = {}
    files: dict[str, str | None] = {}
    gain = checkpoint.final_norm_gain()
    matrix = before = torch.empty(0)
    view = None
    for role in ROLES:
        if not checkpoint.has(role):
            continue
        if role == "input_embedding" or not checkpoint.tied:
            matrix, view = torch.empty(0), None  # let go of the one before while the next is read
            before = _References.get(first, role)
            same = checkpoint.store.name == first.store.name
            matrix = before if same else checkpoint.tensor(role)
        if matrix.shape != before.shape:
            raise MeasureError(
                f"the {role.replace('_', ' ')} has shape {tuple(matrix.shape)} at step "
                f"{checkpoint.step} and {tuple(before.shape)} at step {first.step}; choose steps "
                "of one shape with --steps"
            )
        view = View(
            matrix=matrix,
            first=before,
            counts=None if tokens is None else torch.tensor(tokens["count"]),
            entries=None if tokens is None else torch.tensor(tokens["kind"] != "padding"),
            final_norm=checkpoint.final_norm,
            gain=gain if role == "output_embedding" else None,
        )
        columns["token_id"] = np.arange(len(matrix), dtype=np.int32)
        for name, scores in measure(role, view, step=checkpoint.step).items():
            columns[name] = scores.numpy()
        tied = role == "output_embedding" and checkpoint.tied
        digests[role] = digests["input_embedding"] if tied else digest(matrix)
        if checkpoint.path is None:
            files[role] = checkpoint.file_sha256(role)
    return Measured(columns, digests, files, checkpoint.commit)


class _References:
    """The tensors of the checkpoint that distances are taken to, read once in each process."""

    held: dict[tuple[str, str | None, Role], torch.Tensor] = {}  # noqa: RUF012 (shared on purpose)
    lock = threading.Lock()

    @classmethod
    def get(cls, first: Checkpoint, role: Role) -> torch.Tensor:
        with cls.lock:
            if first.path is None and first.commit is None:
                first.locate(role)  # a tag says which commit it is when its index is read
            key = (first.store.name, first.commit, role)
            if key not in cls.held:
                for other in [each for each in cls.held if each[:2] != key[:2]]:
                    del cls.held[other]
                cls.held[key] = first.tensor(role)
            return cls.held[key]
