"""Scalars of a whole embedding matrix at one checkpoint: a function and a `MATRICES` entry each.

A function yields the scalars that apply to an embedding, possibly none, as rows of `trends.parquet`
without a step. They are of the embedding unless a row names another `measure`.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from dynamics.axes import EmbeddingMatrix, HiddenVector, TokenScores
from dynamics.measure_groups import MeasureGroup
from dynamics.runs.trends import LEVEL, Row, estimate_row, trend_row
from dynamics.scores.norms import chunks, mean_row
from dynamics.scores.spectrum import effective_rank, second_moment
from dynamics.statistics.correlation import spearman
from dynamics.statistics.line import least_squares_line
from dynamics.statistics.readout import Moments, cross_validated_ridge, fold_of, moments
from dynamics.statistics.vocabulary import VocabularyRule
from dynamics.tracking.measure_functions import View

MOST_ROWS = 8192
"""Most rows that enter a quantity whose cost grows with rows times D^2, unless `every_row` is set.

They are drawn at random, the same rows at every step; the column `n` has their number.
"""

INFORMATION_GAIN = ("information_gain_symmetric", "information_gain_right_all")
"""Columns of counts that the whitened norm is compared with; the first one present is used."""


@dataclass(frozen=True)
class MatrixView:
    """One embedding at one checkpoint, with the columns of its tokens.

    Attributes:
        view: The embedding.
        tokens: `count`, `kind`, `log_frequency` and more of each row; None without counts.
        rule: Vocabulary rule of what is compared with frequency; None without counts.
        bias: For an output embedding, the bias added to the logits.
        folded_bias: For a head without bias, what the final norm's bias adds to the logits.
        whitened: Whitened norms of the input embedding, None where they were not measured.
        every_row: Whether all rows enter, whatever the cost.
    """

    view: View
    tokens: Mapping[str, np.ndarray] | None
    rule: VocabularyRule | None
    bias: TokenScores | None = None
    folded_bias: TokenScores | None = None
    whitened: TokenScores | None = None
    every_row: bool = False

    @cached_property
    def rule_mask(self) -> Bool[np.ndarray, " V"]:
        """Mask of the tokens that the rule keeps; all False without counts."""
        if self.tokens is None or self.rule is None:
            return np.zeros(len(self.view.matrix), dtype=bool)
        return self.rule.mask(self.tokens["count"], self.tokens["kind"])

    def sample_ids(self, rows: Bool[np.ndarray, " V"]) -> Integer[np.ndarray, " n"]:
        """Return ids of these rows, ascending; at most `MOST_ROWS` unless `every_row` is set."""
        ids = np.flatnonzero(rows)
        if self.every_row or len(ids) <= MOST_ROWS:
            return ids
        return np.sort(np.random.default_rng(0).choice(ids, MOST_ROWS, replace=False))


def mean_direction(embedding: MatrixView) -> Iterator[Row]:
    """Size of the mean row m relative to the rows: the part that all rows share.

    Its share of the sum of squared norms, n |m|^2 / sum |row|^2, and |m| over the mean norm (F2).
    Both are NaN for a matrix of zeros.
    """
    view = embedding.view
    norms = view.norms.double()
    norms = norms if view.entries is None else norms[view.entries]
    length = torch.linalg.vector_norm(view.means["uniform"])
    share = length**2 / norms.square().mean()  # n |m|^2 / sum |row|^2
    ratio = length / norms.mean()
    yield trend_row(share.item(), len(norms), statistic="mean_direction_share")
    yield trend_row(ratio.item(), len(norms), statistic="mean_shift_ratio")


def identical_rows(embedding: MatrixView) -> Iterator[Row]:
    """Number of rows that equal another row bit by bit, and of groups that they form.

    They have equal norms, so that correlations count them as ties; they are not independent. Rows
    that pad the matrix do not count.
    """
    view, found = embedding.view, embedding.view.identical
    representatives = found.representatives
    if view.entries is not None:
        representatives = representatives[view.entries[found.ids]]
    sizes = representatives.bincount()
    sizes = sizes[sizes > 1]
    rows = len(view.matrix) if view.entries is None else int(view.entries.sum())
    yield trend_row(float(sizes.sum()), rows, statistic="identical_rows")
    yield trend_row(float(len(sizes)), rows, statistic="identical_row_groups")


def effective_ranks(embedding: MatrixView) -> Iterator[Row]:
    """Effective rank of the rows, without and with centring."""
    entries = embedding.view.entries
    matrix = embedding.view.matrix
    rows = np.ones(len(matrix), dtype=bool) if entries is None else entries.cpu().numpy()
    ids = embedding.sample_ids(rows)
    matrix = matrix[torch.from_numpy(ids).to(matrix.device)] if len(ids) < len(rows) else matrix
    mean = mean_row(matrix)
    centered = second_moment(matrix, shift=mean)
    moment = centered + torch.outer(mean, mean)  # E[x x^T] = Cov(x) + m m^T
    yield trend_row(effective_rank(moment), len(ids), statistic="effective_rank")
    yield trend_row(effective_rank(centered), len(ids), statistic="effective_rank_centered")


def frequency_readout(embedding: MatrixView) -> Iterator[Row]:
    """Share of the variance of log count that a linear read-out of the row predicts (F15)."""
    if embedding.tokens is None or not embedding.rule_mask.any():
        return
    ids = embedding.sample_ids(embedding.rule_mask)
    folds = _folds(embedding.view.matrix, ids, np.log(embedding.tokens["count"][ids]))
    for predictors, fold_moments in folds.items():
        readout = cross_validated_ridge(fold_moments)
        yield trend_row(
            readout.r2,
            readout.n,
            interval=readout.confidence_interval(LEVEL),
            statistic="readout_r2",
            against="log_frequency",
            given=predictors,
            rule=str(embedding.rule),
        )


def bias_frequency(embedding: MatrixView) -> Iterator[Row]:
    """Rank correlation of the output bias with log frequency, and its slope tau (F16).

    For a model without output bias, its final LayerNorm's bias beta adds U beta to the logits.
    """
    for measure, bias in (
        ("output_bias", embedding.bias),
        ("output_bias_folded", embedding.folded_bias),
    ):
        if bias is None or embedding.tokens is None or not embedding.rule_mask.any():
            continue
        values = bias.double().cpu().numpy()[embedding.rule_mask]
        frequency = embedding.tokens["log_frequency"][embedding.rule_mask]
        labels = {"measure": measure, "against": "log_frequency", "rule": str(embedding.rule)}
        slope, _ = least_squares_line(frequency, values)
        yield estimate_row(spearman(values, frequency), statistic="spearman", **labels)
        yield estimate_row(slope, statistic="slope", **labels)


def whitened_norm_law(embedding: MatrixView) -> Iterator[Row]:
    """Whitened squared norm against twice the information gain, through the origin (F7)."""
    if embedding.whitened is None or embedding.tokens is None:
        return
    gain = next((name for name in INFORMATION_GAIN if name in embedding.tokens), None)
    if gain is None:
        return
    fitted = embedding.rule_mask & np.isfinite(embedding.tokens[gain])
    if not fitted.any():
        return
    squares = embedding.whitened.double().square().numpy()[fitted]
    # Oyama et al. 2023, eq. 12-14: squared whitened norm = 2 KL, a line of slope 1
    slope, r2 = least_squares_line(2 * embedding.tokens[gain][fitted], squares, through_origin=True)
    labels = {
        "measure": "input_embedding_norm_whitened",
        "against": gain,
        "rule": str(embedding.rule),
    }
    yield estimate_row(slope, statistic="whitened_slope", **labels)
    yield estimate_row(r2, statistic="whitened_r2", **labels)


@dataclass(frozen=True)
class MatrixStatistic:
    """A statistic of whole matrices.

    Attributes:
        rows: Function that yields its rows of trends.
        group: Group of measures that it is taken with.
        of_the_head: Whether it is of the output embedding even where that is the input embedding;
            the others are not repeated for a tied one.
    """

    rows: Callable[[MatrixView], Iterator[Row]]
    group: MeasureGroup
    of_the_head: bool = False


MATRICES: dict[str, MatrixStatistic] = {
    "mean_direction": MatrixStatistic(mean_direction, "norms"),
    "identical_rows": MatrixStatistic(identical_rows, "norms"),
    "effective_rank": MatrixStatistic(effective_ranks, "ranks"),
    "frequency_readout": MatrixStatistic(frequency_readout, "readouts"),
    "bias_frequency": MatrixStatistic(bias_frequency, "norms", of_the_head=True),
    "whitened_norm_law": MatrixStatistic(whitened_norm_law, "spectrum", of_the_head=True),
}


def matrix_rows(role: str, embedding: MatrixView, *, step: int) -> list[Row]:
    """Return all scalars that apply to one embedding, as rows of `trends.parquet`."""
    view = embedding.view
    repeated = view.tied and role == "output_embedding"
    return [
        {"measure": role, **row, "step": step}
        for statistic in MATRICES.values()
        if statistic.group in view.groups and (statistic.of_the_head or not repeated)
        for row in statistic.rows(embedding)
    ]


def folded_bias(matrix: EmbeddingMatrix, bias: HiddenVector) -> TokenScores:
    """Return U beta, what the final norm's bias beta adds to each logit, in float64."""
    logits = torch.empty(len(matrix), dtype=torch.float64, device=matrix.device)
    bias = bias.double().to(matrix.device)
    for start, rows in chunks(matrix, torch.float64):
        logits[start : start + len(rows)] = rows @ bias
    return logits


