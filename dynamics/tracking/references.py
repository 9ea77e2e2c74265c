"""Reference matrices of the first checkpoint, kept on disk so that they cost no memory.

Those of a folder are read from its files, chunk by chunk. Those of a hub are read once, into a
file without a name that vanishes with the process, however it ends.
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
from jaxtyping import Bool
from torch import Tensor

from dynamics.axes import HiddenVector
from dynamics.checkpoints.architectures import Role
from dynamics.checkpoints.checkpoint import Checkpoint
from dynamics.checkpoints.formats.byte_sources import check_range
from dynamics.checkpoints.formats.tensor_entries import TensorEntry, contiguous_stride
from dynamics.checkpoints.formats.tensors import read_tensor, row_bytes
from dynamics.errors import OutputError
from dynamics.scores.norms import mean_row

LEASE = 300.0
"""Seconds for which a worker process keeps references that are not in use."""


class StoredRows:
    """A matrix whose rows are read when it is sliced.

    Args:
        shape: Rows and columns.
        dtype: Type of the elements.
        read: Returns consecutive rows.
    """

    def __init__(
        self, shape: tuple[int, ...], dtype: torch.dtype, read: Callable[[slice], Tensor]
    ) -> None:
        self.shape = shape
        self.dtype = dtype
        self._read = read
        self._mean: HiddenVector | None = None

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> Tensor:
        return self._read(rows)

    def mean(self, entries: Bool[Tensor, " V"] | None) -> HiddenVector:
        """Return the mean of some rows, all when None; it is kept, so give the same rows always."""
        if self._mean is None:
            self._mean = mean_row(self, entries)
        return self._mean


class References:
    """The embeddings of the reference checkpoint, shared by all measurements of one walk.

    Threads share one object. A process that receives it by pickling keeps one object per walk,
    until it has not been used for `LEASE` seconds.

    Args:
        first: The checkpoint.
        rows: Ids of the rows that are read, all of them when None.
        walk: Unique id of the walk; a new one when None.
        lent: Whether this process received the object by pickling.
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
        self._matrices: dict[Role, StoredRows] = {}
        self._ended = False
        self._reading = threading.Lock()
        self._users = 0
        self._counting = threading.Lock()
        self._lease: threading.Timer | None = None

    def get(self, role: Role) -> StoredRows:
        """Return an embedding; the first call for a role reads it.

        Raises:
            CheckpointError: It cannot be read.
            OutputError: There is no room for a copy of it.
            CancelledError: `end` was called.
        """
        with self._reading:
            matrices = self._matrices  # `end` replaces it: a late addition is then dropped
            if self._ended:
                raise CancelledError
            if role not in matrices:
                matrices[role] = stored(self.first, role, self.rows)
            return matrices[role]

    def end(self) -> None:
        """Release all matrices; later calls of `get` raise CancelledError."""
        self._ended, self._matrices = True, {}

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
                self._matrices, self._lease = {}, None

    def __reduce__(self) -> tuple[Callable[..., "References"], tuple[Any, ...]]:
        return _lend, (self.first, self.rows, self._walk)


_lent: weakref.WeakValueDictionary[str, References] = weakref.WeakValueDictionary()
_lending = threading.Lock()


def _lend(first: Checkpoint, rows: np.ndarray | None, walk: str) -> References:
    """Return this process's only references of a walk; called when they are unpickled."""
    with _lending:
        references = _lent.get(walk) or References(first, rows, walk, lent=True)
        _lent[walk] = references
        return references


def stored(
    checkpoint: Checkpoint, role: Role, rows: np.ndarray | None, matrix: Tensor | None = None
) -> StoredRows:
    """Return an embedding as rows on disk, read in parts and not kept in memory.

    Args:
        checkpoint: The checkpoint.
        role: Role of the embedding.
        rows: Ids of the rows, all of them when None.
        matrix: These rows, if they were read already.

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
    """A temporary file without a name, closed with this object; every read maps it anew."""

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
        """Return the bytes from `start` up to `stop`, as a view."""
        check_range(self, start, stop)
        return memoryview(mmap(self._file.fileno(), 0, access=ACCESS_COPY))[start:stop]
