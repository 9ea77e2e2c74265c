"""Position, type, shape and strides of one tensor in a file."""

import math
from dataclasses import dataclass, replace

import torch

from dynamics.checkpoints.formats.readable_tensor import consecutive_range


@dataclass(frozen=True)
class TensorEntry:
    """Header entry of a tensor in a file.

    Attributes:
        dtype: Type of the elements on disk.
        shape: Sizes of the axes.
        stride: Distance between neighbours along each axis, in elements; a tensor that is not
            contiguous on disk (transposed, a column of another) is described as it lies there.
        offset: Position of the first element in the file, in bytes.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    @property
    def nbytes(self) -> int:
        """Bytes of the elements."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def span(self) -> int:
        """Bytes in the file from the first element to the last, both included."""
        return span(self.shape, self.stride) * self.dtype.itemsize

    def rows(self, rows: slice) -> "TensorEntry":
        """Return the entry of consecutive rows, as of a separate tensor.

        Raises:
            ValueError: The rows are not consecutive, or the tensor has none.
        """
        start, stop = consecutive_range(rows, self.shape)
        return replace(
            self,
            shape=(stop - start, *self.shape[1:]),
            offset=self.offset + start * self.stride[0] * self.dtype.itemsize,
        )


def dtype_name(dtype: torch.dtype) -> str:
    """Return the name of a type of numbers.

    Example:
        >>> dtype_name(torch.bfloat16)
        'bfloat16'
    """
    return str(dtype).removeprefix("torch.")


def contiguous_stride(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides of a tensor that is stored row by row.

    Example:
        >>> contiguous_stride((4, 3, 2))
        (6, 2, 1)
    """
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def span(shape: tuple[int, ...], stride: tuple[int, ...]) -> int:
    """Count the elements from the first to the last of a strided tensor, both included.

    Example:
        >>> span((2, 3), (1, 2)), span((0, 3), (3, 1))
        (6, 0)
    """
    if 0 in shape:
        return 0
    return 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
