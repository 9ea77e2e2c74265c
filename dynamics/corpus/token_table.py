"""Tables of tokens that a user brings: a row per token, from CSV, TSV or parquet.

The first line of a CSV or TSV names its columns. One of `KEYS` names the token of a row: its id,
its spelling, or a word. Cells are kept as they stand, because `NA`, `null`, `1e5` and a space are
tokens too; a column is read as numbers only when its numbers are needed.
"""

import csv
import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
from jaxtyping import Float

from dynamics.corpus.documents.compression import (
    DECOMPRESSION_ERRORS,
    open_decompressed,
    read_head,
)
from dynamics.corpus.documents.rows import column_list, decode
from dynamics.corpus.documents.signatures import signature_of
from dynamics.corpus.documents.tables import DELIMITERS
from dynamics.errors import CorpusError, message_of
from dynamics.files import sha256_file

Key = Literal["token_id", "token", "word"]
KEYS: tuple[Key, ...] = get_args(Key)
"""Columns that name the token of a row, in the order in which they are preferred."""

MISSING = frozenset({"", "na", "n/a", "nan", "null", "none"})
"""Cells of a column of numbers, in lower case, that hold no number."""

Table = str | Path | pd.DataFrame | pd.Series
"""A table of tokens: its file, or what pandas has of it."""

_LONGEST_FIELD = (1 << 31) - 1  # the largest that every platform's csv takes
_KINDS = "a table of tokens is CSV, TSV or parquet"


@dataclass(frozen=True, eq=False)
class TokenTable:
    """A table with a row per token.

    Attributes:
        name: Name in messages: the path of the file.
        sha256: Digest of the file; empty for a table in memory.
        key: The column that names the tokens.
        columns: Cells of every column by its name, texts in CSV, values in parquet.
        places: Place of each row in messages, such as `line 3`.
        notes: What a reader of the table should know of how it was read.
    """

    name: str
    sha256: str
    key: Key
    columns: Mapping[str, Sequence[Any]]
    places: Sequence[str]
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<TokenTable {self.name}: {len(self):,} rows by {self.key}>"

    def __len__(self) -> int:
        return len(self.places)

    def where(self, row: int) -> str:
        """Return the place of a row with the name of the table, for a message."""
        return f"{self.name}, {self.places[row]}"

    def ids(self) -> list[int]:
        """Return the token id of each row.

        Raises:
            CorpusError: A cell is not a whole number.
        """
        return [self._id(row, cell) for row, cell in enumerate(self.columns["token_id"])]

    def texts(self, column: str) -> list[str]:
        """Return the cells of a column of texts; an empty text is a cell like others.

        Raises:
            CorpusError: A cell of a parquet file is not text.
        """
        for row, cell in enumerate(self.columns[column]):
            if not isinstance(cell, str):
                raise CorpusError(
                    f"{self.where(row)}: column {column!r} holds {cell!r}, expected text; write it "
                    "as a string (pandas.read_csv needs keep_default_na=False)"
                )
        return list(self.columns[column])

    def numbers(self, column: str) -> Float[np.ndarray, " rows"]:
        """Return a column of numbers, NaN where a cell is one of `MISSING` or null.

        Raises:
            CorpusError: Another cell is not a finite number.
        """
        values = np.empty(len(self))
        for row, cell in enumerate(self.columns[column]):
            number = _number(cell)
            if number is None or math.isinf(number):
                raise CorpusError(
                    f"{self.where(row)}: column {column!r} holds {cell!r}, expected a finite "
                    "number; correct it, or leave it empty where nothing is known"
                )
            values[row] = number
        return values

    def holds_numbers(self, column: str) -> bool:
        """Return whether any cell of a column is a number; a column without cells holds none."""
        numbers = map(_number, self.columns[column])
        return any(number is not None and not math.isnan(number) for number in numbers)

    def _id(self, row: int, cell: Any) -> int:
        """Token id in a cell; `5.0`, as pandas writes ids beside missing ones, is 5."""
        number = _number(cell)
        if number is None or not math.isfinite(number) or number % 1:
            raise CorpusError(
                f"{self.where(row)}: column 'token_id' holds {cell!r}, expected a whole number; "
                "correct it, or remove the row"
            )
        return int(number)


