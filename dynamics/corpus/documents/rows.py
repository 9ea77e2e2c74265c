"""The text of a row, checked to be Unicode; errors list the columns that the row has."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any, NoReturn

from dynamics.errors import CorpusError

_COLUMNS_SHOWN = 20


def text_of_row(
    row: Mapping[str, Any], text_column: str, where: str, columns: Iterable[str] | None = None
) -> str:
    """Return the text of a row; a null is an empty document.

    Args:
        row: Values by column.
        text_column: The column that holds the text.
        where: Name of the row in messages.
        columns: Names of all columns; None for those of the row.

    Raises:
        CorpusError: The row has no such column, or it holds anything but Unicode text.
    """
    check_column(text_column, row, where)
    text = row[text_column]
    if text is not None and not isinstance(text, str):
        raise CorpusError(
            f"{where}: column {text_column!r} holds {_type_of(text)}, expected text; its columns "
            f"are: {column_list(columns or row)}"
        )
    try:
        (text or "").encode()
    except UnicodeEncodeError as error:
        raise CorpusError(
            f"{where}: column {text_column!r} is not Unicode text: {error}"
        ) from error
    return text or ""


def check_column(text_column: str, columns: Collection[str], where: str) -> None:
    """Refuse rows without the text column, naming the columns they have.

    Raises:
        CorpusError: The text column is not among the columns.
    """
    if text_column not in columns:
        raise CorpusError(
            f"{where} has no column {text_column!r}; its columns are: {column_list(columns)}"
        )


def column_list(columns: Iterable[str]) -> str:
    """Join the names of columns on one line, with long names and long lists cut."""
    names = [" ".join(str(name).split())[:60] for name in columns]
    more = f" and {len(names) - _COLUMNS_SHOWN} more" if len(names) > _COLUMNS_SHOWN else ""
    return (", ".join(names[:_COLUMNS_SHOWN]) or "none") + more


def decode(content: bytes, where: str, start: int) -> str:
    """Decode UTF-8, without a byte order mark.

    Args:
        content: The bytes.
        where: Name of the bytes in messages.
        start: Offset of the bytes in the file.

    Raises:
        CorpusError: They are not UTF-8; the message names the first byte that is not.
    """
    try:
        return content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        refuse_byte(where, content[error.start], start + error.start)


def refuse_byte(where: str, byte: int, offset: int) -> NoReturn:
    """Refuse a byte that is not UTF-8.

    Raises:
        CorpusError: Always.
    """
    raise CorpusError(
        f"{where} is not UTF-8: byte 0x{byte:02x} at offset {offset}; convert the file to UTF-8"
    )


def _type_of(value: Any) -> str:
    """Type of a value that is not text, with the keys of objects, as in chats."""
    if isinstance(value, dict):
        return f"an object with the keys {column_list(value)}"
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return f"a list of objects with the keys {column_list(value[0])}"
    return type(value).__name__