def _folds(
    matrix: EmbeddingMatrix, ids: Integer[np.ndarray, " n"], target: Float[np.ndarray, " n"]
) -> dict[str, Moments]:
    """Return the moments of the folds for each set of predictors.

    Predictors are centred and divided by one number for each kind (row, unit row, norm), so that
    their mean variance is 1 and directions keep their shape. The unit row of zeros is zeros.
    """
    target = target - target[0]  # so that equal values become exact zeros
    target = target - target.mean()
    fold = fold_of(len(ids))
    parts = [
        (torch.from_numpy(ids[fold == k]).to(matrix.device), target[fold == k])
        for k in np.unique(fold)
    ]
    width = matrix.shape[1]
    dtype = torch.promote_types(matrix.dtype, torch.float32)

    def features(part: Integer[Tensor, " n"]) -> Float[Tensor, "n F"]:
        rows = matrix[part].to(dtype)
        norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        return torch.cat([rows, torch.where(norms > 0, rows / norms, 0), norms], dim=1)

    total, squares = torch.zeros(2, 2 * width + 1, dtype=torch.float64, device=matrix.device)
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
        ((features(part).sub_(mean).div_(scale).cpu().numpy(), values) for part, values in parts),
        [slice(0, width), slice(width, None)],
    )
    return {
        "rows": rows,
        "unit_rows": units_and_norm.of(slice(0, width)),
        "norm": units_and_norm.of(slice(width, None)),
        "unit_rows+norm": units_and_norm,
    }
