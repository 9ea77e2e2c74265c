"""Where the contexts of a probe set, and the rows that losses are measured on, come from."""

from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Integer

from dynamics.checkpoints.checkpoint import Checkpoint
from dynamics.checkpoints.hub.revisions import HubRevision
from dynamics.corpus.counts import Counts, check_tokenizer
from dynamics.corpus.documents.corpora import documents
from dynamics.corpus.documents.large_text import Document
from dynamics.corpus.tokenizers.loading import (
    end_of_text_id,
    fetch_tokenizer,
    load_tokenizer,
    tokenize,
    tokenizer_sha256,
)
from dynamics.corpus.tokenizers.special_texts import split_documents
from dynamics.corpus.tokenizers.text_checks import TextChecks
from dynamics.corpus.tokens import TOKENS, TokenStream, open_held_out, open_stream
from dynamics.errors import ConfigError, CorpusError, MismatchError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_ID_FILES = (".bin", ".npy")


@dataclass(frozen=True)
class ProbeReading:
    """Settings with which a text or a file of ids is read to be probed.

    Attributes:
        text_column: Column of a table that holds the text.
        split: Split of a data set, a folder or a pattern of files.
        format_name: Read files of text in this format, whatever they seem to hold.
        dtype: Type of the ids in a file of ids; None is the smallest that holds the vocabulary.
        separator: Text between documents inside a file or row, which are split there.
    """

    text_column: str = "text"
    split: str | None = None
    format_name: str | None = None
    dtype: str | None = None
    separator: str | None = None


_OPTIONS = {
    "text_column": "--text-column",
    "split": "--split",
    "format_name": "--format",
    "dtype": "--probe-dtype",
    "separator": "--separator",
}


@dataclass(frozen=True, eq=False)
class ProbeText:
    """Text as ids.

    Attributes:
        name: What messages call it.
        rows: What contexts are taken from: R rows of W ids.
        sequence_length: Positions T of what losses are measured on; contexts have no more.
        held_out: n rows of T + 1 ids that losses are measured on; None where there are none that
            training did not see.
    """

    name: str
    rows: Integer[np.ndarray, "R W"]
    sequence_length: int
    held_out: Integer[np.ndarray, "n T1"] | None = None


