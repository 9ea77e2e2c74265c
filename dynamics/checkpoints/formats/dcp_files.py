"""Folders written by torch.distributed.checkpoint (DCP), read without a process group.

`.metadata` is a pickle that lists the chunks of every tensor, and the file, offset and length of
the bytes of every chunk, which torch.save wrote for the chunk alone.
"""

import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import torch
from jaxtyping import Int

from dynamics.checkpoints.formats.byte_sources import Bytes, ByteSource, check_range
from dynamics.checkpoints.formats.readable_tensor import ReadableTensor, Rows, row_ids
from dynamics.checkpoints.formats.tensor_entries import TensorEntry
from dynamics.checkpoints.formats.torch_files import index_single_tensor
from dynamics.checkpoints.formats.unpickling import Record, is_unlisted, refuse, unpickle
from dynamics.errors import CheckpointError

METADATA = ".metadata"

# Classes of torch.distributed.checkpoint whose fields are read; their modules differ by version.
_RECORDS = (
    "Metadata",
    "TensorStorageMetadata",
    "ChunkStorageMetadata",
    "MetadataIndex",
    "_StorageInfo",
)

_LARGEST_SIZE = 1 << 48
_MOST_CHUNKS = 1 << 14  # more than any training has ranks
_LARGEST_METADATA = 1 << 30  # bytes

Sizes = tuple[int, ...]


@dataclass(frozen=True)
class Chunk:
    """Part of a tensor: its start along each axis, its shape, and the position of its bytes."""

    start: Sizes
    shape: Sizes
    filename: str
    offset: int
    length: int


@dataclass(frozen=True)
class SlicedSource:
    """Range of a file, read as a separate file."""

    file: ByteSource
    offset: int
    size: int

    @property
    def name(self) -> str:
        """Name of the file, and the start of the range."""
        return f"{self.file.name} at byte {self.offset}"

    def read(self, start: int, stop: int) -> Bytes:
        """Read the bytes from `start` up to `stop` of the range.

        Raises:
            CheckpointError: The bytes do not lie within the range.
        """
        check_range(self, start, stop)
        return self.file.read(self.offset + start, self.offset + stop)


@dataclass(frozen=True)
class ShardedTensor:
    """A tensor in chunks that are read separately.

    Attributes:
        shape: Sizes of its axes.
        dtype: Type of its elements.
        starts: Start of each chunk along each axis.
        chunks: The chunks, by ascending start.
    """

    shape: Sizes
    dtype: torch.dtype
    starts: tuple[Sizes, ...]
    chunks: tuple[ReadableTensor, ...]

    @property
    def filename(self) -> str:
        """File that holds the first chunk."""
        return self.chunks[0].filename

    @property
    def file_bytes(self) -> int:
        """Size in bytes of the file `filename`."""
        return self.chunks[0].file_bytes

    @property
    def nbytes(self) -> int:
        """Bytes of all chunks."""
        return sum(chunk.nbytes for chunk in self.chunks)

    def read(self, rows: Rows = None) -> torch.Tensor:
        """Read the tensor, or consecutive rows of it, or those of ascending ids.

        Only chunks that have such rows are read.

        Raises:
            CheckpointError: There is no row of an id, or a chunk cannot be read.
            ValueError: The rows of a slice are not consecutive.
        """
        ids = row_ids(rows, self.shape, self.filename)
        consecutive = rows is None or isinstance(rows, slice)
        tensor = torch.empty((len(ids), *self.shape[1:]), dtype=self.dtype)
        for start, chunk, selected in self._selected(ids):
            columns = tuple(
                slice(begin, begin + size)
                for begin, size in zip(start[1:], chunk.shape[1:], strict=True)
            )
            local = ids[selected] - start[0]
            part = chunk.read(slice(int(local[0]), int(local[-1]) + 1) if consecutive else local)
            tensor[(selected, *columns)] = part
        return tensor

    def part_bytes(self, ids: np.ndarray) -> list[int]:
        """Return the bytes of each file range that is read for the rows of ascending ids."""
        return [
            size
            for start, chunk, selected in self._selected(ids)
            for size in chunk.part_bytes(ids[selected] - start[0])
        ]

    def _selected(self, ids: np.ndarray) -> Iterator[tuple[Sizes, ReadableTensor, slice]]:
        """Yield each chunk that has rows of ascending ids, with the slice of these ids."""
        for start, chunk in zip(self.starts, self.chunks, strict=True):
            first, last = np.searchsorted(ids, [start[0], start[0] + chunk.shape[0]])
            if first < last:
                yield start, chunk, slice(int(first), int(last))


