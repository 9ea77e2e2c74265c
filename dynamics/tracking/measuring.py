"""Measuring both embeddings of a model at one step, from files or from memory."""

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
from dynamics.measure_groups import DEFAULT_GROUPS, MeasureGroup
from dynamics.runs.trends import Row
from dynamics.scores.norms import Rows
from dynamics.statistics.vocabulary import VocabularyRule, placebo_mask
from dynamics.tracking.matrices import MatrixView, folded_bias, matrix_rows
from dynamics.tracking.measure_functions import WHITENED, View, measure

Tokens = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class MeasureSettings:
    """Settings of the measures, the same at every step.

    Attributes:
        tokens: `count`, `kind` and `log_frequency` of each row, None without counts.
        rows: Ids of the rows that are read, ascending, to which `tokens` belongs; all when None.
        rule: Vocabulary rule of the scalars that involve frequency.
        groups: Groups of measures to take.
        every_row: Whether every row enters effective ranks and read-outs, not a sample.
        device: Where to compute, such as `cpu`.
    """

    tokens: Tokens | None
    rows: np.ndarray | None = None
    rule: VocabularyRule | None = None
    groups: tuple[MeasureGroup, ...] = DEFAULT_GROUPS
    every_row: bool = False
    device: str = "cpu"


@dataclass(frozen=True)
class StepMeasures:
    """Measures of one step.

    Attributes:
        columns: `token_id` and every measure, one value per token.
        matrices: Scalars of the whole embeddings, as rows of `trends.parquet`.
        tensor_sha256: Digest of each embedding, or of the rows of it that were read.
    """

    columns: dict[str, np.ndarray]
    matrices: list[Row]
    tensor_sha256: dict[str, str]


class ModelAtStep(Protocol):
    """A model at one step, in files or in memory."""

    @property
    def step(self) -> int:
        """Training steps taken."""
        ...

    @property
    def tied(self) -> bool:
        """True if the output embedding is the input embedding."""
        ...

    @property
    def final_norm(self) -> str | None:
        """Type of the norm before the output embedding, None when there is none or unknown."""
        ...

    def has(self, role: Role) -> bool:
        """Return whether the model has a tensor in this role."""
        ...

    def tensor(self, role: Role) -> Tensor:
        """Return the tensor in this role."""
        ...

    def final_norm_gain(self) -> Tensor | None:
        """Return the factor of each feature in the final norm; None without one or unknown."""
        ...


def measure_tensors(
    model: ModelAtStep,
    settings: MeasureSettings,
    *,
    read: Callable[[Role], Tensor],
    first: Callable[[Role], Tensor | Rows],
    reread: Callable[[Tensor], Tensor | Rows],
) -> StepMeasures:
    """Take all measures of both embeddings; a tied matrix is read once.

    Args:
        model: The model to measure.
        settings: Settings of the measures.
        read: Reads the rows of one of its matrices.
        first: Returns the same matrix at the first step.
        reread: Turns the rows of the input embedding into a matrix that can be read in parts while
            the output embedding is in memory.

    Raises:
        MeasureError: A row, or a vector of the final norm or the head, is not finite.
    """
    measures = StepMeasures({}, [], {})
    tokens, rows, device = settings.tokens, settings.rows, settings.device
    gain = model.final_norm_gain()
    if gain is not None:
        gain = _check_finite(gain, "final norm weight", model.step).to(device)
    counts = entries = unused = None
    if tokens is not None:
        counts = torch.tensor(tokens["count"], device=device)
        entries = torch.tensor(tokens["kind"] != "padding", device=device)
        unused = torch.tensor(placebo_mask(tokens["count"], tokens["kind"]), device=device)
    view, input_embedding = None, None
    for role in ROLES:
        if not model.has(role):
            continue
        if view is None or not model.tied:
            input_embedding = None if view is None else reread(view.matrix.cpu())
            view = None  # frees the matrix before the next is read; no other name may refer to it
            view = View(
                matrix=read(role),
                first=first(role),
                counts=counts,
                entries=entries,
                final_norm=model.final_norm,
                gain=gain if role == "output_embedding" else None,
                has_all_rows=rows is None,
                tied=model.tied,
                unused=unused,
                groups=settings.groups,
            )
            measures.tensor_sha256[role] = digest(view.matrix)
            if input_embedding is not None and input_embedding.shape == view.matrix.shape:
                view = replace(view, input_embedding=input_embedding)
            view = replace(view, matrix=view.matrix.to(device))
        else:
            view = replace(view, gain=gain, input_embedding=view.matrix)
            measures.tensor_sha256[role] = measures.tensor_sha256["input_embedding"]
        ids = np.arange(len(view.matrix)) if rows is None else rows
        measures.columns["token_id"] = ids.astype(np.int32)
        scores_by_name = measure(role, view, step=model.step)
        measures.columns.update({name: scores.numpy() for name, scores in scores_by_name.items()})
        if view.has_all_rows:
            bias, folded = _biases(model, role, view) if tokens else (None, None)
            measures.matrices.extend(
                matrix_rows(
                    role,
                    MatrixView(
                        view,
                        tokens,
                        settings.rule,
                        bias,
                        folded,
                        scores_by_name.get(WHITENED),
                        settings.every_row,
                    ),
                    step=model.step,
                )
            )
    return measures


def _biases(
    model: ModelAtStep, role: Role, view: View
) -> tuple[TokenScores | None, TokenScores | None]:
    """Return the head's bias, and if it has none the logits that the final norm's bias adds.

    Both are None for the input embedding.
    """
    if role != "output_embedding":
        return None, None
    if model.has("output_bias"):
        return _check_finite(model.tensor("output_bias"), "output bias", model.step), None
    if model.final_norm is None or not model.has("final_norm_bias"):
        return None, None
    bias = _check_finite(model.tensor("final_norm_bias"), "final norm bias", model.step)
    return None, view.identical.tie(folded_bias(view.matrix, bias))


def _check_finite(vector: Tensor, name: str, step: int) -> Tensor:
    if not vector.isfinite().all():
        raise MeasureError(f"the {name} at step {step} holds NaN or infinity")
    return vector
