"""Contents of a file written by torch.save, in its zip format and in the one before 1.6.

The file holds a state dict, or a dictionary in which a training keeps one: nanoGPT under `model`,
Lightning under `state_dict`, DeepSpeed under `module`, Composer under `state` and `model`.
"""

import io
import struct
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from dynamics.checkpoints.formats.byte_sources import ByteSource, SourceStream
from dynamics.checkpoints.formats.supported import find_named_format
from dynamics.checkpoints.formats.tensor_entries import TensorEntry
from dynamics.checkpoints.formats.unpickling import (
    Global,
    Storage,
    StoredTensor,
    is_unlisted,
    refuse,
    unpickle,
)
from dynamics.errors import CheckpointError

# MAGIC_NUMBER and PROTOCOL_VERSION of torch/serialization.py, which begin a file before 1.6.
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_COUNT = 8  # bytes of the number of elements in front of each storage of a legacy file
_LOCAL_HEADER = 30  # bytes of a zip member's own header, before its name
_BUFFER = 1 << 16
_LARGEST_PICKLE = 1 << 28  # bytes; those of 10,000 tensors with their optimizer take 4 MB

# Names under which trainings keep the state dict, or a dictionary that leads to it; the first one
# present counts.
_STATE_DICT_NAMES = (
    *("model", "state_dict", "model_state_dict", "module", "model_state"),
    *("network", "net", "state", "app"),
)
_DEEPEST = 4  # levels of nested dictionaries
# Numbers beside a state dict that count optimizer steps.
_STEP_NAMES = ("iter_num", "global_step", "global_steps", "num_updates", "step", "iteration")
_MOST_MEMBERS = 1000  # members of a zip file by which its format is recognised
_SHOWN = 8  # names listed in a message
_LONGEST = 60  # characters of a name in a message


class StoredEntries(Mapping[str, TensorEntry]):
    """Tensors of a state dict; the position of one is looked up when it is accessed.

    Args:
        source: The file.
        contents: The object that its pickle describes.
        locate: Returns the position of a storage in the file, in bytes.

    Attributes:
        path: Names of the dictionaries that lead to the state dict, empty for the pickled object.
        unread: Names of other dictionaries with tensors (an EMA, an optimizer).
        step: Training step recorded beside the state dict, None when not recorded.

    Raises:
        CheckpointError: There is no state dict, or it holds objects of a class of its own.
    """

    def __init__(self, source: ByteSource, contents: Any, locate: Callable[[Storage], int]) -> None:
        self._source = source
        self.path, state, self.unread = _find_state_dict(source, contents)
        for key, value in state.items():
            # The extra state of a module is no embedding, so its class does not matter.
            if is_unlisted(value) and not str(key).endswith("_extra_state"):
                refuse(source.name, value)
        self._tensors = _tensors(state)
        self._locate = locate
        self.step = _step(contents) if self.path else None

    def __getitem__(self, key: str) -> TensorEntry:
        tensor = self._tensors[key]
        offset = self._locate(tensor.storage) + tensor.start
        entry = TensorEntry(tensor.dtype, tensor.shape, tensor.stride, offset)
        if entry.nbytes > self._source.size:  # an expanded view of a few elements
            raise CheckpointError(
                f"{self._source.name}: {_shown(key)} of shape {entry.shape} repeats its "
                f"{tensor.storage.nbytes} bytes to {entry.nbytes}, more than the file has; save it "
                "as a contiguous tensor"
            )
        return entry

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def index_zip(source: ByteSource) -> StoredEntries:
    """Index the tensors of a file written by torch.save since 1.6.

    Reads the central directory and the pickle, then one short header per tensor looked up; the
    record `.format_version` (torch >= 2.7) is not needed.

    Raises:
        CheckpointError: The file is damaged, compressed, big-endian or unsafe, or has no state
            dict.
    """
    return StoredEntries(source, *_read_zip(source))


def index_single_tensor(source: ByteSource) -> TensorEntry:
    """Index a file in which torch.save wrote a single tensor.

    Raises:
        CheckpointError: As for `index_zip`, or the file holds another object.
    """
    tensor, locate = _read_zip(source)
    if is_unlisted(tensor):
        refuse(source.name, tensor)
    if not isinstance(tensor, StoredTensor):
        raise CheckpointError(f"{source.name}: a tensor is expected, not {_kind(tensor)}")
    offset = locate(tensor.storage) + tensor.start
    return TensorEntry(tensor.dtype, tensor.shape, tensor.stride, offset)


