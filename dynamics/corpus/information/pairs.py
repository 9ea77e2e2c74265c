"""Exact counts of pairs of tokens that are near each other, for ranges of tokens at a time.

A text of N tokens is held in memory. Positions are sorted by token, so that the pairs of a range of
tokens are gathered together; a range has some millions of pairs, whose keys (token, context) are
sorted or, where they are dense, counted in a table. V tokens, N positions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Integer

PAIRS_AT_ONCE = 1 << 22  # some 20 bytes each
_KEYS = 1 << 32  # keys are uint32

WordEdges = tuple[Bool[np.ndarray, " V"], Bool[np.ndarray, " V"]]
"""Masks of tokens after which a word may continue, and of those that may continue one."""


@dataclass(frozen=True, eq=False)
class RunningText:
    """Ids in the order of the text, in pieces without context across their ends.

    Attributes:
        ids: N ids, below `vocab_size`.
        starts: Positions at which a piece (a document, or a row torn from one) begins, ascending,
            from 0 on.
        vocab_size: V.
        is_even: Whether the document of each piece has an even number; None where documents are
            not known.
    """

    ids: Integer[np.ndarray, " N"]
    starts: Integer[np.ndarray, " pieces"]
    vocab_size: int
    is_even: Bool[np.ndarray, " pieces"] | None = None

    @cached_property
    def count(self) -> Integer[np.ndarray, " V"]:
        """Occurrences of each token."""
        return np.bincount(self.ids, minlength=self.vocab_size)

    @cached_property
    def halves(self) -> tuple["RunningText", "RunningText"] | None:
        """The documents of even and of odd number, each a text; None where one would be empty."""
        if self.is_even is None or self.is_even.all() or not self.is_even.any():
            return None
        return self._pieces(self.is_even), self._pieces(~self.is_even)

    def _pieces(self, kept: Bool[np.ndarray, " pieces"]) -> "RunningText":
        """Return the text of some pieces."""
        lengths = np.diff(self.starts, append=len(self.ids))
        ends = np.cumsum(lengths[kept])
        starts = ends - lengths[kept]
        return RunningText(self.ids[np.repeat(kept, lengths)], starts, self.vocab_size)


class TextCollector:
    """Collects a running text; `add` takes it chunk by chunk, in order."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._chunks: list[np.ndarray] = []
        self._starts: list[np.ndarray] = []
        self._is_even: list[np.ndarray] = []
        self._tokens = 0
        self._owner = -1

    def add(self, ids: np.ndarray, owners: np.ndarray, documents: np.ndarray | None = None) -> None:
        """Add the next chunk, not empty.

        Args:
            ids: The ids.
            owners: Number of the piece of each id.
            documents: Number of the document of each id; that of its piece when None.
        """
        documents = owners if documents is None else documents
        new = np.diff(owners, prepend=self._owner) != 0
        self._starts.append(self._tokens + np.flatnonzero(new))
        self._is_even.append(documents[new] % 2 == 0)
        self._chunks.append(ids.astype(np.min_scalar_type(self._vocab_size - 1)))
        self._tokens += len(ids)
        self._owner = owners[-1]

    def text(self) -> RunningText:
        """Return the text of all chunks."""
        return RunningText(
            np.concatenate(self._chunks),
            np.concatenate(self._starts),
            self._vocab_size,
            np.concatenate(self._is_even),
        )


@dataclass(frozen=True, eq=False)
class Reach:
    """Distances of the contexts of each position to one side, from `nearest` to `furthest`.

    Attributes:
        side: +1 for following contexts, -1 for preceding ones.
        window: Largest distance of any context.
        nearest: Distance of the first context, at least 1; beyond `furthest` where there is none.
        furthest: Distance of the last.
    """

    side: int
    window: int
    nearest: Integer[np.ndarray, " N"]
    furthest: Integer[np.ndarray, " N"]


@dataclass(frozen=True, eq=False)
class Cells:
    """Pairs that occur, of tokens `first` to `stop` - 1, ascending by token and context.

    Attributes:
        first: The first token.
        stop: One beyond the last token.
        token: Token of each cell, counted from `first`.
        context: Id of the context of each cell.
        times: Number of pairs of each cell, at least one.
    """

    first: int
    stop: int
    token: Integer[np.ndarray, " cells"]
    context: Integer[np.ndarray, " cells"]
    times: Integer[np.ndarray, " cells"]


