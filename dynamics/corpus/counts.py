"""Token counts of a corpus: a table with a row per vocabulary entry, and the file that keeps it."""

import json
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from dynamics.corpus.documents.large_text import Document
from dynamics.corpus.exposure import TOKENS_PER_CHUNK
from dynamics.corpus.information.gain import InformationSettings, OnPass, information_columns
from dynamics.corpus.information.pairs import TextCollector
from dynamics.corpus.tally import Tally
from dynamics.corpus.tokenizers.kinds import token_kinds, token_surfaces, word_edges
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

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Report = Callable[[str], None]
_METADATA_KEY = b"dynamics.counts"


@dataclass(frozen=True)
class CountsInfo:
    """Where counts come from.

    Attributes:
        tokenizer_sha256: Digest of the tokenizer.
        corpus_digest: SHA-256 over the documents, or of the file of a stream of others; over the
            digests of its files where there are several.
        tokens_counted: Sum of the counts.
        vocab_size: Rows of the table.
        continuation_prefix: Begins the text of tokens that go on with a word (`##`), None where
            none is so marked.
        word_end_suffix: Ends the text of tokens that end a word (`</w>`), None where none is so
            marked.
        lost_share: Share of the text's characters that became no token (`text_loss`); None of a
            stream.
        unknown_share: Share of them that became the unknown token; None of a stream.
        window: Tokens either side that information gain looks at, None without information gain.
        pairs: Pairs of each token in information gain of equal counts, None without.
        shuffles: Shuffled corpora that correct Oyama's window, None without.
        information_seed: Seed of those shuffles, None without.
        contiguous: Whether pairs cross the ends of rows in a stream of others; None of text and of
            our own streams, and without information gain.
        dynamics_version: Version that counted.
        sampled_from: Repository and commit of the stream of which a sample was counted; None, and
            all that follows as well, where all of the corpus was.
        stream_tokens: Tokens of that stream.
        blocks: Blocks of the sample.
        block_rows: Rows of a block.
        seed: Seed that chose them.
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
        info: Where they come from.
        name: What messages call them, the path of a file that was read.
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
    report: Report = lambda line: None,
    on_pass: OnPass = lambda done, total: None,
) -> Counts:
    """Count one pass of a token stream, every id of every row.

    Documents are told apart by the end-of-text token, which counts as part of the document it ends.
    In our own streams the permutation of the rows is undone first, so document counts are exact
    (rows that are held out end documents, but are not counted); streams of others are read in file
    order, where rows that were shuffled join what was apart.

    Args:
        stream: Ours or another's.
        tokenizer: The one that made the ids.
        vocab_size: Rows of the model; those beyond the tokenizer's are of kind `twin` as far as
            the stream has any, then `padding`; special or added entries beyond them that never
            occur are left out.
        information: Count information gain as well, which holds the stream in memory.
        contiguous: For information gain of a stream of others: its rows follow one another in the
            text. Otherwise they may have been shuffled, and no pair crosses their ends.
        report: Receives a line for what a reader of the counts should know.
        on_pass: Called with how many passes of information gain are done, and how many there are.

    Raises:
        MismatchError: The stream was made by another tokenizer, or `vocab_size` is too small.
        CorpusError: The stream holds an id beyond the vocabulary.
    """
    sha256 = tokenizer_sha256(tokenizer)
    if (made_with := stream.info.tokenizer_sha256) not in (None, sha256):
        raise MismatchError(
            f"{stream.path} was made with tokenizer {made_with[:12]}, the one "
            f"given is {sha256[:12]}; give the tokenizer of the training folder"
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
    others = information is not None and stream.info.row_order != ROW_ORDER
    info = CountsInfo(
        sha256,
        digest,
        tally.tokens,
        rows,
        *piece_marks(tokenizer.backend_tokenizer),
        contiguous=contiguous if others else None,
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
    report: Report = lambda line: None,
    on_pass: OnPass = lambda done, total: None,
) -> Counts:
    """Count the tokens of documents in the order given, without any between them.

    Args:
        documents: Text.
        tokenizer: Applied to each document as a whole.
        vocab_size: Rows of the model; those beyond the tokenizer's are of kind `padding`, and
            special or added entries beyond them that never occur are left out.
        information: Count information gain as well, which holds the tokens in memory.
        allow_loss: Whether more than 1 % of the text may become no token (`text_loss`).
        report: Receives a line for what a reader of the counts should know of the text, and for a
            large document that cannot be cut, which takes memory.
        on_pass: Called with how many passes of information gain are done, and how many there are.

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
    """The table of counts; what occurs is reachable, whatever was tried."""
    kinds = token_kinds(tokenizer, rows, occurring=tally.occurring)
    return tally.table(token_surfaces(tokenizer, rows), kinds)


