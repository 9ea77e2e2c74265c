"""One tensor of a file, without the model."""

import hashlib
from collections.abc import Iterator

import torch

from dynamics.checkpoints.formats.byte_sources import ByteSource
from dynamics.checkpoints.formats.entries import TensorEntry

_ROWS = 1024  # copied at once where the elements are not in order


def read_tensor(source: ByteSource, entry: TensorEntry, rows: slice | None = None) -> torch.Tensor:
    """Read a tensor, or some consecutive rows of it, in the dtype it has on disk.

    Only the span the tensor covers is read. Where the source hands out writable views, the tensor
    is a view too; writing to it changes neither the file nor what is read later from a new source.

    Args:
        source: The file.
        entry: The tensor in the index of that file.
        rows: Which rows, all of them when None; bounds as in slicing a list.

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
    if flat.data_ptr() % entry.dtype.itemsize:  # torch expects elements at multiples of their size
        flat = flat.clone()
    return flat.view(entry.dtype).as_strided(entry.shape, entry.stride)


def digest(tensor: torch.Tensor) -> str:
    """Hexadecimal SHA-256 of a tensor's dtype, shape and elements, row by row.

    Equal tensors have equal digests, whatever file, format or strides they were read from.
    """
    dtype = str(tensor.dtype).removeprefix("torch.")
    content = hashlib.sha256(f"{dtype} {tuple(tensor.shape)}\n".encode())
    for part in row_bytes(tensor):
        content.update(part)
    return content.hexdigest()


def row_bytes(tensor: torch.Tensor) -> Iterator[memoryview]:
    """The bytes of a tensor's elements, row by row, in parts; without a copy of the whole."""
    for part in torch.atleast_1d(tensor.detach()).split(_ROWS):
        yield part.contiguous().flatten().view(torch.uint8).numpy().data
