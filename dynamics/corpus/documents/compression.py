"""Compressed files: their suffix has to agree with their first bytes."""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, cast

from dynamics.corpus.documents.signatures import HEAD_BYTES, signature_of
from dynamics.errors import CorpusError


def _open_zstd(path: Path) -> BinaryIO:
    """Open a file compressed with zstd, of one frame or several."""
    import pyarrow as pa  # the standard library has zstd from Python 3.14 on

    stream = pa.CompressedInputStream(pa.OSFile(str(path)), "zstd")
    return io.BufferedReader(cast(io.RawIOBase, stream), 1 << 18)


@dataclass(frozen=True)
class Compression:
    """A compression that files are read through.

    Attributes:
        name: Name of the signature of such files.
        suffixes: Suffixes of such files; the first is the usual one.
        open: Opens a file of several frames or members, for reading decompressed bytes.
    """

    name: str
    suffixes: tuple[str, ...]
    open: Callable[..., Any]


COMPRESSIONS = (
    Compression("gzip", (".gz", ".gzip"), gzip.open),
    Compression("bzip2", (".bz2",), bz2.open),
    Compression("xz", (".xz",), lzma.open),
    Compression("zstd", (".zst", ".zstd"), _open_zstd),
)

_BY_SUFFIX = {
    suffix: compression for compression in COMPRESSIONS for suffix in compression.suffixes
}
_BY_NAME = {compression.name: compression for compression in COMPRESSIONS}

DECOMPRESSION_ERRORS = (OSError, EOFError, lzma.LZMAError, zlib.error)


def suffixes_of(path: Path) -> tuple[str, Compression | None]:
    """Return the suffix of a file's format, in lower case, and the compression that follows it.

    Example:
        >>> suffix, compression = suffixes_of(Path("a.JSONL.gz"))
        >>> suffix, compression.name
        ('.jsonl', 'gzip')
    """
    return _suffixes_of_name(path.name)


@lru_cache(1 << 17)  # a name is looked at several times on the way from listing to reading
def _suffixes_of_name(name: str) -> tuple[str, Compression | None]:
    """Suffix and compression of a file's name."""
    stem, last = _split(name)
    compression = _BY_SUFFIX.get(last)
    return (last, None) if compression is None else (_split(stem)[1], compression)


def _split(name: str) -> tuple[str, str]:
    """Stem and suffix of a name, as in `Path`, but ten times as fast."""
    stem, _, last = name.rpartition(".")
    return (stem, f".{last.lower()}") if stem and last else (name, "")


def read_head(path: Path) -> bytes:
    """Return the first bytes of a file, decompressed.

    Raises:
        CorpusError: The first bytes contradict the suffix, or the lack of one; an empty file
            contradicts every compression.
        OSError: The file cannot be read; or one of `DECOMPRESSION_ERRORS`.
    """
    _, compression = suffixes_of(path)
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    signature = signature_of(head)
    actual = _BY_NAME.get(signature.name) if signature else None
    if actual is compression is None:
        return head
    if actual is not None and actual is not compression:
        stem = path.name if compression is None else path.with_suffix("").name
        raise CorpusError(
            f"{path} is compressed with {actual.name}, but its name does not show it; rename it to "
            f"{stem}{actual.suffixes[0]}"
        )
    assert compression is not None
    if actual is None:
        raise CorpusError(
            f"{path} cannot be read: it is named {path.suffix} but begins with {head[:8]!r}, "
            f"unlike {compression.name}; check or fetch it again, or rename it to "
            f"{path.with_suffix('').name} if it is not compressed"
        )
    with compression.open(path) as file:
        return file.read(HEAD_BYTES)


def open_decompressed(path: Path) -> BinaryIO:
    """Open a file for reading its bytes, decompressed according to its suffix.

    Raises:
        OSError: The file cannot be opened; while reading, one of `DECOMPRESSION_ERRORS`.
    """
    _, compression = suffixes_of(path)
    return path.open("rb") if compression is None else compression.open(path)
