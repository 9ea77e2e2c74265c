"""Formats of text files, determined by name and content together."""

import csv
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dynamics.corpus.documents.compression import (
    COMPRESSIONS,
    DECOMPRESSION_ERRORS,
    open_decompressed,
    read_head,
    suffixes_of,
)
from dynamics.corpus.documents.json_rows import read_json
from dynamics.corpus.documents.large_text import Document, open_large_text
from dynamics.corpus.documents.rows import decode
from dynamics.corpus.documents.signatures import (
    HEAD_BYTES,
    MARKUP,
    decoded_head,
    is_binary,
    is_utf16_without_mark,
    signature_of,
)
from dynamics.corpus.documents.tables import DELIMITERS, read_arrow, read_csv, read_parquet
from dynamics.errors import ConfigError, CorpusError, did_you_mean, message_of
from dynamics.progress import Report, no_report

_LARGE_FILE = 8 << 20  # bytes, decompressed


def read_text(path: Path, text_column: str) -> Iterator[Document]:
    """Yield the text of a file as one document, unchanged but for a byte order mark.

    A file of 8 MiB or more is read in parts, at each iteration.

    Raises:
        CorpusError: The file is not UTF-8.
    """
    with open_decompressed(path) as file:
        content = file.read(_LARGE_FILE)
    if len(content) < _LARGE_FILE:
        yield decode(content, f"{path}", start=0)
        return
    text = open_large_text(path, lambda: open_decompressed(path))
    yield "" if text.is_blank else text


@dataclass(frozen=True)
class FileFormat:
    """A format that text is read from.

    Attributes:
        name: Name for `--format`.
        suffixes: Suffixes of files in this format; that of a compression may follow.
        document: Description of one document, for the help.
        read: Yields the documents of a file in this format, given the column of the text.
        compressible: True if compressed files are read; parquet and arrow compress themselves.
    """

    name: str
    suffixes: tuple[str, ...]
    document: str
    read: Callable[[Path, str], Iterator[Document]]
    compressible: bool = True


FORMATS = {
    file_format.name: file_format
    for file_format in [
        FileFormat("text", (".txt", ".md", ".text", ".markdown"), "the file", read_text),
        FileFormat(
            "json",
            (".jsonl", ".ndjson", ".jsonlines", ".json"),
            "an object: one a line, or the entries of one array, or indented objects",
            read_json,
        ),
        FileFormat("csv", (".csv", ".tsv", ".tab"), "a row; the first line has names", read_csv),
        FileFormat("parquet", (".parquet", ".pq"), "a row", read_parquet, compressible=False),
        FileFormat(
            "arrow", (".arrow", ".feather", ".ipc"), "a row", read_arrow, compressible=False
        ),
    ]
}

BY_SUFFIX = {
    suffix: file_format for file_format in FORMATS.values() for suffix in file_format.suffixes
}

_BY_SIGNATURE = {"parquet": "parquet", "an arrow file": "arrow", "an arrow stream": "arrow"}
_MARKDOWN_SUFFIXES = (".md", ".markdown")  # whose tables are text
_MARKUP_SUFFIXES = (".html", ".htm", ".xhtml", ".xml")
_ID_SUFFIXES = (".bin", ".npy", ".ids", ".ds")
_JSON = re.compile(rb'(?:\xef\xbb\xbf)?\s*(?:\[\s*)?\{\s*"')
_LINE_OF_NAMES = re.compile(r'"?[^\W\d][\w.-]*"?([,;|\t]"?[^\W\d][\w.-]*"?)+\s*$')


def known_suffix(path: Path) -> str | None:
    """Return the suffix that determines a file's format, None where it is unknown."""
    suffix, compression = suffixes_of(path)
    file_format = BY_SUFFIX.get(suffix)
    readable = file_format and (compression is None or file_format.compressible)
    return suffix if readable else None


def check_format(name: str | None) -> None:
    """Refuse a name that is not one of a format.

    Raises:
        ConfigError: There is no such format.
    """
    if name is not None and name not in FORMATS:
        raise ConfigError(f"there is no format {name!r}; {did_you_mean(name, FORMATS)}")