def token_table(table: Table) -> TokenTable:
    """Return a table of tokens from a file, a frame or a series of pandas.

    The key may be the index, if the index has its name.

    Raises:
        CorpusError: As for `read_token_table`.
    """
    if isinstance(table, (str, Path)):
        return read_token_table(table)
    frame = table.to_frame() if isinstance(table, pd.Series) else table
    if {*frame.index.names} & {*KEYS}:
        frame = frame.reset_index()
    name = "the table"
    header = [str(column) for column in frame.columns]
    _check_header(name, header)
    columns = {column: frame.iloc[:, index].tolist() for index, column in enumerate(header)}
    places = [f"row {row}" for row in range(1, len(frame) + 1)]
    return checked(TokenTable(name, "", _key(columns), columns, places))


def read_token_table(path: str | Path) -> TokenTable:
    """Read a table of tokens from a CSV, TSV or parquet file, compressed or not.

    Raises:
        CorpusError: The file is missing, empty, damaged or of another format; it has no column of
            `KEYS`, or two columns of one name; or a row has another number of fields.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise CorpusError(f"there is no table {path}; {_KINDS}, with a column {_or(KEYS)}")
    try:
        head = read_head(path)
        signature = signature_of(head)
        if signature is not None and signature.name == "parquet":
            columns, places, notes = *_parquet(path), ()
        elif signature is not None or head.lstrip()[:1] in (b"{", b"["):
            other = "JSON" if signature is None else signature.name
            raise CorpusError(f"{path} is {other}; {_KINDS}: write it as one of them")
        else:
            with open_decompressed(path) as file:
                columns, places, notes = _delimited(path, decode(file.read(), str(path), 0))
    except DECOMPRESSION_ERRORS as error:
        raise CorpusError(f"{path} cannot be read: {message_of(error)}; fetch it again") from error
    return checked(TokenTable(str(path), sha256_file(path), _key(columns), columns, places, notes))


def checked(table: TokenTable) -> TokenTable:
    """Return a table after a check that it has rows, and something in them beside the token.

    Raises:
        CorpusError: It has no rows, or no other column.
    """
    if not len(table):
        raise CorpusError(f"{table.name} is empty: it has no row below the names of its columns")
    if not table.columns.keys() - {*KEYS}:
        raise CorpusError(
            f"{table.name} has no column beside {_or([*table.columns])}; add the numbers"
        )
    return table


def _number(cell: Any) -> float | None:
    """Number in a cell, NaN where it is missing, None where it is no number."""
    if cell is None:
        return math.nan
    if isinstance(cell, str):
        if cell.strip().lower() in MISSING:
            return math.nan
        if "_" in cell:  # float() takes 1_000
            return None
    try:
        return float(cell)
    except (TypeError, ValueError):
        return None


def _key(columns: Mapping[str, Sequence[Any]]) -> Key:
    """Return the key of a table; readers refuse a table without one."""
    return next(key for key in KEYS if key in columns)


def _check_header(path: Path | str, header: Sequence[str]) -> None:
    """Refuse columns without a key, or two of one name.

    Raises:
        CorpusError: There are such.
    """
    if not {*header} & {*KEYS}:
        raise CorpusError(
            f"{path} has no column {_or(KEYS)}; its columns are: {column_list(header)}; name one so"
        )
    twice = [name for name, count in Counter(header).items() if count > 1 and name]
    if twice:
        raise CorpusError(f"{path} has two columns {twice[0]!r}; rename one")


def _parquet(path: Path) -> tuple[Mapping[str, Sequence[Any]], list[str]]:
    """Read the columns of a parquet file, and name its rows from 1 on."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            _check_header(path, file.schema_arrow.names)
            table = file.read()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise CorpusError(f"{path} is not readable parquet: {message_of(error)}") from error
    columns = {name: table[name].to_pylist() for name in table.column_names}
    return columns, [f"row {row}" for row in range(1, table.num_rows + 1)]


