"""Token counts of a corpus: a table with a row per vocabulary entry, and its file."""

import json
import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from dynamics.corpus.documents.corpus_digest import CorpusDigest
from dynamics.corpus.documents.large_text import Document
from dynamics.corpus.information.gain import information_columns
from dynamics.corpus.information.pairs import TextCollector, WordEdges
from dynamics.corpus.information.settings import InformationSettings
from dynamics.corpus.source_order import in_source_order
from dynamics.corpus.tally import TOKENS_PER_CHUNK, Tally
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
from dynamics.corpus.tokens import ROW_ORDER, StreamInfo, TokenStream
from dynamics.corpus.twins import Twins
from dynamics.distribution import VERSION
from dynamics.errors import CorpusError, MismatchError
from dynamics.files import whole_file
from dynamics.progress import OnProgress, Report, no_progress, no_report

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_METADATA_KEY = b"dynamics.counts"


@dataclass(frozen=True)
class TableInfo:
    """A table that counts were taken from, instead of counting a corpus.

    Attributes:
        rows: Rows of the table.
        matched: Rows that are a token of the vocabulary.
        covered: Tokens of the vocabulary that have a row.
        per_billion: Whether its frequencies were no whole numbers, so that counts are occurrences
            per billion tokens.
    """

    rows: int
    matched: int
    covered: int
    per_billion: bool


@dataclass(frozen=True)
class CountsInfo:
    """Provenance of counts: tokenizer, corpus and settings.

    Attributes:
        tokenizer_sha256: Digest of the tokenizer; None for a table of ids of a series without one.
        corpus_digest: SHA-256 over the documents, or of the file of a third-party stream or of a
            table; over the digests of its files where there are several.
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
        table: The table that the counts were taken from; None where a corpus was counted.
    """

    tokenizer_sha256: str | None
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
    table: TableInfo | None = None


@dataclass(frozen=True, eq=False)
class Counts:
    """Counts of every row of a vocabulary.

    Attributes:
        table: One row per token id, with columns `token_id`, `token` (readable text, raw), `count`
            (one pass), `document_count` (documents that hold the token; null where documents are
            not known), `first_seen` (position in the flat stream in training order, -1 for never
            or not known), `kind` (see `tokenizers.kinds`). Of a stream with twins also `twin_of`,
            the id of the token that a twin stands for, -1 for other rows (the `token` of a twin is
            that token's), and `occurrence_share`, the probability with which an occurrence of a
            token got this id: the share of a twin, the rest for a token with twins, 1 for other
            rows. Counts of a sample are those of the sample; there `relative_frequency`
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
    counter = _CorpusCounter(tokenizer, vocab_size or stream.info.id_count, information)
    flat = stream.ids.reshape(-1)
    for start in range(0, len(flat), TOKENS_PER_CHUNK):
        counter.tally.add(flat[start : start + TOKENS_PER_CHUNK], str(stream.path))
    end = stream.info.end_of_text_id
    end = end_of_text_id(tokenizer) if end is None else end
    for ids, owners, pieces in in_source_order(stream, end, contiguous):
        if end is not None:
            counter.tally.add_documents(ids, owners)
        counter.add_text(ids, owners + pieces, pieces if end is None else owners)
    digest = stream.info.corpus_digest or stream.digest
    counts = counter.counts(digest, stream.info, on_pass=on_pass, report=report)
    if information is None or stream.info.row_order == ROW_ORDER:
        return counts
    return replace(counts, info=replace(counts.info, contiguous=contiguous))


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
    counter = _CorpusCounter(tokenizer, vocab_size, information)
    digest, checks = CorpusDigest(), TextChecks(tokenizer)
    for ids, owners in _in_chunks(documents, tokenizer, digest, checks, report):
        counter.tally.add(ids, "the corpus")
        counter.tally.add_documents(ids, owners)
        counter.add_text(ids, owners)
    if not digest.documents:
        raise CorpusError("there is no text to count; give a corpus that has some")
    loss = checks.finish(allow_loss=allow_loss, report=report)
    if not counter.tally.tokens:
        raise CorpusError("the tokenizer makes no token of the text; give another tokenizer")
    counts = counter.counts(digest.hexdigest(), on_pass=on_pass, report=report)
    info = replace(counts.info, lost_share=loss.lost_share, unknown_share=loss.unknown_share)
    return replace(counts, info=info)


def read_counts(path: Path | str) -> Counts:
    """Read counts from a parquet file.

    Raises:
        CorpusError: The file is missing, damaged or holds something else.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path).expanduser()
    if not path.is_file():
        raise CorpusError(
            f"there are no counts {path}; make them with `dynamics count`, or "
            "give a table with the columns token_id (or token) and count"
        )
    try:
        table = pq.read_table(path)
        content = json.loads((table.schema.metadata or {})[_METADATA_KEY])
        if (of_table := content.get("table")) is not None:
            content["table"] = TableInfo(**of_table)
        info = CountsInfo(**content)
        frame = table.to_pandas().astype({"document_count": "Int64"})
    except (pa.ArrowInvalid, OSError, KeyError, TypeError, ValueError) as error:
        raise CorpusError(
            f"{path} is not a file of counts written by `dynamics count` ({error}); count again"
        ) from error
    return Counts(frame, info, str(path))


