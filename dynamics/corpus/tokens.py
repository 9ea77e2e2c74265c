"""The token stream: training order as a file.

`tokens.bin` is a flat little-endian array of rows of T + 1 ids, in the order in which training
consumes them: step t takes rows [t*B, (t+1)*B) modulo the number of rows, so every pass has the
same order. A row gives T inputs, its ids [:-1], and T targets, its ids [1:]. `tokens.json`
describes the file; rows kept out of training are beside it in `held_out.bin`. Third-party streams
(nanoGPT, Pythia's pre-shuffled Pile, OLMo) are read without `tokens.json`.
"""

import json
from array import array
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dynamics.config import TwinSettings
from dynamics.corpus.documents.corpus_digest import CorpusDigest
from dynamics.corpus.documents.large_text import Document
from dynamics.corpus.id_files import open_ids
from dynamics.corpus.tally import count_ids
from dynamics.corpus.tokenizers.kinds import token_kinds
from dynamics.corpus.tokenizers.loading import (
    end_of_text_id,
    tokenize,
    tokenizer_sha256,
    vocabulary_size,
)
from dynamics.corpus.tokenizers.text_checks import TextChecks
from dynamics.corpus.twins import make_twins
from dynamics.errors import CorpusError
from dynamics.files import sha256_file, whole_file, write_json
from dynamics.progress import Report, no_report

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TOKENS = "tokens.bin"
HELD_OUT = "held_out.bin"
INFO = "tokens.json"
ROW_ORDER = "permuted by numpy default_rng(seed)"
_ROWS_PER_WRITE = 4096


@dataclass(frozen=True)
class StreamSettings:
    """Settings from which the rows of a stream follow, for given documents and tokenizer.

    Attributes:
        sequence_length: T, in tokens; a row has T + 1.
        seed: Seed of the row permutation.
        max_tokens: Largest number of tokens used, end-of-text tokens included; None for all.
        held_out_rows: Number of rows, the last of the permuted ones, that are kept out of the
            stream, in a file of their own (`open_held_out`).
        twins: Number of tokens that get duplicate ids, and the shares of their occurrences that
            do, also in held-out rows. Drawn by the seed, independently of the permutation.
    """

    sequence_length: int
    seed: int
    max_tokens: int | None = None
    held_out_rows: int = 0
    twins: TwinSettings | None = None


@dataclass(frozen=True)
class StreamInfo:
    """Description of a stream; None for facts that a third-party stream does not state.

    Attributes:
        dtype: Numpy's name of the type on disk, `<u2` or `<u4` in streams that `dynamics` wrote.
        rows: Number of rows of `sequence_length` + 1 ids.
        sequence_length: Tokens that a row feeds to the model.
        tokenizer_sha256: Digest of the tokenizer that made the ids.
        vocab_size: Entries of that tokenizer; every id is smaller but for twins.
        end_of_text_id: Id that ends each document.
        seed: Seed of the row permutation.
        row_order: Rule by which the rows were ordered.
        source: Source of the text, as the user named it.
        documents: Number of documents read; the last may be cut.
        corpus_digest: SHA-256 over the documents, each as UTF-8 after its length in bytes.
        tokens_sha256: SHA-256 of `tokens.bin`.
        held_out_rows: Rows of `held_out.bin`, the last of the permuted ones; not among `rows`.
        held_out_sha256: SHA-256 of `held_out.bin`, None where there is none.
        twins: Id of each token that has twins, and the ids of these, from `vocab_size` on; None
            where there are none.
        twin_shares: Probability with which an occurrence of such a token was made each of its
            twins, in the order of their ids.
    """

    dtype: str
    rows: int
    sequence_length: int
    tokenizer_sha256: str | None = None
    vocab_size: int | None = None
    end_of_text_id: int | None = None
    seed: int | None = None
    row_order: str | None = None
    source: str | None = None
    documents: int | None = None
    corpus_digest: str | None = None
    tokens_sha256: str | None = None
    held_out_rows: int = 0
    held_out_sha256: str | None = None
    twins: dict[int, tuple[int, ...]] | None = None
    twin_shares: tuple[float, ...] | None = None

    @property
    def id_count(self) -> int | None:
        """Entries of the tokenizer and twins together: every id is smaller."""
        if self.vocab_size is None:
            return None
        return self.vocab_size + sum(map(len, (self.twins or {}).values()))


