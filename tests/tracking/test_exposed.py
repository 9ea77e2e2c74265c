"""Exact exposure from a stream of others."""

import numpy as np
import pytest

from dynamics.corpus.tokens import open_stream
from dynamics.errors import ConfigError, CorpusError, MismatchError
from dynamics.tracking.exposed import Exposed
from dynamics.tracking.track import track
from tests.tracking import independent
from tests.tracking.synthetic import (
    STEPS,
    VOCABULARY,
    files_of,
    grow,
    make_counts,
    write_series,
    write_training,
)

LENGTH, BATCH, ROWS = 11, 3, 17


@pytest.fixture(scope="module")
def counts():
    return make_counts()


@pytest.fixture(scope="module")
def training(counts, tmp_path_factory):
    """A training folder whose stream the others copy."""
    folder = tmp_path_factory.mktemp("exposed") / "training"
    write_training(folder, counts, grow(counts), batch_size=BATCH, rows=ROWS, length=LENGTH)
    return folder


@pytest.fixture(scope="module")
def series(counts, tmp_path_factory):
    return write_series(tmp_path_factory.mktemp("series") / "others", grow(counts))


def write_others(folder, ids, form):
    path = folder / f"train.{form}"
    if form == "npy":
        np.save(path, ids.reshape(-1).astype(np.uint32))
    else:
        ids.astype("<u4" if form == "u4" else "<u2").tofile(path)
    return open_stream(path, sequence_length=LENGTH, dtype="uint32" if form == "u4" else None)


@pytest.mark.parametrize("form", ["bin", "npy", "u4"])
def test_equals_that_of_a_training_of_ours(training, series, counts, tmp_path, form):
    stream = write_others(tmp_path, open_stream(training).ids, form)
    run = track(series, tmp_path / "run", counts=counts, exposed=Exposed(stream, BATCH))
    for step in run.steps:
        expected = independent.exposure(training, step, VOCABULARY)
        table = run.measures(step)
        assert list(table["exposure_as_input"]) == list(expected["input_embedding"])
        assert list(table["exposure_as_target"]) == list(expected["output_embedding"])
        assert table["exposure_as_input"].sum() == step * BATCH * LENGTH
    assert "log_exposure" in set(run.trends["against"])
    assert run.info["settings"]["stream"] == {
        "name": f"train.{form}",
        "dtype": {"bin": "<u2", "npy": "<u4", "u4": "<u4"}[form],
        "rows": ROWS,
        "sequence_length": LENGTH,
        "batch_size": BATCH,
    }
    assert str(tmp_path) not in (tmp_path / "run/run.json").read_text()


def test_counts_add_up_over_passes(training, series, counts, tmp_path):
    """One row a step: after r rows the stream begins anew."""
    stream = open_stream(training)
    whole = np.bincount(stream.ids[:, :-1].reshape(-1), minlength=VOCABULARY)
    run = track(series, tmp_path / "run", counts=counts, exposed=Exposed(stream, 1), steps="32")
    passes, rest = divmod(STEPS[-1], ROWS)
    part = np.bincount(stream.ids[:rest, :-1].reshape(-1), minlength=VOCABULARY)
    assert np.array_equal(run.measures(32)["exposure_as_input"], passes * whole + part)


def test_another_stream_is_another_run(training, series, counts, tmp_path):
    stream = open_stream(training)
    track(series, tmp_path / "run", counts=counts, exposed=Exposed(stream, BATCH))
    before = files_of(tmp_path / "run")
    track(series, tmp_path / "run", counts=counts, exposed=Exposed(stream, BATCH))
    assert files_of(tmp_path / "run") == before
    with pytest.raises(MismatchError, match=r"holds another run .settings: stream is"):
        track(series, tmp_path / "run", counts=counts, exposed=Exposed(stream, BATCH + 1))


def test_a_stream_needs_counts_of_its_tokenizer(training, series, tmp_path):
    exposed = Exposed(open_stream(training), BATCH)
    with pytest.raises(ConfigError, match=r"tokens.bin needs token counts; give them with --co"):
        track(series, tmp_path / "run", exposed=exposed)
    with pytest.raises(
        MismatchError, match=r"the counts was counted with tokenizer b{12}, but .*bin"
    ):
        track(series, tmp_path / "run", counts=make_counts(tokenizer="b" * 64), exposed=exposed)
    assert not (tmp_path / "run").exists()


def test_a_stream_of_a_larger_vocabulary(series, counts, tmp_path):
    ids = np.full((4, LENGTH + 1), VOCABULARY, "<u2")
    exposed = Exposed(write_others(tmp_path, ids, "bin"), BATCH)
    with pytest.raises(CorpusError, match=r"train.bin holds the id 300, but the vocab"):
        track(series, tmp_path / "run", counts=counts, exposed=exposed)
