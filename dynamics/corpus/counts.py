"""Token counts of a corpus: a table with a row per vocabulary entry, and its file."""

import json
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from dynamics.corpus.documents.large_text import Document
from dynamics.corpus.exposure import TOKENS_PER_CHUNK
from dynamics.corpus.information.gain import information_columns
from dynamics.corpus.information.pairs import TextCollector
from dynamics.corpus.information.settings import InformationSettings
from dynamics.corpus.tally import Tally
from dynamics.corpus.tokenizers.kinds import surfaces_and_kinds, word_edges
from dynamics.corpus.tokenizers.loading import (
    end_of_text_id,
    tokenize,
    tokenizer_sha256,
    vocabulary_size,
)
from dynamics.corpus.tokenizers.spelling import piece_marks
from dynamics.corpus.tokenizers.text_checks import TextChecks
from dynamics.corpus.tokenizers.vocabulary_rows import check_rows, cut_to_rows
from dynamics.corpus.tokens import ROW_ORDER, CorpusDigest, TokenStream, open_held_out
from dynamics.distribution import VERSION
from dynamics.errors import CorpusError, MismatchError
from dynamics.files import whole_file
from dynamics.progress import OnProgress, Report, no_progress, no_report

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_METADATA_KEY = b"dynamics.counts"


@dataclass(frozen=True)
class CountsInfo:
    """Provenance of counts: tokenizer, corpus and settings.

    Attributes:
        tokenizer_sha256: Digest of the tokenizer.
        corpus_digest: SHA-256 over the documents, or of the file of a third-party stream; over the
            digests of its files where there are several.
        tokens_counted: Sum of the counts.
        vocab_size: Rows of the table.
        continuation_prefix: Prefix of tokens that continue a word (`##`), None where the vocabulary
            has none.
        word_end_suffix: Suffix of tokens that end a word (`</w>`), None where the vocabulary has
            none.
        lost_share: Share of the text's characters that became no token (`text_loss`); None for a
            stream.
        unknown_share: Share of them that became the unknown token; None for a stream.
        window: Context tokens to either side in information gain, None without information gain.
        pairs: Pairs of each token in information gain of equal counts, None without.
        shuffles: Number of shuffled corpora that correct Oyama's window, None without.
        information_seed: Seed of the shuffles, None without them.
        contiguous: True if pairs cross the ends of rows in a third-party stream; None for text, for
            streams that `dynamics` wrote, and without information gain.
        dynamics_version: Version of `dynamics` that counted.
        sampled_from: Repository and commit of the stream of which a sample was counted; None,
            like all fields below, where the whole corpus was counted.
        stream_tokens: Tokens of that stream.
        blocks: Blocks of the sample.
        block_rows: Rows of a block.
        seed: Seed of the choice of blocks.
    """

    tokenizer_sha256: str
    corpus_digest: str
    tokens_counted: int
    vocab_size: int
    continuation_prefix: str | None = None
    word_end_suffix: str | None = None
    lost_share: float | None = None
    unknown_share: float | None = None
    window: int | None = None
    pairs: int | None = None
    shuffles: int | None = None
    information_seed: int | None = None
    contiguous: bool | None = None
    dynamics_version: str = VERSION
    sampled_from: str | None = None
    stream_tokens: int | None = None
    blocks: int | None = None
    block_rows: int | None = None
    seed: int | None = None


