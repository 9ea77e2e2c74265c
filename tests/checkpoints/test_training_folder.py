"""`train.json` has one reader: what is no such file is one line from every command."""

import json

import pytest

from dynamics.__main__ import main
from dynamics.checkpoints.series import open_series
from dynamics.checkpoints.training_folder import is_training, read_training, training_of
from dynamics.errors import OutputError
from dynamics.tracking.track import track
from tests.tracking.synthetic import grow, make_counts, write_training

START = "train.json is damaged, or not what `dynamics train` writes ("
CONTENTS = {
    "{ damaged": START + "Expecting property name",
    "": START + "Expecting value",
    '{"settings": {}, "tokenizer_sha256": "a", "tokens_per_step": 8}':
        START + "settings: has no name)",
    '{"scripts": {"train": "node train.js"}}': START + "settings: Field required)",
}  # fmt: skip


@pytest.fixture
def training(tmp_path):
    counts = make_counts()
    write_training(tmp_path / "training", counts, grow(counts))
    return tmp_path / "training"


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("command", ["track", "audit"])
def test_what_is_no_training_is_one_line(training, content, command, capsys):
    (training / "train.json").write_text(content)
    arguments = ["-o", str(training.parent / "run")] if command == "track" else []
    with pytest.raises(SystemExit, match="2"):
        main([command, str(training), *arguments])
    printed = capsys.readouterr().err
    assert CONTENTS[content] in printed
    assert printed.count("\n") == 1 and "restore it, or train again" in printed


def test_it_is_read_as_it_was_written(training, tmp_path):
    record = read_training(training)
    assert record.name and record.batch_size * 2 <= record.tokens_per_step
    record.write(tmp_path)
    written = json.loads((tmp_path / "train.json").read_text())
    assert written == json.loads((training / "train.json").read_text())
    with pytest.raises(OutputError, match="No such file"):
        read_training(tmp_path / "nothing")


def test_the_training_of_a_checkpoint_is_the_folder_two_above(training):
    checkpoint = next((training / "checkpoints").iterdir())
    assert training_of(checkpoint) == training and is_training(training)
    assert training_of(training.parent) is None and training_of(None) is None


def test_a_train_json_beside_other_checkpoints_is_a_data_set(training, tmp_path):
    other = training.parent / "data"
    (training / "checkpoints").rename(training / "series")
    training.rename(other)
    (other / "train.json").write_text('{"text": "one"}\n{"text": "two"}\n')
    checkpoint = next((other / "series").iterdir())
    assert training_of(checkpoint) is None
    run = track(open_series(other / "series"), tmp_path / "run")
    assert run.record.series.training is None and run.name == "series"
