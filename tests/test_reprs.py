"""What a notebook shows of the objects that users hold: one line, whatever they contain."""

from dataclasses import replace

import pytest

from dynamics.attribution.result import Target
from dynamics.checkpoints.series import CheckpointSeries, open_series
from dynamics.runs.run import Run
from dynamics.tracking.track import track
from tests.attribution.sample_attributions import make
from tests.models import tiny
from tests.tracking.synthetic import grow, make_counts, write_series


@pytest.fixture(scope="module")
def counts():
    return make_counts()


@pytest.fixture(scope="module")
def series(counts, tmp_path_factory):
    return write_series(tmp_path_factory.mktemp("repr") / "series", grow(counts))


def test_of_a_run(series, counts, tmp_path):
    with_counts = track(series, tmp_path / "a", counts=counts, command="")
    assert repr(with_counts) == f"<Run {tmp_path / 'a'}: series, 4 steps, 0 to 32, count>=10>"
    track(series.select("last"), tmp_path / "b", command="")
    assert repr(Run(tmp_path / "b")) == f"<Run {tmp_path / 'b'}: series, step 32, no counts>"


def test_of_a_series(series):
    assert repr(series) == "<CheckpointSeries series: 4 steps, 0 to 32>"
    assert repr(open_series(series.checkpoints[0].path)).endswith(": step 0>")
    epochs = CheckpointSeries("x", series.checkpoints[:2], "epoch")
    assert repr(epochs) == "<CheckpointSeries x: 2 epochs, 0 to 2>"


def test_of_counts(counts):
    tokens = counts.info.tokens_counted
    assert repr(counts) == f"<Counts the counts: {len(counts.table):,} entries, {tokens:,} tokens>"


def test_of_a_model():
    model = tiny.live("gpt2")
    assert repr(model) == f"<LiveModel {model.name}: GPT2LMHeadModel, causal>"


def test_of_an_attribution():
    one = replace(make(), text="Once upon", method="logit", targets=[Target(2, 7, " a")])
    count = len(one.tokens)
    assert repr(one) == f"<Attribution logit of 'Once upon': {count} positions, targets ' a'>"
    many = replace(one, text="x\n" * 500, targets=[Target(2, 7, "a")] * 4)
    assert repr(many).endswith(f"x\\n...': {count} positions, targets 'a', 'a', 'a', ...>")
    assert len(repr(many)) < 200
