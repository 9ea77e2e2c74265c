"""Header of a safetensors file."""

import json
import math
import re
from pathlib import PurePath
from typing import Any

import torch

from dynamics.checkpoints.formats.byte_sources import ByteSource
from dynamics.checkpoints.formats.tensor_entries import TensorEntry, contiguous_stride
from dynamics.errors import CheckpointError

# The format is described in the README of github.com/huggingface/safetensors, "Format".
_LENGTH = 8  # bytes of the first number, the length of the header

# Metadata key of torch.distributed.checkpoint: the offsets, within full tensors, of their parts.
_SHARDING = "DCP_SHARDING_INFO"

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def index_safetensors(source: ByteSource) -> dict[str, TensorEntry]:
    """Index the tensors of a safetensors file from its header alone.

    A tensor that was left out because it shares memory with another one is named in the metadata
    as `dropped: stored` (safetensors.torch.save_model); both keys then give the same entry.

    Raises:
        CheckpointError: The header is damaged or of a type torch does not have, or the file is
            not as long as the header says.
    """
    start, header = _read_header(source)
    metadata = header.pop("__metadata__", {})
    if isinstance(metadata, dict) and _is_shard(source.name, metadata.get(_SHARDING)):
        raise CheckpointError(
            f"{source.name}: holds one rank's parts of tensors ({_SHARDING}); put them together "
            "with consolidate_safetensors_files of torch.distributed.checkpoint"
        )
    entries = {key: _entry(source, start, key, header[key]) for key in header}
    end = max((entry.offset + entry.nbytes for entry in entries.values()), default=start)
    if end != source.size:
        raise CheckpointError(
            f"{source.name}: truncated or damaged: the header describes {end} bytes, the file has "
            f"{source.size}; fetch or write it again"
        )
    aliases = metadata.items() if isinstance(metadata, dict) else ()
    return entries | {
        dropped: entries[stored]
        for dropped, stored in aliases
        if isinstance(stored, str) and dropped not in entries and stored in entries
    }


def _is_shard(name: str, sharding: Any) -> bool:
    """Return whether a file has parts of tensors; parts of the first rank begin at 0 as well."""
    if not isinstance(sharding, str):
        return False
    begins_later = re.search(r"[1-9]", re.sub(r'"[^"]*":', "", sharding)) is not None
    return begins_later or PurePath(name).name.startswith("shard-")


def _read_header(source: ByteSource) -> tuple[int, dict[str, Any]]:
    """Return the offset at which the data start, and the header."""
    length = int.from_bytes(source.read(0, _LENGTH), "little")
    start = _LENGTH + length
    if start > source.size:
        raise CheckpointError(
            f"{source.name}: truncated or damaged: the header alone is {length} bytes, the file "
            f"has {source.size}; fetch or write it again"
        )
    try:
        header = json.loads(bytes(source.read(_LENGTH, start)))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{source.name}: the header is damaged: {error}") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{source.name}: the header is damaged: not a table of tensors")
    return start, header


def _entry(source: ByteSource, start: int, key: str, record: Any) -> TensorEntry:
    """Return the entry of one tensor, from its record in the header.

    Args:
        source: The file.
        start: Offset at which the data start.
        key: Key of the tensor.
        record: Its type, shape and offsets, not yet checked.

    Raises:
        CheckpointError: The record is damaged, or of a type torch does not have.
    """
    match record:
        case {"dtype": str(name), "shape": [*sizes], "data_offsets": [int(begin), int(end)]} if all(
            type(size) is int and size >= 0 for size in sizes
        ):
            shape = tuple(sizes)
        case _:
            raise CheckpointError(f"{source.name}: the header is damaged at {key!r}")
    if name not in _DTYPES:
        raise CheckpointError(
            f"{source.name}: {key!r} is of type {name!r}; readable are {', '.join(_DTYPES)}"
        )
    dtype = _DTYPES[name]
    expected = math.prod(shape) * dtype.itemsize
    if begin < 0 or end - begin != expected:
        raise CheckpointError(
            f"{source.name}: the header is damaged: {key!r} of shape {shape} in {name} takes "
            f"{expected} bytes, but has bytes {begin} to {end}"
        )
    return TensorEntry(dtype, shape, contiguous_stride(shape), start + begin)
