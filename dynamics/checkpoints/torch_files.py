"""The contents of a file written by torch.save, in its zip format and in the one before 1.6."""

import io
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from dynamics.checkpoints.entries import TensorEntry
from dynamics.checkpoints.sources import ByteSource, SourceStream
from dynamics.checkpoints.unpickling import Storage, StoredTensor, unpickle
from dynamics.errors import CheckpointError

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_COUNT = 8  # bytes of the number of elements in front of each storage of a legacy file
_LOCAL_HEADER = 30  # bytes of a zip member's own header, before its name
_BUFFER = 1 << 16


class StoredEntries(Mapping[str, TensorEntry]):
    """The tensors of a state dict; where one lies is looked up only when it is asked for.

    Args:
        tensors: The tensors as the pickle describes them.
        locate: Gives the position of a storage in the file, in bytes.
    """

    def __init__(self, tensors: dict[str, StoredTensor], locate: Callable[[Storage], int]) -> None:
        self._tensors = tensors
        self._locate = locate

    def __getitem__(self, key: str) -> TensorEntry:
        tensor = self._tensors[key]
        offset = self._locate(tensor.storage) + tensor.start
        return TensorEntry(tensor.dtype, tensor.shape, tensor.stride, offset)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def index_zip(source: ByteSource) -> StoredEntries:
    """The tensors of a file written by torch.save since 1.6.

    Reads the central directory and the pickle, then one short header per tensor asked for; the
    record `.format_version` (torch >= 2.7) is not needed.

    Raises:
        CheckpointError: The file is damaged, compressed, big-endian or unsafe, or is no state dict.
    """
    members = _members(source)
    pickles = [name for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise CheckpointError(f"{source.name}: a zip file, but not one that torch.save wrote")
    root = pickles[0].removesuffix("data.pkl")

    def content(name: str) -> bytes:
        start = _member_start(source, members[name])
        return bytes(source.read(start, start + members[name].file_size))

    byteorder = root + "byteorder"
    if byteorder in members and content(byteorder) != b"little":
        raise CheckpointError(f"{source.name}: was written on a big-endian machine; convert it")
    state, _ = unpickle(io.BytesIO(content(pickles[0])), source.name)

    def locate(storage: Storage) -> int:
        member = members.get(f"{root}data/{storage.key}")
        if member is None or member.file_size != storage.nbytes:
            found = "nothing" if member is None else f"{member.file_size} bytes"
            raise CheckpointError(
                f"{source.name}: truncated or damaged: {storage.nbytes} bytes are expected in "
                f"storage {storage.key}, {found} found"
            )
        return _member_start(source, member)

    return StoredEntries(_state_dict(source, state), locate)


def _members(source: ByteSource) -> dict[str, zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(SourceStream(source)) as archive:  # type: ignore[arg-type]
            return {member.filename: member for member in archive.infolist()}
    except (zipfile.BadZipFile, ValueError, OverflowError, struct.error, RuntimeError) as error:
        raise CheckpointError(
            f"{source.name}: truncated or damaged: of its {source.size} bytes the last should be "
            f"the directory of a zip file ({error}); fetch or write it again"
        ) from error


def _member_start(source: ByteSource, member: zipfile.ZipInfo) -> int:
    if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
        raise CheckpointError(
            f"{source.name}: {member.filename} is compressed or encrypted, which torch.save never "
            "does; write the file again with torch.save"
        )
    start = member.header_offset
    header = bytes(source.read(start, start + _LOCAL_HEADER))
    name_length, extra_length = struct.unpack("<HH", header[26:])
    if not header.startswith(b"PK\x03\x04"):
        raise CheckpointError(
            f"{source.name}: damaged: {member.filename} is not where it should be"
        )
    return start + _LOCAL_HEADER + name_length + extra_length


def index_legacy(source: ByteSource) -> StoredEntries:
    """The tensors of a file written by torch.save before 1.6.

    Five pickles (magic number, protocol, machine, state dict, storage keys) are followed by the
    storages in the order of the keys, each behind its number of elements.

    Raises:
        CheckpointError: The file is damaged, big-endian or unsafe, or is no state dict, or its
            length is not the sum of its parts.
    """
    stream = io.BufferedReader(SourceStream(source), _BUFFER)
    for expected in (_LEGACY_MAGIC, _LEGACY_PROTOCOL):
        number, _ = unpickle(stream, source.name)
        if number != expected:
            raise CheckpointError(f"{source.name}: a pickle, but not one that torch.save wrote")
    machine, _ = unpickle(stream, source.name)
    if isinstance(machine, dict) and not machine.get("little_endian", True):
        raise CheckpointError(f"{source.name}: was written on a big-endian machine; convert it")
    state, storages = unpickle(stream, source.name)
    keys, _ = unpickle(stream, source.name)
    if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(storages):
        raise CheckpointError(f"{source.name}: damaged: the storages listed are not those used")

    starts: dict[str, int] = {}
    position = stream.tell()
    for key in map(str, keys):
        starts[key] = position + _COUNT
        position += _COUNT + storages[key].nbytes
    if position != source.size:
        raise CheckpointError(
            f"{source.name}: truncated or damaged: {position} bytes are expected, the file has "
            f"{source.size}; fetch or write it again"
        )

    def locate(storage: Storage) -> int:
        start = starts[storage.key]
        count = int.from_bytes(source.read(start - _COUNT, start), "little", signed=True)
        if count != storages[storage.key].numel:
            raise CheckpointError(
                f"{source.name}: damaged: {storage.numel} elements are expected in storage "
                f"{storage.key}, {count} found"
            )
        return start

    return StoredEntries(_state_dict(source, state), locate)


def _state_dict(source: ByteSource, state: Any) -> dict[str, StoredTensor]:
    if not isinstance(state, dict):
        raise CheckpointError(f"{source.name}: no state dict, but a {type(state).__name__}")
    tensors = {
        key: value
        for key, value in dict.items(state)
        if isinstance(key, str) and isinstance(value, StoredTensor)
    }
    if not tensors:
        raise CheckpointError(
            f"{source.name}: holds no tensors at its top level, which has "
            f"{', '.join(sorted(map(str, state))[:5]) or 'nothing'}; save the state dict itself"
        )
    return tensors
