from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamics.corpus.exposure import exposure, exposures
from dynamics.corpus.tally import count_ids
from dynamics.corpus.tokens import StreamInfo, TokenStream
from dynamics.errors import CorpusError

VOCABULARY = 7


def make_stream(rows, dtype="<u2"):
    ids = np.array(rows, dtype)
    return TokenStream(Path("some.bin"), StreamInfo(dtype, len(rows), len(rows[0]) - 1), ids)


streams = (
    st.integers(2, 5)
    .flatmap(
        lambda width: st.lists(
            st.lists(st.integers(0, VOCABULARY - 1), min_size=width, max_size=width), min_size=1
        )
    )
    .map(make_stream)
)


def slowly(stream, step, batch_size):
    """Exposure by walking through training, row by row."""
    inputs, targets = Counter(), Counter()
    for past in range(step):
        for row in stream.rows_for_step(past, batch_size).tolist():
            inputs.update(row[:-1])
            targets.update(row[1:])
    return [[uses[i] for i in range(VOCABULARY)] for uses in (inputs, targets)]


@settings(deadline=None, derandomize=True)
@given(streams, st.integers(0, 12), st.integers(1, 9))
def test_equals_walking_through_training(stream, step, batch_size):
    inputs, targets = exposure(stream, step, batch_size, VOCABULARY)
    assert [inputs.tolist(), targets.tolist()] == slowly(stream, step, batch_size)
    assert inputs.dtype == targets.dtype == np.int64


@settings(deadline=None, derandomize=True)
@given(streams, st.lists(st.integers(0, 40), max_size=8), st.integers(1, 5))
def test_several_steps_equal_each_alone(stream, steps, batch_size):
    for order in (steps, sorted(steps)):
        together = list(exposures(stream, order, batch_size, VOCABULARY))
        for step, found in zip(order, together, strict=True):
            assert np.array_equal(found, exposure(stream, step, batch_size, VOCABULARY))


@settings(deadline=None, derandomize=True)
@given(streams, st.integers(0, 5), st.integers(0, 9))
def test_adds_up_over_passes(stream, passes, step):
    whole, part, both = exposures(
        stream, [stream.rows, step, passes * stream.rows + step], 1, VOCABULARY
    )
    assert np.array_equal(passes * np.array(whole) + np.array(part), both)


def test_ascending_steps_read_each_row_once(monkeypatch):
    stream = make_stream(np.arange(60).reshape(20, 3).tolist())
    read = []

    def counting(ids, vocab_size, where):
        read.append(len(ids))
        return count_ids(ids, vocab_size, where)

    monkeypatch.setattr("dynamics.corpus.exposure.count_ids", counting)
    list(exposures(stream, range(16), 2, 60))
    assert sum(read[::3]) == 90  # of three counts, the first is that of all columns


@pytest.mark.parametrize("dtype", ["<u2", "<u4", "<i4"])
@pytest.mark.parametrize("size", [1 << 18, (1 << 18) + 1, 3 << 18])
def test_chunks_lose_nothing(dtype, size):
    ids = np.random.default_rng(0).integers(0, 1000, size).astype(dtype)
    assert np.array_equal(count_ids(ids, 1000, "x"), np.bincount(ids, minlength=1000))


def test_nothing_counts_nothing():
    assert count_ids(np.array([], "<u2"), 3, "x").tolist() == [0, 0, 0]


@pytest.mark.parametrize(("worst", "dtype"), [(7, "<u2"), (4_000_000_000, "<u4"), (-1, "<i4")])
def test_ids_outside_the_vocabulary_are_named(worst, dtype):
    stream = make_stream([[0, 1], [2, worst]], dtype)
    with pytest.raises(
        CorpusError, match=f"some.bin holds the id {worst}, but the vocabulary has 7 entries; give"
    ):
        exposure(stream, 2, 1, VOCABULARY)
    exposure(stream, 1, 1, VOCABULARY)