class DistributedEntries(Mapping[str, ReadableTensor]):
    """Tensors of a DCP folder; a chunk is opened when its tensor is looked up.

    Args:
        metadata: The file `.metadata`.
        folder: Path of its folder within the checkpoint, empty for the checkpoint itself.
        open_file: Opens a file of the checkpoint.
        place: Makes a readable tensor from the name of a file and an entry of that file.

    Raises:
        CheckpointError: The metadata is damaged or unsafe, or of another layout.
    """

    def __init__(
        self,
        metadata: ByteSource,
        folder: str,
        open_file: Callable[[str], ByteSource],
        place: Callable[[str, TensorEntry], ReadableTensor],
    ) -> None:
        self._name = metadata.name
        self._folder = PurePosixPath(folder)
        self._open = open_file
        self._place = place
        if metadata.size > _LARGEST_METADATA:
            raise CheckpointError(
                f"{metadata.name}: has {metadata.size} bytes; at most {_LARGEST_METADATA} are read"
            )
        contents, _ = unpickle(
            io.BytesIO(bytes(metadata.read(0, metadata.size))), metadata.name, _RECORDS
        )
        if is_unlisted(contents):
            refuse(metadata.name, contents)
        self._descriptions = _field(contents, "state_dict_metadata", dict, self._name)
        self._storage = _field(contents, "storage_data", dict, self._name)
        self._keys = dict.fromkeys(
            key
            for key, value in self._descriptions.items()
            if isinstance(key, str) and _is(value, "TensorStorageMetadata")
        )
        if not self._keys:
            raise CheckpointError(f"{self._name}: describes no tensors")

    def __getitem__(self, key: str) -> ReadableTensor:
        if key not in self._keys:
            raise KeyError(key)
        description = self._descriptions[key]
        shape = _sizes(description, "size", self._name, key)
        chunks = self._chunks(key, shape)
        located = [self._locate(chunk) for chunk in chunks]
        dtype = located[0].dtype
        for chunk, tensor in zip(chunks, located, strict=True):
            if tensor.shape != chunk.shape or tensor.dtype != dtype:
                raise CheckpointError(
                    f"{self._name}: damaged: a chunk of {key} should have shape {chunk.shape} and "
                    f"dtype {dtype}; {chunk.filename} has {tensor.shape} and {tensor.dtype}"
                )
        if len(chunks) == 1:
            return located[0]
        return ShardedTensor(shape, dtype, tuple(chunk.start for chunk in chunks), tuple(located))

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    @cached_property
    def filenames(self) -> list[str]:
        """Files that hold chunks of tensors, with the path of the folder."""
        return sorted(
            {
                self._filename(info)
                for index, info in self._storage.items()
                if _is(index, "MetadataIndex") and index.field("fqn") in self._keys
            }
        )

    def _filename(self, info: Any) -> str:
        """Return the file of a chunk, with the path of the folder; refuse one outside of it."""
        name = _field(info, "relative_path", str, self._name)
        if PurePosixPath(name).name != name or name == "..":
            raise CheckpointError(f"{self._name}: {name!r} is no file name in its folder")
        return str(self._folder / name)

    @cached_property
    def _places(self) -> dict[tuple[str, Sizes], Record]:
        """Storage records of the chunks, by key and start."""
        places: dict[tuple[str, Sizes], Record] = {}
        for index, info in self._storage.items():
            key = _field(index, "fqn", str, self._name)
            if index.field("offset") is not None:
                places[key, _sizes(index, "offset", self._name, key)] = info
        return places

    def _chunks(self, key: str, shape: Sizes) -> list[Chunk]:
        """Return the chunks of a tensor, which fill it without a gap and without an overlap."""
        chunks = []
        for record in _field(self._descriptions[key], "chunks", list, self._name):
            start = _sizes(record, "offsets", self._name, key)
            sizes = _sizes(record, "sizes", self._name, key)
            if math.prod(sizes) == 0 != math.prod(shape):
                continue  # the empty part of a rank without rows
            if (info := self._places.get((key, start))) is None:
                raise CheckpointError(
                    f"{self._name}: damaged: has no location of {key} from {start} on"
                )
            if transforms := info.field("transform_descriptors"):
                names = ", ".join(map(str, transforms)) if isinstance(transforms, list) else "some"
                raise CheckpointError(
                    f"{self._name}: {key} is stored through extensions ({names}), which are not "
                    "read; save it without them"
                )
            offset, length = (_field(info, name, int, self._name) for name in ("offset", "length"))
            chunks.append(Chunk(start, sizes, self._filename(info), offset, length))
        chunks.sort(key=lambda chunk: chunk.start)
        _check_filled(chunks, shape, f"{self._name}: {key}")
        return chunks

    def _locate(self, chunk: Chunk) -> ReadableTensor:
        """Locate a chunk, which torch.save wrote as a file of its own, within the file it is in."""
        file = self._open(chunk.filename)
        check_range(file, chunk.offset, chunk.offset + chunk.length)
        source = SlicedSource(file, chunk.offset, chunk.length)
        if bytes(source.read(0, min(4, chunk.length))) != b"PK\x03\x04":
            raise CheckpointError(
                f"{source.name}: a tensor written by torch.save is expected there; chunks in other "
                "forms (safetensors, compressed) are not read: save with the default writer"
            )
        entry = index_single_tensor(source)
        return self._place(chunk.filename, replace(entry, offset=chunk.offset + entry.offset))