@dataclass(frozen=True, eq=False)
class Counts:
    """Counts of every row of a vocabulary.

    Attributes:
        table: One row per token id, with columns `token_id`, `token` (readable text, raw), `count`
            (one pass), `document_count` (documents that hold the token; null where documents are
            not known), `first_seen` (position in the flat stream in training order, -1 for never
            or not known), `kind` (one of `kinds.KINDS`). Of a stream with twins also `twin_of`, the
            id of the token that a twin stands for, -1 for other rows; the `token` of a twin is that
            token's. Counts of a sample are those of the sample; there `relative_frequency`
            estimates the token's share of the stream, and `relative_frequency_se` is the standard
            error of that (null for a token not met).
        info: Provenance of the counts.
        name: Name in messages: the path of a file that was read.
    """

    table: pd.DataFrame
    info: CountsInfo
    name: str = "the counts"

    def __repr__(self) -> str:
        entries, tokens = len(self.table), self.info.tokens_counted
        return f"<Counts {self.name}: {entries:,} entries, {tokens:,} tokens>"

    def write(self, path: Path) -> None:
        """Write a parquet file, whole or not at all; equal counts give equal bytes."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.Table.from_pandas(self.table, preserve_index=False)
        metadata = json.dumps(asdict(self.info), sort_keys=True).encode()
        with whole_file(path) as partial:
            pq.write_table(table.replace_schema_metadata({_METADATA_KEY: metadata}), partial)


def count_stream(
    stream: TokenStream,
    tokenizer: "PreTrainedTokenizerFast",
    *,
    vocab_size: int | None = None,
    information: InformationSettings | None = None,
    contiguous: bool = False,
    report: Report = no_report,
    on_pass: OnProgress = no_progress,
) -> Counts:
    """Count one pass of a token stream, every id of every row.

    Documents end with the end-of-text token, which counts as part of the document it ends. In a
    stream that `dynamics` wrote the permutation of the rows is undone first, so that document
    counts are exact (held-out rows end documents, but are not counted). Third-party streams are
    read in file order, where shuffled rows join parts of different documents.

    Args:
        stream: A stream written by `dynamics`, or a third-party one.
        tokenizer: The tokenizer that made the ids.
        vocab_size: Rows of the model; those beyond the tokenizer's are of kind `twin` as far as
            the stream has twins, then `padding`; special or added entries beyond them that never
            occur are left out.
        information: Count information gain as well, which holds the stream in memory.
        contiguous: For information gain of a third-party stream: its rows follow one another in the
            text. Otherwise they may have been shuffled, and no pair crosses their ends.
        report: Receives a line for each fact that a reader of the counts should know.
        on_pass: Called with the number of passes of information gain that are done, and of all.

    Raises:
        MismatchError: The stream was made by another tokenizer, or `vocab_size` is too small.
        CorpusError: The stream holds an id beyond the vocabulary.
    """
    sha256 = tokenizer_sha256(tokenizer)
    if (stream_sha256 := stream.info.tokenizer_sha256) not in (None, sha256):
        raise MismatchError(
            f"{stream.path} was made with tokenizer {stream_sha256[:12]}, the one given is "
            f"{sha256[:12]}; give the tokenizer of the training folder"
        )
    vocab_size = vocab_size or stream.info.id_count
    check_rows(tokenizer, vocab_size)
    tally = Tally(rows := max(vocabulary_size(tokenizer), vocab_size or 0))
    flat = stream.ids.reshape(-1)
    for start in range(0, len(flat), TOKENS_PER_CHUNK):
        tally.add(flat[start : start + TOKENS_PER_CHUNK], str(stream.path))
    end = stream.info.end_of_text_id
    end = end_of_text_id(tokenizer) if end is None else end
    collector = None if information is None else TextCollector(rows)
    for ids, owners, pieces in _in_source_order(stream, end, contiguous):
        if end is not None:
            tally.add_documents(ids, owners)
        if collector is not None:
            collector.add(ids, owners + pieces)
    table = _with_twins(_table(tally, tokenizer, rows), stream.info.twins or {})
    digest = stream.info.corpus_digest or stream.digest
    third_party = information is not None and stream.info.row_order != ROW_ORDER
    info = CountsInfo(
        sha256,
        digest,
        tally.tokens,
        rows,
        *piece_marks(tokenizer.backend_tokenizer),
        contiguous=contiguous if third_party else None,
    )
    counts = _with_information(Counts(table, info), collector, tokenizer, information, on_pass)
    return _cut(counts, vocab_size, report)


def count_documents(
    documents: Iterable[Document],
    tokenizer: "PreTrainedTokenizerFast",
    *,
    vocab_size: int | None = None,
    information: InformationSettings | None = None,
    allow_loss: bool = False,
    report: Report = no_report,
    on_pass: OnProgress = no_progress,
) -> Counts:
    """Count the tokens of documents in their order, without any token between them.

    Args:
        documents: Documents of text.
        tokenizer: Tokenizer, applied to each document as a whole.
        vocab_size: Rows of the model; those beyond the tokenizer's are of kind `padding`, and
            special or added entries beyond them that never occur are left out.
        information: Count information gain as well, which holds the tokens in memory.
        allow_loss: Accept that more than 1 % of the text becomes no token (`text_loss`).
        report: Receives a line for each finding in the text, and for a large document that cannot
            be cut, which takes memory.
        on_pass: Called with the number of passes of information gain that are done, and of all.

    Raises:
        CorpusError: There is no text, or too much of it becomes no token.
        MismatchError: `vocab_size` is too small.
    """
    check_rows(tokenizer, vocab_size)
    tally = Tally(rows := max(vocabulary_size(tokenizer), vocab_size or 0))
    digest, checks = CorpusDigest(), TextChecks(tokenizer)
    collector = None if information is None else TextCollector(rows)
    for ids, owners in _in_chunks(documents, tokenizer, digest, checks, report):
        tally.add(ids, "the corpus")
        tally.add_documents(ids, owners)
        if collector is not None:
            collector.add(ids, owners)
    if not digest.documents:
        raise CorpusError("there is no text to count; give a corpus that has some")
    loss = checks.finish(allow_loss=allow_loss, report=report)
    if not tally.tokens:
        raise CorpusError("the tokenizer makes no token of the text; give another tokenizer")
    info = CountsInfo(
        tokenizer_sha256(tokenizer),
        digest.hexdigest(),
        tally.tokens,
        rows,
        *piece_marks(tokenizer.backend_tokenizer),
        lost_share=loss.lost_share,
        unknown_share=loss.unknown_share,
    )
    counts = Counts(_table(tally, tokenizer, rows), info)
    counts = _with_information(counts, collector, tokenizer, information, on_pass)
    return _cut(counts, vocab_size, report)


def _table(tally: Tally, tokenizer: "PreTrainedTokenizerFast", rows: int) -> pd.DataFrame:
    """Table of counts; a token that occurs is not called unreachable."""
    return tally.table(*surfaces_and_kinds(tokenizer, rows, tally.occurring))


def _cut(counts: Counts, rows: int | None, report: Report) -> Counts:
    """Cut special and added entries at the end of the counts for which the model has no row."""
    if rows is None or rows >= len(counts.table):
        return counts
    difference = f"the tokenizer has {len(counts.table)} entries, the vocabulary only {rows} rows"
    table = cut_to_rows(counts.table, rows, difference, report)
    return Counts(table, replace(counts.info, vocab_size=rows))


def read_counts(path: Path | str) -> Counts:
    """Read counts from a parquet file.

    Raises:
        CorpusError: The file is missing, damaged or holds something else.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path).expanduser()
    if not path.is_file():
        raise CorpusError(f"there are no counts {path}; make them with `dynamics count`")
    try:
        table = pq.read_table(path)
        info = CountsInfo(**json.loads((table.schema.metadata or {})[_METADATA_KEY]))
        frame = table.to_pandas().astype({"document_count": "Int64"})
    except (pa.ArrowInvalid, OSError, KeyError, TypeError, ValueError) as error:
        raise CorpusError(
            f"{path} is not a file of counts written by `dynamics count` ({error}); count again"
        ) from error
    return Counts(frame, info, str(path))


