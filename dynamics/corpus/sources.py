"""Text, wherever it is, as a stream of documents.

A source is a name in `NAMED_SOURCES`, a file whose suffix is in `FORMATS` (compressed or not), a
folder of such files, or else a data set that `datasets` can load, as `name` or `name:config`.
"""

import gzip
import json
import lzma
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from dynamics.corpus.large_text import READ_ERRORS, Document, not_utf8, open_large_text
from dynamics.corpus.python_docs import python_docs
from dynamics.errors import CorpusError


def documents(
    source: str,
    *,
    text_column: str = "text",
    split: str = "train",
    max_documents: int | None = None,
) -> Iterator[Document]:
    """The documents of a source, in its own order.

    Documents of nothing but white space are left out. Text is passed on as it stands, whatever its
    line ends; only a byte order mark is removed.

    Args:
        source: `python-docs`; a file (`.txt`, `.md`, one document each; `.jsonl`, `.parquet`, one
            document a row; `.txt`, `.md` and `.jsonl` may end in `.xz` or `.gz` as well); a folder
            of such files, read recursively and sorted, hidden ones left out; or the name of a data
            set, `name` or `name:config`, which is streamed. A file of another suffix is text.
        text_column: Column of a table that holds the text.
        split: Split of a data set; nothing else has splits.
        max_documents: Stop after so many documents.

    Returns:
        Each as `str`, that of a text file of 8 MiB or more as `LargeText`, which is read in parts;
        nothing where there is no text: whoever needs some says so.

    Raises:
        CorpusError: The source does not exist, or (while iterating) cannot be read.
    """
    if max_documents is not None and max_documents < 1:
        raise CorpusError(f"max_documents is {max_documents}; give 1 or more, or leave it out")
    path = Path(source).expanduser()
    if source in NAMED_SOURCES:
        texts = NAMED_SOURCES[source]()
    elif path.is_dir():
        texts = _read_folder(path, text_column)
    elif path.exists():
        texts = _read_file(path, text_column)
    elif source.startswith((".", "/", "~")) or _format(path):
        raise CorpusError(f"there is no file or folder {source}; check the path")
    else:
        texts = _read_dataset(source, text_column, split)
    with_text = (text for text in texts if not isinstance(text, str) or text.strip())
    return islice(with_text, max_documents)


def _read_folder(folder: Path, text_column: str) -> Iterator[Document]:
    paths = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and _format(path)
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    if not paths:
        known = ", ".join(FORMATS)
        raise CorpusError(f"the folder {folder} holds no text; files that are read end in {known}")
    return (text for path in paths for text in _read_file(path, text_column))


def _read_file(path: Path, text_column: str) -> Iterator[Document]:
    try:
        yield from FORMATS[_format(path) or ".txt"](path, text_column)
    except READ_ERRORS as error:
        raise CorpusError(f"{path} cannot be read: {error}; check or fetch it again") from error


def _format(path: Path) -> str | None:
    """The suffix that tells how to read a file, without that of its compression."""
    suffix = (path.with_suffix("") if path.suffix in _OPENERS else path).suffix
    return suffix if suffix in FORMATS else None


def _read_text(path: Path, text_column: str) -> Iterator[Document]:
    opener = _OPENERS.get(path.suffix, open)
    with opener(path, "rb") as file:
        content: bytes = file.read(_LARGE_FILE)
        is_whole = len(content) < _LARGE_FILE
        if not is_whole and not path.is_file():  # a pipe, which cannot be read twice
            content, is_whole = content + file.read(), True
    if is_whole:
        yield _decode(content, f"{path}", start=0)
        return
    text = open_large_text(path, lambda: opener(path, "rb"))
    yield "" if text.is_blank else text


def _read_json_lines(path: Path, text_column: str) -> Iterator[str]:
    start = 0
    with _OPENERS.get(path.suffix, open)(path, "rb") as file:
        for number, line in enumerate(file, 1):
            where = f"{path}, line {number}"
            if line.strip():
                yield _text_of_json(_decode(line, where, start), text_column, where)
            start += len(line)


def _text_of_json(line: str, text_column: str, where: str) -> str:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{where} is not JSON ({error}); repair or remove the line") from error
    if not isinstance(row, dict):
        found = type(row).__name__
        raise CorpusError(f"{where} is a JSON {found}, not an object with a {text_column!r} entry")
    return _text_of_row(row, text_column, where)


def _read_parquet(path: Path, text_column: str) -> Iterator[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            columns = file.schema_arrow.names
            if text_column not in columns:
                raise _no_column(text_column, columns, str(path))
            for batch in file.iter_batches(columns=[text_column]):
                for row in batch.to_pylist():
                    yield _text_of_row(row, text_column, str(path))
    except pa.ArrowInvalid as error:
        raise CorpusError(f"{path} is no parquet file that can be read: {error}") from error


def _read_dataset(source: str, text_column: str, split: str) -> Iterator[str]:
    import datasets
    from datasets.exceptions import DatasetsError

    name, _, config = source.partition(":")
    try:
        rows = datasets.load_dataset(name, config or None, split=split, streaming=True)
        for row in rows:
            yield _text_of_row(row, text_column, f"data set {source}")
    except (DatasetsError, OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise CorpusError(
            f"there is no file or folder {source}, and the data set {name} (configuration "
            f"{config or 'default'}, split {split}) cannot be read: {reason}; check the name "
            "and the connection, or give a file"
        ) from error


def _text_of_row(row: dict[str, Any], text_column: str, where: str) -> str:
    """The text of a table's row; a null is an empty document."""
    if text_column not in row:
        raise _no_column(text_column, row, where)
    text = row[text_column]
    if text is not None and not isinstance(text, str):
        found = type(text).__name__
        raise CorpusError(f"{where}: column {text_column!r} holds {found}, expected text")
    try:
        (text or "").encode()
    except UnicodeEncodeError as error:
        raise CorpusError(f"{where}: column {text_column!r} is no Unicode text: {error}") from error
    return text or ""


def _no_column(text_column: str, columns: Any, where: str) -> CorpusError:
    known = ", ".join(columns) or "none"
    return CorpusError(f"{where} has no column {text_column!r}; its columns are: {known}")


def _decode(content: bytes, where: str, start: int) -> str:
    try:
        return content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise CorpusError(not_utf8(error, where, start)) from error


_LARGE_FILE = 8 << 20  # bytes, decompressed
_OPENERS: dict[str, Callable[..., Any]] = {".xz": lzma.open, ".gz": gzip.open}

FORMATS: dict[str, Callable[[Path, str], Iterator[Document]]] = {
    ".txt": _read_text,
    ".md": _read_text,
    ".jsonl": _read_json_lines,
    ".parquet": _read_parquet,
}

NAMED_SOURCES: dict[str, Callable[[], Iterator[str]]] = {"python-docs": python_docs}