def open_probe_text(
    place: str | None,
    checkpoint: Checkpoint,
    training: Path | None,
    counts: Counts,
    sequence_length: int,
    reading: ProbeReading = ProbeReading(),
    report: Callable[[str], None] = lambda line: None,
) -> ProbeText:
    """Open a text to probe.

    Args:
        place: A source of text as in `corpora.documents`, or a token stream: a training folder, its
            `tokens.bin`, or a file of ids (`.bin`, `.npy`) of others. None for the stream of the
            training that made the series. Rows that were held out of a training are what losses are
            measured on; of a text or stream given here, all rows are where none were. Of a corpus
            that the series was trained on, only those count that its own training held out.
        checkpoint: One of the series, whose tokenizer makes text to ids.
        training: The training that made the series, when it is one of ours.
        counts: Token counts, of the same tokenizer.
        sequence_length: T of rows that are cut from a text or from a stream of others.
        reading: Settings with which the text, or the file of ids, is read.
        report: Receives lines that name files which are passed over, what a reader of the results
            should know of a text, and documents that take much memory.

    Raises:
        ConfigError: There is no place, and no training of ours; or a setting of `reading` does not
            concern what is there.
        CorpusError: What is there cannot be read, or is too short.
        MismatchError: It is of another tokenizer.
    """
    if place is None:
        if training is None:
            raise ConfigError(
                f"the text that {checkpoint.store.name} was trained on is not known; give a text "
                "or a token stream to probe with --probe"
            )
        held_out = open_held_out(training)
        return _of_stream(open_stream(training), counts, held_out and held_out.ids)
    path = Path(place).expanduser()
    if path.name == TOKENS or (path / TOKENS).is_file():
        _refuse_unused(reading, place, "a token stream that dynamics wrote", ())
        folder = path if path.is_dir() else path.parent
        return _of_stream(open_stream(path), counts, _held_out_of(folder, training))
    if path.suffix in _ID_FILES and path.is_file():
        _refuse_unused(reading, place, "a file of token ids", ("dtype",))
        stream = open_stream(
            path,
            dtype=reading.dtype,
            sequence_length=sequence_length,
            vocab_size=counts.info.vocab_size,
        )
        return _of_stream(stream, counts, stream.ids)
    tokenizer = _tokenizer(checkpoint, training)
    check_tokenizer(counts, tokenizer_sha256(tokenizer), checkpoint.store.name)
    _refuse_unused(reading, place, "text", ("text_column", "split", "format_name", "separator"))

    def read(limit: int | None) -> Iterable[Document]:
        return documents(
            place,
            text_column=reading.text_column,
            split=reading.split,
            max_documents=limit,
            format_name=reading.format_name,
            report=report,
        )

    checks = TextChecks(tokenizer)
    texts = split_documents(read, reading.separator, max_documents=None)
    ids = _joined(texts, tokenizer, checks, report)
    # The counts were refused, or were told to allow it, if their text lost as much.
    checks.finish(allow_loss=True, report=report)
    width = sequence_length + 1
    if len(ids) < width:
        raise CorpusError(f"{place} has {len(ids)} tokens, a row to probe has {width}; give more")
    held_out = ids[: len(ids) // width * width].reshape(-1, width)
    return ProbeText(place, ids[None], sequence_length, held_out)


def _refuse_unused(reading: ProbeReading, place: str, kind: str, used: Iterable[str]) -> None:
    """Refuse settings that do not concern the kind of thing that is probed."""
    unused = [
        option
        for name, option in _OPTIONS.items()
        if name not in used and getattr(reading, name) != getattr(ProbeReading(), name)
    ]
    if unused:
        raise ConfigError(
            f"{place} is {kind}, which {' and '.join(unused)} cannot concern; leave that out"
        )


def _held_out_of(folder: Path, training: Path | None) -> np.ndarray | None:
    """Rows of a stream of ours that the training of the series did not see.

    What one training holds out another of the same corpus may have been trained on.
    """
    stream, kept = open_stream(folder), open_held_out(folder)
    if training is not None:
        own = folder.resolve() == training.resolve()
        corpus = stream.info.corpus_digest
        same = corpus is not None and corpus == open_stream(training).info.corpus_digest
        if (own and kept is None) or (same and not own):
            return None
    return (kept or stream).ids


def _of_stream(stream: TokenStream, counts: Counts, held_out: np.ndarray | None) -> ProbeText:
    made_with, expected = stream.info.tokenizer_sha256, counts.info.tokenizer_sha256
    if made_with not in (None, expected):
        raise MismatchError(
            f"{stream.path} was made with tokenizer {made_with[:12]}, but {counts.name} was "
            f"counted with tokenizer {expected[:12]}; probe a stream made with the latter"
        )
    return ProbeText(str(stream.path), stream.ids, stream.sequence_length, held_out)


def _tokenizer(checkpoint: Checkpoint, training: Path | None) -> "PreTrainedTokenizerFast":
    if training is not None:
        return load_tokenizer(training / "tokenizer")
    if isinstance(checkpoint.store, HubRevision):
        return fetch_tokenizer(checkpoint.store.sibling("main"))
    return load_tokenizer(checkpoint.store.name if checkpoint.path is None else checkpoint.path)


def _joined(
    texts: Iterable[Document],
    tokenizer: "PreTrainedTokenizerFast",
    checks: TextChecks,
    report: Callable[[str], None],
) -> Integer[np.ndarray, " N"]:
    """Ids of documents, each ended as a token stream ends it."""
    end = end_of_text_id(tokenizer)
    ids = array("i")
    for piece in tokenize(texts, tokenizer, report):
        ids.extend(piece.ids)
        if piece.ends_document:
            checks.add(piece.document)
            if end is not None:
                ids.append(end)
    return np.array(ids)
