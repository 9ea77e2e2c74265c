"""The text that contexts of a probe set and held-out rows are taken from."""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Integer

from dynamics.checkpoints.checkpoint import Checkpoint
from dynamics.config import ProbeSettings
from dynamics.corpus.counts import Counts, check_tokenizer
from dynamics.corpus.documents.corpora import documents, settings_of
from dynamics.corpus.documents.large_text import Document
from dynamics.corpus.tokenizers.loading import (
    end_of_text_id,
    tokenize,
    tokenizer_sha256,
)
from dynamics.corpus.tokenizers.special_texts import split_documents
from dynamics.corpus.tokenizers.text_checks import TextChecks
from dynamics.corpus.tokens import TOKENS, TokenStream, open_held_out, open_stream
from dynamics.errors import ConfigError, CorpusError, MismatchError
from dynamics.progress import Report, no_report

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_ID_FILES = (".bin", ".npy")


@dataclass(frozen=True, eq=False)
class ProbeText:
    """Text as ids.

    Attributes:
        name: Name for messages.
        rows: R rows of W ids that contexts are taken from.
        sequence_length: Positions T of a held-out row, and the most of a context.
        held_out: n rows of T + 1 ids that losses are measured on; None where the training has seen
            all rows.
    """

    name: str
    rows: Integer[np.ndarray, "R W"]
    sequence_length: int
    held_out: Integer[np.ndarray, "n T1"] | None = None


def open_probe_text(
    settings: ProbeSettings,
    checkpoint: Checkpoint,
    training: Path | None,
    counts: Counts,
    sequence_length: int,
    report: Report = no_report,
    *,
    tokenizer: "PreTrainedTokenizerFast | None" = None,
) -> ProbeText:
    """Open a text to probe.

    Args:
        settings: The text and how it is read: a source of text as in `corpora.documents`, or a
            token stream: a training folder, its `tokens.bin`, or a third-party file of ids (`.bin`,
            `.npy`). None for the stream of the training that made the series. Losses are measured
            on the rows that were held out of a training; of another text or stream, on all rows. Of
            a corpus that the series was trained on, only rows that its own training held out are
            used.
        checkpoint: A checkpoint of the series.
        training: Folder of the training that made the series; None if not made by `dynamics train`.
        counts: Token counts, of the same tokenizer.
        sequence_length: T of rows that are cut from a text or a third-party file of ids.
        report: Receives lines on skipped files, on text lost in tokenizing, and on documents that
            take much memory.
        tokenizer: Tokenizer of the series, which encodes a text.

    Raises:
        ConfigError: There is no text and no training, or no tokenizer for a text; or a setting does
            not apply to the kind of text.
        CorpusError: The text cannot be read, or is too short.
        MismatchError: The stream is of another tokenizer.
    """
    place = settings.text
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
        _refuse_unused(settings, "a token stream that dynamics wrote", ())
        folder = path if path.is_dir() else path.parent
        return _of_stream(open_stream(path), counts, _held_out_of(folder, training))
    if path.suffix in _ID_FILES and path.is_file():
        _refuse_unused(settings, "a file of token ids", ("dtype",))
        stream = open_stream(
            path,
            dtype=settings.dtype,
            sequence_length=sequence_length,
            vocab_size=counts.info.vocab_size,
        )
        return _of_stream(stream, counts, stream.ids)
    if tokenizer is None:
        raise ConfigError(
            f"the tokenizer of {checkpoint.store.name} is not known, and the text {place} is to be "
            "tokenised with it; give it with --tokenizer"
        )
    check_tokenizer(counts, tokenizer_sha256(tokenizer), checkpoint.store.name)
    _refuse_unused(settings, "text", ("text_column", "split", "format", "separator"))

    def read(limit: int | None) -> Iterable[Document]:
        return documents(
            place,
            text_column=settings.text_column,
            split=settings.split,
            max_documents=limit,
            format_name=settings.format,
            report=report,
        )

    checks = TextChecks(tokenizer)
    with settings_of("probe"):
        texts = split_documents(read, settings.separator, max_documents=None)
        ids = _joined(texts, tokenizer, checks, report)
    # Such a loss is allowed: counting the same text needed --allow-loss already.
    checks.finish(allow_loss=True, report=report)
    width = sequence_length + 1
    if len(ids) < width:
        raise CorpusError(f"{place} has {len(ids)} tokens, a row to probe has {width}; give more")
    held_out = ids[: len(ids) // width * width].reshape(-1, width)
    return ProbeText(place, ids[None], sequence_length, held_out)


def _refuse_unused(settings: ProbeSettings, kind: str, applicable: Iterable[str]) -> None:
    """Refuse settings that do not apply to this kind of text."""
    if unused := settings.unused(applicable):
        raise ConfigError(
            f"{' and '.join(unused)} does not apply to {settings.text}, which is {kind}; leave it "
            "out"
        )


def _held_out_of(folder: Path, training: Path | None) -> np.ndarray | None:
    """Return rows of a `tokens.bin` that the training of the series did not see, None if none.

    Rows held out of one training may be training rows of another of the same corpus.
    """
    stream, held_out = open_stream(folder), open_held_out(folder)
    if training is not None:
        is_same_folder = folder.resolve() == training.resolve()
        corpus = stream.info.corpus_digest
        is_same_corpus = corpus is not None and corpus == open_stream(training).info.corpus_digest
        if (is_same_folder and held_out is None) or (is_same_corpus and not is_same_folder):
            return None
    return (held_out or stream).ids


def _of_stream(stream: TokenStream, counts: Counts, held_out: np.ndarray | None) -> ProbeText:
    stream_tokenizer, expected = stream.info.tokenizer_sha256, counts.info.tokenizer_sha256
    if stream_tokenizer and expected and stream_tokenizer != expected:
        raise MismatchError(
            f"{stream.path} was made with tokenizer {stream_tokenizer[:12]}, but {counts.name} was "
            f"counted with tokenizer {expected[:12]}; probe a stream made with the latter"
        )
    return ProbeText(str(stream.path), stream.ids, stream.sequence_length, held_out)


def _joined(
    texts: Iterable[Document],
    tokenizer: "PreTrainedTokenizerFast",
    checks: TextChecks,
    report: Report,
) -> Integer[np.ndarray, " N"]:
    """Return the ids of all documents, each followed by the end-of-text id if there is one."""
    end = end_of_text_id(tokenizer)
    ids = array("i")
    for piece in tokenize(texts, tokenizer, report):
        ids.extend(piece.ids)
        if piece.ends_document:
            checks.add(piece.document)
            if end is not None:
                ids.append(end)
    return np.array(ids)
