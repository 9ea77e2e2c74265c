"""Exposure: occurrences of each token up to a step of training, as input and as target."""

from collections.abc import Iterable, Iterator

import numpy as np

from dynamics.corpus.tally import count_ids
from dynamics.corpus.tokens import TokenStream

Exposure = tuple[np.ndarray, np.ndarray]


def exposure(stream: TokenStream, step: int, batch_size: int, vocab_size: int) -> Exposure:
    """Count how often each token was an input and a target in steps 0 to `step` - 1.

    Args:
        stream: The stream that training consumes.
        step: Number of steps done; for 0 all counts are 0.
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
    """Exposure at several steps, cheapest when they ascend: no row is then read twice.

    Exposure is full passes plus a prefix of the current pass; the prefix is carried from step to
    step.

    Raises:
        CorpusError: The stream holds an id that is not in 0 to `vocab_size` - 1.
    """
    full_pass: np.ndarray | None = None
    prefix = np.zeros((2, vocab_size), np.int64)
    counted_rows = 0
    for step in steps:
        passes, row = divmod(step * batch_size, stream.rows)
        if passes and full_pass is None:
            full_pass = prefix + _uses(stream, counted_rows, stream.rows, vocab_size)
        if counted_rows > 2 * row:  # counting from the start reads less than subtracting
            prefix, counted_rows = np.zeros_like(prefix), 0
        if row >= counted_rows:
            prefix += _uses(stream, counted_rows, row, vocab_size)
        else:
            prefix -= _uses(stream, row, counted_rows, vocab_size)
        counted_rows = row
        inputs, targets = prefix.copy() if full_pass is None else passes * full_pass + prefix
        yield inputs, targets


def _uses(stream: TokenStream, start: int, stop: int, vocab_size: int) -> np.ndarray:
    """Counts as inputs and as targets in rows `start` to `stop` - 1, of shape (2, vocab_size)."""
    return count_uses(stream.ids[start:stop], vocab_size, str(stream.path))


def count_uses(rows: np.ndarray, vocab_size: int, where: str) -> np.ndarray:
    """Count ids as inputs and as targets in rows of T + 1: without the last or the first column.

    Returns:
        int64, of shape (2, vocab_size).

    Raises:
        CorpusError: An id is not in 0 to `vocab_size` - 1.
    """
    total, last, first = (
        count_ids(ids, vocab_size, where) for ids in (rows.reshape(-1), rows[:, -1], rows[:, 0])
    )
    return np.stack([total - last, total - first])
