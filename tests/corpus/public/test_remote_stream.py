import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamics.corpus.public.remote_stream import RemoteStream, in_parallel, shard_names
from dynamics.errors import CorpusError
from tests.corpus.fake_streams import in_shards

PYTHIA = [f"document-{at:05}-of-00020.bin" for at in range(21)]


@settings(deadline=None, derandomize=True)
@given(st.data(), st.sampled_from(["uint16", "uint32"]))
def test_reads_what_a_concatenation_holds(data, dtype):
    rows, width = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 5))
    ids = np.arange(rows * width).reshape(rows, width) * 3001 % 65_521
    size = ids.size * np.dtype(dtype).itemsize
    stream = in_shards(ids, data.draw(st.lists(st.integers(0, size), max_size=5)), dtype)
    start = data.draw(st.integers(0, rows))
    stop = data.draw(st.integers(start, rows))
    assert stream.rows == rows
    assert stream.read(start, stop).tolist() == ids[start:stop].tolist()


def test_only_what_is_asked_for_is_read():
    stream = in_shards(np.zeros((10, 4)), [20, 50])  # rows of 8 bytes
    stream.read(1, 5)
    assert [shard.reads for shard in stream.shards] == [[(8, 20)], [(0, 20)], []]


def test_a_remainder_and_what_training_left_are_no_rows():
    shards = in_shards(np.zeros((5, 5))).shards  # 50 bytes
    assert RemoteStream("x", shards, "uint16", 4, "d").rows == 6
    assert RemoteStream("x", shards, "uint16", 4, "d", 3).rows == 3


def test_rows_that_are_not_there():
    with pytest.raises(CorpusError, match=r"org/stream@c0 has 5 rows; rows 4 to 6 are not in it"):
        in_shards(np.zeros((5, 4))).read(4, 6)


@pytest.mark.parametrize(
    "names",
    [["tokens.bin"], PYTHIA, PYTHIA[:20], [f"a-0000{at}-of-00003.bin" for at in (1, 2, 3)]],
    ids=["single", "as Pythia", "counted from 0", "counted from 1"],
)
def test_shards_in_the_order_of_their_numbers(names):
    others = ["README.md", "document.idx", ".gitattributes"]
    assert shard_names([*reversed(names), *others], "org/x") == names


def test_numbers_are_not_letters():
    names = [f"d-{at}-of-11.bin" for at in range(11)]
    assert shard_names(sorted(names), "x") == names


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["README.md"], "org/x holds 0 files of ids that are not one stream; expected one .bin"),
        (["a.bin", "b.bin"], "org/x holds 2 files of ids that are not one stream"),
        (["a-0-of-1.bin", "b-0-of-1.bin"], "2 files of ids that are not one stream"),
        ([*PYTHIA[:7], *PYTHIA[8:]], "org/x has 20 of its files, document-00000-of-00020.bin to"),
        (PYTHIA[:11], "has 11 of its files, .* to document-00010-of-00020.bin, but not all"),
    ],
)
def test_what_is_not_one_stream(names, message):
    with pytest.raises(CorpusError, match=message):
        shard_names(names, "org/x")


def test_parallel_reading_keeps_the_order():
    blocks = [(at, at + 1) for at in range(50)]
    assert list(in_parallel(lambda block: block, blocks, 8)) == blocks


def test_parallel_reading_ends_with_a_failure():
    begun = []

    def fail(block):
        begun.append(block)
        raise CorpusError("no")

    with pytest.raises(CorpusError):
        list(in_parallel(fail, [(at, at + 1) for at in range(50)], 3))
    assert len(begun) <= 3
