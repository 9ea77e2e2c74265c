"""What is computed of an embedding as a whole at one checkpoint: a function and an entry for each.

A function yields the scalars that apply to a view, none where nothing does. They end as rows of
`trends.parquet`, so that a table of a step has the columns of that one.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from dynamics.axes import EmbeddingMatrix, HiddenVector, TokenScores
from dynamics.runs.trends import LEVEL, TREND_COLUMNS, Row
from dynamics.scores.norms import chunks, embedding_norm, mean_row
from dynamics.scores.spectrum import effective_rank, second_moment
from dynamics.statistics.correlation import NormalEstimate, spearman
from dynamics.statistics.line import least_squares_line
from dynamics.statistics.readout import Moments, cross_validated_ridge, fold_of, moments
from dynamics.statistics.vocabulary import VocabularyRule
from dynamics.tracking.measure_functions import View

MOST_ROWS = 8192
"""Rows that enter a quantity whose cost grows with rows times D^2, unless everything is asked for.

The same ones at every step, drawn at random; `n` says how many.
"""

INFORMATION_GAIN = ("information_gain_symmetric", "information_gain_right_all")
"""Columns of counts that the whitened norm is held against; the first that is there."""


@dataclass(frozen=True)
class Scalar:
    """One number, named as in `trends.parquet`; `measure` is the embedding's role when None."""

    statistic: str
    value: float
    n: int
    low: float = float("nan")
    high: float = float("nan")
    measure: str | None = None
    against: str = ""
    given: str = ""
    rule: str = ""


@dataclass(frozen=True)
class MatrixView:
    """One embedding at one checkpoint, and what is known of its tokens.

    Attributes:
        view: The embedding.
        tokens: `count`, `kind`, `log_frequency` and more of each row; None without counts.
        rule: Which tokens enter what is held against frequency; None without counts.
        bias: For an output embedding, the bias added to the logits.
        folded_bias: The same for a head without bias: what the final norm's bias adds.
        whitened: Whitened norms of the input embedding, where they were measured.
    """

    view: View
    tokens: Mapping[str, np.ndarray] | None
    rule: VocabularyRule | None
    bias: TokenScores | None = None
    folded_bias: TokenScores | None = None
    whitened: TokenScores | None = None

    @cached_property
    def kept(self) -> Bool[np.ndarray, " V"]:
        """Which tokens the rule keeps; none without counts."""
        if self.tokens is None or self.rule is None:
            return np.zeros(len(self.view.matrix), dtype=bool)
        return self.rule.mask(self.tokens["count"], self.tokens["kind"])

    def some(self, rows: Bool[np.ndarray, " V"]) -> Integer[np.ndarray, " n"]:
        """Ids of these rows, `MOST_ROWS` of them at most unless everything is asked for."""
        ids = np.flatnonzero(rows)
        if self.view.everything or len(ids) <= MOST_ROWS:
            return ids
        return np.sort(np.random.default_rng(0).choice(ids, MOST_ROWS, replace=False))


def mean_direction(given: MatrixView) -> Iterator[Scalar]:
    """How much of the rows is one common vector, their mean m.

    The share of the sum of squared norms, n |m|^2 / sum |row|^2, and |m| over the mean norm (F2).
    Both are NaN for a matrix of zeros.
    """
    view = given.view
    norms = embedding_norm(view.matrix).double()
    norms = norms if view.entries is None else norms[view.entries]
    length = torch.linalg.vector_norm(view.uniform_mean)
    share = length**2 / norms.square().mean()
    yield Scalar("mean_direction_share", share.item(), len(norms))
    yield Scalar("mean_shift_ratio", (length / norms.mean()).item(), len(norms))


def effective_ranks(given: MatrixView) -> Iterator[Scalar]:
    """Effective rank of the rows as they are, and with their mean removed."""
    entries = given.view.entries
    rows = np.ones(len(given.view.matrix), dtype=bool) if entries is None else entries.numpy()
    ids = given.some(rows)
    matrix = given.view.matrix[torch.from_numpy(ids)] if len(ids) < len(rows) else given.view.matrix
    mean = mean_row(matrix)
    centered = second_moment(matrix, shift=mean)
    yield Scalar("effective_rank", effective_rank(centered + torch.outer(mean, mean)), len(ids))
    yield Scalar("effective_rank_centered", effective_rank(centered), len(ids))


def frequency_readout(given: MatrixView) -> Iterator[Scalar]:
    """Share of the variance of log count that a linear read-out of the row predicts (F15)."""
    if given.tokens is None or not given.kept.any():
        return
    ids = given.some(given.kept)
    folds = _folds(given.view.matrix, ids, np.log(given.tokens["count"][ids]))
    for predictors, of_folds in folds.items():
        found = cross_validated_ridge(of_folds)
        interval = found.confidence_interval(LEVEL)
        yield Scalar(
            "readout_r2",
            found.r2,
            found.n,
            interval.low,
            interval.high,
            against="log_frequency",
            given=predictors,
            rule=str(given.rule),
        )


