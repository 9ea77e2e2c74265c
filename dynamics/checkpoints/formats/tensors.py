"""Reading of one tensor from a file, and the digest of its values."""

import hashlib
from collections.abc import Iterator

import torch

from dynamics.checkpoints.formats.byte_sources import ByteSource
from dynamics.checkpoints.formats.tensor_entries import TensorEntry, dtype_name

_ROWS = 1024  # rows copied at a time where the elements are not contiguous


def read_tensor(source: ByteSource, entry: TensorEntry, rows: slice | None = None) -> torch.Tensor:
    """Read a tensor, or some consecutive rows of it, in the dtype it has on disk.

    Only the span of the tensor is read. Where the source returns writable views, the tensor is a
    view too; writing to it changes neither the file nor later reads from a new source.

    Args:
        source: The file.
        entry: The tensor in the index of that file.
        rows: Rows to read, all of them when None; bounds as in slicing a list.

    Returns:
        The tensor, with the strides it has on disk.

    Raises:
        CheckpointError: The file is shorter than its index says.
        ValueError: The rows are not consecutive.
    """
    if rows is not None:
        entry = entry.rows(rows)
    if not entry.nbytes:
        return torch.empty(entry.shape, dtype=entry.dtype)
    content = source.read(entry.offset, entry.offset + entry.span)
    if memoryview(content).readonly:
        content = bytearray(content)
    flat = torch.frombuffer(content, dtype=torch.uint8)
    if flat.data_ptr() % entry.dtype.itemsize:  # torch requires elements at multiples of their size
        flat = flat.clone()
    return flat.view(entry.dtype).as_strided(entry.shape, entry.stride)


def digest(tensor: torch.Tensor) -> str:
    """Compute the hexadecimal SHA-256 of a tensor's dtype, shape and elements, row by row.

    Equal tensors have equal digests, independent of file, format and strides.
    """
    content = hashlib.sha256(f"{dtype_name(tensor.dtype)} {tuple(tensor.shape)}\n".encode())
    for part in row_bytes(tensor):
        content.update(part)
    return content.hexdigest()


def row_bytes(tensor: torch.Tensor) -> Iterator[memoryview]:
    """Yield the bytes of a tensor's elements row by row, in parts, without copying all of it."""
    for part in torch.atleast_1d(tensor.detach()).split(_ROWS):
        yield part.contiguous().flatten().view(torch.uint8).numpy().data
