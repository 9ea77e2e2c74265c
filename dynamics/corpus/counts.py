"""Token counts of a corpus: a table with a row per vocabulary entry, and the file that keeps it."""

import json
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from dynamics.corpus.exposure import TOKENS_PER_CHUNK, count_ids
from dynamics.corpus.kinds import token_kinds, token_surfaces
from dynamics.corpus.tokenizer import end_of_text_id, tokenize, tokenizer_sha256
from dynamics.corpus.tokens import ROW_ORDER, CorpusDigest, TokenStream, open_held_out
from dynamics.errors import CorpusError, MismatchError
from dynamics.files import whole_file

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_METADATA_KEY = b"dynamics.counts"
_FEW = 64  # ids looked up one by one faster than all at once


@dataclass(frozen=True)
class CountsInfo:
    """Where counts come from.

    Attributes:
        tokenizer_sha256: Digest of the tokenizer.
        corpus_digest: SHA-256 over the documents, or of the file of a stream of others; over the
            digests of its files where there are several.
        tokens_counted: Sum of the counts.
        vocab_size: Rows of the table.
        window: Tokens either side that information gain looks at, None without information gain.
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
    window: int | None = None
    dynamics_version: str = field(default_factory=lambda: version("dynamics"))
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

    def write(self, path: Path) -> None:
        """Write a parquet file, whole or not at all; equal counts give equal bytes."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.Table.from_pandas(self.table, preserve_index=False)
        metadata = json.dumps(asdict(self.info), sort_keys=True).encode()
        with whole_file(path) as partial:
            pq.write_table(table.replace_schema_metadata({_METADATA_KEY: metadata}), partial)


