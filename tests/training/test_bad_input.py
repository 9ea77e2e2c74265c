"""What goes wrong is one clear line, nothing is half-written, and the same command goes on."""

import errno
import json
import shutil
import signal

import pytest
import yaml

from dynamics import __main__
from dynamics.cli.output import Stages
from dynamics.errors import (
    CheckpointError,
    ConfigError,
    CorpusError,
    DynamicsError,
    MismatchError,
    OutputError,
)
from dynamics.training import trainer as trainer_module
from dynamics.training.prepare import prepare
from dynamics.training.preview import preview
from dynamics.training.train import train
from dynamics.training.trainer import TrainingDivergedError
from tests.corpus.odd_tokenizers import bpe, fast, pre_tokenizers
from tests.training.small import STEPS, assert_same_training, log_lines, small


def refused(kind, text, settings, folder, act=train):
    """Check the error of a training, and that it left what was there; return its one line."""
    before = contents(folder.parent)
    with pytest.raises(kind, match=text) as raised:
        act(settings, folder)
    assert contents(folder.parent) == before
    message = str(raised.value)
    assert isinstance(raised.value, DynamicsError) and "\n" not in message
    return message


def contents(folder):
    return {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}


@pytest.mark.parametrize("act", [train, preview])
def test_more_passes_than_are_meant(corpus, tmp_path, act):
    settings = small(corpus, corpus={"max_tokens": 17 * 10})
    line = refused(CorpusError, r"training\.max_passes 1", settings, tmp_path / "t", act)
    assert "12 steps of 4 rows pass the corpus 4.80 times" in line


@pytest.fixture
def lossy(tmp_path_factory):
    """A tokenizer that has no entry for half of the corpus's letters, nor for unknown ones."""
    folder = tmp_path_factory.mktemp("lossy")
    tokenizer = fast(bpe("abcde"), pre_tokenizer=pre_tokenizers.Whitespace(), special=["<s>"])
    tokenizer.eos_token = "<s>"
    tokenizer.save_pretrained(folder)
    return {"path": str(folder)}


def test_a_tokenizer_that_loses_text_makes_no_stream(corpus, tmp_path, lossy):
    settings = small(corpus, tokenizer=lossy)
    line = refused(CorpusError, "of the characters .* became no token", settings, tmp_path / "t")
    assert "tokenizer.allow_loss=true" in line
    said = []
    preview(
        small(corpus, tokenizer=lossy | {"allow_loss": True}), tmp_path / "t", report=said.append
    )
    assert sum("became no token" in line for line in said) == 1


def test_a_corpus_is_split_at_its_separator(tmp_path):
    (tmp_path / "c.txt").write_text("\n<|end|>\n".join(["abc def"] * 40))
    settings = small(tmp_path / "c.txt", corpus={"separator": "<|end|>", "max_documents": 30})
    (tmp_path / "training").mkdir()
    settings = settings.model_copy(
        update={"tokenizer": settings.tokenizer.model_copy(update={"vocab_size": 260})}
    )
    training = settings.training.model_copy(update={"max_passes": 99})
    settings = settings.model_copy(update={"training": training})
    stream, _ = prepare(settings, tmp_path / "training", lambda line: None)
    assert stream.info.documents == 30


@pytest.mark.parametrize("act", [train, preview])
def test_more_rows_held_out_than_there_are(corpus, tmp_path, act):
    settings = small(corpus, corpus={"max_tokens": 17 * 60, "held_out_rows": 60})
    line = refused(CorpusError, r"held_out_rows 60 leaves none", settings, tmp_path / "t", act)
    assert "of the 60 rows of 17 tokens to train on; hold out fewer, or give more text" in line


@pytest.mark.parametrize("act", [train, preview])
def test_more_twins_than_tokens_that_are_frequent_enough(corpus, tmp_path, act):
    settings = small(corpus, corpus={"twins": {"tokens": 299}})
    line = refused(CorpusError, r"corpus.twins.tokens is 299", settings, tmp_path / "t", act)
    assert (
        "ordinary tokens occur 80 times or more, as corpus.twins.share 0.125 needs for 10" in line
    )


@pytest.mark.parametrize("act", [train, preview])
def test_too_few_ordinary_tokens_beside_the_twins(corpus, tmp_path, act):
    settings = small(corpus, corpus={"twins": {"tokens": 5, "share": [0.4, 0.2]}})
    line = refused(CorpusError, r"corpus.twins.tokens is 5", settings, tmp_path / "t", act)
    assert "ordinary tokens of such counts to compare twins with, 100 are needed; lower" in line


@pytest.mark.parametrize("act", [train, preview])
@pytest.mark.parametrize(
    "text, message",
    [("", "no text|empty|too small"), ("a few words", "too small")],
)
def test_a_corpus_that_is_empty_or_too_small(tmp_path, act, text, message):
    (tmp_path / "text.txt").write_text(text)
    refused(CorpusError, message, small(tmp_path / "text.txt"), tmp_path / "t", act)


