"""Weights files of one checkpoint: a single file, shards, or a distributed checkpoint."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import torch

from dynamics.checkpoints.formats.byte_sources import ByteSource
from dynamics.checkpoints.formats.dcp_files import METADATA, DistributedEntries
from dynamics.checkpoints.formats.headers import index_tensors
from dynamics.checkpoints.formats.readable_tensor import ReadableTensor, Rows, row_ids
from dynamics.checkpoints.formats.tensor_entries import TensorEntry
from dynamics.checkpoints.formats.tensors import read_tensor
from dynamics.checkpoints.formats.torch_files import StoredEntries
from dynamics.checkpoints.stores import FileStore, LocalFolder, read_json
from dynamics.checkpoints.weight_files import (
    SHARD_INDEX,
    no_weights,
    other_weights_file,
    standard_files,
)
from dynamics.errors import CheckpointError

_SHARD = re.compile(r"(.+)-(\d+)-of-(\d+)(\.\w+)")
_LARGEST_SET = 10_000  # most shards looked for by name
_NAMED = 3  # keys listed in a note
_GAP = 1 << 16  # largest gap in bytes that is read along, to save a request


@dataclass(frozen=True)
class LocatedTensor:
    """A tensor stored in one file without quantisation: the file, and its entry there."""

    store: FileStore
    filename: str
    entry: TensorEntry

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of its axes."""
        return self.entry.shape

    @property
    def dtype(self) -> torch.dtype:
        """Type of its elements on disk."""
        return self.entry.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of it on disk."""
        return self.entry.nbytes

    def read(self, rows: Rows = None) -> torch.Tensor:
        """Read the tensor, consecutive rows, or rows of ascending ids, in the dtype on disk.

        Raises:
            CheckpointError: There is no row of an id, or a file cannot be read.
        """
        source = _open(self.store, self.filename)
        if rows is None or isinstance(rows, slice):
            return read_tensor(source, self.entry, rows)
        ids = row_ids(rows, self.entry.shape, self.store.name)
        return torch.cat(
            [
                read_tensor(source, self.entry, slice(part[0], part[-1] + 1))[part - part[0]]
                for part in self._parts(ids)
            ]
        )

    def part_bytes(self, ids: np.ndarray) -> list[int]:
        """Bytes of each range that reading the rows of ascending ids takes."""
        row_bytes = self.nbytes // self.shape[0]
        return [int(part[-1] - part[0] + 1) * row_bytes for part in self._parts(ids)]

    def _parts(self, ids: np.ndarray) -> list[np.ndarray]:
        """Split ids into runs; each run is read at once, including the rows between its ids."""
        gap_bytes = (np.diff(ids) - 1) * (self.nbytes // self.shape[0])
        return np.split(ids, np.flatnonzero(gap_bytes > _GAP) + 1)

    @property
    def file_bytes(self) -> int:
        """Size of the whole file."""
        return _open(self.store, self.filename).size


class Weights(Mapping[str, ReadableTensor]):
    """Tensors of a checkpoint by key; a shard is opened when one of its keys is looked up.

    Args:
        store: The files of the checkpoint.

    Attributes:
        notes: Remarks on the files that matter for the numbers read from them.

    Raises:
        CheckpointError: There is no weights file, or it or a shard is damaged or unsafe.
    """

    def __init__(self, store: FileStore) -> None:
        self._store = store
        self._indexes: dict[str, Mapping[str, TensorEntry]] = {}
        self.notes: list[str] = []
        self._distributed: DistributedEntries | None = None
        self._located: dict[str, ReadableTensor] = {}
        self._index_name: str | None = None
        self._files = self._find()

    def __getitem__(self, key: str) -> ReadableTensor:
        if key not in self._located and self._distributed is not None:
            self._located[key] = self._distributed[key]
        if key not in self._located:
            filename = self._files[key]
            if key not in self._index(filename):
                raise CheckpointError(
                    f"{self._store.name}/{filename}: does not hold {key!r}, which its index "
                    "places there"
                )
            self._located[key] = LocatedTensor(self._store, filename, self._index(filename)[key])
        return self._located[key]

    def search_shards(self) -> None:
        """Add tensors that are in the shards but not in their index, with a line in `notes`.

        transformers reads every tensor of every shard that the index names, even where the index
        places it in another shard; the last shard wins. Shards of the same set that the index does
        not name are read here as well, since a model would lack their tensors. A shard that cannot
        be read is noted, and the index is trusted for its keys.
        """
        if self._index_name is None:
            return
        index_name, self._index_name = self._index_name, None
        named = {*self._files.values()}
        of_the_set = {*named, *_shard_set(named)}
        holders: dict[str, list[str]] = defaultdict(list)
        for filename in sorted(of_the_set):
            try:
                for key in self._index(filename):
                    holders[key].append(filename)
            except CheckpointError as error:
                self.notes.append(
                    f"{error}; its tensors are those that {index_name} lists for it, if any"
                )
                continue
            if filename not in named:
                self.notes.append(
                    f"{filename} is read, although {index_name} does not list it: by its name it "
                    "belongs to the same set"
                )
        unnamed = [key for key in holders if key not in self._files]
        if unnamed:
            shown = ", ".join(map(repr, sorted(unnamed)[:_NAMED]))
            more = f" and {len(unnamed) - _NAMED} more" if len(unnamed) > _NAMED else ""
            self.notes.append(f"{index_name} does not name {shown}{more}, which its shards hold")
        for key, filenames in holders.items():
            if len(filenames) > 1 or filenames[-1] != self._files.get(key, filenames[-1]):
                self.notes.append(
                    f"{key!r} lies in {', '.join(filenames)} and is read from the last of them, as "
                    f"by transformers; {index_name} says {self._files.get(key)}"
                )
            self._files[key] = filenames[-1]
        present = self._store.names() if isinstance(self._store, LocalFolder) else ()
        if other_sets := [
            name for name in present if _SHARD.fullmatch(name) and name not in of_the_set
        ]:
            self.notes.append(
                f"not read because they belong to another set of shards: {', '.join(other_sets)}"
            )

    def _index(self, filename: str) -> Mapping[str, TensorEntry]:
        """Return the entries of the tensors in a file, which is read once."""
        if filename not in self._indexes:
            self._indexes[filename] = index_tensors(_open(self._store, filename))
        return self._indexes[filename]

    def __contains__(self, key: object) -> bool:
        return key in self._files

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def file_digests(self) -> list[str | None]:
        """Return the SHA-256 of each weights file, by name; None where a hub does not provide it.

        Raises:
            CheckpointError: A file is missing, or cannot be reached.
        """
        digests = []
        distributed = self._distributed.filenames if self._distributed is not None else []
        for filename in sorted({*self._files.values(), *distributed}):
            _open(self._store, filename)
            digests.append(self._store.sha256(filename))
        return digests

    @property
    def step(self) -> int | None:
        """Training step that a file of torch.save records, None when it records none."""
        indexes = [index for index in self._indexes.values() if isinstance(index, StoredEntries)]
        return indexes[0].step if indexes else None

    def _find(self) -> dict[str, str]:
        """Return the file of each key."""
        for name in standard_files(self._store):
            if name.endswith(SHARD_INDEX):
                if (index := read_json(self._store, name)) is not None:
                    self._index_name = name
                    return _shards(index, f"{self._store.name}/{name}")
            elif (source := self._store.open(name)) is not None:
                return self._index_file(name, source)
        if (name := other_weights_file(self._store)) is None:
            raise CheckpointError(no_weights(self._store))
        source = _open(self._store, name)
        if PurePosixPath(name).name != METADATA:
            return self._index_file(name, source)
        folder = name.removesuffix(METADATA).rstrip("/")
        self._distributed = DistributedEntries(
            source, folder, partial(_open, self._store), partial(LocatedTensor, self._store)
        )
        return dict.fromkeys(self._distributed, name)

    def _index_file(self, name: str, source: ByteSource) -> dict[str, str]:
        """Index the only file of weights; return it for each of its keys."""
        self._indexes[name] = index = index_tensors(source)
        if isinstance(index, StoredEntries) and index.path:
            note = f"the state dict is read from {'.'.join(index.path)!r}"
            unread = ", ".join(index.unread)
            self.notes.append(f"{note}; {unread} beside it is not read" if unread else note)
        return dict.fromkeys(self._indexes[name], name)


def _open(store: FileStore, filename: str) -> ByteSource:
    """Open a file that must be there."""
    source = store.open(filename)
    if source is None:
        raise CheckpointError(f"{store.name}/{filename}: cannot be read: there is no such file")
    return source


def _shard_set(filenames: Iterable[str]) -> set[str]:
    """Return the names of all shards in the sets that some shards belong to.

    Example:
        >>> sorted(_shard_set(["model-00001-of-00002.bin"]))
        ['model-00001-of-00002.bin', 'model-00002-of-00002.bin']
    """
    names: set[str] = set()
    for match in filter(None, map(_SHARD.fullmatch, filenames)):
        stem, number, count, suffix = match.groups()
        if int(count) <= _LARGEST_SET:
            first = min(1, int(number))  # some sets count from 0
            last = int(count) + first
            names |= {f"{stem}-{i:0{len(number)}}-of-{count}{suffix}" for i in range(first, last)}
    return names


def _shards(index: Mapping[str, Any], name: str) -> dict[str, str]:
    """Return the shard of each key from the index of shards; refuse one outside the folder."""
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict):
        raise CheckpointError(f"{name}: has no 'weight_map' from keys to shards")
    for shard in weight_map.values():
        if not isinstance(shard, str) or PurePosixPath(shard).name != shard or shard == "..":
            raise CheckpointError(
                f"{name}: {shard!r} is not the file name of a shard in the same folder"
            )
    return weight_map