def reaches(
    text: RunningText, window: int, word_edges: WordEdges | None = None
) -> tuple[Reach, Reach]:
    """Reach of each position to its right and to its left within a window.

    Args:
        text: A running text; contexts end with the piece.
        window: Tokens to either side, at least 1.
        word_edges: For each token whether a word may continue after it, and whether it may continue
            a word (`kinds.word_edges`); pairs inside one word are then left out. None keeps them.
    """
    n = len(text.ids)
    index_type = np.int32 if n < 1 << 31 else np.int64  # half the memory of a text
    small = np.min_scalar_type(window + 1)
    is_start = np.zeros(n, bool)
    is_start[text.starts] = True
    word_starts = np.arange(n, dtype=index_type)
    if word_edges is not None:
        joins_next, joins_previous = word_edges
        is_start[1:] |= ~(joins_next[text.ids[:-1]] & joins_previous[text.ids[1:]])
        word_starts = np.flatnonzero(is_start).astype(index_type)
    sides = []
    for side in (1, -1):
        past_word, past_piece = (
            _distance_past(starts, n, side)
            for starts in (word_starts, text.starts.astype(index_type))
        )
        nearest = np.minimum(past_word, window + 1).astype(small)
        furthest = np.minimum(past_piece - 1, window).astype(small)
        sides.append(Reach(side, window, nearest, furthest))
    return sides[0], sides[1]


def _distance_past(starts: np.ndarray, n: int, side: int) -> Integer[np.ndarray, " N"]:
    """Distance of each position to the first one outside its stretch; stretches fill the text."""
    lengths = np.diff(starts, append=starts.dtype.type(n))
    positions = np.arange(n, dtype=starts.dtype)
    if side > 0:
        return np.repeat(starts + lengths, lengths) - positions
    return positions - np.repeat(starts - 1, lengths)


def pair_cells(text: RunningText, sides: Sequence[Reach]) -> Iterator[Cells]:
    """Count how often each token has each context, for ranges of tokens from id 0 to V - 1.

    The concatenated result does not depend on the division into ranges.

    Args:
        text: A running text.
        sides: Reach of the contexts to each side; several sides are added up.
    """
    order = np.argsort(text.ids, kind="stable")
    ends = np.cumsum(text.count)
    span = sum(side.window for side in sides)
    first = 0
    while first < text.vocab_size:
        begin = int(ends[first - 1]) if first else 0
        enough = int(np.searchsorted(ends, begin + PAIRS_AT_ONCE // span, side="right"))
        stop = min(max(enough, first + 1), first + _KEYS // text.vocab_size, text.vocab_size)
        yield _cells(text, sides, order[begin : ends[stop - 1]], first, stop)
        first = stop


def _cells(
    text: RunningText, sides: Sequence[Reach], positions: np.ndarray, first: int, stop: int
) -> Cells:
    """Count the pairs of tokens `first` to `stop` - 1, which are at these positions."""
    size = text.vocab_size
    keys = (stop - first) * size
    are_dense = keys <= len(positions) * sum(side.window for side in sides)
    key_arrays = _keys(text, sides, positions, first)
    if stop - first > 1 or not are_dense:  # a single token can have more pairs than there is room
        key_arrays = [np.concatenate([np.zeros(0, np.uint32), *key_arrays])]
    if are_dense:
        table = np.zeros(keys, np.int64)
        for key_array in key_arrays:
            table += np.bincount(key_array, minlength=keys)
        distinct = np.flatnonzero(table)
        times = table[distinct]
    else:
        (ordered,) = key_arrays
        ordered.sort()
        is_new = np.ones(len(ordered), bool)
        np.not_equal(ordered[1:], ordered[:-1], out=is_new[1:])
        starts = np.flatnonzero(is_new)
        distinct, times = ordered[starts], np.diff(starts, append=len(ordered))
    token = distinct // size
    return Cells(first, stop, token, distinct - token * size, times)


def _keys(
    text: RunningText, sides: Sequence[Reach], positions: np.ndarray, first: int
) -> Iterator[np.ndarray]:
    """Keys (token - first) V + context of the pairs at each distance to each side."""
    rows = (text.ids[positions] - first).astype(np.uint32) * np.uint32(text.vocab_size)
    for side in sides:
        nearest, furthest = side.nearest[positions], side.furthest[positions]
        for distance in range(1, side.window + 1):
            in_reach = (nearest <= distance) & (distance <= furthest)
            contexts = text.ids[positions[in_reach] + side.side * distance]
            yield rows[in_reach] + contexts
