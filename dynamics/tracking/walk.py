"""Measures the checkpoints of a series, each read once, several at a time where that helps."""

from collections import deque
from collections.abc import Generator, Iterable, Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from dynamics.axes import TokenScores
from dynamics.checkpoints.architectures import Role
from dynamics.checkpoints.checkpoint import Checkpoint
from dynamics.checkpoints.tensors import digest
from dynamics.errors import MeasureError
from dynamics.scores.norms import Rows
from dynamics.statistics.vocabulary import VocabularyRule, placebo_mask
from dynamics.tracking.matrices import MatrixView, folded_bias, matrix_rows
from dynamics.tracking.measures import ROLES, WHITENED, View, measure
from dynamics.tracking.references import References, stored
from dynamics.tracking.trends import TREND_COLUMNS, Row

Tokens = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Measured:
    """What one checkpoint gave.

    Attributes:
        columns: `token_id` and every measure, one value per token.
        matrices: What is computed of the embeddings as a whole, as columns of `trends.parquet`.
        tensor_sha256: Digest of each embedding, or of the rows of it that were read.
        file_sha256: What a hub says of the file that holds it; empty for a folder.
        commit: Hash of the commit on a hub, None for a folder.
    """

    columns: dict[str, np.ndarray]
    matrices: dict[str, list[object]]
    tensor_sha256: dict[str, str]
    file_sha256: dict[str, str | None]
    commit: str | None


def walk(
    checkpoints: Iterable[Checkpoint],
    first: Checkpoint,
    tokens: Tokens | None,
    *,
    rows: np.ndarray | None = None,
    rule: VocabularyRule | None = None,
    everything: bool = False,
    executor: Executor | None = None,
    ahead: int = 1,
) -> Generator[Measured]:
    """Measure checkpoints in order.

    Args:
        checkpoints: What to measure.
        first: The checkpoint that distances are taken to.
        tokens: `count`, `kind` and `log_frequency` of each row, None without counts.
        rows: Ids of the rows to read, ascending, of which `tokens` is; all of them when None.
        rule: Which tokens enter what is computed of a matrix and frequency.
        everything: Whether slow measures are taken too.
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
                yield measure_checkpoint(checkpoint, references, tokens, rule, everything)
                continue
            waiting.append(
                executor.submit(
                    measure_checkpoint, checkpoint, references, tokens, rule, everything
                )
            )
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        references.end()
        for future in waiting:
            future.cancel()


def measure_checkpoint(
    checkpoint: Checkpoint,
    references: References,
    tokens: Tokens | None,
    rule: VocabularyRule | None = None,
    everything: bool = False,
) -> Measured:
    """Everything that is measured of both embeddings; a tied matrix is read once.

    Raises:
        MeasureError: A matrix has another shape than in the first checkpoint, or a row is not
            finite.
        CheckpointError: A file cannot be read.
        OutputError: There is no room for a copy of an embedding.
    """
    columns: dict[str, np.ndarray] = {}
    matrices: list[Row] = []
    digests: dict[str, str] = {}
    files: dict[str, str | None] = {}
    gain = checkpoint.final_norm_gain()
    rows = references.rows
    beside: Rows | None = None
    same = checkpoint.store.name == references.first.store.name
    with references:
        view = None
        for role in ROLES:
            if not checkpoint.has(role):
                continue
            if view is None or not checkpoint.tied:
                if view is not None and _same_shape(checkpoint):
                    held = references.get("input_embedding") if same else None
                    beside = held or stored(checkpoint, "input_embedding", rows, view.matrix)
                view = None  # let go of one matrix before the next is read
                _check_shape(checkpoint, references.first, role)
                before = references.get(role)
                view = View(
                    matrix=before[:] if same else checkpoint.tensor(role, rows),
                    first=before,
                    counts=None if tokens is None else torch.tensor(tokens["count"]),
                    entries=None if tokens is None else torch.tensor(tokens["kind"] != "padding"),
                    final_norm=checkpoint.final_norm,
                    gain=gain if role == "output_embedding" else None,
                    whole=rows is None,
                    beside=beside,
                    tied=checkpoint.tied,
                    unused=_unused(tokens),
                    everything=everything and rows is None,
                )
                digests[role] = digest(view.matrix)
            else:
                view = replace(view, gain=gain, beside=view.matrix)
                digests[role] = digests["input_embedding"]
            columns["token_id"] = (np.arange(len(view.matrix)) if rows is None else rows).astype(
                np.int32
            )
            measured = measure(role, view, step=checkpoint.step)
            columns |= {name: scores.numpy() for name, scores in measured.items()}
            if view.whole:
                bias, folded = _biases(checkpoint, role, view) if tokens else (None, None)
                given = MatrixView(view, tokens, rule, bias, folded, measured.get(WHITENED))
                matrices += matrix_rows(role, given, step=checkpoint.step)
            if checkpoint.path is None:
                files[role] = checkpoint.file_sha256(role)
    whole = {column: [row[column] for row in matrices] for column in TREND_COLUMNS}
    return Measured(columns, whole, digests, files, checkpoint.commit)


def _same_shape(checkpoint: Checkpoint) -> bool:
    """Whether input and output rows can be held against each other."""
    one, other = (checkpoint.locate(role).entry.shape for role in ROLES)
    return one == other


def _unused(tokens: Tokens | None) -> Tensor | None:
    return None if tokens is None else torch.tensor(placebo_mask(tokens["count"], tokens["kind"]))


def _biases(
    checkpoint: Checkpoint, role: Role, view: View
) -> tuple[TokenScores | None, TokenScores | None]:
    """The head's bias; or, where it has none, what the bias of the final norm adds to logits."""
    if role != "output_embedding":
        return None, None
    if checkpoint.has("output_bias"):
        return checkpoint.tensor("output_bias"), None
    if not checkpoint.has("final_norm_bias"):
        return None, None
    return None, folded_bias(view.matrix, checkpoint.tensor("final_norm_bias"))


def _check_shape(checkpoint: Checkpoint, first: Checkpoint, role: Role) -> None:
    found, expected = (each.locate(role).entry.shape for each in (checkpoint, first))
    if found != expected:
        raise MeasureError(
            f"the {role.replace('_', ' ')} has shape {found} at step {checkpoint.step} and "
            f"{expected} at step {first.step}; choose steps of one shape with --steps"
        )
