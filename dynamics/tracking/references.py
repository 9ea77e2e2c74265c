"""Matrices that others are held against, on disk: read once, and no burden on memory.

A folder's are read from its files again, chunk by chunk. What came over a network is written to a
file without a name, which vanishes with the process that wrote it, however that ends.
"""

import tempfile
import threading
import uuid
import weakref
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError
from mmap import ACCESS_COPY, mmap
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dynamics.checkpoints.architectures import Role
from dynamics.checkpoints.checkpoint import Checkpoint
from dynamics.checkpoints.formats.byte_sources import check_range
from dynamics.checkpoints.formats.tensor_entries import TensorEntry, contiguous_stride
from dynamics.checkpoints.formats.tensors import read_tensor, row_bytes
from dynamics.errors import OutputError

LEASE = 300.0
"""Seconds for which another process keeps references that no work there uses."""


class StoredRows:
    """A matrix whose rows are read when they are asked for.

    Args:
        shape: Rows and columns.
        dtype: Type of the elements.
        read: Reads consecutive rows.
    """

    def __init__(
        self, shape: tuple[int, ...], dtype: torch.dtype, read: Callable[[slice], Tensor]
    ) -> None:
        self.shape = shape
        self.dtype = dtype
        self._read = read

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> Tensor:
        return self._read(rows)


class References:
    """The embeddings of one checkpoint, for all the work of one walk.

    Threads share one. Another process that is sent it keeps one for each walk, until it has had no
    work of that walk for `LEASE` seconds.

    Args:
        first: The checkpoint.
        rows: Ids of the rows that are read, all of them when None.
        walk: What tells the walk from others.
        lent: Whether this is another process than the walk's.
    """

    def __init__(
        self,
        first: Checkpoint,
        rows: np.ndarray | None = None,
        walk: str | None = None,
        *,
        lent: bool = False,
    ) -> None:
        self.first = first
        self.rows = rows
        self._walk = walk or uuid.uuid4().hex
        self._lent = lent
        self._held: dict[Role, StoredRows] = {}
        self._over = False
        self._reading = threading.Lock()
        self._users = 0
        self._counting = threading.Lock()
        self._lease: threading.Timer | None = None

    def get(self, role: Role) -> StoredRows:
        """One of the embeddings, read by whoever asks first.

        Raises:
            CheckpointError: It cannot be read.
            OutputError: There is no room for a copy of it.
            CancelledError: The walk has ended.
        """
        with self._reading:
            held = self._held  # what is added after the end of the walk is added to nothing
            if self._over:
                raise CancelledError
            if role not in held:
                held[role] = stored(self.first, role, self.rows)
            return held[role]

    def end(self) -> None:
        """Let go of everything; work that is still under way gets no more."""
        self._over, self._held = True, {}

    def __enter__(self) -> "References":
        with self._counting:
            self._users += 1
            if self._lease is not None:
                self._lease.cancel()
                self._lease = None
        return self

    def __exit__(self, *_: object) -> None:
        with self._counting:
            self._users -= 1
            if self._lent and not self._users:
                self._lease = threading.Timer(LEASE, self._expire)
                self._lease.daemon = True
                self._lease.start()

    def _expire(self) -> None:
        with self._counting:
            if not self._users:
                self._held, self._lease = {}, None

    def __reduce__(self) -> tuple[Callable[..., "References"], tuple[Any, ...]]:
        return _lend, (self.first, self.rows, self._walk)


_lent: weakref.WeakValueDictionary[str, References] = weakref.WeakValueDictionary()
_lending = threading.Lock()


def _lend(first: Checkpoint, rows: np.ndarray | None, walk: str) -> References:
    """The references of a walk in a process that was sent them."""
    with _lending:
        found = _lent.get(walk) or References(first, rows, walk, lent=True)
        _lent[walk] = found
        return found


def stored(
    checkpoint: Checkpoint, role: Role, rows: np.ndarray | None, matrix: Tensor | None = None
) -> StoredRows:
    """An embedding that is read in parts, without being held.

    Args:
        checkpoint: Whose it is.
        role: Which one.
        rows: Ids of the rows that are meant, all of them when None.
        matrix: These rows, where they have been read anyway.

    Raises:
        CheckpointError: It cannot be read.
        OutputError: There is no room for a copy of it.
    """
    located = checkpoint.locate(role)
    if checkpoint.path is not None and rows is None:
        return StoredRows(located.shape, located.dtype, located.read)
    matrix = located.read(rows) if matrix is None else matrix
    entry = TensorEntry(matrix.dtype, tuple(matrix.shape), contiguous_stride(matrix.shape), 0)
    file = _NamelessFile(row_bytes(matrix))
    return StoredRows(entry.shape, entry.dtype, lambda rows: read_tensor(file, entry, rows))


class _NamelessFile:
    """Bytes on disk, which go with this object; mapped anew by every read, as `LocalFile` is."""

    name = "the copy of an embedding"

    def __init__(self, parts: Iterable[memoryview]) -> None:
        try:
            file = tempfile.TemporaryFile()  # noqa: SIM115 (closed with this object)
            weakref.finalize(self, file.close)
            for part in parts:
                file.write(part)
            file.flush()
        except OSError as error:
            raise OutputError(
                f"{tempfile.gettempdir()}: cannot hold a copy of an embedding "
                f"({error.strerror}); free space, or name another folder in TMPDIR"
            ) from error
        self._file = file
        self.size = file.tell()

    def read(self, start: int, stop: int) -> memoryview:
        """The bytes from `start` up to `stop`, as a view."""
        check_range(self, start, stop)
        return memoryview(mmap(self._file.fileno(), 0, access=ACCESS_COPY))[start:stop]
