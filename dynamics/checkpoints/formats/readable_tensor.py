"""Interface of a tensor that is read whole or by rows, whatever the format of its files."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Int

from dynamics.errors import CheckpointError

Rows = slice | Sequence[int] | np.ndarray | None
"""Rows to read: consecutive ones, those of ascending ids, or all of them (None)."""


class ReadableTensor(Protocol):
    """One tensor of a checkpoint, read whole or by rows, in any format of its files."""

    @property
    def filename(self) -> str:
        """File that holds it, or the first of several."""
        ...

    @property
    def file_bytes(self) -> int:
        """Size in bytes of the file `filename`."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of its axes, as `read` returns it."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Type of its elements, as `read` returns it."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes that reading it whole takes from the files."""
        ...

    def read(self, rows: Rows = None) -> torch.Tensor:
        """Read it whole, or consecutive rows of it, or those of ascending ids."""
        ...

    def part_bytes(self, ids: np.ndarray) -> list[int]:
        """Bytes of each range of the files that reading the rows of ascending ids takes."""
        ...


def row_ids(
    rows: Rows, shape: tuple[int, ...], name: str, kind: str = "tensor"
) -> Int[np.ndarray, " n"]:
    """Return the ascending ids of the rows to read from a tensor.

    Args:
        rows: The rows.
        shape: Sizes of the axes of the tensor.
        name: Name of its file or checkpoint in messages.
        kind: Noun for it in messages.

    Raises:
        CheckpointError: There is no row of an id.
        ValueError: The rows of a slice are not consecutive.
    """
    if rows is None:
        return np.arange(shape[0])
    if isinstance(rows, slice):
        return np.arange(*consecutive_range(rows, shape))
    ids = np.asarray(rows)
    if len(ids) and ids[-1] >= shape[0]:
        raise CheckpointError(f"{name}: has no row {ids[-1]} in a {kind} of shape {shape}")
    return ids


def consecutive_range(rows: slice, shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the first row of a slice and the one after its last, equal when it has none.

    Raises:
        ValueError: The rows are not consecutive, or the tensor has none.
    """
    if not shape or rows.step not in (None, 1):
        raise ValueError(f"rows are consecutive rows of a matrix, not {rows} of {shape}")
    start, stop, _ = rows.indices(shape[0])
    return start, max(start, stop)