@dataclass(frozen=True, eq=False)
class TokenStream:
    """A token stream on disk, read through a memory map.

    Attributes:
        path: The file of ids.
        info: Description of the stream.
        ids: Memory map of shape (rows, sequence_length + 1).
    """

    path: Path
    info: StreamInfo
    ids: np.ndarray

    @property
    def rows(self) -> int:
        """Number of rows in one pass."""
        return self.info.rows

    @property
    def sequence_length(self) -> int:
        """Tokens a row feeds to the model; the row holds one more."""
        return self.info.sequence_length

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file; reads all of a third-party stream."""
        return self.info.tokens_sha256 or sha256_file(self.path)

    def rows_for_step(self, step: int, batch_size: int) -> np.ndarray:
        """Ids that step `step`, from 0, consumes, of shape (batch_size, sequence_length + 1)."""
        rows = np.arange(step * batch_size, (step + 1) * batch_size) % self.rows
        return np.asarray(self.ids[rows])

    def passes(self, steps: int, batch_size: int) -> float:
        """Number of passes over the stream in `steps` steps."""
        return steps * batch_size / self.rows


def write_stream(
    folder: Path,
    documents: Iterable[Document],
    tokenizer: "PreTrainedTokenizerFast",
    settings: StreamSettings,
    *,
    source: str | None = None,
    allow_loss: bool = False,
    report: Report = no_report,
) -> TokenStream:
    """Write documents as a token stream into `folder`, replacing the one that is there.

    Each document ends with the end-of-text token. Tokens beyond the last whole row are dropped
    before the rows are permuted.

    Args:
        folder: Training folder.
        documents: Text, in source order; may be endless when `settings.max_tokens` is given.
        tokenizer: Must have an end-of-sentence or a separator token.
        settings: Shape and order of the rows.
        source: Name of the text, for the record.
        allow_loss: Accept that more than 1 % of the text becomes no token (`text_loss`).
        report: Receives a line for each finding in the text, for a large document that cannot be
            cut, which takes memory, and on twins.

    Raises:
        CorpusError: There is no text, less than one row of it beside those held out, no
            end-of-text token, or too little text for the twins; or too much of it becomes no token.
    """
    end = end_of_text_id(tokenizer)
    if end is None:
        raise CorpusError(
            "the tokenizer has neither an end-of-sentence nor a separator token to end documents "
            "with; set its eos_token"
        )
    max_tokens, twins = settings.max_tokens, settings.twins
    vocab_size = vocabulary_size(tokenizer)
    ids_needed = vocab_size + (twins.tokens * len(twins.shares) if twins else 0)
    dtype = np.dtype("<u2" if ids_needed <= 65_536 else "<u4")
    digest, checks = CorpusDigest(), TextChecks(tokenizer)
    tokens = array("H" if dtype.itemsize == 2 else "I")
    for piece in tokenize(documents, tokenizer, report):
        tokens.extend(piece.ids)
        if piece.ends_document:
            tokens.append(end)
        is_full = max_tokens is not None and len(tokens) >= max_tokens
        if piece.ends_document or is_full:
            digest.add(piece.document)
            checks.add(piece.document)
        if is_full:
            del tokens[max_tokens:]
            break
    if not digest.documents:
        raise CorpusError(f"there is no text in {source or 'the corpus'}; give one that has some")
    checks.finish(allow_loss=allow_loss, report=report)
    width = settings.sequence_length + 1
    rows = len(tokens) // width
    if not rows:
        raise CorpusError(
            f"{len(tokens)} tokens do not fill one row of {width} (sequence_length + 1); "
            "give more text or a shorter sequence_length"
        )
    trained = rows - settings.held_out_rows
    if trained < 1:
        raise CorpusError(
            f"held_out_rows {settings.held_out_rows} leaves none of the {rows} rows of {width} "
            "tokens to train on; hold out fewer, or give more text"
        )
    table = np.frombuffer(tokens, dtype.newbyteorder("="))[: rows * width].reshape(rows, width)
    rng = np.random.default_rng(settings.seed)
    twin_ids = None
    if twins is not None:  # before the permutation, so that held-out rows have twins as well
        count = count_ids(table.reshape(-1), vocab_size, "the corpus")
        kinds = token_kinds(tokenizer, occurring=count > 0)
        twin_ids = make_twins(table, count, kinds, twins, rng, report)
    # Without its description a stream counts as unfinished: it goes first and is written last.
    for name in (INFO, HELD_OUT):
        (folder / name).unlink(missing_ok=True)
    order = rng.permutation(rows)
    _write_rows(folder / TOKENS, table, order[:trained], dtype)
    if settings.held_out_rows:
        _write_rows(folder / HELD_OUT, table, order[trained:], dtype)
    info = StreamInfo(
        dtype=dtype.str,
        rows=trained,
        sequence_length=settings.sequence_length,
        tokenizer_sha256=tokenizer_sha256(tokenizer),
        vocab_size=vocab_size,
        end_of_text_id=end,
        seed=settings.seed,
        row_order=ROW_ORDER,
        source=source,
        documents=digest.documents,
        corpus_digest=digest.hexdigest(),
        tokens_sha256=sha256_file(folder / TOKENS),
        held_out_rows=settings.held_out_rows,
        held_out_sha256=sha256_file(folder / HELD_OUT) if settings.held_out_rows else None,
        twins=twin_ids,
        twin_shares=twins and twins.shares,
    )
    write_json(folder / INFO, asdict(info))
    return open_stream(folder)


def _write_rows(path: Path, table: np.ndarray, order: np.ndarray, dtype: np.dtype) -> None:
    """Write the rows of a table in an order, with a copy of some of them at a time."""
    with whole_file(path) as partial, partial.open("wb") as file:
        for start in range(0, len(order), _ROWS_PER_WRITE):
            rows = table[order[start : start + _ROWS_PER_WRITE]]
            file.write(rows.astype(dtype, copy=False).tobytes())


def open_stream(
    path: Path | str,
    *,
    dtype: str | None = None,
    sequence_length: int | None = None,
    vocab_size: int | None = None,
) -> TokenStream:
    """Open a token stream for reading.

    Args:
        path: A training folder, its `tokens.bin`, or, with `sequence_length`, any file of ids: flat
            (nanoGPT, Pythia, OLMo) or with the header of numpy, llm.c or (beside) Megatron.
        dtype: Type of the ids in a flat third-party stream, see `id_files.open_ids`.
        sequence_length: T of a third-party stream, which is then read in rows of T + 1; the
            remainder is dropped. Pythia's rows of 2,049 have T = 2,048.
        vocab_size: Entries of the vocabulary of a third-party stream, where known.

    Raises:
        CorpusError: The stream is missing, damaged or shorter than a row, its ids are of another
            type, or a third-party stream was given without sequence_length.
    """
    path = Path(path).expanduser()
    path = path / TOKENS if path.is_dir() else path
    if not path.is_file():
        raise CorpusError(f"there is no token stream {path}; check the path, or write one first")
    if sequence_length is not None:
        return _open_foreign(path, dtype, sequence_length, vocab_size)
    if path.name != TOKENS or not path.with_name(INFO).is_file():
        raise CorpusError(
            f"{path} has no {INFO} beside it; give sequence_length (and dtype) to read a "
            "third-party stream, or write the stream again if writing was interrupted"
        )
    info = _read_info(path.with_name(INFO))
    return TokenStream(path, info, _mapped(path, info))


def open_held_out(path: Path | str) -> TokenStream | None:
    """Open the rows that were kept out of training, as a stream of their own.

    Args:
        path: A training folder.

    Returns:
        The rows, in the order of the permutation; None where none were held out.

    Raises:
        CorpusError: There is no token stream with its description, or the held-out rows are missing
            or damaged.
    """
    folder = Path(path).expanduser()
    info = open_stream(folder).info
    if not info.held_out_rows:
        return None
    file = folder / HELD_OUT
    if not file.is_file() or sha256_file(file) != info.held_out_sha256:
        raise CorpusError(
            f"{file} is {'damaged' if file.is_file() else 'missing'}: {INFO} describes "
            f"{info.held_out_rows} held-out rows; restore it, or write the stream again"
        )
    held_out = replace(
        info,
        rows=info.held_out_rows,
        row_order=None,
        tokens_sha256=info.held_out_sha256,
        held_out_rows=0,
        held_out_sha256=None,
    )
    return TokenStream(file, held_out, _mapped(file, held_out))


def _mapped(path: Path, info: StreamInfo) -> np.ndarray:
    """Memory map of the rows of a stream.

    Raises:
        CorpusError: The file has another size than its description says.
    """
    shape = (info.rows, info.sequence_length + 1)
    size, expected = path.stat().st_size, shape[0] * shape[1] * np.dtype(info.dtype).itemsize
    if size != expected:
        raise CorpusError(
            f"{path} is damaged: it has {size:,} bytes, {INFO} says {expected:,}; write it again"
        )
    return np.memmap(path, info.dtype, "r", shape=shape)


def _read_info(path: Path) -> StreamInfo:
    """Read a `tokens.json`, in which JSON made strings of the keys of `twins`.

    Older files have one twin for each token, and its `twin_share`.

    Raises:
        CorpusError: The file is damaged.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
        if "twin_share" in content:
            share = content.pop("twin_share")
            content["twin_shares"] = None if share is None else [share]
        if twins := content.get("twins"):
            content["twins"] = {
                int(token_id): (ids,) if isinstance(ids, int) else tuple(ids)
                for token_id, ids in twins.items()
            }
            content["twin_shares"] = tuple(content["twin_shares"])
        return StreamInfo(**content)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CorpusError(f"{path} is damaged ({error}); write the stream again") from error


def _open_foreign(
    path: Path, dtype: str | None, sequence_length: int, vocab_size: int | None
) -> TokenStream:
    """Open a file of ids that others wrote, in rows of `sequence_length` + 1 ids.

    Raises:
        CorpusError: There is no whole row, or the numbers are no integers.
    """
    width = sequence_length + 1
    flat = open_ids(path, dtype, vocab_size)
    if len(flat) < width or flat.dtype.kind not in "iu":
        raise CorpusError(
            f"{path} holds {len(flat)} numbers of type {flat.dtype}, expected integers for at "
            f"least one row of {width} (sequence_length + 1)"
        )
    rows = len(flat) // width
    info = StreamInfo(flat.dtype.str, rows, sequence_length)
    return TokenStream(path, info, flat[: rows * width].reshape(rows, width))
