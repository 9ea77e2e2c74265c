"""Counts of a corpus in any form: text, a token stream, or the stream of a public series."""

from pathlib import Path
from typing import TypedDict, Unpack

from dynamics.corpus.counts import Counts, count_documents, count_stream
from dynamics.corpus.documents.corpora import documents
from dynamics.corpus.information.settings import InformationSettings
from dynamics.corpus.public.public_counts import find_public_counts, find_public_stream
from dynamics.corpus.public.sample import SAMPLE_TOKENS, SampleSettings
from dynamics.corpus.tokenizers.loading import load_tokenizer
from dynamics.corpus.tokens import TOKENS, open_stream
from dynamics.errors import CorpusError, refuse_unknown
from dynamics.progress import OnProgress, Report, no_progress, no_report


class CountOptions(TypedDict, total=False):
    """Options of `count_corpus`: of text, of third-party streams, and of public series.

    Attributes:
        text_column: Column that holds the text, where there are columns; `text` by default.
        split: Split of a data set, a folder or a pattern; `train` by default where there are
            splits.
        separator: Text between documents; a text is split at every occurrence.
        max_documents: Largest number of documents that are read.
        format_name: Read files of text in this format, whatever their names and contents suggest.
        allow_loss: Accept a text of which more than 1 % becomes no token.
        sequence_length: T of a third-party stream of rows of T + 1 ids.
        dtype: Type of the ids of a third-party stream; uint16 by default.
        contiguous: The rows of a third-party stream follow one another in the text, so that pairs
            of information gain may cross their ends.
        sample_tokens: Number of tokens to sample from a public series; 100 million by default.
    """

    text_column: str
    split: str | None
    separator: str | None
    max_documents: int | None
    format_name: str | None
    allow_loss: bool
    sequence_length: int | None
    dtype: str | None
    contiguous: bool
    sample_tokens: int


_TEXT_OPTIONS = {"--split": "split", "--format": "format_name", "--separator": "separator"}


def count_corpus(
    corpus: str,
    tokenizer: str | None = None,
    *,
    vocab_size: int | None = None,
    information: InformationSettings | None = None,
    report: Report = no_report,
    on_progress: OnProgress = no_progress,
    on_pass: OnProgress = no_progress,
    **options: Unpack[CountOptions],
) -> Counts:
    """Count the tokens of a corpus.

    Args:
        corpus: A source of text as in `corpora.documents`, or a token stream: a training folder,
            its `tokens.bin`, or with `sequence_length` any file of ids; or a public series whose
            token stream is known, of which a sample is counted.
        tokenizer: Folder, `tokenizer.json` or hub name; None takes the one of the training folder
            or of the public series.
        vocab_size: Rows of the model, if they differ from the number of the tokenizer's entries.
        information: Count information gain as well; not possible for a sample.
        report: Called with lines on fetched files, skipped files, findings in the text, and large
            use of memory.
        on_progress: Called with the number of blocks of a sample that are done, and of all blocks.
        on_pass: Called with the number of passes of information gain that are done, and of all.
        **options: See `CountOptions`.

    Raises:
        CorpusError: The corpus cannot be read, is empty, needs a tokenizer, or too much of it
            becomes no token.
        MismatchError: The stream was made by another tokenizer.
        CheckpointError: The stream of a public series cannot be read.
    """
    refuse_unknown(options, CountOptions, "count_corpus")
    path, sequence_length = Path(corpus).expanduser(), options.get("sequence_length")
    if not path.exists():
        if information is not None and find_public_stream(corpus) is not None:
            raise CorpusError(
                f"{corpus} is counted from a sample that keeps counts and no text, so it has no "
                "information gain; give a file of its stream with --sequence-length, or text"
            )
        sampled = find_public_counts(
            corpus,
            SampleSettings(tokens=options.get("sample_tokens", SAMPLE_TOKENS)),
            tokenizer=tokenizer,
            vocab_size=vocab_size,
            report=report,
            on_progress=on_progress,
        )
        if sampled is not None:
            return sampled
    folder = path.parent if path.name == TOKENS else path
    is_stream = sequence_length is not None or (folder / TOKENS).is_file()
    if tokenizer is None and is_stream and (folder / "tokenizer").is_dir():
        tokenizer = str(folder / "tokenizer")
    if tokenizer is None:
        raise CorpusError(
            f"counting {corpus} needs a tokenizer; give a folder, a tokenizer.json or a hub name "
            "with --tokenizer"
        )
    loaded = load_tokenizer(tokenizer)
    if is_stream:
        for option, name in _TEXT_OPTIONS.items():
            if (value := options.get(name)) is not None:
                raise CorpusError(
                    f"{corpus} is read as a token stream, but {option} {value} is for text; leave "
                    "out one of them and --sequence-length"
                )
        return count_stream(
            open_stream(path, dtype=options.get("dtype"), sequence_length=sequence_length),
            loaded,
            vocab_size=vocab_size,
            information=information,
            contiguous=options.get("contiguous", False),
            report=report,
            on_pass=on_pass,
        )
    return count_documents(
        documents(
            corpus,
            text_column=options.get("text_column", "text"),
            split=options.get("split"),
            separator=options.get("separator"),
            max_documents=options.get("max_documents"),
            format_name=options.get("format_name"),
            report=report,
        ),
        loaded,
        vocab_size=vocab_size,
        information=information,
        allow_loss=options.get("allow_loss", False),
        report=report,
        on_pass=on_pass,
    )
