"""Documents of a source: a built-in corpus, files, or a data set.

A source is a name in `NAMED_SOURCES`, a file, a folder or a pattern of files (their formats are
those of `file_formats.FORMATS`), or else a data set that `datasets` can load, as `name` or
`name:configuration`.
"""

import glob
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from dynamics.corpus.documents.corpus_files import files_of_folder, files_of_pattern
from dynamics.corpus.documents.file_formats import check_format, known_suffix, read_files
from dynamics.corpus.documents.large_text import Document
from dynamics.corpus.documents.python_docs import python_docs
from dynamics.corpus.documents.rows import text_of_row
from dynamics.corpus.tokenizers.special_texts import split_documents
from dynamics.errors import CorpusError, message_of
from dynamics.progress import Report, no_report

DEFAULT_SPLIT = "train"

NAMED_SOURCES: dict[str, Callable[[], Iterator[str]]] = {"python-docs": python_docs}


def documents(
    source: str,
    *,
    text_column: str = "text",
    split: str | None = None,
    separator: str | None = None,
    max_documents: int | None = None,
    format_name: str | None = None,
    report: Report = no_report,
) -> Iterator[Document]:
    """Return the documents of a source, in its own order.

    Documents of nothing but white space are left out. Text is not changed, whatever its line ends;
    only a byte order mark is removed.

    Args:
        source: `python-docs`; a file, whose name and content determine its format; a folder,
            read recursively and sorted, or a pattern of files such as `data/*.jsonl`, of which
            files of one suffix are read; or the name of a data set, which is streamed. Data sets
            and folders with a card may have configurations, as `name:configuration`.
        text_column: Column of a table that holds the text.
        split: Split of a data set, a folder or a pattern; None is `train` where there are splits.
        separator: Text between documents inside a file or row, which are split there, see
            `split_documents`.
        max_documents: Stop after this number of documents, counted after splitting.
        format_name: Read files in this one of `file_formats.FORMATS`, whatever their names and
            contents suggest.
        report: Receives lines on skipped files, and on files that are not read as their names
            suggest.

    Returns:
        Each document as `str`, or as `LargeText`, which is read in parts, for a text file of 8 MiB
        or more; nothing where there is no text, which the caller has to check.

    Raises:
        CorpusError: The source does not exist, has no such split, or (while iterating) cannot be
            read or has no such separator.
        ConfigError: There is no such format.
    """
    if max_documents is not None and max_documents < 1:
        raise CorpusError(f"max_documents is {max_documents}; give 1 or more, or leave it out")
    check_format(format_name)
    texts = _documents(source, text_column, split, format_name, report)
    with_text = (text for text in texts if not isinstance(text, str) or text.strip())
    return split_documents(lambda limit: islice(with_text, limit), separator, max_documents)


def _documents(
    source: str, text_column: str, split: str | None, format_name: str | None, report: Report
) -> Iterator[Document]:
    """Documents of a source, blank ones included; arguments as for `documents`."""
    path = Path(source).expanduser()
    folder, _, configuration = source.rpartition(":")
    if source in NAMED_SOURCES:
        _refuse_settings(f"{source} has", split, format_name)
        return NAMED_SOURCES[source]()
    if path.is_dir():
        paths = files_of_folder(path, split, report)
    elif path.is_file():
        _refuse_settings(f"{source} is one file and has", split)
        paths = [path]
    elif path.exists():
        # A pipe, a socket or a device: its first bytes are read for the format, then all of them.
        raise CorpusError(
            f"{source} is not a regular file and cannot be read twice; save its text to a file"
        )
    elif glob.has_magic(source):
        paths = files_of_pattern(source, split, report)
    elif folder and Path(folder).expanduser().is_dir():
        paths = files_of_folder(Path(folder).expanduser(), split, report, configuration)
    elif source.startswith((".", "/", "~")) or known_suffix(path):
        raise CorpusError(f"there is no file or folder {source}; check the path")
    else:
        _refuse_settings(f"{source} is a data set on a hub and has", None, format_name)
        return _read_dataset(source, text_column, split or DEFAULT_SPLIT)
    return read_files(paths, text_column, format_name, report)


@contextmanager
def settings_of(group: str) -> Iterator[None]:
    """Name settings of a group, such as `probe.split=test`, where a refusal names options.

    Raises:
        CorpusError: One was raised inside.

    Example:
        >>> with settings_of("corpus"):
        ...     raise CorpusError("give --split train, or leave out --format")
        Traceback (most recent call last):
        ...
        dynamics.errors.CorpusError: give corpus.split=train, or leave out corpus.format
    """
    try:
        yield
    except CorpusError as error:
        message = re.sub(r"--(split|format) ", rf"{group}.\1=", str(error))
        message = re.sub(r"--(split|format)\b", rf"{group}.\1", message)
        raise CorpusError(message) from error


def _refuse_settings(subject: str, split: str | None, format_name: str | None = None) -> None:
    """Refuse a split or a format where there are none."""
    if split is not None:
        raise CorpusError(f"{subject} no splits, but --split {split} was given; leave it out")
    if format_name is not None:
        raise CorpusError(
            f"{subject} no format, but --format {format_name} was given; leave it out"
        )


def _read_dataset(source: str, text_column: str, split: str) -> Iterator[str]:
    """Yield the text of each row of a data set that `datasets` streams.

    Raises:
        CorpusError: It cannot be read, or has no such column of text.
    """
    import datasets
    from datasets.exceptions import DatasetsError

    name, _, configuration = source.partition(":")
    try:
        rows = datasets.load_dataset(name, configuration or None, split=split, streaming=True)
        for row in rows:
            yield text_of_row(row, text_column, f"data set {source}")
    except (DatasetsError, OSError, ValueError, RuntimeError) as error:
        reason = message_of(error)
        raise CorpusError(
            f"there is no file or folder {source}, and the data set {name} (configuration "
            f"{configuration or 'default'}, split {split}) cannot be read: {reason}; check the "
            "name and the connection, or give a file"
        ) from error