def _delimited(
    path: Path, text: str
) -> tuple[Mapping[str, Sequence[str]], list[str], tuple[str, ...]]:
    """Read the columns of a CSV or TSV and the lines of its rows; a nameless column is left out."""
    first_line = text.split("\n", 1)[0]
    if not first_line.strip():
        raise CorpusError(f"{path} is empty, or its first line is; {_KINDS}")
    delimiter = _delimiter(path, first_line)
    rows, notes = _parsed(path, text, delimiter)
    (_, header), *body = rows
    cells = {name: [row[index] for _, row in body] for index, name in enumerate(header) if name}
    return cells, [f"line {line}" for line, _ in body], notes


def _delimiter(path: Path, first_line: str) -> str:
    """Return the delimiter under which the first line has a key.

    Raises:
        CorpusError: There is none, or two columns have one name.
    """
    headers = {
        mark: next(csv.reader([first_line.rstrip("\r")], delimiter=mark)) for mark in DELIMITERS
    }
    matching = [mark for mark, header in headers.items() if {*header} & {*KEYS}]
    mark = matching[0] if matching else max(headers, key=lambda mark: len(headers[mark]))
    _check_header(path, headers[mark])
    return mark


def _parsed(
    path: Path, text: str, delimiter: str
) -> tuple[list[tuple[int, list[str]]], tuple[str, ...]]:
    """Return the line and the fields of each row, the header first.

    Quotes enclose fields, as `csv` and pandas write them. Where that leaves rows of unequal lengths
    or joins lines, and every line has equally many fields when quotes are characters like others,
    they are: `"` is a token, and a program that knows no quoting writes it alone.

    Raises:
        CorpusError: A row has another number of fields than the first line, either way.
    """
    quoted, verbatim = (
        _parse(text, delimiter, quoting) for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_NONE)
    )
    if (quoted.problem or quoted.joins_lines) and not verbatim.problem:
        note = f"{path}: quotes are read as part of its cells, because they do not enclose fields"
        return verbatim.rows, (note,) if '"' in text else ()
    if quoted.problem:
        raise CorpusError(
            f"{path}, {quoted.problem}, separated by {DELIMITERS[delimiter]}; quote fields that "
            "hold the delimiter, and double the quotes inside"
        )
    return quoted.rows, ()


class _Parse(NamedTuple):
    """Rows of a text with the line each begins on.

    Attributes:
        rows: Line and fields of each row that has fields.
        joins_lines: Whether a quoted field holds a line break.
        problem: What is wrong with the first row that cannot be read; empty where all can.
    """

    rows: list[tuple[int, list[str]]]
    joins_lines: bool
    problem: str


def _parse(text: str, delimiter: str, quoting: Any) -> _Parse:
    """Split a text into rows of as many fields as the first has."""
    csv.field_size_limit(_LONGEST_FIELD)  # a setting of the process; its default is 131,072
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=True
    )
    rows: list[tuple[int, list[str]]] = []
    line, joins_lines = 1, False
    try:
        for fields in reader:
            if fields:
                rows.append((line, fields))
            if fields and len(fields) != len(rows[0][1]):
                lengths = f"a row has {len(fields)} fields, the first line {len(rows[0][1])}"
                return _Parse(rows, joins_lines, f"line {line}: {lengths}")
            joins_lines |= reader.line_num > line
            line = reader.line_num + 1
    except csv.Error as error:
        return _Parse(rows, joins_lines, f"line {line}: {error}")
    return _Parse(rows, joins_lines, "")


def _or(names: Sequence[str]) -> str:
    """Names as alternatives, such as `a, b or c`."""
    return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
