"""What distances are taken to: read once, kept on disk, gone with the walk."""

import copy
import gc
import tempfile
import threading
import time
import weakref
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from dynamics.checkpoints.checkpoint import Checkpoint
from dynamics.checkpoints.stores import LocalFolder
from dynamics.checkpoints.weights import LocatedTensor
from dynamics.errors import OutputError
from dynamics.tracking import measuring, references
from dynamics.tracking.measuring import MeasureSettings
from dynamics.tracking.references import References
from dynamics.tracking.walk import measure_checkpoint, walk
from tests.checkpoints.writers import write_checkpoint
from tests.tracking.synthetic import INPUT, OUTPUT, STEPS

NOTHING = MeasureSettings(tokens=None)


class Elsewhere(LocalFolder):
    """A folder that counts as a hub: what is read from it was sent over a network."""


@pytest.fixture
def remote(series):
    """The series as if it were on a hub."""
    checkpoints = tuple(replace(each, place=Elsewhere(each.path)) for each in series)
    return replace(series, checkpoints=checkpoints)


@pytest.fixture
def reads(monkeypatch):
    """Each file without a name that was written, by weak reference."""
    made = []
    write = references._NamelessFile.__init__

    def noted(self, parts):
        made.append(weakref.ref(self))
        write(self, parts)

    monkeypatch.setattr(references._NamelessFile, "__init__", noted)
    return made


def alive(made):
    gc.collect()
    return [each for each in made if each() is not None]


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
@pytest.mark.parametrize("place", ["folder", "hub"])
def test_rows_are_those_of_the_tensor(tmp_path, kind, place):
    matrix = torch.randn(16, 2100).T if kind != "safetensors" else torch.randn(2100, 16)
    tensors = {INPUT: matrix.half(), OUTPUT: matrix.half() + 1}
    write_checkpoint(tmp_path / "step0", tensors, kind, {"tie_word_embeddings": False})
    folder = tmp_path / "step0"
    first = Checkpoint(folder if place == "folder" else Elsewhere(folder), 0)
    for role, key in (("input_embedding", INPUT), ("output_embedding", OUTPUT)):
        held = References(first).get(role)
        assert (held.shape, held.dtype, len(held)) == ((2100, 16), torch.float16, 2100)
        for rows in (slice(None), slice(0, 1024), slice(1024, 2048), slice(2048, 3072)):
            assert held[rows].equal(tensors[key][rows])


@pytest.mark.parametrize("place", ["folder", "hub"])
def test_the_matrix_is_read_once_and_not_held(series, remote, reads, monkeypatch, place):
    first = (series if place == "folder" else remote).checkpoints[0]
    read, located_read = [], LocatedTensor.read

    def noted(self, rows=None):
        tensor = located_read(self, rows)
        read.append(weakref.ref(tensor))
        return tensor

    monkeypatch.setattr(LocatedTensor, "read", noted)
    asked = References(first)
    held = asked.get("input_embedding")
    assert asked.get("input_embedding") is held
    assert len(reads) == (place == "hub")
    assert len(read) == (place == "hub")
    assert alive(read) == []
    del asked, held
    assert alive(reads) == []


def test_a_walk_left_early_keeps_nothing_of_threads_still_at_work(remote, reads, monkeypatch):
    begun, go_on = threading.Event(), threading.Event()
    measure = measuring.measure

    def slow(role, view, step):
        if step not in STEPS[:2]:
            begun.set()
            assert go_on.wait(60)
        return measure(role, view, step=step)

    monkeypatch.setattr(measuring, "measure", slow)
    with ThreadPoolExecutor(2) as pool:
        results = walk(remote, (), NOTHING, executor=pool, ahead=2)
        next(results)
        next(results)
        assert begun.wait(60)
        results.close()
        in_use = len(alive(reads))
        go_on.set()
    assert in_use == 1  # the input embedding's; nobody is at the output embedding
    assert alive(reads) == []


def test_work_that_begins_after_the_end_reads_nothing(remote, reads):
    asked = References(remote.checkpoints[0])
    asked.end()
    with pytest.raises(CancelledError):
        measure_checkpoint(remote.checkpoints[1], asked, NOTHING)
    assert reads == []


def test_a_read_that_ends_after_the_end_is_not_kept(remote, reads, monkeypatch):
    asked = References(remote.checkpoints[0])
    stored = references.stored

    def late(checkpoint, role, rows):
        asked.end()
        return stored(checkpoint, role, rows)

    monkeypatch.setattr(references, "stored", late)
    asked.get("input_embedding")
    assert len(reads) == 1
    assert alive(reads) == []


def test_another_process_reads_once_for_a_walk_and_lets_go_when_it_is_idle(
    remote, reads, monkeypatch
):
    monkeypatch.setattr(references, "LEASE", 0.01)
    asked = References(remote.checkpoints[0])
    there = copy.copy(asked)  # as pickling does, in this process
    with there:
        with copy.copy(asked) as again:
            assert again is there
            held = again.get("input_embedding")
        assert there._lease is None  # still in use
        assert there.get("input_embedding") is held
    assert len(reads) == 1
    del there, again, held
    until = time.monotonic() + 60
    while alive(reads) and time.monotonic() < until:
        time.sleep(0.01)
    assert alive(reads) == []


def test_walks_do_not_share(remote):
    one, other = (References(remote.checkpoints[0]) for _ in range(2))
    with copy.copy(one) as here, copy.copy(other) as there:
        assert here is not there


def test_no_room_for_the_copy_is_told(remote, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    told = r"cannot hold a copy .* \(No space left on device\); free space, or name .* TMPDIR"
    with pytest.raises(OutputError, match=told):
        References(remote.checkpoints[0]).get("input_embedding")
