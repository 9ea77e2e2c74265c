"""Rows of the token stream as training examples, in the stream's order.

B rows of a batch, T positions. Example i is row i modulo the number of rows, so that every pass
over the corpus has the same order; what is masked is a function of the seed and i alone, so that a
resumed training sees the same.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from dynamics.corpus.tokens import TokenStream

IGNORED = -100  # the label that cross-entropy leaves out

Batch = dict[str, torch.Tensor]


class CausalRows(Dataset[Batch]):
    """Inputs [:-1] and labels [1:] of rows, already shifted: the model must not shift again.

    Attributes:
        targets_per_row: Labels of a row that enter the loss.
    """

    def __init__(self, stream: TokenStream, examples: int) -> None:
        self.stream = stream
        self.examples = examples
        self.targets_per_row = stream.sequence_length

    def __len__(self) -> int:
        return self.examples

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        rows = self._rows(indices)
        return {"input_ids": rows[:, :-1].contiguous(), "labels": rows[:, 1:].contiguous()}

    def _rows(self, indices: Sequence[int]) -> torch.Tensor:
        """Ids of the rows of some examples, T + 1 each."""
        rows = self.stream.ids[np.asarray(indices) % self.stream.rows]
        return torch.from_numpy(rows.astype(np.int64))


class MaskedRows(CausalRows):
    """Inputs [:T] of rows, of which a fixed number is masked and predicted: BERT's recipe.

    Of the predicted positions 80 % show the mask, 10 % a random one of `random_ids` and 10 %
    their own id (Devlin et al. 2019, section 3.1). End-of-text is never predicted; a row with fewer
    other positions than the fixed number has all of them predicted.
    """

    def __init__(
        self,
        stream: TokenStream,
        examples: int,
        *,
        mask_id: int,
        random_ids: np.ndarray,
        share: float,
        seed: int,
    ) -> None:
        super().__init__(stream, examples)
        self.mask_id = mask_id
        self.random_ids = random_ids
        self.seed = seed
        self.targets_per_row = max(1, round(share * stream.sequence_length))

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        ids = self._rows(indices)[:, :-1].contiguous()
        labels = torch.full_like(ids, IGNORED)
        for example, row, label in zip(indices, ids.numpy(), labels.numpy(), strict=True):
            rng = np.random.default_rng([self.seed, example])
            eligible = np.flatnonzero(row != self.stream.info.end_of_text_id)
            predicted = rng.permutation(eligible)[: self.targets_per_row]
            label[predicted] = row[predicted]
            draw = rng.random(predicted.size)
            random_ids = rng.choice(self.random_ids, predicted.size)
            # Devlin et al. 2019, section 3.1: 80 % mask, 10 % random, 10 % unchanged
            row[predicted] = np.where(
                draw < 0.8, self.mask_id, np.where(draw < 0.9, random_ids, row[predicted])
            )
        return {"input_ids": ids, "labels": labels}
