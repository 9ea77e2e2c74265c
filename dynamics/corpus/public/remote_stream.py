"""A remote token stream: files on a hub, read as one array by ranges of bytes."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate, islice
from typing import TypeVar

import numpy as np

from dynamics.checkpoints.formats.byte_sources import ByteSource
from dynamics.checkpoints.hub.client import Hub
from dynamics.checkpoints.hub.revisions import HubRevision
from dynamics.checkpoints.stores import Traffic
from dynamics.errors import CorpusError

WORKERS = 8  # ranges that are read simultaneously

_NUMBERED = re.compile(r"(?P<stem>.*\D)(?P<number>\d+)-of-(?P<last>\d+)\.bin")

Rows = tuple[int, int]
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class RemoteStream:
    """A token stream in files that are read range by range.

    Attributes:
        name: Name in messages.
        shards: Files whose concatenated bytes are the array; a row, or even an id, may cross from
            one file into the next.
        dtype: Type of an id on disk, `uint16` or `uint32`, little-endian.
        row_length: Ids of a row: T inputs and one more.
        digest: SHA-256 that identifies the content.
        max_rows: Rows that training consumed, None for all; later rows are not read.
        traffic: Requests and bytes transferred so far.
    """

    name: str
    shards: Sequence[ByteSource]
    dtype: str
    row_length: int
    digest: str
    max_rows: int | None = None
    traffic: Traffic = field(default_factory=Traffic)

    @property
    def rows(self) -> int:
        """Number of whole rows; a remainder is dropped."""
        rows = self._ends[-1] // self.row_bytes
        return rows if self.max_rows is None else min(rows, self.max_rows)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return self.row_length * np.dtype(self.dtype).itemsize

    @cached_property
    def _ends(self) -> list[int]:
        """First byte of each file in the array, and the number of all bytes."""
        return list(accumulate((shard.size for shard in self.shards), initial=0))

    def read(self, start: int, stop: int) -> np.ndarray:
        """Read the ids of rows `start` to `stop` - 1, of shape (rows, row_length).

        Raises:
            CorpusError: There are no such rows.
            CheckpointError: The rows cannot be read.
        """
        if not 0 <= start <= stop <= self.rows:
            raise CorpusError(
                f"{self.name} has {self.rows:,} rows; rows {start:,} to {stop:,} are not in it"
            )
        begin, end = start * self.row_bytes, stop * self.row_bytes
        parts = []
        for shard, first in zip(self.shards, self._ends, strict=False):
            low, high = max(begin - first, 0), min(end - first, shard.size)
            if low < high:
                parts.append(shard.read(low, high))
        content = parts[0] if len(parts) == 1 else b"".join(parts)
        ids = np.frombuffer(content, np.dtype(self.dtype).newbyteorder("<"))
        return ids.reshape(-1, self.row_length)


def open_remote_stream(
    dataset: str,
    dtype: str,
    row_length: int,
    *,
    training_rows: int | None = None,
    hub: Hub | None = None,
) -> RemoteStream:
    """Open the token stream in a data set on a hub, without reading any of it.

    Sends one request for the list of files, and one for each file.

    Args:
        dataset: The data set, as namespace/name.
        dtype: Type of an id on disk, `uint16` or `uint32`, little-endian.
        row_length: Ids of a row.
        training_rows: Rows that training consumed, None for all; later rows are not read.
        hub: The hub; the one of the environment when None.

    Raises:
        CorpusError: The data set holds no such files, lacks one, or has too few rows.
        CheckpointError: It cannot be read.
    """
    hub = hub or Hub()
    traffic = Traffic(total=hub.transport.traffic)
    # Each worker reads with one connection, and what it counted is kept in place of what it read.
    transport = replace(hub.transport, connections=1, cache=None, traffic=traffic)
    hub = replace(hub, kind="dataset", transport=transport)
    commit, names = hub.files(dataset, "main")
    store = HubRevision(hub, dataset, "main", commit)
    files = [(name, store.open(name)) for name in shard_names(names, dataset)]
    shards = [shard for _, shard in files if shard is not None]
    sha256 = [store.sha256(name) for name, _ in files]
    identity = commit if None in sha256 else [[shard.size for shard in shards], sha256]
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    name = f"{dataset}@{commit}"
    stream = RemoteStream(name, shards, dtype, row_length, digest, training_rows, traffic)
    if stream.rows < (training_rows or 1):
        raise CorpusError(
            f"{name} has {stream.rows:,} rows of {row_length} ids of type {dtype}, where at least "
            f"{training_rows or 1:,} are expected; one of its files is missing or cut short"
        )
    return stream


def shard_names(names: Iterable[str], dataset: str) -> list[str]:
    """Select the files of a data set that hold the stream, in order.

    Args:
        names: Names of all files.
        dataset: Name of the data set in messages.

    Raises:
        CorpusError: There is no `.bin` file, or the numbers in the names have a gap, or there are
            several streams.

    Example:
        >>> shard_names(["a-00001-of-00001.bin", "a.idx", "a-00000-of-00001.bin"], "x")
        ['a-00000-of-00001.bin', 'a-00001-of-00001.bin']
    """
    bin_names = sorted(name for name in names if name.endswith(".bin"))
    if len(bin_names) == 1 and not _NUMBERED.fullmatch(bin_names[0]):
        return bin_names
    matches = [match for name in bin_names if (match := _NUMBERED.fullmatch(name))]
    if not matches or len({(match["stem"], match["last"]) for match in matches}) > 1:
        raise CorpusError(
            f"{dataset} holds {len(bin_names)} files of ids that are not one stream; expected one "
            ".bin file, or one series of them numbered like document-00000-of-00020.bin"
        )
    by_number = {int(match["number"]): match.string for match in matches}
    last = int(matches[0]["last"])  # of files counted from 0 or from 1, as some count them
    numbers = sorted(by_number)
    if numbers not in (list(range(last + 1)), list(range(last)), list(range(1, last + 1))):
        raise CorpusError(
            f"{dataset} has {len(numbers)} of its files, {by_number[numbers[0]]} to "
            f"{by_number[numbers[-1]]}, but not all; try again when it is complete"
        )
    return [by_number[number] for number in numbers]


def in_parallel(
    read: Callable[[Rows], Result], blocks: Iterable[Rows], workers: int = WORKERS
) -> Iterator[Result]:
    """Read blocks in several threads; yield the results in the order of the blocks.

    When a block fails, or the iterator is closed, blocks that were not begun are not read.
    """
    blocks = iter(blocks)
    with ThreadPoolExecutor(workers) as pool:
        running = [pool.submit(read, block) for block in islice(blocks, workers)]
        while running:
            yield running.pop(0).result()
            running += [pool.submit(read, block) for block in islice(blocks, 1)]
