"""Rows of JSON: one per line, or the objects of an array, or objects over several lines."""

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from dynamics.corpus.documents.compression import open_decompressed
from dynamics.corpus.documents.rows import decode, refuse_byte, text_of_row
from dynamics.corpus.documents.signatures import HEAD_BYTES
from dynamics.errors import CorpusError

_BLANK = " \t\r\n"
_READ_BYTES = 1 << 20
_LONGEST_LITERAL = 16  # characters before the end within which a literal may be cut: "\\ud83d..."


def read_json(path: Path, text_column: str) -> Iterator[str]:
    """Yield the text of each row of a JSON file, compressed or not.

    Memory holds one row at a time, whatever the layout.

    Args:
        path: The file.
        text_column: The key of the text.

    Raises:
        CorpusError: A row is not JSON, not an object, or holds no text under the key.
    """
    with open_decompressed(path) as file:
        head = file.read(HEAD_BYTES).removeprefix(codecs.BOM_UTF8).lstrip()
    with open_decompressed(path) as file:
        if head.startswith(b"["):
            yield from _read_array(file, text_column, str(path))
        elif _is_indented(head):
            yield from _read_objects(file, text_column, str(path))
        else:
            yield from _read_lines(file, text_column, str(path))


def _is_indented(head: bytes) -> bool:
    """Return whether the first value continues in the second line, as in indented JSON."""
    line, end, _ = head.partition(b"\n")
    if not end or not line.startswith(b"{"):
        return False
    text = line.decode("utf-8", "replace").rstrip()
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        return error.pos >= len(text)
    except RecursionError:  # reported when the line is read
        return False
    return False


def _read_lines(file: BinaryIO, text_column: str, name: str) -> Iterator[str]:
    """Yield the text of each line; lines of white space are left out."""
    start = 0
    for number, line in enumerate(file, 1):
        where = f"{name}, line {number}"
        if line.strip():
            try:
                row = json.loads(decode(line, where, start))
            except (ValueError, RecursionError) as error:
                raise CorpusError(
                    f"{where} is not JSON ({error}); repair or remove the line"
                ) from error
            yield _text(row, text_column, where)
        start += len(line)


def _read_array(file: BinaryIO, text_column: str, name: str) -> Iterator[str]:
    """Yield the text of each entry of an array, after which nothing may follow."""
    values = _Values(file, name)
    values.skip("[")
    number = 0
    while (following := values.next_character()) != "]":
        if number:
            values.skip(",")
        elif following != "{":
            raise CorpusError(
                f"{name}, line 1 is a JSON list, not an object with a {text_column!r} entry, and "
                "its own entries are no objects either"
            )
        number += 1
        where = f"{name}, entry {number}"
        yield _text(values.take(where), text_column, where)
    values.skip("]")
    if values.next_character():
        raise CorpusError(
            f"{name} has content after its array of {number} entries; keep one array, or one "
            "object per line"
        )


def _read_objects(file: BinaryIO, text_column: str, name: str) -> Iterator[str]:
    """Yield the text of each of several objects, which may span lines."""
    values = _Values(file, name)
    number = 0
    while values.next_character():
        number += 1
        where = f"{name}, object {number}"
        yield _text(values.take(where), text_column, where)


def _text(row: Any, text_column: str, where: str) -> str:
    """Text of a decoded row.

    Raises:
        CorpusError: It is not an object, or has no text under the key; a key of rows is named.
    """
    if not isinstance(row, dict):
        kind = type(row).__name__
        raise CorpusError(f"{where} is a JSON {kind}, not an object with a {text_column!r} entry")
    if text_column not in row and (key := _key_of_rows(row, text_column)):
        raise CorpusError(
            f"{where} has no column {text_column!r}, but a list of rows under {key!r}; write them "
            f"one a line, as jq -c '.{key}[]' does"
        )
    return text_of_row(row, text_column, where)


def _key_of_rows(row: dict[str, Any], text_column: str) -> str | None:
    """Key of an object whose value is a list of rows with the text column."""
    for key, value in row.items():
        first = value[0] if isinstance(value, list) and value else None
        if isinstance(first, dict) and text_column in first:
            return key
    return None


class _Values:
    """JSON values of a file, decoded one after another.

    Args:
        file: The file, opened for bytes.
        name: Name of the file in messages.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file, self._name = file, name
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._scan = json.JSONDecoder().raw_decode
        self._text, self._start, self._bytes_read = "", 0, 0

    def next_character(self) -> str:
        """Return the next character that is not white space, without taking it; "" at the end."""
        while True:
            while self._start < len(self._text):
                if (character := self._text[self._start]) not in _BLANK:
                    return character
                self._start += 1
            if not self._read_more():
                return ""

    def skip(self, expected: str) -> None:
        """Take the next character.

        Raises:
            CorpusError: It is not the expected one.
        """
        if (character := self.next_character()) != expected:
            raise CorpusError(
                f"{self._name} is not JSON (expected {expected!r}, found "
                f"{character or 'the end of the file'!r} before byte {self._bytes_read:,}); repair "
                "or fetch it again"
            )
        self._start += 1

    def take(self, where: str) -> Any:
        """Take the next value.

        Raises:
            CorpusError: It is malformed, or cut.
        """
        self.next_character()
        while True:
            try:
                value, self._start = self._scan(self._text, self._start)
                return value
            except json.JSONDecodeError as error:
                if self._is_cut(error) and self._read_more():
                    continue
                raise CorpusError(f"{where} is not JSON ({error.msg}); repair it") from error
            except RecursionError as error:
                raise CorpusError(f"{where} is not JSON ({error}); repair it") from error

    def _is_cut(self, error: json.JSONDecodeError) -> bool:
        """Return whether an error may be due to the end of what has been read so far."""
        unterminated = error.msg.startswith("Unterminated string")
        return unterminated or error.pos >= len(self._text) - _LONGEST_LITERAL

    def _read_more(self) -> bool:
        """Read at least as much as is unread, so that a long value is scanned few times."""
        unread = self._text[self._start :]
        chunk = self._file.read(max(_READ_BYTES, len(unread)))
        pending = len(self._decoder.getstate()[0])
        try:
            more = self._decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            offset = self._bytes_read - pending + error.start
            refuse_byte(self._name, error.object[error.start], offset)
        self._bytes_read += len(chunk)
        self._text, self._start = unread + more, 0
        return bool(chunk)
