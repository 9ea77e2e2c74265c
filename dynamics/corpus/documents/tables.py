"""Rows of tables: CSV and TSV, parquet, arrow and feather files."""

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from dynamics.corpus.documents.compression import open_decompressed, suffixes_of
from dynamics.corpus.documents.rows import check_column, decode, text_of_row
from dynamics.errors import CorpusError, message_of

DELIMITERS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}
_LONGEST_FIELD = (1 << 31) - 1  # the largest that every platform's csv takes


def read_csv(path: Path, text_column: str) -> Iterator[str]:
    """Yield the text of each row of a table whose first line names its columns.

    Fields are separated by the delimiter (comma, tab, semicolon, bar) under which the first line
    has the text column and every row as many fields as the first; quoted fields may hold line
    breaks, and quotes in them are doubled.

    Raises:
        CorpusError: There is no such column, or a row has another number of fields.
    """
    csv.field_size_limit(_LONGEST_FIELD)  # a setting of the process; its default is 131,072
    with open_decompressed(path) as file:
        lines = _decoded_lines(file, str(path))
        first = next(lines, "")
        dialect = _dialect(first, text_column, path)
        rows = csv.reader(chain([first], lines), strict=True, **dialect)
        try:
            header = next(rows)
            if header.count(text_column) > 1:
                raise CorpusError(
                    f"{path} has {header.count(text_column)} columns {text_column!r}; rename all "
                    "but one"
                )
            column = header.index(text_column)
            for row in rows:
                if len(row) == len(header):
                    yield row[column]
                elif row:
                    raise CorpusError(
                        f"{path}, line {rows.line_num}: a row has {len(row)} fields, the first "
                        f"line {len(header)}, separated by {DELIMITERS[dialect['delimiter']]}; "
                        "quote fields that hold the delimiter, or write JSON lines"
                    )
        except csv.Error as error:
            raise CorpusError(
                f"{path}, line {rows.line_num} is not CSV ({error}); double the quotes within "
                "quoted fields, or write JSON lines"
            ) from error


def _dialect(header: str, text_column: str, path: Path) -> dict[str, Any]:
    """Find the delimiter under which the first line has the text column, and blanks after it.

    Raises:
        CorpusError: There is no such delimiter, or no first line.
    """
    if "\r" in header.rstrip("\r\n"):
        raise CorpusError(f"lines of {path} end in carriage returns; convert them to line feeds")
    tabs_first = suffixes_of(path)[0] != ".csv"
    marks = sorted(DELIMITERS, key=lambda mark: tabs_first and mark != "\t")
    dialects = [
        {"delimiter": mark, "skipinitialspace": blanks}
        for blanks in (False, True)
        for mark in marks
    ]
    by_dialect = [(next(csv.reader([header], **dialect), []), dialect) for dialect in dialects]
    matching = [dialect for columns, dialect in by_dialect if text_column in columns]
    if not matching:
        columns = max((columns for columns, _ in by_dialect), key=len)
        check_column(text_column, columns, str(path))
    return matching[0]


def _decoded_lines(file: BinaryIO, name: str) -> Iterator[str]:
    """Lines of a file of UTF-8, with their ends."""
    start = 0
    for number, line in enumerate(file, 1):
        yield decode(line, f"{name}, line {number}", start)
        start += len(line)


def read_parquet(path: Path, text_column: str) -> Iterator[str]:
    """Yield the text of each row of a parquet file.

    Raises:
        CorpusError: The file is not parquet, or has no such column of text.
    """
    import pyarrow.parquet as pq

    with _readable(path, "parquet"), pq.ParquetFile(path) as file:
        columns = file.schema_arrow.names
        check_column(text_column, columns, str(path))
        for batch in file.iter_batches(columns=[text_column]):
            for row in batch.to_pylist():
                yield text_of_row(row, text_column, str(path), columns)


def read_arrow(path: Path, text_column: str) -> Iterator[str]:
    """Yield the text of each row of an arrow file or stream, as feather and datasets write.

    Raises:
        CorpusError: The file is not arrow, or has no such column of text.
    """
    import pyarrow as pa

    with _readable(path, "arrow"), pa.memory_map(str(path)) as file:
        is_file = file.read(6) == b"ARROW1"
        file.seek(0)
        reader = pa.ipc.open_file(file) if is_file else pa.ipc.open_stream(file)
        columns = reader.schema.names
        check_column(text_column, columns, str(path))
        batches = map(reader.get_batch, range(reader.num_record_batches)) if is_file else reader
        for batch in batches:
            for row in batch.select([text_column]).to_pylist():
                yield text_of_row(row, text_column, str(path), columns)


@contextmanager
def _readable(path: Path, format_name: str) -> Iterator[None]:
    """Refuse a file that pyarrow cannot read.

    Raises:
        CorpusError: The file is damaged, or of another format.
    """
    import pyarrow as pa

    try:
        yield
    except pa.ArrowInvalid as error:
        reason = message_of(error).rstrip(".")
        raise CorpusError(
            f"{path} is not a readable {format_name} file: {reason}; check or fetch it again"
        ) from error
