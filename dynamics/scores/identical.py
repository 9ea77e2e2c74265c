"""Rows of a matrix that are equal bit by bit, such as those of tokens that were never trained."""

import hashlib
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor

from dynamics.axes import EmbeddingMatrix
from dynamics.scores.norms import READ_ROWS, Rows

_PROBED_BYTES = 16
"""Bytes of a row that are compared first; only rows that agree in them are compared whole."""


@dataclass(frozen=True)
class IdenticalRows:
    """Rows that are equal bit by bit to another row of the same matrix.

    Attributes:
        ids: Ids of these rows, ascending.
        representatives: For each of them the lowest id of a row that it equals.
    """

    ids: Integer[Tensor, " m"]
    representatives: Integer[Tensor, " m"]

    @property
    def groups(self) -> int:
        """Number of different rows among them."""
        return len(self.representatives.unique())

    @property
    def largest(self) -> Integer[Tensor, " k"]:
        """Ids of the rows of the largest group, ascending; the first of equally large ones."""
        if not len(self.ids):
            return self.ids
        return self.ids[self.representatives == self.representatives.bincount().argmax()]

    def tie(self, scores: Float[Tensor, " V *M"]) -> Float[Tensor, " V *M"]:
        """Give rows that are equal equal scores, in place, and return the scores.

        A product of matrices may round the last bit of equal rows differently.
        """
        scores[self.ids] = scores[self.representatives]
        return scores


def identical_rows(matrix: EmbeddingMatrix | Rows) -> IdenticalRows:
    """Find the rows that are equal bit by bit to another row.

    Zeros of different sign are different, and so are NaNs of different bits.

    Example:
        >>> found = identical_rows(torch.tensor([[1.0, 2.0], [0.0, 0.0], [1.0, 2.0]]))
        >>> found.ids.tolist(), found.representatives.tolist()
        ([0, 2], [0, 0])
    """
    ids_by_digest: dict[bytes, list[int]] = defaultdict(list)
    for row in _candidates(matrix).tolist():
        content = _bytes(matrix[row : row + 1]).tobytes()
        ids_by_digest[hashlib.blake2b(content, digest_size=16).digest()].append(row)
    pairs = sorted((row, ids[0]) for ids in ids_by_digest.values() if len(ids) > 1 for row in ids)
    ids, representatives = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).T
    device = matrix[:0].device
    return IdenticalRows(ids.to(device), representatives.to(device))


def _candidates(matrix: EmbeddingMatrix | Rows) -> Integer[np.ndarray, " n"]:
    """Return ids of rows that agree with another row in a few elements."""
    height, width = matrix.shape
    count = min(width, max(1, _PROBED_BYTES // matrix.dtype.itemsize))
    columns = torch.linspace(0, width - 1, count).long()
    parts = [
        _bytes(matrix[start : start + READ_ROWS][:, columns.to(matrix[:0].device)])
        for start in range(0, height, READ_ROWS)
    ]
    if not parts:
        return np.empty(0, np.int64)
    probed = np.ascontiguousarray(np.concatenate(parts))
    _, inverse, sizes = np.unique(
        probed.view(f"V{probed.shape[1]}").ravel(), return_inverse=True, return_counts=True
    )
    return np.flatnonzero(sizes[inverse] > 1)


def _bytes(rows: Tensor) -> np.ndarray:
    """Return the bytes of each row."""
    return rows.contiguous().cpu().view(torch.uint8).numpy()