def count_stream(
    stream: TokenStream, tokenizer: "PreTrainedTokenizerFast", *, vocab_size: int | None = None
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
            the stream has any, then `padding`.

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
    tally = _Tally(len(kinds := token_kinds(tokenizer, vocab_size)))
    flat = stream.ids.reshape(-1)
    for start in range(0, len(flat), TOKENS_PER_CHUNK):
        tally.add(flat[start : start + TOKENS_PER_CHUNK], str(stream.path))
    end = stream.info.end_of_text_id
    end = end_of_text_id(tokenizer) if end is None else end
    if end is not None:
        for ids, owners in _in_source_order(stream, end):
            tally.add_documents(ids, owners)
    digest = stream.info.corpus_digest or stream.digest
    info = CountsInfo(sha256, digest, tally.tokens, len(kinds))
    table = tally.table(token_surfaces(tokenizer, vocab_size), kinds)
    return Counts(_with_twins(table, stream.info.twins or {}), info)


def count_documents(
    documents: Iterable[str],
    tokenizer: "PreTrainedTokenizerFast",
    *,
    vocab_size: int | None = None,
) -> Counts:
    """Count the tokens of documents in the order given, without any between them.

    Args:
        documents: Text.
        tokenizer: Applied to each document as a whole.
        vocab_size: Rows of the model; those beyond the tokenizer's are of kind `padding`.

    Raises:
        CorpusError: There is no text.
        MismatchError: `vocab_size` is too small.
    """
    tally = _Tally(len(kinds := token_kinds(tokenizer, vocab_size)))
    digest = CorpusDigest()
    for ids, owners in _in_chunks(documents, tokenizer, digest):
        tally.add(ids, "the corpus")
        tally.add_documents(ids, owners)
    if not tally.tokens:
        raise CorpusError("there is no text to count; give a corpus that has some")
    sha256 = tokenizer_sha256(tokenizer)
    info = CountsInfo(sha256, digest.hexdigest(), tally.tokens, len(kinds))
    return Counts(tally.table(token_surfaces(tokenizer, vocab_size), kinds), info)


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


class _Tally:
    """Running counts over V tokens; both `add` methods take the corpus chunk by chunk, in order."""

    def __init__(self, vocab_size: int) -> None:
        self.tokens = 0
        self._count = np.zeros(vocab_size, np.int64)
        self._first_seen = np.full(vocab_size, -1, np.int64)
        self._document_count = np.zeros(vocab_size, np.int64)
        self._open_document = -1
        self._in_open_document = np.zeros(vocab_size, bool)

    def add(self, ids: np.ndarray, where: str) -> None:
        """Count a chunk, and note where its tokens were first seen."""
        found = count_ids(ids, len(self._count), where)
        new = np.flatnonzero((found > 0) & (self._count == 0))
        if len(new):
            self._first_seen[new] = self.tokens + _first_positions(ids, new, len(found))
        self._count += found
        self.tokens += len(ids)

    def add_documents(self, ids: np.ndarray, owners: np.ndarray) -> None:
        """Count the documents that hold each token.

        Args:
            ids: A chunk, not empty.
            owners: Number of the document of each id, never falling; a document may go on in the
                next chunk.
        """
        pairs = owners * len(self._count) + ids
        pairs.sort()
        distinct = pairs[np.diff(pairs, prepend=-1) > 0]
        document, token = np.divmod(distinct, len(self._count))
        counted = (document == self._open_document) & self._in_open_document[token]
        self._document_count += np.bincount(token[~counted], minlength=len(self._count))
        if document[-1] != self._open_document:
            self._open_document = document[-1]
            self._in_open_document[:] = False
        self._in_open_document[token[document == self._open_document]] = True

    def table(self, surfaces: list[str], kinds: list[str]) -> pd.DataFrame:
        """The columns of `Counts.table`; document counts are null when none was added."""
        known = self._open_document >= 0
        documents = self._document_count if known else [None] * len(self._document_count)
        return pd.DataFrame(
            {
                "token_id": np.arange(len(self._count)),
                "token": surfaces,
                "count": self._count,
                "document_count": pd.Series(documents, dtype="Int64"),
                "first_seen": self._first_seen,
                "kind": kinds,
            }
        )


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


def _first_positions(ids: np.ndarray, wanted: np.ndarray, vocab_size: int) -> np.ndarray:
    """Where in a chunk each of the wanted ids, all of them there, stands first."""
    if len(wanted) <= _FEW:
        return np.array([np.argmax(ids == token_id) for token_id in wanted.tolist()])
    is_wanted = np.zeros(vocab_size, bool)
    is_wanted[wanted] = True
    backwards = np.flatnonzero(is_wanted[ids])[::-1]
    first = np.zeros(vocab_size, np.int64)
    first[ids[backwards]] = backwards  # of equal ids the last assigned stays
    return first[wanted]


def _in_source_order(stream: TokenStream, end: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Chunks of ids with the number of the document each belongs to, our permutation undone.

    Rows that are held out are read for the documents that end there, and left out.
    """
    ended = 0
    for rows, trained in _source_rows(stream):
        ends = rows == end
        owners = ended + np.cumsum(ends).reshape(rows.shape) - ends
        ended += int(ends.sum())
        ids = rows[trained].reshape(-1)
        if len(ids):
            yield ids, owners[trained].reshape(-1)


def _source_rows(stream: TokenStream) -> Iterator[tuple[np.ndarray, np.ndarray | slice]]:
    """Chunks of rows in source order, held-out ones among them, and which are trained on."""
    rows_per_chunk = max(1, TOKENS_PER_CHUNK // (stream.sequence_length + 1))
    if stream.info.row_order != ROW_ORDER:
        for start in range(0, stream.rows, rows_per_chunk):
            yield stream.ids[start : start + rows_per_chunk], slice(None)
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
    documents: Iterable[str], tokenizer: "PreTrainedTokenizerFast", digest: CorpusDigest
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Chunks of whole documents, with the number of the document each id belongs to."""
    ids, owners = array("q"), array("q")
    for text, document in tokenize(documents, tokenizer):
        ids.extend(document)
        owners.extend([digest.documents] * len(document))
        digest.add(text)
        if len(ids) >= TOKENS_PER_CHUNK:
            yield np.array(ids), np.array(owners)
            ids, owners = array("q"), array("q")
    if ids:
        yield np.array(ids), np.array(owners)