def is_counts_file(path: Path | str) -> bool:
    """Return whether a file is one that `dynamics count` wrote; False for one that is not there."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return _METADATA_KEY in (pq.read_schema(Path(path).expanduser()).metadata or {})
    except (pa.ArrowInvalid, OSError):
        return False


def check_tokenizer(counts: Counts, sha256: str, name: str) -> None:
    """Refuse to join counts with data of another tokenizer; counts by id alone have none.

    Args:
        counts: Counts of one tokenizer.
        sha256: Digest of the tokenizer of `name`.
        name: The model, series or file that the counts are joined with.

    Raises:
        MismatchError: The digests differ.
    """
    counted_with = counts.info.tokenizer_sha256
    if counted_with is not None and sha256 != counted_with:
        raise MismatchError(
            f"{counts.name} was counted with tokenizer {counted_with[:12]}, but "
            f"{name} has tokenizer {sha256[:12]}; count again with the tokenizer of {name}"
        )


class _CorpusCounter:
    """Counts a corpus chunk by chunk, and collects its text where information gain is requested.

    Args:
        tokenizer: Tokenizer of the corpus.
        vocab_size: Rows of the model, None for the entries of the tokenizer.
        information: Settings of information gain, None for none.

    Raises:
        MismatchError: `vocab_size` is too small.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerFast",
        vocab_size: int | None,
        information: InformationSettings | None,
    ) -> None:
        check_rows(tokenizer, vocab_size)
        self._tokenizer, self._vocab_size, self._information = tokenizer, vocab_size, information
        self._rows = max(vocabulary_size(tokenizer), vocab_size or 0)
        self._collector = TextCollector(self._rows)
        self.tally = Tally(self._rows)

    def add_text(
        self, ids: np.ndarray, pieces: np.ndarray, documents: np.ndarray | None = None
    ) -> None:
        """Add the next chunk to the text of information gain; see `TextCollector.add`."""
        if self._information is not None:
            self._collector.add(ids, pieces, documents)

    def counts(
        self,
        corpus_digest: str,
        stream: StreamInfo | None = None,
        *,
        on_pass: OnProgress,
        report: Report,
    ) -> Counts:
        """Return the counts; special and added entries without a row in the model are cut.

        Args:
            corpus_digest: Digest of the corpus.
            stream: Description of the stream that was counted, which names its twins.
            on_pass: As for `count_stream`.
            report: As for `count_stream`.

        Raises:
            MismatchError: Other entries have no row.
        """
        # A token that occurs is not called unreachable.
        surfaces = surfaces_and_kinds(self._tokenizer, self._rows, self.tally.occurring)
        table = self.tally.table(*surfaces)
        if stream is not None and stream.twins and stream.twin_shares:
            table = _with_twins(table, stream.twins, stream.twin_shares)
        info = CountsInfo(
            tokenizer_sha256(self._tokenizer),
            corpus_digest,
            self.tally.tokens,
            self._vocab_size or self._rows,
            *piece_marks(self._tokenizer.backend_tokenizer),
        )
        if (settings := self._information) is not None:
            text, edges = self._collector.text(), self._word_edges(table)
            columns = information_columns(text, edges, settings, on_pass=on_pass)
            table = table.assign(**columns)
            info = replace(
                info,
                window=settings.window,
                pairs=settings.equal_pairs,
                shuffles=settings.shuffles if settings.oyama else None,
                information_seed=settings.seed if settings.oyama else None,
            )
        difference = (
            f"the tokenizer has {self._rows} entries, the vocabulary only {info.vocab_size} rows"
        )
        return Counts(cut_to_rows(table, info.vocab_size, difference, report), info)

    def _word_edges(self, table: pd.DataFrame) -> WordEdges:
        """Masks of `kinds.word_edges`; a twin has those of its token."""
        edges = word_edges(self._tokenizer, self._rows)
        if "twin_of" not in table:
            return edges
        originals = table["twin_of"].where(table["twin_of"] >= 0, table["token_id"])
        return edges[0][originals], edges[1][originals]


def _with_twins(table: pd.DataFrame, twins: Twins, shares: Sequence[float]) -> pd.DataFrame:
    """Set kind `twin` for twin rows, their `token` to the original's, and add their columns."""
    twin_ids = np.concatenate(list(twins.values()))
    originals = np.repeat(list(twins), len(shares))
    table.loc[twin_ids, "kind"] = "twin"
    table.loc[twin_ids, "token"] = table.loc[originals, "token"].to_numpy()
    table["twin_of"], table["occurrence_share"] = -1, 1.0
    table.loc[twin_ids, "twin_of"] = originals
    table.loc[twin_ids, "occurrence_share"] = np.tile(shares, len(twins))
    table.loc[list(twins), "occurrence_share"] = 1 - math.fsum(shares)
    return table


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
