"""A matrix stored as codes (int8, float8, packed integers) with scales, read as numbers."""

from dataclasses import dataclass

import numpy as np
import torch

from dynamics.checkpoints.formats.readable_tensor import ReadableTensor, Rows, row_ids
from dynamics.checkpoints.packed_layouts import Layout

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_ROWS = 1024  # rows decoded at a time, to bound the memory of decoding


@dataclass(frozen=True)
class Part:
    """A stored tensor that a quantised matrix is made of.

    Attributes:
        name: Name in its layout.
        tensor: The tensor.
        by_row: Whether it has one row per row of the matrix; otherwise it is read whole.
    """

    name: str
    tensor: ReadableTensor
    by_row: bool


@dataclass(frozen=True)
class QuantisedTensor:
    """A matrix stored as codes, read as float32.

    Attributes:
        parts: Its codes first, then scales and zero points.
        shape: V and D.
        layout: Arithmetic that decodes its rows from the parts.
    """

    parts: tuple[Part, ...]
    shape: tuple[int, ...]
    layout: Layout
    dtype: torch.dtype = torch.float32

    @property
    def filename(self) -> str:
        """File that holds the codes."""
        return self.parts[0].tensor.filename

    @property
    def file_bytes(self) -> int:
        """Size in bytes of the file `filename`."""
        return self.parts[0].tensor.file_bytes

    @property
    def nbytes(self) -> int:
        """Bytes of codes and scales in the files."""
        return sum(part.tensor.nbytes for part in self.parts)

    def read(self, rows: Rows = None) -> torch.Tensor:
        """Decode the matrix, or consecutive rows of it, or those of ascending ids, to float32.

        Raises:
            CheckpointError: There is no row of an id, or a file cannot be read.
        """
        ids = row_ids(rows, self.shape, self.filename, "matrix")
        tensors = {
            part.name: part.tensor.read(rows if part.by_row else None) for part in self.parts
        }
        values = torch.empty(len(ids), *self.shape[1:])
        for start in range(0, len(ids), _ROWS):
            chunk = slice(start, start + _ROWS)
            chunk_parts = {
                part.name: tensors[part.name][chunk] if part.by_row else tensors[part.name]
                for part in self.parts
            }
            values[chunk] = self.layout.decode(chunk_parts, ids[chunk])
        return values

    def part_bytes(self, ids: np.ndarray) -> list[int]:
        """Return the bytes of each file range that is read for the rows of ascending ids."""
        sizes: list[int] = []
        for part in self.parts:
            sizes += part.tensor.part_bytes(ids) if part.by_row else [part.tensor.nbytes]
        return sizes


def quantised_matrix(
    shape: tuple[int, ...],
    layout: Layout,
    *,
    read_whole: tuple[str, ...] = (),
    **parts: ReadableTensor | None,
) -> QuantisedTensor:
    """Build a quantised matrix; parts of V rows are read by row, except `read_whole`.

    Args:
        shape: V and D.
        layout: Arithmetic that decodes its rows from the parts.
        read_whole: Names of parts that are read whole, whatever their shape.
        parts: Its parts by their names in the layout, the codes first; None for an absent one.
    """
    read_whole = (*read_whole, "g_idx")
    present = tuple(
        Part(name, tensor, by_row=name not in read_whole and tensor.shape[:1] == shape[:1])
        for name, tensor in parts.items()
        if tensor is not None
    )
    return QuantisedTensor(present, shape, layout)