def _read_zip(source: ByteSource) -> tuple[Any, Callable[[Storage], int]]:
    """Return the object that the pickle of a zip file describes, and a locator of its storages."""
    members = _members(source)
    pickles = [name for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1 or any(name.endswith("/constants.pkl") for name in members):
        raise CheckpointError(f"{source.name}: {_describe_zip(members)}")
    root = pickles[0].removesuffix("data.pkl")

    def content(name: str) -> bytes:
        """Return the bytes of a member; refuse one that would fill the memory."""
        start, size = _member_start(source, members[name]), members[name].file_size
        if size > _LARGEST_PICKLE:
            raise CheckpointError(
                f"{source.name}: {name} has {size} bytes, more than a pickle of tensors takes "
                f"({_LARGEST_PICKLE})"
            )
        return bytes(source.read(start, start + size))

    byteorder = root + "byteorder"
    if byteorder in members and content(byteorder) != b"little":
        raise CheckpointError(f"{source.name}: was written on a big-endian machine; convert it")
    state, _ = unpickle(io.BytesIO(content(pickles[0])), source.name)

    def locate(storage: Storage) -> int:
        """Return the position of a storage, which is a member of its own."""
        member = members.get(f"{root}data/{storage.key}")
        if member is None or member.file_size != storage.nbytes:
            size = "nothing" if member is None else f"{member.file_size} bytes"
            raise CheckpointError(
                f"{source.name}: truncated or damaged: {storage.nbytes} bytes are expected in "
                f"storage {storage.key}, {size} found"
            )
        return _member_start(source, member)

    return state, locate


def _members(source: ByteSource) -> dict[str, zipfile.ZipInfo]:
    """Return the members of a zip file by name, from its central directory."""
    try:
        with zipfile.ZipFile(SourceStream(source)) as archive:  # type: ignore[arg-type]
            return {member.filename: member for member in archive.infolist()}
    except (zipfile.BadZipFile, ValueError, OverflowError, struct.error, RuntimeError) as error:
        raise CheckpointError(
            f"{source.name}: truncated or damaged: of its {source.size} bytes the last should be "
            f"the directory of a zip file ({error}); fetch or write it again"
        ) from error


def _member_start(source: ByteSource, member: zipfile.ZipInfo) -> int:
    """Return the position of a member's bytes, behind its local header.

    Raises:
        CheckpointError: It is compressed or encrypted, or its header is not where it should be.
    """
    if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
        raise CheckpointError(
            f"{source.name}: {member.filename} is compressed or encrypted, which torch.save never "
            "does; write the file again with torch.save"
        )
    start = member.header_offset
    # PKWARE APPNOTE.TXT 4.4.4: with general purpose bit 11 names are UTF-8, else code page 437.
    name = member.orig_filename.encode("utf-8" if member.flag_bits & 0x800 else "cp437")
    header = bytes(source.read(start, start + _LOCAL_HEADER + len(name)))
    # APPNOTE.TXT 4.3.7: the lengths of the name and of the extra field end the fixed part.
    name_length, extra_length = struct.unpack("<HH", header[26:_LOCAL_HEADER])
    if not header.startswith(b"PK\x03\x04") or header[_LOCAL_HEADER:] != name:
        raise CheckpointError(
            f"{source.name}: damaged: {member.filename} is not where it should be"
        )
    return start + _LOCAL_HEADER + name_length + extra_length


def index_legacy(source: ByteSource) -> StoredEntries:
    """Index the tensors of a file written by torch.save before 1.6.

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
    plain = isinstance(keys, list) and all(isinstance(key, str | int) for key in keys)
    if not plain or sorted(map(str, keys)) != sorted(storages):
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
        """Return the position of a storage, behind the number of its elements."""
        start = starts[storage.key]
        count = int.from_bytes(source.read(start - _COUNT, start), "little", signed=True)
        if count != storages[storage.key].numel:
            raise CheckpointError(
                f"{source.name}: damaged: {storage.numel} elements are expected in storage "
                f"{storage.key}, {count} found"
            )
        return start

    return StoredEntries(source, state, locate)


def _describe_zip(members: Collection[str]) -> str:
    """Describe a zip file that torch.save did not write, from the names of its members."""
    if match := find_named_format([*islice(members, _MOST_MEMBERS)]):
        return f"is {match[0].name}; {match[0].remedy}"
    return "a zip file, but not one that torch.save wrote"


def _find_state_dict(
    source: ByteSource, contents: Any
) -> tuple[tuple[str, ...], dict[Any, Any], list[str]]:
    """Find the state dict in the object that a training saved.

    Returns:
        The names that lead to it, the dictionary, and the names of other dictionaries with tensors.

    Raises:
        CheckpointError: There is none, several are possible, or an object is in its place.
    """
    if is_unlisted(contents):
        refuse(source.name, contents)
    if not isinstance(contents, dict):
        raise CheckpointError(f"{source.name}: no state dict, but {_kind(contents)}")
    path: tuple[str, ...] = ()
    state, unread = contents, list[str]()
    while len(path) < _DEEPEST and (names := _holders(state)):
        name = next((name for name in _STATE_DICT_NAMES if name in names), None)
        if name is None:
            if _has_weights(state):
                break
            if len(names) > 1:
                raise CheckpointError(
                    f"{source.name}: holds tensors in {_listed(names)}, and none of them is named "
                    f"{', '.join(_STATE_DICT_NAMES[:3])}; save the state dict itself"
                )
            (name,) = names
        unread += [".".join((*path, other_name)) for other_name in names if other_name != name]
        path, state = (*path, name), state[name]
    if not _tensors(state):
        values = [*map(state.get, _STATE_DICT_NAMES), *state.values()]
        if (unlisted := next(filter(is_unlisted, values), None)) is not None:
            refuse(source.name, unlisted)
        raise CheckpointError(
            f"{source.name}: holds no tensors at its top level, which has {_listed(state)}, nor in "
            "a dictionary there; save the state dict itself"
        )
    return path, state, unread


def _holders(state: dict[Any, Any]) -> list[str]:
    """Return the names of dictionaries that hold weights, without those of optimizers."""
    results: dict[tuple[int, int], bool] = {}
    return [
        name
        for name, value in state.items()
        if isinstance(name, str)
        and isinstance(value, dict)
        and not any(word in name.lower() for word in ("optim", "sched", "scaler", "rng"))
        and _holds_weights(value, _DEEPEST - 1, results)
    ]


def _holds_weights(state: dict[Any, Any], depth: int, results: dict[tuple[int, int], bool]) -> bool:
    """Return whether a dictionary leads to weights by names of state dicts.

    Args:
        state: The dictionary.
        depth: Levels of nested dictionaries to search.
        results: Earlier results by identity and depth, since a small pickle can hold one dictionary
            many times.
    """
    if (result := results.get((id(state), depth))) is None:
        result = results[id(state), depth] = _has_weights(state) or (
            depth > 0
            and any(
                _holds_weights(value, depth - 1, results)
                for name in _STATE_DICT_NAMES
                if isinstance(value := state.get(name), dict)
            )
        )
    return result


def _has_weights(state: dict[Any, Any]) -> bool:
    """Return whether a dictionary itself has a matrix; a loss or a random state does not count."""
    return any(len(tensor.shape) > 1 for tensor in _tensors(state).values())


def _tensors(state: dict[Any, Any]) -> dict[str, StoredTensor]:
    """Return the tensors that lie in a dictionary itself, by key."""
    return {
        key: value
        for key, value in state.items()
        if isinstance(key, str) and isinstance(value, StoredTensor)
    }


def _step(contents: dict[Any, Any]) -> int | None:
    """Return the step that a training recorded beside its state dict, None without one."""
    numbers = [contents.get(name) for name in _STEP_NAMES]
    return next((number for number in numbers if type(number) is int and number >= 0), None)


def _kind(content: Any) -> str:
    """Name the kind of an object for a message."""
    return "a function" if isinstance(content, Global) else f"a {type(content).__name__}"


def _listed(names: Iterable[Any]) -> str:
    """List some names for a message, ascending."""
    plain = sorted(_shown(name) for name in names if isinstance(name, str | int))
    return ", ".join(plain[:_SHOWN]) or "nothing"


def _shown(name: str | int) -> str:
    """Return a name for a message: cut, and with escapes where it cannot be printed."""
    text = str(name)[:_LONGEST]
    return text if text.isprintable() else repr(text)