def bias_frequency(given: MatrixView) -> Iterator[Scalar]:
    """How the output bias goes with log frequency (F16): rank correlation, and slope tau.

    A model without one has the bias of its final LayerNorm, beta, which adds U beta to the logits.
    """
    for measure, bias in (("output_bias", given.bias), ("output_bias_folded", given.folded_bias)):
        if bias is None or given.tokens is None or not given.kept.any():
            continue
        values = bias.double().numpy()[given.kept]
        frequency = given.tokens["log_frequency"][given.kept]
        about = {"measure": measure, "against": "log_frequency", "rule": str(given.rule)}
        correlation = spearman(values, frequency)
        interval = correlation.confidence_interval(LEVEL)
        yield Scalar(
            "spearman", correlation.statistic, correlation.n, interval.low, interval.high, **about
        )
        yield _line("slope", least_squares_line(frequency, values)[0], **about)


def whitened_norm_law(given: MatrixView) -> Iterator[Scalar]:
    """Whitened squared norm against twice the information gain, through the origin (F7)."""
    if given.whitened is None or given.tokens is None:
        return
    gain = next((name for name in INFORMATION_GAIN if name in given.tokens), None)
    if gain is None:
        return
    known = given.kept & np.isfinite(given.tokens[gain])
    if not known.any():
        return
    squares = given.whitened.double().square().numpy()[known]
    slope, r2 = least_squares_line(2 * given.tokens[gain][known], squares, through_origin=True)
    about = {"measure": "input_embedding_norm_whitened", "against": gain, "rule": str(given.rule)}
    yield _line("whitened_slope", slope, **about)
    yield _line("whitened_r2", r2, **about)


MATRICES: dict[str, Callable[[MatrixView], Iterator[Scalar]]] = {
    "mean_direction": mean_direction,
    "effective_rank": effective_ranks,
    "frequency_readout": frequency_readout,
    "bias_frequency": bias_frequency,
    "whitened_norm_law": whitened_norm_law,
}

OF_THE_HEAD = ("bias_frequency", "whitened_norm_law")
"""What belongs to the output embedding alone; of a tied one nothing else is computed again."""


def matrix_rows(role: str, given: MatrixView, *, step: int) -> list[Row]:
    """Every scalar that applies to one embedding, as rows of `trends.parquet`."""
    names = OF_THE_HEAD if given.view.tied and role == "output_embedding" else MATRICES
    rows: list[Row] = []
    for name in names:
        for scalar in MATRICES[name](given):
            row = dict.fromkeys(TREND_COLUMNS, float("nan")) | asdict(scalar)
            rows.append(row | {"step": step, "measure": scalar.measure or role})
    return rows


def folded_bias(matrix: EmbeddingMatrix, bias: HiddenVector) -> TokenScores:
    """What the final norm's bias adds to each logit, U beta, in float64."""
    added = torch.empty(len(matrix), dtype=torch.float64)
    for start, rows in chunks(matrix, torch.float64):
        added[start : start + len(rows)] = rows @ bias.double()
    return added


def _line(statistic: str, estimate: NormalEstimate, **about: Any) -> Scalar:
    interval = estimate.confidence_interval(LEVEL)
    return Scalar(statistic, estimate.statistic, estimate.n, interval.low, interval.high, **about)


def _folds(
    matrix: EmbeddingMatrix, ids: Integer[np.ndarray, " n"], target: Float[np.ndarray, " n"]
) -> dict[str, Moments]:
    """Moments of the folds for each set of predictors.

    Predictors are centred and divided by one number for each kind (row, unit row, norm), so that
    their mean variance is 1 and directions keep their shape. The unit row of zeros is zeros.
    """
    target = target - target[0]  # equal ones are zeros then, without rounding
    target = target - target.mean()
    fold = fold_of(len(ids))
    parts = [(torch.from_numpy(ids[fold == k]), target[fold == k]) for k in np.unique(fold)]
    width = matrix.shape[1]
    dtype = torch.promote_types(matrix.dtype, torch.float32)

    def features(part: Integer[Tensor, " n"]) -> Float[Tensor, "n F"]:
        rows = matrix[part].to(dtype)
        norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        return torch.cat([rows, torch.where(norms > 0, rows / norms, 0), norms], dim=1)

    total, squares = torch.zeros(2, 2 * width + 1, dtype=torch.float64)
    for part, _ in parts:
        values = features(part)
        total += values.sum(dim=0, dtype=torch.float64)
        squares += values.square_().sum(dim=0, dtype=torch.float64)
    mean = total / len(ids)
    variance = (squares / len(ids) - mean**2).clamp_(min=0)
    scale = torch.ones_like(mean)
    for kind in (slice(0, width), slice(width, 2 * width), slice(2 * width, None)):
        if deviation := variance[kind].mean().sqrt():
            scale[kind] = deviation
    mean, scale = mean.to(dtype), scale.to(dtype)

    rows, units_and_norm = moments(
        ((features(part).sub_(mean).div_(scale).numpy(), values) for part, values in parts),
        [slice(0, width), slice(width, None)],
    )
    return {
        "rows": rows,
        "unit_rows": units_and_norm.of(slice(0, width)),
        "norm": units_and_norm.of(slice(width, None)),
        "unit_rows+norm": units_and_norm,
    }
