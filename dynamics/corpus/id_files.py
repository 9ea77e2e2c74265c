"""Files of token ids that other tools wrote: their headers, and whether the type fits the ids.

Flat arrays (nanoGPT, Pythia, OLMo) do not state the type of their ids. Read in a wrong type, every
second id is 0, or ids are larger than any vocabulary, and their counts still look like counts.
"""

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dynamics.corpus.documents.signatures import (
    HEAD_BYTES,
    decoded_head,
    has_no_controls,
    signature_of,
)
from dynamics.errors import CorpusError

DEFAULT_DTYPE = "uint16"
_OPTIONS = "--dtype, stream.dtype or probe.dtype"
_CANDIDATES = ("uint16", "uint32", "uint64", ">u2", ">u4", ">u8", "uint8")
_LARGEST_ID = 1 << 20  # more entries than vocabularies have (XLM-V: 901,629)
_ENOUGH = 32  # ids of one parity: by chance once in 2^32

_SAMPLED_BLOCKS = 64
_SAMPLED_BYTES = 1 << 13  # of a block, a multiple of every size of an id

# llm.c and modded-nanogpt: 256 int32, of which the first three are magic number, version, ids.
_LLM_C_HEADER = 1024
_LLM_C_DTYPES = {20_240_520: "uint16", 20_240_801: "uint32"}

_MEGATRON_MAGIC = b"MMIDIDX\x00\x00"
_MEGATRON_DTYPES = {1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 8: "uint16"}


@dataclass(frozen=True)
class Layout:
    """Type and position of the ids in a file, according to a header in it or beside it.

    Attributes:
        dtype: Numpy's name of the type.
        offset: Bytes before the first id.
        header: Name of the header in messages.
    """

    dtype: str
    offset: int
    header: str