def read_files(
    paths: Iterable[Path],
    text_column: str,
    format_name: str | None = None,
    report: Report = no_report,
) -> Iterator[Document]:
    """Yield the documents of files, one file after the other.

    Args:
        paths: The files.
        text_column: Column of a table that holds the text.
        format_name: Read all files in this format, whatever their names and contents suggest.
        report: Receives a line about the first file that is not read as its name suggests, and
            about each empty file.

    Raises:
        CorpusError: A file cannot be read, or its content contradicts its name.
    """
    reported = set()
    for path in paths:
        try:
            head = read_head(path)
            file_format, note = _format_of(path, head, format_name)
            if note and (key := note.replace(str(path), "")) not in reported:
                reported.add(key)
                report(note)
            if file_format.name == "text" and len(head) < HEAD_BYTES:
                yield decode(head, str(path), start=0)  # a short text has been read whole
            else:
                yield from file_format.read(path, text_column)
        except DECOMPRESSION_ERRORS as error:
            reason = message_of(error)
            long_window = "too much memory for decoding" in reason  # of zstd --long, over 128 MB
            remedy = (
                "decompress it with zstd -d --long=31" if long_window else "check or fetch it again"
            )
            raise CorpusError(f"{path} cannot be read: {reason}; {remedy}") from error


def _format_of(path: Path, head: bytes, format_name: str | None) -> tuple[FileFormat, str | None]:
    """Format of a file, and a line to report where its name does not determine it."""
    suffix, compression = suffixes_of(path)
    named = BY_SUFFIX.get(suffix) if format_name is None else FORMATS[format_name]
    if named is not None and compression is not None and not named.compressible:
        raise CorpusError(f"{path} is {named.name} within {compression.name}; decompress it first")
    if format_name is not None:
        return FORMATS[format_name], None
    if not head:
        return FORMATS["text"], f"{path} is empty"
    content_format = _format_held(path, suffix, head, named)
    if content_format is None and named is not None and named.name != "text":
        return named, None  # whose reader refuses other content
    if content_format is None:
        columns = [] if suffix in _MARKDOWN_SUFFIXES else _columns_of_table(head)
        if columns:
            raise CorpusError(
                f"{path} looks like a table with the columns {', '.join(columns)}; give --format "
                "csv to read one of them, or --format text to count the file as it stands"
            )
        unknown = f"{path} is read as one document of text; its suffix is unknown"
        return FORMATS["text"], None if named else unknown
    if named is None or named.name == "text":
        as_text = (
            "; give --format text to count it as it stands" if content_format.name == "json" else ""
        )
        return content_format, f"{path} holds {content_format.name} and is read as that{as_text}"
    if content_format is not named:
        raise CorpusError(
            f"{path} is named {suffix} but holds {content_format.name}; rename it to end in "
            f"{content_format.suffixes[0]}, or give --format {content_format.name}"
        )
    return named, None


def _format_held(
    path: Path, suffix: str, head: bytes, named: FileFormat | None
) -> FileFormat | None:
    """Format that the content shows; None for text, which may be of any format.

    Raises:
        CorpusError: Text cannot be read from such content.
    """
    signature = signature_of(head)
    if signature is not None and signature.name in _BY_SIGNATURE:
        return FORMATS[_BY_SIGNATURE[signature.name]]
    if signature is None and suffix in _MARKUP_SUFFIXES:
        signature = MARKUP
    if signature is not None:
        remedy = signature.remedy
        if signature.is_markup and named is not None and named.name != "text":
            remedy = "check or fetch it again"
        elif signature.is_markup:
            remedy += ", or count its tags as well with --format text"
        expected = named.name if named else "text"
        raise CorpusError(f"{path} holds {signature.name}, not {expected}; {remedy}")
    if _JSON.match(head):
        return FORMATS["json"]
    if is_utf16_without_mark(head):
        raise CorpusError(f"{path} looks like UTF-16, not UTF-8; convert it to UTF-8 with iconv")
    if is_binary(head) or (suffix in _ID_SUFFIXES and decoded_head(head) is None):
        raise CorpusError(
            f"{path} is binary, not text; token ids are read with --sequence-length (and --dtype)"
        )
    return None


def _columns_of_table(head: bytes) -> list[str]:
    """Column names of a table whose suffix is not that of a table; empty if it is not a table.

    A table has a line of at least two names, each one word, then at least two rows of as many
    fields, within the file's first bytes. Prose has no such first line.
    """
    lines = head.decode("utf-8", "replace").removeprefix("\ufeff").split("\n")
    if not _LINE_OF_NAMES.match(lines[0]):
        return []
    if len(head) == HEAD_BYTES:
        del lines[-1]  # it may be cut
    for delimiter in DELIMITERS:
        try:
            rows = [row for row in csv.reader(lines, delimiter=delimiter) if row]
        except csv.Error:
            continue
        columns, data_rows = rows[0] if rows else [], rows[1:]
        enough = len(columns) > 1 and len(data_rows) > 1
        if enough and all(len(row) == len(columns) for row in data_rows):
            return columns
    return []


def compression_suffixes() -> str:
    """Return the suffixes of compressions as text."""
    return ", ".join(compression.suffixes[0] for compression in COMPRESSIONS)