@pytest.mark.parametrize("act", [train, preview])
@pytest.mark.parametrize("key", ["steps", "embeddings"])
def test_a_checkpoint_step_beyond_the_training(corpus, tmp_path, act, key):
    settings = small(corpus, checkpoints={key: "13"})
    refused(ConfigError, "step 13 lies beyond the last step .* 12", settings, tmp_path / "t", act)


@pytest.mark.parametrize("rows", [3, 8])
def test_a_batch_that_devices_cannot_share(corpus, tmp_path, rows):
    settings = small(corpus, training={"device_batch_size": rows})
    refused(ConfigError, f"batch_size 4 is not a multiple of {rows}", settings, tmp_path / "t")


def test_a_tokenizer_without_mask_for_a_masked_model(corpus, tmp_path, undisturbed):
    settings = small(
        corpus,
        tokenizer={"path": str(undisturbed / "tokenizer")},
        model={"architecture": "bert"},
    )
    refused(ConfigError, "has no mask token", settings, tmp_path / "t")


@pytest.mark.parametrize("act", [train, preview])
@pytest.mark.parametrize(
    "changes, text",
    [
        ({"model": {"tied": True}}, r"model\.tied is False in the folder, True in the settings"),
        (
            {"training": {"learning_rate": 0.5}},
            r"learning_rate is 0\.01 in the folder, 0\.5 in",
        ),
        ({"checkpoints": {"embeddings": "2"}}, r"checkpoints\.embeddings is None in the folder, 2"),
        ({"seed": 7}, "seed is 0 in the folder, 7 in the settings"),
    ],
)
def test_the_folder_of_another_training_names_the_setting(corpus, undisturbed, act, changes, text):
    refused(MismatchError, text, small(corpus, **changes), undisturbed, act)


def test_of_several_settings_that_differ_the_first_is_named(corpus, undisturbed):
    settings = small(corpus, seed=7, model={"tied": True, "dropout": 0.5}, training={"momentum": 0})
    assert "(seed is 0" in refused(MismatchError, "seed", settings, undisturbed)


@pytest.mark.parametrize("act", [train, preview])
def test_a_folder_of_something_else(corpus, tmp_path, act):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/thesis.tex").write_text("years of work")
    refused(OutputError, "holds no training", small(corpus), tmp_path / "folder", act)
    refused(OutputError, "holds no training", small(corpus), tmp_path / "folder/thesis.tex", act)


def test_an_empty_folder_is_taken(corpus, tmp_path, undisturbed):
    (tmp_path / "t").mkdir()
    train(small(corpus), tmp_path / "t")
    assert_same_training(tmp_path / "t", undisturbed)


def test_a_loss_that_is_no_number_stops_before_anything_of_it_is_kept(corpus, tmp_path):
    training = {"optimizer": "sgd", "learning_rate": 1e30, "gradient_clip": 0, "warmup_steps": 0}
    with pytest.raises(TrainingDivergedError, match=r"at step 2; lower training\.learning_rate"):
        train(small(corpus, training=training), tmp_path / "t")
    assert len(log_lines(tmp_path / "t")) == 1
    assert sorted(path.name for path in (tmp_path / "t/checkpoints").iterdir()) == ["step-00000000"]


def interrupt_in(step):
    """Ctrl-C while a step is under way."""

    def on_step(line):
        if line["step"] == step - 1:
            signal.raise_signal(signal.SIGINT)

    return on_step


def test_ctrl_c_finishes_the_step_saves_and_goes_on_to_the_same_bits(corpus, tmp_path, undisturbed):
    settings, handler = small(corpus), signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(settings, tmp_path / "t", on_step=interrupt_in(5))
    assert signal.getsignal(signal.SIGINT) is handler
    assert [path.name for path in (tmp_path / "t/state").iterdir()] == ["step-00000005"]
    assert len(log_lines(tmp_path / "t")) == 5
    seen = []
    train(settings, tmp_path / "t", on_step=lambda line: seen.append(line["step"]))
    assert seen == list(range(6, STEPS + 1))
    assert_same_training(tmp_path / "t", undisturbed)


def test_a_second_ctrl_c_interrupts_at_once(corpus, tmp_path, undisturbed):
    def twice(line):
        if line["step"] == 5:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(small(corpus), tmp_path / "t", on_step=twice)
    assert [path.name for path in (tmp_path / "t/state").iterdir()] == ["step-00000003"]
    train(small(corpus), tmp_path / "t")
    assert_same_training(tmp_path / "t", undisturbed)


