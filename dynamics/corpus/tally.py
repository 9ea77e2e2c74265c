"""Running counts of tokens and of the documents that hold them."""

import numpy as np
import pandas as pd

from dynamics.errors import CorpusError

TOKENS_PER_CHUNK = 1 << 18
_FEW = 64  # ids looked up one by one faster than all at once


class Tally:
    """Running counts over V tokens; both `add` methods take the corpus chunk by chunk, in order."""

    def __init__(self, vocab_size: int) -> None:
        self.tokens = 0
        self._count = np.zeros(vocab_size, np.int64)
        self._first_seen = np.full(vocab_size, -1, np.int64)
        self._document_count = np.zeros(vocab_size, np.int64)
        self._open_document = -1
        self._in_open_document = np.zeros(vocab_size, bool)

    @property
    def occurring(self) -> np.ndarray:
        """Mask of the tokens that were counted so far."""
        return self._count > 0

    def add(self, ids: np.ndarray, where: str) -> None:
        """Count a chunk, and record the positions at which its tokens were first seen."""
        counts = count_ids(ids, len(self._count), where)
        new = np.flatnonzero((counts > 0) & (self._count == 0))
        if len(new):
            self._first_seen[new] = self.tokens + _first_positions(ids, new, len(counts))
        self._count += counts
        self.tokens += len(ids)

    def add_documents(self, ids: np.ndarray, owners: np.ndarray) -> None:
        """Count the documents that hold each token.

        Args:
            ids: A chunk, not empty.
            owners: Number of the document of each id, never falling; a document may continue in
                the next chunk.
        """
        pairs = owners * len(self._count) + ids
        pairs.sort()
        distinct = pairs[np.diff(pairs, prepend=-1) > 0]
        document, token = np.divmod(distinct, len(self._count))
        # The open document began in an earlier chunk, where some of its tokens were counted.
        counted = (document == self._open_document) & self._in_open_document[token]
        self._document_count += np.bincount(token[~counted], minlength=len(self._count))
        if document[-1] != self._open_document:
            self._open_document = document[-1]
            self._in_open_document[:] = False
        self._in_open_document[token[document == self._open_document]] = True

    def table(self, surfaces: list[str], kinds: list[str]) -> pd.DataFrame:
        """Columns of `Counts.table`; document counts are null when no documents were added."""
        has_documents = self._open_document >= 0
        documents = self._document_count if has_documents else None
        return counts_table(surfaces, kinds, self._count, documents, self._first_seen)


def _first_positions(ids: np.ndarray, token_ids: np.ndarray, vocab_size: int) -> np.ndarray:
    """First position in a chunk of each of some token ids, all of which occur in it."""
    if len(token_ids) <= _FEW:
        return np.array([np.argmax(ids == token_id) for token_id in token_ids.tolist()])
    is_searched = np.zeros(vocab_size, bool)
    is_searched[token_ids] = True
    backwards = np.flatnonzero(is_searched[ids])[::-1]
    first = np.zeros(vocab_size, np.int64)
    first[ids[backwards]] = backwards  # of equal ids the last assigned stays
    return first[token_ids]


def counts_table(
    surfaces: list[str],
    kinds: list[str],
    count: np.ndarray,
    document_count: np.ndarray | None = None,
    first_seen: np.ndarray | int = -1,
) -> pd.DataFrame:
    """Columns of `Counts.table` for V tokens; document counts are null where they are None."""
    documents = [None] * len(count) if document_count is None else document_count
    return pd.DataFrame(
        {
            "token_id": np.arange(len(count)),
            "token": surfaces,
            "count": count,
            "document_count": pd.Series(documents, dtype="Int64"),
            "first_seen": first_seen,
            "kind": kinds,
        }
    )


def count_ids(ids: np.ndarray, vocab_size: int, where: str) -> np.ndarray:
    """Count each id of a flat array, read in chunks; an empty array gives zeros.

    Args:
        ids: One axis, unsigned or signed integers, a memory map or not.
        vocab_size: V, more than the largest id.
        where: Name of the array in messages.

    Raises:
        CorpusError: An id is not in 0 to `vocab_size` - 1.
    """
    counts = np.zeros(vocab_size, np.int64)
    for start in range(0, len(ids), TOKENS_PER_CHUNK):
        chunk = ids[start : start + TOKENS_PER_CHUNK]
        low, high = int(chunk.min()), int(chunk.max())
        if low < 0 or high >= vocab_size:
            raise CorpusError(
                f"{where} holds the id {low if low < 0 else high}, but the vocabulary has "
                f"{vocab_size} entries; give the tokenizer it was made with, and its dtype"
            )
        counts += np.bincount(chunk, minlength=vocab_size)
    return counts
