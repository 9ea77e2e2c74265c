from pathlib import Path

import numpy as np
import pytest

from dynamics.corpus.exposure import exposures
from dynamics.corpus.public import remote_exposure
from dynamics.corpus.public.remote_exposure import remote_exposures
from dynamics.corpus.tokens import StreamInfo, TokenStream
from dynamics.errors import CheckpointError, CorpusError
from tests.corpus.fake_streams import bursts, in_shards

VOCABULARY = 12
STEPS = [0, 1, 2, 4, 8, 20, 33]


@pytest.fixture(scope="module")
def ids():
    return bursts(np.random.default_rng(6), 100, 17, VOCABULARY)


@pytest.fixture(autouse=True)
def saved_often(monkeypatch):
    monkeypatch.setattr(remote_exposure, "STEPS_PER_SAVE", 4)


def exactly(ids, steps=STEPS):
    local = TokenStream(Path("x"), StreamInfo("<i8", len(ids), ids.shape[1] - 1), ids)
    return np.array(list(exposures(local, steps, 3, VOCABULARY)))


def remotely(stream, folder, steps=STEPS, **settings):
    return np.array(list(remote_exposures(stream, steps, 3, VOCABULARY, folder, **settings)))


@pytest.mark.parametrize("workers", [1, 5])
def test_as_the_stream_itself_gives(tmp_path, ids, workers):
    stream = in_shards(ids, [333, 1000])
    found = remotely(stream, tmp_path, workers=workers)
    assert np.array_equal(found, exactly(ids))
    assert found.dtype == np.int64
    read = sum(stop - start for shard in stream.shards for start, stop in shard.reads)
    assert read == 33 * 3 * 17 * 2


def test_what_was_counted_is_not_read_again(tmp_path, ids):
    stream = in_shards(ids)
    (shard,) = stream.shards
    shard.fail_after = 17
    with pytest.raises(CheckpointError):
        remotely(stream, tmp_path, workers=1)
    shard.fail_after = float("inf")
    progress = []
    found = remotely(stream, tmp_path, workers=1, on_progress=lambda *done: progress.append(done))
    assert np.array_equal(found, exactly(ids))
    assert len(shard.reads) == 33 + 1  # the 17th was read for a part that was not finished
    assert progress[0] == (0, 33)
    assert (16, 33) in progress
    assert progress[-1] == (33, 33)
    assert np.array_equal(remotely(stream, tmp_path), exactly(ids))
    assert len(shard.reads) == 34
    kept = [path.name for path in tmp_path.rglob("*.npz")]
    steps = [1, 2, 4, 8, 16, 20, 33]  # 16 was the last on the way when it broke
    assert sorted(kept) == [f"exposure-12-{3 * step:012d}.npz" for step in steps]


def test_steps_between_others_use_what_is_kept(tmp_path, ids):
    stream = in_shards(ids)
    remotely(stream, tmp_path)
    before = len(stream.shards[0].reads)
    assert np.array_equal(remotely(stream, tmp_path, [9, 21, 5]), exactly(ids, [9, 21, 5]))
    assert len(stream.shards[0].reads) == before + 3
    assert len(list(tmp_path.rglob("*.npz"))) == len(STEPS) - 1 + 3


def test_what_is_kept_and_damaged_is_read_again(tmp_path, ids):
    stream = in_shards(ids)
    remotely(stream, tmp_path)
    for path in tmp_path.rglob("*.npz"):
        path.write_bytes(path.read_bytes()[:90])
    assert np.array_equal(remotely(stream, tmp_path), exactly(ids))


def test_steps_beyond_the_stream(tmp_path, ids):
    with pytest.raises(CorpusError, match="100 rows, which is 33 steps of 3; the exposure at step"):
        remote_exposures(in_shards(ids), [2, 34], 3, VOCABULARY, tmp_path)


def test_no_steps(tmp_path, ids):
    assert list(remote_exposures(in_shards(ids), [], 3, VOCABULARY, tmp_path)) == []


def test_ids_beyond_the_vocabulary(tmp_path, ids):
    exposed = remote_exposures(in_shards(ids + 60_000), [1], 3, VOCABULARY, tmp_path)
    with pytest.raises(CorpusError, match=r"holds the id 600.*, but the vocabulary has 12 entries"):
        next(exposed)
