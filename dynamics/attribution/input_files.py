"""Texts from files and data sets, and files of attributions that can be resumed."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any

from dynamics.attribution.result import Attribution
from dynamics.errors import CorpusError, OutputError

PARTS = ("text", "text_pair", "continuation", "target", "foil")
MESSAGES = "messages"
_LOCAL = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet", ".txt": "text"}
_SHOWN = 60  # characters of a text that a message shows


def read_texts(path: Path) -> list[dict[str, Any]]:
    """Read the inputs of a file; blank lines are left out.

    Args:
        path: `.txt` with one text a line, or JSON lines with `text` or chat `messages` and
            optionally `text_pair`, `continuation`, `target` and `foil`; other entries are ignored.

    Raises:
        CorpusError: The file cannot be read or holds no text, or a line, which is named, is not
            JSON, has no `text`, an empty one, or an entry that is no string.
    """
    try:
        lines = path.read_text("utf-8-sig").split("\n")
    except OSError as error:
        raise CorpusError(f"{path} cannot be read: {error.strerror}; check --file") from error
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path} is not UTF-8 ({error}); convert the file to UTF-8") from error
    numbered = [(number, line.rstrip("\r")) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise CorpusError(f"{path} holds no text; give one input a line")
    if path.suffix == ".txt":
        return [{"text": line} for _, line in numbered]
    return [_parts(line, f"{path}, line {number}") for number, line in numbered]


def _parts(line: str, where: str) -> dict[str, Any]:
    """Return the parts of an input that one line of JSON holds."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CorpusError(
            f"{where} is not JSON ({error}); a file of plain texts ends in .txt"
        ) from error
    if not isinstance(row, dict) or not {"text", MESSAGES} & {*row}:
        raise CorpusError(f"{where} is no JSON object with an entry 'text' or '{MESSAGES}'")
    parts = {name: row[name] for name in PARTS if row.get(name) is not None}
    for name, value in parts.items():
        if not isinstance(value, str):
            kind = type(value).__name__
            raise CorpusError(f"{where}: {name!r} is a {kind}, expected a string")
    if MESSAGES in row and "text" not in row:
        return parts | {MESSAGES: row[MESSAGES]}
    if not parts.get("text", "").strip():
        raise CorpusError(f"{where}: the text is empty; remove the line or give it a text")
    return parts


def read_dataset(source: str, column: str = "text") -> list[dict[str, Any]]:
    """Read the inputs of a data set that `datasets` can load; empty texts are left out.

    Args:
        source: A local file or folder or the name of a data set, optionally with `:split`; the
            default split is `train`.
        column: Column with the text, or with the messages of a conversation.

    Raises:
        CorpusError: The data set or the split does not exist, or has no such column of text.
    """
    import datasets
    from datasets.exceptions import DatasetsError

    name, _, split = source.rpartition(":")
    if not name or Path(source).exists():
        name, split = source, "train"
    builder = _LOCAL.get(Path(name).suffix) if Path(name).is_file() else None
    try:
        dataset = datasets.load_dataset(
            builder or name, data_files=name if builder else None, split=split, streaming=True
        )
        rows = list(dataset)
    except (DatasetsError, OSError, ValueError, RuntimeError) as error:
        raise CorpusError(
            f"the data set {name} (split {split}) cannot be read: {' '.join(str(error).split())}; "
            "check the name, the split and the connection"
        ) from error
    texts = []
    for content in (row.get(column) for row in rows):
        if isinstance(content, list) and content and isinstance(content[0], dict):
            texts.append({MESSAGES: content})  # `encode` checks that it is a conversation
        elif content is not None and not isinstance(content, str):
            kind = type(content).__name__
            raise CorpusError(f"column {column!r} of {name} holds {kind}, not text")
        elif content and content.strip():
            texts.append({"text": content})
    if not texts:
        columns = ", ".join(rows[0]) if rows else "none"
        raise CorpusError(f"{name} has no text in a column {column!r}; its columns are: {columns}")
    return texts


def keep_lines(path: Path, expected: Iterable[Mapping[str, Any]]) -> int:
    """Check the whole lines of a file of attributions, cut off a partial one; return their number.

    Args:
        path: JSON lines that may have been interrupted, or a file that does not exist yet.
        expected: Entries that each line of the finished file must have.

    Raises:
        OutputError: A line has other entries, or there are more lines than expected.
    """
    if not path.exists():
        return 0
    size = count = 0
    with path.open("rb+") as file:
        lines = (line for line in file if line.endswith(b"\n"))
        for number, (line, entries) in enumerate(zip_longest(lines, expected), 1):
            if line is None:
                break
            if entries is None:
                raise OutputError(
                    f"{path} has more lines than the {number - 1} of this run; give another output"
                )
            _check_line(path, number, line, entries)
            size, count = size + len(line), number
        file.truncate(size)
    return count


def _check_line(path: Path, number: int, line: bytes, entries: Mapping[str, Any]) -> None:
    """Refuse a line without the expected entries; the message names the first that differs."""
    try:
        content = json.loads(line)
        actual = _flat({name: content[name] for name in entries})
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise OutputError(
            f"{path}, line {number}, is no attribution of this command; give another output"
        ) from error
    expected = _flat(entries)
    for name in [*expected, *actual]:
        if actual.get(name) != expected.get(name):
            if name == "weights":
                raise OutputError(
                    f"{path}, line {number}, was made with other weights "
                    f"({_short(actual.get(name))}) than the model has now "
                    f"({_short(expected.get(name))}); give another output"
                )
            raise OutputError(
                f"{path}, line {number}, is of another run: its {name} is "
                f"{_short(actual.get(name))}, expected {_short(expected.get(name))}; give another "
                "output, or the command that began it"
            )


def _flat(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Merge the settings under `asked` into the other entries, so that a message names just one."""
    return {**entries, **entries.get("asked", {}), "asked": None}


def _short(value: Any) -> str:
    """Return a value as JSON, cut where it is long."""
    written = json.dumps(value, ensure_ascii=False)
    return written if len(written) <= _SHOWN else f"{written[:_SHOWN]}..."


@contextmanager
def append_lines(path: Path) -> Iterator[Callable[[Iterable[Attribution]], None]]:
    """Open a file for appending; yields a function that writes a line for each attribution."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8", newline="\n") as file:

        def append(results: Iterable[Attribution]) -> None:
            for attribution in results:
                print(attribution.to_json(), file=file, flush=True)

        yield append
