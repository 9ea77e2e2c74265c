"""Held-out loss of a model, row by row of a token stream.

R rows of T1 = T + 1 ids, T positions, N targets of a batch, D hidden size.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from dynamics.errors import ConfigError, MeasureError
from dynamics.models.live_model import Batch, LiveModel
from dynamics.runs.trends import LEVEL, Row, trend_row
from dynamics.statistics.intervals import Interval
from dynamics.statistics.student import student_quantile

MASKED_SHARE = 0.15  # of the positions of a row, as in training (Devlin et al. 2019)
LOGITS = 1 << 24  # largest number of logits in memory


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Rows whose tokens a model predicts.

    In a causal LM ids [:-1] predict ids [1:]. In a masked LM the ids [:T] are shown with 15 % of
    their positions masked, special tokens excepted, and these are predicted; the masked positions
    depend on the number of the row alone, so that all checkpoints predict the same tokens.

    Attributes:
        model: A causal or masked LM.
        rows: T + 1 token ids each.
        batch_size: Rows that run at once.

    Raises:
        ConfigError: The model is no causal or masked LM, its tokenizer has no mask token, or the
            rows are empty, too short, longer than its window, or of another vocabulary.
    """

    model: LiveModel
    rows: Int[np.ndarray, "R T1"]
    batch_size: int

    def __post_init__(self) -> None:
        model, rows = self.model, self.rows
        if model.task not in ("causal", "masked"):
            raise ConfigError(
                f"{model.name} is no causal or masked language model (its task is {model.task}), "
                "so it has no held-out loss"
            )
        if model.task == "masked" and not isinstance(model.tokenizer.mask_token_id, int):
            raise ConfigError(f"the tokenizer of {model.name} has no mask token")
        if self.batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1; got {self.batch_size}")
        if rows.ndim != 2 or not len(rows) or rows.shape[1] < 2:
            raise ConfigError(
                f"held-out rows of shape {rows.shape} have no token to predict; give rows of 2 "
                "tokens or more"
            )
        window = model.max_length
        if window is not None and rows.shape[1] - 1 > window:
            raise ConfigError(
                f"rows of {rows.shape[1] - 1} positions do not fit the window of {model.name}, "
                f"{window} tokens"
            )
        if rows.min() < 0 or rows.max() >= len(model.embedding_matrix):
            raise ConfigError(
                f"the held-out rows hold token ids from {rows.min()} to {rows.max()}, the "
                f"embedding of {model.name} has {len(model.embedding_matrix)} rows; they are of "
                "another tokenizer"
            )

    def __len__(self) -> int:
        return len(self.rows)

    def batches(self) -> Iterator["HeldOutBatch"]:
        """Yield batches of consecutive rows."""
        _ = self.model.head  # the head is checked before a surgery replaces weights
        for start in range(0, len(self), self.batch_size):
            rows = slice(start, start + self.batch_size)
            ids = torch.from_numpy(np.asarray(self.rows[rows], dtype=np.int64))
            if self.model.task == "causal":
                inputs, labels = ids[:, :-1], ids[:, 1:]
                targets = torch.ones_like(labels, dtype=torch.bool)
            else:
                labels, tokenizer = ids[:, :-1], self.model.tokenizer
                masks = [
                    _mask(row, tokenizer.all_special_ids, number)
                    for number, row in enumerate(labels.numpy(), start)
                ]
                targets = torch.from_numpy(np.stack(masks))
                inputs = torch.where(targets, torch.tensor(tokenizer.mask_token_id), labels)
            inputs, labels, targets = (t.to(self.model.device) for t in (inputs, labels, targets))
            yield HeldOutBatch(self.model, rows, inputs, labels, targets)


@dataclass(frozen=True, eq=False)
class HeldOutBatch:
    """A batch of held-out rows.

    Attributes:
        model: The model.
        rows: Slice of the rows in the batch.
        inputs: Token ids that the model reads.
        labels: Token id to predict at each position.
        target_mask: Mask of the positions that are predicted, at least one in each row.
    """

    model: LiveModel
    rows: slice
    inputs: Int[Tensor, "B T"]
    labels: Int[Tensor, "B T"]
    target_mask: Bool[Tensor, "B T"]

    @cached_property
    def _batch(self) -> Batch:
        """Inputs of the batch as the model takes them."""
        segments = torch.zeros_like(self.inputs) if self.model.has_segments else None
        return Batch(self.inputs, torch.ones_like(self.inputs), segments)

    @torch.no_grad()
    def states(self) -> Float[Tensor, "N D"]:
        """Run the model without its head; return the representation of each target."""
        return self.model.read(self._batch).read.final[self.target_mask]

    @torch.no_grad()
    def losses(self, states: Float[Tensor, "N D"]) -> Float[np.ndarray, " B"]:
        """Mean loss of each row in nats per target, computed in chunks of logits.

        Raises:
            MeasureError: A loss is not finite.
        """
        labels = self.labels[self.target_mask]
        size = max(1, LOGITS // len(self.model.embedding_matrix))
        losses = torch.cat(
            [
                cross_entropy(self.model.head(chunk).float(), chunk_labels, reduction="none")
                for chunk, chunk_labels in zip(states.split(size), labels.split(size), strict=True)
            ]
        ).double()
        if not losses.isfinite().all():
            raise MeasureError(
                f"the held-out loss of {self.model.name} is not finite; its weights or its dtype "
                "are at fault"
            )
        row = self.target_mask.nonzero()[:, 0]
        sums = torch.zeros(len(self.target_mask), dtype=losses.dtype, device=losses.device)
        return (sums.index_add(0, row, losses) / self.target_mask.sum(1)).numpy(force=True)


def interval_row(
    measure: str, against: str, statistic: str, values: Float[np.ndarray, " R"]
) -> Row:
    """Row of trends with the mean and Student's 95 % interval; NaN ends for fewer than two rows."""
    mean, n = float(values.mean()), len(values)
    half_width = np.nan
    if n > 1:  # Student: t s / sqrt(n)
        half_width = float(student_quantile(LEVEL, n - 1) * values.std(ddof=1) / np.sqrt(n))
    interval = Interval(mean - half_width, mean + half_width)
    return trend_row(
        mean, n, interval=interval, measure=measure, against=against, statistic=statistic
    )


def _mask(ids: Int[np.ndarray, " T"], special: list[int], number: int) -> Bool[np.ndarray, " T"]:
    """Draw the masked positions of a row; any position where all its tokens are special."""
    eligible = np.flatnonzero(~np.isin(ids, special))
    if not len(eligible):
        eligible = np.arange(len(ids))
    masked_count = max(1, round(MASKED_SHARE * len(ids)))
    mask = np.zeros(len(ids), dtype=bool)
    mask[np.random.default_rng(number).permutation(eligible)[:masked_count]] = True
    return mask
