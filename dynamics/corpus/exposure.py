"""How often each token was seen up to a step of training, as input and as target."""

from collections.abc import Iterable, Iterator

import numpy as np

from dynamics.corpus.tokens import TokenStream
from dynamics.errors import CorpusError

TOKENS_PER_CHUNK = 1 << 18

Exposure = tuple[np.ndarray, np.ndarray]


def exposure(stream: TokenStream, step: int, batch_size: int, vocab_size: int) -> Exposure:
    """Times each token was an input and a target in steps 0 to `step` - 1.

    Args:
        stream: What training consumes.
        step: Number of steps done; after none, nothing was seen.
        batch_size: Rows per step.
        vocab_size: V, more than the largest id.

    Returns:
        Two int64 arrays of V counts: inputs (ids [:-1] of each row), targets (ids [1:]).

    Raises:
        CorpusError: The stream holds an id that is not in 0 to `vocab_size` - 1.
    """
    return next(exposures(stream, [step], batch_size, vocab_size))


def exposures(
    stream: TokenStream, steps: Iterable[int], batch_size: int, vocab_size: int
) -> Iterator[Exposure]:
    """The same for several steps, cheapest when they ascend: what was counted is not read again.

    Exposure is full passes plus a prefix of the pass at hand; the prefix is carried from step to
    step.

    Raises:
        CorpusError: The stream holds an id that is not in 0 to `vocab_size` - 1.
    """
    whole: np.ndarray | None = None
    prefix = np.zeros((2, vocab_size), np.int64)
    at = 0
    for step in steps:
        passes, row = divmod(step * batch_size, stream.rows)
        if passes and whole is None:
            whole = prefix + _uses(stream, at, stream.rows, vocab_size)
        if at > 2 * row:  # nearer from the beginning than back
            prefix, at = np.zeros_like(prefix), 0
        if row >= at:
            prefix += _uses(stream, at, row, vocab_size)
        else:
            prefix -= _uses(stream, row, at, vocab_size)
        at = row
        inputs, targets = prefix.copy() if whole is None else passes * whole + prefix
        yield inputs, targets


def _uses(stream: TokenStream, start: int, stop: int, vocab_size: int) -> np.ndarray:
    return count_uses(stream.ids[start:stop], vocab_size, str(stream.path))


def count_uses(rows: np.ndarray, vocab_size: int, where: str) -> np.ndarray:
    """Counts as input and as target in rows of T + 1 ids: all but the last or the first column.

    Returns:
        int64, of shape (2, vocab_size).

    Raises:
        CorpusError: An id is not in 0 to `vocab_size` - 1.
    """
    everything, last, first = (
        count_ids(ids, vocab_size, where) for ids in (rows.reshape(-1), rows[:, -1], rows[:, 0])
    )
    return np.stack([everything - last, everything - first])


def count_ids(ids: np.ndarray, vocab_size: int, where: str) -> np.ndarray:
    """Occurrences of each id in a flat array, read in chunks; none in an empty one.

    Args:
        ids: One axis, unsigned or signed integers, a memory map or not.
        vocab_size: V, more than the largest id.
        where: What messages call the array.

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