def _cut(counts: Counts, rows: int | None, report: Report) -> Counts:
    """The counts without special and added entries at their end that have no row of the model."""
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
        raise CorpusError(f"{path} holds no counts of ours ({error}); count again") from error
    return Counts(frame, info, str(path))


def check_tokenizer(counts: Counts, sha256: str, name: str) -> None:
    """Refuse to join counts with something of another tokenizer.

    Args:
        counts: Counts of one tokenizer.
        sha256: Digest of the tokenizer of `name`.
        name: The model, series or file they are to be joined with.

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
    on_pass: OnPass,
) -> Counts:
    """The counts, with the columns of information gain where it was asked for."""
    if collector is None or settings is None:
        return counts
    after, before = word_edges(tokenizer, len(counts.table))
    if "twin_of" in counts.table:
        twin_of = counts.table["twin_of"].to_numpy()
        spelt = np.where(twin_of >= 0, twin_of, np.arange(len(twin_of)))
        after, before = after[spelt], before[spelt]
    columns = information_columns(collector.text(), (after, before), settings, on_pass=on_pass)
    info = replace(
        counts.info,
        window=settings.window,
        pairs=settings.equal_pairs,
        shuffles=settings.shuffles if settings.oyama else None,
        information_seed=settings.seed if settings.oyama else None,
    )
    return Counts(counts.table.assign(**columns), info)


def _with_twins(table: pd.DataFrame, twins: Mapping[int, int]) -> pd.DataFrame:
    """The table in which twins are called so, and after the tokens they stand for."""
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
    """Chunks of ids, with the numbers of the document and of the running text each belongs to.

    Our permutation is undone. Rows that are held out are read for the documents that end there, and
    left out; running text ends with them, and in a shuffled stream of others with every row.
    """
    torn = stream.info.row_order != ROW_ORDER and not contiguous
    ended = torn_off = 0
    for rows, trained in _source_rows(stream):
        ends = rows == end if end is not None else np.zeros(rows.shape, bool)
        owners = ended + np.cumsum(ends).reshape(rows.shape) - ends
        pieces = torn_off + np.cumsum(np.ones(len(rows), bool) if torn else ~trained)
        ended, torn_off = ended + int(ends.sum()), int(pieces[-1])
        ids = rows[trained].reshape(-1)
        if len(ids):
            width = rows.shape[1]
            yield ids, owners[trained].reshape(-1), np.repeat(pieces[trained], width)


def _source_rows(stream: TokenStream) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Chunks of rows in source order, held-out ones among them, and which are trained on."""
    rows_per_chunk = max(1, TOKENS_PER_CHUNK // (stream.sequence_length + 1))
    if stream.info.row_order != ROW_ORDER:
        for start in range(0, stream.rows, rows_per_chunk):
            chunk = stream.ids[start : start + rows_per_chunk]
            yield chunk, np.ones(len(chunk), bool)
        return
    held_out = open_held_out(stream.path.parent)
    rows = stream.rows + stream.info.held_out_rows
    place = np.argsort(np.random.default_rng(stream.info.seed).permutation(rows))
    for start in range(0, rows, rows_per_chunk):
        places = place[start : start + rows_per_chunk]
        trained = places < stream.rows
        chunk = np.empty((len(places), stream.sequence_length + 1), stream.ids.dtype)
        chunk[trained] = stream.ids[places[trained]]
        if held_out is not None:
            chunk[~trained] = held_out.ids[places[~trained] - stream.rows]
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
