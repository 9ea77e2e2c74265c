"""Where one tensor lies in a file, and what the bytes there mean."""

import math
from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True)
class TensorEntry:
    """A tensor in a file.

    Attributes:
        dtype: Type of the elements on disk.
        shape: Sizes of the axes.
        stride: Steps between neighbours along each axis, in elements; what is not contiguous on
            disk (a transposed tensor, a column of another) is described, not rearranged.
        offset: Position of the first element in the file, in bytes.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor itself."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def span(self) -> int:
        """Bytes in the file from the first element to the last, both included."""
        return span(self.shape, self.stride) * self.dtype.itemsize

    def rows(self, rows: slice) -> "TensorEntry":
        """The entry of some consecutive rows, as if they were a tensor of their own.

        Raises:
            ValueError: The rows are not consecutive, or the tensor has none.
        """
        if not self.shape or rows.step not in (None, 1):
            raise ValueError(f"rows are consecutive rows of a matrix, not {rows} of {self.shape}")
        start, stop, _ = rows.indices(self.shape[0])
        return replace(
            self,
            shape=(max(0, stop - start), *self.shape[1:]),
            offset=self.offset + start * self.stride[0] * self.dtype.itemsize,
        )


def contiguous_stride(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of a tensor that is stored row by row.

    Example:
        >>> contiguous_stride((4, 3, 2))
        (6, 2, 1)
    """
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def span(shape: tuple[int, ...], stride: tuple[int, ...]) -> int:
    """Elements from the first to the last of a strided tensor, both included.

    Example:
        >>> span((2, 3), (1, 2)), span((0, 3), (3, 1))
        (6, 0)
    """
    if 0 in shape:
        return 0
    return 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
