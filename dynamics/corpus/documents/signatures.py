"""Kinds of files by their first bytes: compressions, containers, and text that is not plain."""

import codecs
import re
from dataclasses import dataclass

HEAD_BYTES = 1 << 16
"""Bytes of a file, decompressed, from which its kind is determined."""


@dataclass(frozen=True)
class Signature:
    """A kind of file that its first bytes identify.

    Attributes:
        name: The kind, in messages after "is" or "holds".
        pattern: Matches at the beginning of such a file.
        remedy: Instruction where plain text, rows or ids are expected.
        is_markup: True for text with tags, which could be counted as text.
    """

    name: str
    pattern: re.Pattern[bytes]
    remedy: str
    is_markup: bool = False


_EXTRACT = "extract its text first"
_MARKUP = rb"(?:\xef\xbb\xbf)?\s*(?:<!--.{0,2000}?-->\s*)?<"  # mark, comment, first tag

SIGNATURES = tuple(
    Signature(name, re.compile(pattern, re.DOTALL), *remedy)
    for name, pattern, *remedy in [
        ("gzip", rb"\x1f\x8b\x08[\x00-\x1f]", "name it .gz"),
        ("bzip2", rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)", "name it .bz2"),
        ("xz", rb"\xfd7zXZ\x00", "name it .xz"),
        # The second form is a skippable frame, with which parallel compressors begin.
        ("zstd", rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18", "name it .zst"),
        ("lz4", rb"\x04\x22\x4d\x18", "decompress it with lz4 -d"),
        ("a zip archive", rb"PK(?:\x03\x04|\x05\x06)", "unpack it and name the folder"),
        ("a 7z archive", rb"7z\xbc\xaf\x27\x1c", "unpack it and name the folder"),
        ("a tar archive", rb".{257}ustar", "unpack it with tar -xf and name the folder"),
        ("parquet", rb"PAR1", "name it .parquet"),
        ("an arrow file", rb"ARROW1\x00\x00", "name it .arrow"),
        ("an arrow stream", rb"\xff{4}.{4}\x10\x00\x00\x00", "name it .arrow"),
        ("feather of version 1", rb"FEA1", "write it again as parquet"),
        ("a numpy file", rb"\x93NUMPY", "name it .npy and give --sequence-length"),
        ("HDF5", rb"\x89HDF\r\n\x1a\n", "write its text as parquet or JSON lines"),
        ("a database of SQLite", rb"SQLite format 3\x00", "write its text as JSON lines"),
        ("safetensors", rb'.{5}\x00\x00\x00\{"', "give text or token ids"),
        ("the index of a Megatron data set", rb"MMIDIDX\x00\x00", "name the .bin beside it"),
        ("the index of a fairseq data set", rb"TNTIDX\x00\x00", "name the .bin beside it"),
        ("PDF", rb"%PDF-", _EXTRACT),
        ("RTF", rb"\{\\rtf", _EXTRACT, True),
        ("a git-lfs pointer", rb"version https://git-lfs", "fetch the content with git lfs pull"),
        ("a git-annex pointer", rb"/annex/objects/", "fetch the content with git annex get"),
        ("a web archive", rb"WARC/\d", _EXTRACT, True),
        ("HTML", _MARKUP + rb"(?i:!doctype\s+html|html|head|body)\b", _EXTRACT, True),
        ("XML", _MARKUP + rb"(?i:\?xml|!doctype|mediawiki|tei|rss|feed|svg)\b", _EXTRACT, True),
        (
            "<doc> tags of WikiExtractor",
            _MARKUP + rb"doc\s+id=",
            "extract with its option --json",
            True,
        ),
        ("UTF-32", rb"\xff\xfe\x00\x00|\x00\x00\xfe\xff", "convert it to UTF-8 with iconv"),
        ("UTF-16", rb"\xff\xfe|\xfe\xff", "convert it to UTF-8 with iconv"),
    ]
)

_ANY_SIGNATURE = re.compile(
    b"|".join(signature.pattern.pattern for signature in SIGNATURES), re.DOTALL
)

MARKUP = Signature("markup", re.compile(rb"\s*<"), _EXTRACT, is_markup=True)
"""The kind of files that hold tags according to their suffix alone."""


def signature_of(head: bytes) -> Signature | None:
    """Return the kind of file that begins with these bytes, None where no signature matches."""
    if not _ANY_SIGNATURE.match(head):
        return None
    return next(signature for signature in SIGNATURES if signature.pattern.match(head))


def decoded_head(head: bytes) -> str | None:
    """Text of the first bytes, without a last character that is cut; None if not UTF-8."""
    try:
        return codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return None


def has_no_controls(text: str) -> bool:
    """Return whether all characters of a text are printable or white space."""
    return all(character.isprintable() or character.isspace() for character in text)


def is_binary(head: bytes) -> bool:
    """Return whether a file is binary, as git does: by a NUL among the first 8,000 bytes."""
    return b"\x00" in head[:8000]


def is_utf16_without_mark(head: bytes) -> bool:
    """Return whether bytes are UTF-16: every second is mostly NUL, and no character is a control.

    At least four in five of every second byte. Text in scripts beyond Latin has few NULs, and
    counts as binary instead.
    """
    if not is_binary(head):
        return False
    part = head[:8000]
    even, odd = part[::2].count(0), part[1::2].count(0)
    if max(even, odd) * 5 < len(part) * 2 or min(even, odd) * 50 > max(even, odd):
        return False
    text = part.decode("utf-16-be" if even > odd else "utf-16-le", "replace")
    return has_no_controls(text)