def check_tokenizer(counts: Counts, sha256: str, name: str) -> None:
    """Refuse to join counts with data of another tokenizer.

    Args:
        counts: Counts of one tokenizer.
        sha256: Digest of the tokenizer of `name`.
        name: The model, series or file that the counts are joined with.

    Raises:
        MismatchError: The digests differ.
    """
    if sha256 != counts.info.tokenizer_sha256:
        raise MismatchError(
            f"{counts.name} was counted with tokenizer {counts.info.tokenizer_sha256[:12]}, but "
            f"{name} has tokenizer {sha256[:12]}; count again with the tokenizer of {name}"
        )


def _with_information(
    counts: Counts,
    collector: TextCollector | None,
    tokenizer: "PreTrainedTokenizerFast",
    settings: InformationSettings | None,
    on_pass: OnProgress,
) -> Counts:
    """Add the columns of information gain if they were requested."""
    if collector is None or settings is None:
        return counts
    joins_next, joins_previous = word_edges(tokenizer, len(counts.table))
    if "twin_of" in counts.table:
        twin_of = counts.table["twin_of"].to_numpy()
        originals = np.where(twin_of >= 0, twin_of, np.arange(len(twin_of)))
        joins_next, joins_previous = joins_next[originals], joins_previous[originals]
    edges = joins_next, joins_previous
    columns = information_columns(collector.text(), edges, settings, on_pass=on_pass)
    info = replace(
        counts.info,
        window=settings.window,
        pairs=settings.equal_pairs,
        shuffles=settings.shuffles if settings.oyama else None,
        information_seed=settings.seed if settings.oyama else None,
    )
    return Counts(counts.table.assign(**columns), info)