def open_ids(path: Path, dtype: str | None, vocab_size: int | None = None) -> np.ndarray:
    """Open a file of token ids as one flat memory map.

    Headers of numpy, llm.c and Megatron (in the .idx file beside) state the type. Without a
    header, the ids are read in the type given, and refused if a sample of them shows that it is
    wrong.

    Args:
        path: The file.
        dtype: Type of the ids; None for the type in the header, without one `uint16`, or `uint32`
            for a vocabulary that needs it.
        vocab_size: Entries of the vocabulary, where known.

    Raises:
        CorpusError: The file is empty, cut, holds something other than ids, or ids of another type.
    """
    try:
        np.dtype(dtype or DEFAULT_DTYPE)
    except TypeError as error:
        raise CorpusError(f"{path} cannot be read as {dtype}: {error}") from error
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if not head:
        raise CorpusError(f"{path} is empty; expected integers")
    if head.startswith(b"\x93NUMPY"):
        return _open_numpy(path, dtype)
    layout = _llm_c_layout(path, head) or _megatron_layout(path)
    if layout is None:
        _refuse_other_files(path, head, dtype)
        needs_more = vocab_size is not None and vocab_size > 1 << 16
        layout = Layout(dtype or ("uint32" if needs_more else DEFAULT_DTYPE), 0, "")
    elif dtype is not None and not _same_ids(dtype, layout.dtype):
        raise CorpusError(
            f"{layout.header} states that the ids of {path} are {layout.dtype}, but {dtype} was "
            f"given; leave the type out ({_OPTIONS})"
        )
    itemsize = np.dtype(layout.dtype).itemsize
    size = path.stat().st_size - layout.offset
    if size % itemsize:
        raise CorpusError(
            f"{path} has {size:,} bytes of ids, no multiple of the {itemsize} bytes of "
            f"{layout.dtype}; fetch it again if it is cut, or give its type ({_OPTIONS})"
        )
    if not size:
        raise CorpusError(f"{path} holds a header and no ids; write it again")
    ids = np.memmap(path, layout.dtype, "r", layout.offset, (size // itemsize,))
    if not layout.header and ids.dtype.kind in "iu":
        _refuse_wrong_type(ids, path)
    return ids


def _open_numpy(path: Path, dtype: str | None) -> np.ndarray:
    """Map the ids of an `.npy` file, flattened; a dtype that its header contradicts is refused."""
    try:
        ids = np.load(path, "r").reshape(-1)
    except ValueError as error:
        raise CorpusError(f"{path} cannot be read: {error}; write or fetch it again") from error
    if dtype is not None and not _same_ids(dtype, ids.dtype.str):
        raise CorpusError(
            f"the header of {path} states that its ids are {ids.dtype}, but {dtype} was given; "
            f"leave the type out ({_OPTIONS})"
        )
    return ids


def _llm_c_layout(path: Path, head: bytes) -> Layout | None:
    """Layout of a file with the header of llm.c, None for other files.

    Raises:
        CorpusError: The header states another number of ids than the file holds.
    """
    if len(head) < _LLM_C_HEADER:
        return None
    magic, version, number = struct.unpack("<3i", head[:12])
    if magic not in _LLM_C_DTYPES or not 0 < version < 256:
        return None
    dtype = _LLM_C_DTYPES[magic]
    expected, size = number * np.dtype(dtype).itemsize, path.stat().st_size - _LLM_C_HEADER
    if size != expected:
        raise CorpusError(
            f"{path} is cut: its header (llm.c) states {number:,} ids of {dtype}, {expected:,} "
            f"bytes, but {size:,} follow; fetch or write it again"
        )
    return Layout(dtype, _LLM_C_HEADER, "its header (llm.c)")


def _megatron_layout(path: Path) -> Layout | None:
    """Layout according to the index of a Megatron data set beside the file, None without one.

    Raises:
        CorpusError: The index belongs to another file, or its type is not one of integers.
    """
    index = path.with_suffix(".idx")
    if path.suffix != ".bin" or not index.is_file():
        return None
    header = struct.Struct("<9sQBQQ")
    with index.open("rb") as file:
        head = file.read(header.size)
        if len(head) < header.size or not head.startswith(_MEGATRON_MAGIC):
            return None
        _, _, code, sequences, _ = header.unpack(head)
        lengths = np.fromfile(file, "<i4", sequences)
    dtype = _MEGATRON_DTYPES.get(code)
    if dtype is None:
        raise CorpusError(
            f"{index} describes data of type {code}, which is not an integer type; {path} holds "
            "no token ids"
        )
    expected = int(lengths.sum(dtype=np.int64)) * np.dtype(dtype).itemsize
    if len(lengths) != sequences or expected != path.stat().st_size:
        raise CorpusError(
            f"{path} has {path.stat().st_size:,} bytes, but {index.name} beside it states "
            f"{expected:,} ({dtype}); fetch both again, or move the index away if it is of another "
            "file"
        )
    return Layout(dtype, 0, str(index))


def _same_ids(first: str, second: str) -> bool:
    """Return whether two integer types read the same ids, which are never negative."""
    first_type, second_type = np.dtype(first), np.dtype(second)
    are_integers = first_type.kind in "iu" and second_type.kind in "iu"
    return are_integers and first_type.str[::2] == second_type.str[::2]  # "<u2" without its kind


def _refuse_other_files(path: Path, head: bytes, dtype: str | None) -> None:
    """Refuse a file that is not a flat array of ids, by its first bytes.

    Raises:
        CorpusError: The file is of another kind, or text.
    """
    signature = signature_of(head)
    if signature is not None and not signature.name.startswith("UTF"):
        remedy = signature.remedy
        raise CorpusError(f"{path} is {signature.name}, not a flat file of token ids; {remedy}")
    if np.dtype(dtype or DEFAULT_DTYPE).itemsize > 1 and _is_text(head):  # bytes may be ids
        raise CorpusError(
            f"{path} holds text, not token ids; leave --sequence-length out to count it as text"
        )


def _is_text(head: bytes) -> bool:
    """Return whether bytes are text: 64 or more of UTF-8 without control characters, unlike ids."""
    text = decoded_head(head)
    return len(head) >= 64 and text is not None and has_no_controls(text)


def _refuse_wrong_type(ids: np.ndarray, path: Path) -> None:
    """Refuse ids if a sample of them shows that they were read in a wrong type.

    Raises:
        CorpusError: The type is wrong; the message names the type that fits, if any does.
    """
    sample = _sample(ids)
    symptom = _symptom(sample.view(ids.dtype))
    if symptom is None:
        return
    fitting = [dtype for dtype in _CANDIDATES if _symptom(sample.view(dtype)) is None]
    raise CorpusError(
        f"{path} is not of type {ids.dtype}: {symptom}; "
        + (f"give the type {fitting[0]} ({_OPTIONS})" if fitting else "no integer type fits it")
    )


def _sample(ids: np.ndarray) -> np.ndarray:
    """Bytes of blocks evenly spread over a file, each from a multiple of 8 bytes on."""
    content = ids.view(np.uint8)
    if len(content) > _SAMPLED_BLOCKS * _SAMPLED_BYTES:
        starts = np.linspace(0, len(content) - _SAMPLED_BYTES, _SAMPLED_BLOCKS, dtype=np.int64)
        starts = starts // 8 * 8
        content = np.concatenate([content[start : start + _SAMPLED_BYTES] for start in starts])
    return np.array(content[: len(content) // 8 * 8])


def _symptom(ids: np.ndarray) -> str | None:
    """Symptom of ids read in a wrong type; None where there is none.

    Three symptoms are looked for; the ids of a text show one of the last two with a probability
    below 2^-32, because they do not depend on the parity of their position and spread over all low
    bytes.

    - A tenth of the ids are larger than any vocabulary: read too wide, or in the other byte order.
    - No id in every second place exceeds 0 (or 15, in 16 bits), but at least 32 of the others do:
      the high halves of wider ids. Padding or end-of-text ids, however many, are in both places.
    - In 16 bits, there are 32 high bytes, and low bytes end early for so many different ids: the
      other byte order, or single bytes.
    """
    ids = ids.view(f"{ids.dtype.byteorder}u{ids.dtype.itemsize}")  # negative ids are large
    size = ids.dtype.itemsize
    if np.count_nonzero(ids >= _LARGEST_ID) * 10 > len(ids):
        return f"over a tenth of its ids exceed {_LARGEST_ID - 1:,}, more than vocabularies have"
    for quiet, loud in ((ids[1::2], ids[::2]), (ids[::2], ids[1::2])):
        for limit in (0, 15) if size == 2 else (0,):
            swapped = quiet.byteswap() if size == 2 else quiet
            is_quiet = min(quiet.max(initial=0), swapped.max(initial=0)) <= limit
            if is_quiet and np.count_nonzero(loud > limit) >= _ENOUGH:
                return f"every second id is {'one of at most 16' if limit else 0}"
    if size == 2:
        different, high_bytes = np.unique(ids), np.unique(ids >> 8)
        largest = int((different & 255).max(initial=0))
        if len(high_bytes) >= 32 and len(different) * np.log2(256 / (largest + 1)) >= 32:
            return f"of {len(different)} different ids, none has a low byte above {largest}"
    return None