def test_the_command_line_exits_with_130_when_interrupted(
    corpus, tmp_path, undisturbed, monkeypatch, capsys
):
    settings = small(corpus)
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    command = ["train", str(tmp_path / "small.yaml"), "-o", str(tmp_path / "t")]
    with monkeypatch.context() as patch:
        patch.setattr(Stages, "training", lambda stages, total: interrupt_in(5))
        with pytest.raises(SystemExit) as raised:
            __main__.main(command)
    assert raised.value.code == 130
    assert "interrupted; run the same command again to resume" in capsys.readouterr().err
    with pytest.raises(SystemExit) as raised:
        __main__.main(command)
    assert raised.value.code == 0
    assert_same_training(tmp_path / "t", undisturbed)


def full_disk(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("writer", ["whole_folder", "write_json"])
def test_a_full_disk_is_one_line_and_the_training_goes_on_to_the_same_bits(
    corpus, tmp_path, undisturbed, monkeypatch, writer
):
    """In a checkpoint and in the state."""
    settings = small(corpus)

    def fill(line):
        if line["step"] == 5:
            monkeypatch.setattr(trainer_module, writer, full_disk)

    with pytest.raises(OutputError, match=r"cannot write .*: No space left on device"):
        train(settings, tmp_path / "t", on_step=fill)
    assert not list((tmp_path / "t").rglob("*partial*"))
    monkeypatch.undo()
    train(settings, tmp_path / "t")
    assert_same_training(tmp_path / "t", undisturbed)


@pytest.fixture(scope="module")
def interrupted_once(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("interrupted") / "t"
    with pytest.raises(KeyboardInterrupt):
        train(small(corpus), folder, on_step=interrupt_in(5))
    return folder


@pytest.fixture
def interrupted(interrupted_once, tmp_path):
    return shutil.copytree(interrupted_once, tmp_path / "t")


@pytest.mark.parametrize(
    "file",
    [
        "model.safetensors",
        "optimizer.pt",
        "scheduler.pt",
        "rng_state.pth",
        "trainer_state.json",
        "config.json",
    ],
)
@pytest.mark.parametrize("damage", ["missing", "cut", "flipped"])
def test_a_damaged_state_is_named_and_never_used(corpus, interrupted, file, damage):
    path = interrupted / "state/step-00000005" / file
    content = bytearray(path.read_bytes())
    path.unlink()
    if damage != "missing":
        content[len(content) // 2] ^= 1
        path.write_bytes(content[: len(content) // 2] if damage == "cut" else content)
    line = refused(CheckpointError, f"is damaged .*{file}", small(corpus), interrupted)
    assert str(interrupted / "state") in line


@pytest.mark.parametrize("content", [None, "", "{", "[1]"])
def test_a_state_without_its_digests_is_damaged(corpus, interrupted, content):
    (interrupted / "state/step-00000005/digests.json").unlink()
    if content is not None:
        (interrupted / "state/step-00000005/digests.json").write_text(content)
    refused(CheckpointError, "is damaged", small(corpus), interrupted)


def test_a_training_whose_damaged_state_was_removed_reaches_the_same_bits(
    corpus, interrupted, undisturbed
):
    shutil.rmtree(interrupted / "state")
    train(small(corpus), interrupted)
    assert_same_training(interrupted, undisturbed)


@pytest.mark.parametrize("damage", ["missing", "cut", "flipped"])
def test_a_damaged_token_stream_is_named_and_never_trained_on(corpus, interrupted, damage):
    path = interrupted / "tokens.bin"
    content = bytearray(path.read_bytes())
    path.unlink()
    if damage != "missing":
        content[100] ^= 1
        path.write_bytes(content[:-2] if damage == "cut" else content)
    refused(CorpusError, str(path), small(corpus), interrupted)


def test_a_damaged_train_json_is_named(corpus, interrupted):
    (interrupted / "train.json").write_text("{")
    refused(OutputError, r"train\.json is damaged", small(corpus), interrupted)


def test_another_number_of_processes_is_refused(corpus, interrupted):
    described = json.loads((interrupted / "train.json").read_text())
    (interrupted / "train.json").write_text(json.dumps(described | {"processes": 2}))
    refused(
        MismatchError, "begun with 2 processes .* be resumed with 1", small(corpus), interrupted
    )


def test_errors_reach_the_terminal_as_one_line(corpus, tmp_path, capsys):
    settings = small(corpus, corpus={"max_tokens": 170})
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    with pytest.raises(SystemExit) as raised:
        __main__.main(["train", str(tmp_path / "small.yaml"), "-o", str(tmp_path / "t")])
    assert raised.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("dynamics: 12 steps of 4 rows pass")
    assert not (tmp_path / "t").exists()


def test_a_disk_that_is_full_when_going_on_leaves_the_log_alone(
    corpus, interrupted, undisturbed, monkeypatch
):
    monkeypatch.setattr(trainer_module, "whole_file", full_disk)
    refused(OutputError, r"cannot write .*train\.jsonl: No space left", small(corpus), interrupted)
    monkeypatch.undo()
    train(small(corpus), interrupted)
    assert_same_training(interrupted, undisturbed)
