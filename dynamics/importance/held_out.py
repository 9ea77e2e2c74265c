"""The loss of a model on rows of a token stream, row by row.

R rows of T1 = T + 1 ids, T positions, N targets of a batch, D hidden size.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import t
from torch import Tensor
from torch.nn.functional import cross_entropy

from dynamics.errors import ConfigError, MeasureError
from dynamics.models.live_model import Batch, LiveModel

MASKED_SHARE = 0.15  # of the positions of a row, as in training (Devlin et al. 2019)
LOGITS = 1 << 24  # logits that exist at once
LEVEL = 0.95


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Rows with what is predicted in them.

    In a causal LM ids [:-1] predict ids [1:]. In a masked LM the ids [:T] are shown with 15 % of
    their positions masked, special tokens excepted, and these are predicted; which ones depends on
    the number of the row alone, so that every checkpoint is asked the same.

    Attributes:
        model: A causal or masked LM.
        rows: T + 1 token ids each.
        batch_size: Rows that are run at once.

    Raises:
        ConfigError: The model is no causal or masked LM, its tokenizer has no mask token, or the
            rows are none, too short, longer than its window, or of another vocabulary.
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
            raise ConfigError(f"a batch of {self.batch_size} rows runs nothing; give 1 or more")
        if rows.ndim != 2 or not len(rows) or rows.shape[1] < 2:
            raise ConfigError(
                f"held-out rows of shape {rows.shape} predict nothing; give rows of 2 tokens or "
                "more"
            )
        longest = model.max_length
        if longest is not None and rows.shape[1] - 1 > longest:
            raise ConfigError(
                f"rows of {rows.shape[1] - 1} positions do not fit the window of {model.name}, "
                f"{longest} tokens"
            )
        if rows.min() < 0 or rows.max() >= len(model.embedding_matrix):
            raise ConfigError(
                f"the held-out rows hold token ids from {rows.min()} to {rows.max()}, the "
                f"embedding of {model.name} has {len(model.embedding_matrix)} rows; they are of "
                "another tokenizer"
            )

    def __len__(self) -> int:
        return len(self.rows)

    def batches(self) -> Iterator["Predicted"]:
        """Consecutive rows, ready to be run."""
        _ = self.model.head  # checked before anything is replaced
        for start in range(0, len(self), self.batch_size):
            here = slice(start, start + self.batch_size)
            ids = torch.from_numpy(np.asarray(self.rows[here], dtype=np.int64))
            if self.model.task == "causal":
                shown, labels = ids[:, :-1], ids[:, 1:]
                asked = torch.ones_like(labels, dtype=torch.bool)
            else:
                labels = ids[:, :-1]
                masks = [
                    _masked(row, self.model.tokenizer.all_special_ids, start + at)
                    for at, row in enumerate(labels.numpy())
                ]
                asked = torch.from_numpy(np.stack(masks))
                shown = torch.where(asked, torch.tensor(self.model.tokenizer.mask_token_id), labels)
            place = self.model.device
            yield Predicted(self.model, here, shown.to(place), labels.to(place), asked.to(place))


@dataclass(frozen=True, eq=False)
class Predicted:
    """Some of the rows.

    Attributes:
        model: The model.
        rows: Which ones.
        shown: What the model is given.
        labels: What it should predict at each position.
        asked: The positions that are predicted, at least one in each row.
    """

    model: LiveModel
    rows: slice
    shown: Int[Tensor, "B T"]
    labels: Int[Tensor, "B T"]
    asked: Bool[Tensor, "B T"]

    @cached_property
    def _batch(self) -> Batch:
        segments = torch.zeros_like(self.shown) if self.model.has_segments else None
        return Batch(self.shown, torch.ones_like(self.shown), segments)

    @torch.no_grad()
    def states(self) -> Float[Tensor, "N D"]:
        """What the head gets for each target: a forward pass without head."""
        return self.model.read(self._batch).read.final[self.asked]

    @torch.no_grad()
    def losses(self, states: Float[Tensor, "N D"]) -> Float[np.ndarray, " B"]:
        """Mean loss of each row in nats per target, a part of the logits at a time.

        Raises:
            MeasureError: It is not finite.
        """
        labels = self.labels[self.asked]
        size = max(1, LOGITS // len(self.model.embedding_matrix))
        each = torch.cat(
            [
                cross_entropy(self.model.head(some).float(), wanted, reduction="none")
                for some, wanted in zip(states.split(size), labels.split(size), strict=True)
            ]
        ).double()
        if not each.isfinite().all():
            raise MeasureError(
                f"the held-out loss of {self.model.name} is not finite; its weights or its dtype "
                "are at fault"
            )
        row = self.asked.nonzero()[:, 0]
        sums = torch.zeros(len(self.asked), dtype=each.dtype, device=each.device)
        return (sums.index_add(0, row, each) / self.asked.sum(1)).numpy(force=True)


def interval_row(
    measure: str, against: str, statistic: str, values: Float[np.ndarray, " R"]
) -> dict[str, object]:
    """The mean over rows, with Student's 95 % interval; NaN ends for fewer than two rows."""
    mean, n = float(values.mean()), len(values)
    reach = np.nan
    if n > 1:
        reach = float(t.ppf((1 + LEVEL) / 2, n - 1) * values.std(ddof=1) / np.sqrt(n))
    return {
        "measure": measure,
        "against": against,
        "statistic": statistic,
        "given": "",
        "value": mean,
        "low": mean - reach,
        "high": mean + reach,
        "n": n,
    }


def _masked(ids: Int[np.ndarray, " T"], special: list[int], number: int) -> Bool[np.ndarray, " T"]:
    """Positions of a row that are masked; any where all its tokens are special."""
    eligible = np.flatnonzero(~np.isin(ids, special))
    if not len(eligible):
        eligible = np.arange(len(ids))
    wanted = max(1, round(MASKED_SHARE * len(ids)))
    mask = np.zeros(len(ids), dtype=bool)
    mask[np.random.default_rng(number).permutation(eligible)[:wanted]] = True
    return mask
