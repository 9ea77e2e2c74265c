from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamics.corpus.information import pairs
from dynamics.corpus.information.pairs import RunningText, TextCollector, pair_cells, reaches
from tests.corpus import slow_information

VOCABULARY = 6


@st.composite
def texts(draw):
    """Ids, the piece of each, and which tokens words go on after and with."""
    ids = draw(st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=60))
    pieces = np.cumsum(draw(st.lists(st.booleans(), min_size=len(ids), max_size=len(ids))))
    edges = np.array(draw(st.lists(st.booleans(), min_size=12, max_size=12))).reshape(2, -1)
    return ids, pieces.tolist(), edges


def running(ids, pieces, cut=1):
    """The text, collected in two chunks."""
    collector = TextCollector(VOCABULARY)
    for start, stop in ((0, cut), (cut, len(ids))):
        if start < stop:
            collector.add(np.array(ids[start:stop]), np.array(pieces[start:stop]))
    return collector.text()


@settings(deadline=None, derandomize=True)
@given(texts(), st.integers(1, 7), st.integers(1, 40), st.integers(1, 60))
def test_equals_walking_through_the_text(made, window, at_once, cut):
    ids, pieces, (after, before) = made
    words = slow_information.word_numbers(ids, pieces, after, before)
    text = running(ids, pieces, min(cut, len(ids)))
    right, left = reaches(text, window, (after, before))
    for sides in ((right,), (left,), (right, left)):
        expected = Counter(
            (token, context)
            for side in sides
            for token, contexts in slow_information.pairs(
                ids, pieces, words, window, side.side
            ).items()
            for context in contexts
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pairs, "PAIRS_AT_ONCE", at_once)
            found = list(pair_cells(text, sides))
        assert [cells.first for cells in found] == [0, *(cells.stop for cells in found[:-1])]
        assert found[-1].stop == VOCABULARY
        listed = [
            ((int(token) + cells.first, int(context)), int(times))
            for cells in found
            for token, context, times in zip(cells.token, cells.context, cells.times, strict=True)
        ]
        assert dict(listed) == expected
        assert [pair for pair, _ in listed] == sorted(expected)


@pytest.mark.parametrize("window", [1, 254, 255, 400])
def test_wide_windows_do_not_overflow(window):
    ids = np.arange(600)
    text = RunningText(ids.astype(np.uint16), np.array([0, 500]), 600)
    right, left = reaches(text, window)
    until = np.where(ids < 500, 499, 599) - ids
    assert np.array_equal(right.furthest, np.minimum(until, window))
    assert np.array_equal(left.furthest, np.minimum(np.where(ids < 500, ids, ids - 500), window))
    assert sum(len(cells.times) for cells in pair_cells(text, (right,))) == right.furthest.sum()


def test_ids_need_as_few_bytes_as_the_vocabulary():
    for vocabulary, dtype in ((256, np.uint8), (257, np.uint16), (65_537, np.uint32)):
        collector = TextCollector(vocabulary)
        collector.add(np.array([vocabulary - 1, 0]), np.array([0, 0]))
        text = collector.text()
        assert text.ids.dtype == dtype
        assert [(c.first, c.token.tolist()) for c in pair_cells(text, reaches(text, 1))][-1]
        assert sum(cells.times.sum() for cells in pair_cells(text, reaches(text, 1))) == 2