def _is(value: Any, name: str) -> bool:
    """Return whether a value is a record of a class."""
    return isinstance(value, Record) and value.name == name


def _field(record: Any, name: str, kind: type, source_name: str) -> Any:
    """Return a field of a record.

    Raises:
        CheckpointError: The field is missing, or of another type.
    """
    value = record.field(name) if isinstance(record, Record) else None
    if type(value) is not kind:
        raise CheckpointError(
            f"{source_name}: {name!r} of {getattr(record, 'name', 'an entry')} should be of type "
            f"{kind.__name__}, not {type(value).__name__}; it is no metadata of "
            "torch.distributed.checkpoint, or of a version that is not known"
        )
    return value


def _sizes(record: Any, name: str, source_name: str, key: str) -> Sizes:
    """Return a field of a record that holds a natural number per axis."""
    sizes = _field(record, name, tuple, source_name)
    if not all(type(size) is int and 0 <= size < _LARGEST_SIZE for size in sizes):
        raise CheckpointError(f"{source_name}: damaged: {name!r} of {key} are no sizes")
    return sizes


def _check_filled(chunks: Sequence[Chunk], shape: Sizes, name: str) -> None:
    """Refuse chunks that leave a gap, overlap or reach beyond the tensor."""
    if len(chunks) > _MOST_CHUNKS:
        raise CheckpointError(f"{name} is cut into {len(chunks)} chunks, more than {_MOST_CHUNKS}")
    if not chunks or any(len(chunk.start) != len(shape) for chunk in chunks):
        raise CheckpointError(f"{name} has no chunks of its shape {shape}")
    starts = np.array([chunk.start for chunk in chunks])
    stops = starts + np.array([chunk.shape for chunk in chunks])
    beyond = bool(np.any(stops > np.array(shape)))
    filled = sum(math.prod(chunk.shape) for chunk in chunks)
    if beyond or filled != math.prod(shape) or (len(chunks) > 1 and _overlap(starts, stops)):
        raise CheckpointError(
            f"{name} of shape {shape} is not filled by its {len(chunks)} chunks; shards of some "
            "ranks are missing: fetch or write it again"
        )


def _overlap(starts: Int[np.ndarray, "n axes"], stops: Int[np.ndarray, "n axes"]) -> bool:
    """Return whether any two chunks share an element."""
    return any(
        np.sum(np.all((starts < stop) & (start < stops), axis=1)) > 1
        for start, stop in zip(starts, stops, strict=True)
    )
