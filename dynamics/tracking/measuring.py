"""Measures both embeddings of a model at one step, wherever its matrices are."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from dynamics.axes import TokenScores
from dynamics.checkpoints.architectures import ROLES, Role
from dynamics.checkpoints.formats.tensors import digest
from dynamics.errors import MeasureError
from dynamics.runs.trends import Row
from dynamics.scores.norms import Rows
from dynamics.statistics.vocabulary import VocabularyRule, placebo_mask
from dynamics.tracking.matrices import MatrixView, folded_bias, matrix_rows
from dynamics.tracking.measure_functions import WHITENED, View, measure

Tokens = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Wanted:
    """What is measured, the same at every step.

    Attributes:
        tokens: `count`, `kind` and `log_frequency` of each row, None without counts.
        rows: Ids of the rows that are read, ascending, of which `tokens` is; all when None.
        rule: Which tokens enter what is computed of a matrix and frequency.
        everything: Whether slow measures are taken too.
    """

    tokens: Tokens | None
    rows: np.ndarray | None = None
    rule: VocabularyRule | None = None
    everything: bool = False


@dataclass(frozen=True)
class Taken:
    """What was measured at one step.

    Attributes:
        columns: `token_id` and every measure, one value per token.
        matrices: What is computed of the embeddings as a whole, as rows of `trends.parquet`.
        tensor_sha256: Digest of each embedding, or of the rows of it that were read.
    """

    columns: dict[str, np.ndarray]
    matrices: list[Row]
    tensor_sha256: dict[str, str]


class Described(Protocol):
    """A model at one step, in files or in memory."""

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

    def tensor(self, role: Role) -> Tensor:
        """The tensor in this role."""
        ...

    def final_norm_gain(self) -> Tensor | None:
        """Factor of each feature in the final norm; None without a weight for it, or unknown."""
        ...


def measure_tensors(
    model: Described,
    wanted: Wanted,
    *,
    read: Callable[[Role], Tensor],
    first: Callable[[Role], Tensor | Rows],
    again: Callable[[Tensor], Tensor | Rows],
) -> Taken:
    """Everything that is measured of both embeddings; a tied matrix is read once.

    Args:
        model: What is measured.
        wanted: What is measured of it.
        read: Reads the wanted rows of one of its matrices.
        first: The same matrix at the first step.
        again: The rows of the input embedding, given once they were read, to be read in parts
            beside the output embedding.

    Raises:
        MeasureError: A row, or a vector of the final norm or the head, is not finite.
    """
    taken = Taken({}, [], {})
    tokens, rows = wanted.tokens, wanted.rows
    gain = model.final_norm_gain()
    if gain is not None:
        _check_finite(gain, "final norm weight", model.step)
    view, beside = None, None
    for role in ROLES:
        if not model.has(role):
            continue
        if view is None or not model.tied:
            beside = None if view is None else again(view.matrix)
            view = None  # let go of one matrix before the next is read; nothing else may hold it
            view = View(
                matrix=read(role),
                first=first(role),
                counts=None if tokens is None else torch.tensor(tokens["count"]),
                entries=None if tokens is None else torch.tensor(tokens["kind"] != "padding"),
                final_norm=model.final_norm,
                gain=gain if role == "output_embedding" else None,
                whole=rows is None,
                tied=model.tied,
                unused=None
                if tokens is None
                else torch.tensor(placebo_mask(tokens["count"], tokens["kind"])),
                everything=wanted.everything and rows is None,
            )
            if beside is not None and beside.shape == view.matrix.shape:
                view = replace(view, beside=beside)
            taken.tensor_sha256[role] = digest(view.matrix)
        else:
            view = replace(view, gain=gain, beside=view.matrix)
            taken.tensor_sha256[role] = taken.tensor_sha256["input_embedding"]
        ids = np.arange(len(view.matrix)) if rows is None else rows
        taken.columns["token_id"] = ids.astype(np.int32)
        measured = measure(role, view, step=model.step)
        taken.columns.update({name: scores.numpy() for name, scores in measured.items()})
        if view.whole:
            bias, folded = _biases(model, role, view) if tokens else (None, None)
            taken.matrices.extend(
                matrix_rows(
                    role,
                    MatrixView(view, tokens, wanted.rule, bias, folded, measured.get(WHITENED)),
                    step=model.step,
                )
            )
    return taken


def _biases(
    model: Described, role: Role, view: View
) -> tuple[TokenScores | None, TokenScores | None]:
    """The head's bias; or, where it has none, what the bias of the final norm adds to logits."""
    if role != "output_embedding":
        return None, None
    if model.has("output_bias"):
        return _check_finite(model.tensor("output_bias"), "output bias", model.step), None
    if model.final_norm is None or not model.has("final_norm_bias"):
        return None, None
    bias = _check_finite(model.tensor("final_norm_bias"), "final norm bias", model.step)
    return None, folded_bias(view.matrix, bias)


def _check_finite(vector: Tensor, name: str, step: int) -> Tensor:
    if not vector.isfinite().all():
        raise MeasureError(f"the {name} at step {step} holds NaN or infinity")
    return vector