def _with_twins(table: pd.DataFrame, twins: Mapping[int, int]) -> pd.DataFrame:
    """Set kind `twin` for twin rows, and their `token` to the original's."""
    if not twins:
        return table
    originals, twin_ids = list(twins), list(twins.values())
    table.loc[twin_ids, "kind"] = "twin"
    table.loc[twin_ids, "token"] = table.loc[originals, "token"].to_numpy()
    table["twin_of"] = -1
    table.loc[twin_ids, "twin_of"] = originals
    return table


def _in_source_order(
    stream: TokenStream, end: int | None, contiguous: bool
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Chunks of ids, with the number of the document and of the running text of each id.

    The permutation of `dynamics` is undone. Held-out rows are read for the documents that end
    there, and left out; running text ends at them, and in a shuffled third-party stream at every
    row.
    """
    rows_are_torn = stream.info.row_order != ROW_ORDER and not contiguous
    document_count = piece_count = 0
    for rows, trained in _source_rows(stream):
        ends = rows == end if end is not None else np.zeros(rows.shape, bool)
        # The end-of-text token belongs to the document that it ends.
        owners = document_count + np.cumsum(ends).reshape(rows.shape) - ends
        pieces = piece_count + np.cumsum(np.ones(len(rows), bool) if rows_are_torn else ~trained)
        document_count, piece_count = document_count + int(ends.sum()), int(pieces[-1])
        ids = rows[trained].reshape(-1)
        if len(ids):
            width = rows.shape[1]
            yield ids, owners[trained].reshape(-1), np.repeat(pieces[trained], width)


def _source_rows(stream: TokenStream) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Chunks of rows in source order, held-out rows included, and the mask of trained rows."""
    rows_per_chunk = max(1, TOKENS_PER_CHUNK // (stream.sequence_length + 1))
    if stream.info.row_order != ROW_ORDER:
        for start in range(0, stream.rows, rows_per_chunk):
            chunk = stream.ids[start : start + rows_per_chunk]
            yield chunk, np.ones(len(chunk), bool)
        return
    held_out = open_held_out(stream.path.parent)
    rows = stream.rows + stream.info.held_out_rows
    # Position in the permuted stream of each row of the source.
    stream_rows = np.argsort(np.random.default_rng(stream.info.seed).permutation(rows))
    for start in range(0, rows, rows_per_chunk):
        indices = stream_rows[start : start + rows_per_chunk]
        trained = indices < stream.rows
        chunk = np.empty((len(indices), stream.sequence_length + 1), stream.ids.dtype)
        chunk[trained] = stream.ids[indices[trained]]
        if held_out is not None:
            chunk[~trained] = held_out.ids[indices[~trained] - stream.rows]
        yield chunk, trained


def _in_chunks(
    documents: Iterable[Document],
    tokenizer: "PreTrainedTokenizerFast",
    digest: CorpusDigest,
    checks: TextChecks,
    report: Report,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Chunks of ids, with the number of the document each id belongs to."""
    ids, owners = array("q"), array("q")
    for piece in tokenize(documents, tokenizer, report):
        ids.extend(piece.ids)
        owners.extend([digest.documents] * len(piece.ids))
        if piece.ends_document:
            digest.add(piece.document)
            checks.add(piece.document)
        if len(ids) >= TOKENS_PER_CHUNK:
            yield np.array(ids), np.array(owners)
            ids, owners = array("q"), array("q")
    if ids:
        yield np.array(ids), np.array(owners)
