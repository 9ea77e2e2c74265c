import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from dynamics.checkpoints.checkpoint import Checkpoint
from dynamics.checkpoints.formats.tensors import digest
from dynamics.checkpoints.series import open_series
from dynamics.checkpoints.stores import LocalFolder
from dynamics.checkpoints.weight_files import WEIGHTS_FILES
from dynamics.checkpoints.weights import Weights
from dynamics.errors import CheckpointError, StepError
from tests.checkpoints.writers import FORMATS, assert_same, neox, write_checkpoint

STORIES = Path(__file__).parents[2].parent / "shared/data/models/stories260K"

TRAIN_JSON = {
    "settings": {"name": "tiny", "training": {"batch_size": 8}},
    "tokenizer_sha256": "a" * 64,
    "tokens_per_step": 4096,
}


def write_series(folder, *names, **settings):
    tensors = {}
    for name in names:
        tensors[name] = neox()
        write_checkpoint(folder / name, tensors[name], **settings)
    return tensors


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_roles_of_every_format(tmp_path, format_name, dtype):
    tensors = neox(dtype=dtype)
    checkpoint = Checkpoint(write_checkpoint(tmp_path, tensors, format_name), 0)
    embedding = tensors["gpt_neox.embed_in.weight"]
    assert_same(checkpoint.tensor("input_embedding"), embedding)
    assert_same(checkpoint.tensor("input_embedding", slice(3, 9)), embedding[3:9])
    assert_same(checkpoint.tensor("output_embedding"), tensors["embed_out.weight"])
    assert_same(checkpoint.tensor("final_norm_bias"), tensors["gpt_neox.final_layer_norm.bias"])
    assert not checkpoint.has("output_bias")
    assert checkpoint.digest("input_embedding") == digest(embedding)
    assert checkpoint.bytes("input_embedding") == 12 * 4 * dtype.itemsize
    assert (checkpoint.tied, checkpoint.final_norm, checkpoint.vocab_size) == (False, "layer", 12)


def test_the_first_weights_file_counts(tmp_path):
    kinds = ["safetensors", "sharded safetensors", "zip", "sharded zip"]
    written = {}
    for name, kind in zip(WEIGHTS_FILES, kinds, strict=False):
        written[name] = neox()
        write_checkpoint(tmp_path, written[name], kind)
    for name in WEIGHTS_FILES[:4]:
        embedding = Checkpoint(tmp_path, 0).tensor("input_embedding")
        assert_same(embedding, written[name]["gpt_neox.embed_in.weight"])
        (tmp_path / name).unlink()


@pytest.mark.parametrize(
    "config", [None, {"tie_word_embeddings": False}, {"model_type": "gpt_neox"}]
)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_embeddings_only(tmp_path, tied, config):
    tensors = {key: tensor for key, tensor in neox(tied=tied).items() if "layers" not in key}
    folder = write_checkpoint(tmp_path / "step-00000012", tensors, config=config)
    (folder / "model.safetensors").rename(folder / "embeddings.safetensors")
    (checkpoint,) = open_series(tmp_path)
    assert (checkpoint.name, checkpoint.step) == ("step-00000012", 12)
    assert_same(checkpoint.tensor("input_embedding"), tensors["gpt_neox.embed_in.weight"])
    if config is not None:  # a GPT-NeoX is not tied unless its config.json says so
        assert not checkpoint.tied
        assert checkpoint.has("output_embedding") == (not tied)
    else:
        assert checkpoint.tied == tied
        assert checkpoint.notes == ()
        key = "gpt_neox.embed_in.weight" if tied else "embed_out.weight"
        assert_same(checkpoint.tensor("output_embedding"), tensors[key])


@pytest.mark.parametrize("pattern", ["checkpoint-{}", "step-{}", "step_{}", "step{}", "step-{:08}"])
def test_folders_are_ordered_by_step(tmp_path, pattern):
    names = [pattern.format(step) for step in (1000, 0, 2, 16)]
    tensors = write_series(tmp_path, *names)
    (tmp_path / "step-00000020.partial").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "step-7").touch()
    series = open_series(str(tmp_path))
    assert (series.name, series.steps, len(series)) == (tmp_path.name, [0, 2, 16, 1000], 4)
    for checkpoint in series:
        expected = tensors[pattern.format(checkpoint.step)]["gpt_neox.embed_in.weight"]
        assert_same(checkpoint.tensor("input_embedding"), expected)


def test_select(tmp_path):
    write_series(tmp_path, "step-0", "step-1", "step-3", "step-4", "step-9")
    series = open_series(tmp_path)
    selected = series.select("0,last+log2(4)")
    assert (selected.name, selected.steps) == (series.name, [0, 1, 4, 9])
    assert list(selected) == [series.checkpoints[at] for at in (0, 1, 3, 4)]
    with pytest.raises(StepError, match="step 2 does not exist; the nearest are 1 and 3"):
        series.select("2")


def test_training_folder(tmp_path):
    training = tmp_path / "tiny"
    write_series(training / "checkpoints", "step-00000000", "step-00000010")
    (training / "train.json").write_text(json.dumps(TRAIN_JSON))
    for folder in (training, training / "checkpoints", training / "checkpoints/../checkpoints"):
        series = open_series(folder)
        assert series.name == "tiny"
        assert [checkpoint.tokens_seen for checkpoint in series] == [0, 40960]
    (single,) = open_series(training / "checkpoints" / "step-00000010")
    assert (single.step, single.tokens_seen) == (10, 40960)


def test_another_train_json_is_not_ours(tmp_path):
    write_series(tmp_path / "series", "step-3")
    (tmp_path / "train.json").write_text('{"text": "one"}\n{"text": "two"}\n')
    assert open_series(tmp_path / "series").checkpoints[0].tokens_seen is None


def test_series_opened_from_within(tmp_path, monkeypatch):
    write_series(tmp_path / "tiny/checkpoints", "step-3")
    (tmp_path / "tiny/train.json").write_text(json.dumps(TRAIN_JSON | {"tokens_per_step": 5}))
    monkeypatch.chdir(tmp_path / "tiny/checkpoints")
    series = open_series(".")
    assert (series.name, series.checkpoints[0].tokens_seen) == ("tiny", 15)


def test_trainer_folder_with_the_final_model_beside_its_checkpoints(tmp_path):
    write_checkpoint(tmp_path, neox())
    write_series(tmp_path, "checkpoint-5", "checkpoint-10", "checkpoint-15")
    states = {"checkpoint-5": {"num_input_tokens_seen": 999}, "checkpoint-10": {"epoch": 1}}
    for name, state in states.items():
        (tmp_path / name / "trainer_state.json").write_text(json.dumps(state))
    series = open_series(tmp_path)
    assert [(each.step, each.tokens_seen) for each in series] == [(5, 999), (10, None), (15, None)]


def test_trainer_that_did_not_count_tokens(tmp_path):
    write_series(tmp_path, "checkpoint-5")
    state = tmp_path / "checkpoint-5/trainer_state.json"
    state.write_text(json.dumps({"num_input_tokens_seen": 0}))
    assert open_series(tmp_path).checkpoints[0].tokens_seen is None


@pytest.mark.parametrize(("name", "step"), [("pythia", 0), ("step512", 512)])
def test_single_model(tmp_path, name, step):
    tensors = write_series(tmp_path, name)[name]
    (checkpoint,) = series = open_series(tmp_path / name)
    assert (series.name, checkpoint.step, checkpoint.tokens_seen) == (name, step, None)
    assert_same(checkpoint.tensor("output_embedding"), tensors["embed_out.weight"])


def test_symbolic_links_keep_their_own_names(tmp_path):
    write_series(tmp_path / "elsewhere", "model")
    (tmp_path / "series").mkdir()
    (tmp_path / "series/step-4").symlink_to(tmp_path / "elsewhere/model")
    (tmp_path / "link").symlink_to(tmp_path / "series")
    series = open_series(tmp_path / "link")
    assert (series.name, series.steps, series.checkpoints[0].vocab_size) == ("link", [4], 12)


def test_two_folders_of_one_step(tmp_path):
    write_series(tmp_path, "step-7", "step-0007")
    with pytest.raises(StepError, match="step-0007 and step-7 are both step 7; remove one"):
        open_series(tmp_path)


def test_nothing_there(tmp_path):
    with pytest.raises(CheckpointError, match="absent: does not exist; a folder of checkpoints"):
        open_series(tmp_path / "absent")
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="file: is a file; a folder of checkpoints"):
        open_series(tmp_path / "file")
    with pytest.raises(
        CheckpointError, match=r"no checkpoint inside; .*step500.*pytorch_model\.bin"
    ):
        open_series(tmp_path)
    (tmp_path / "step-3").mkdir()
    with pytest.raises(CheckpointError, match=r"step-3: holds no weights; looked for model\.safe"):
        open_series(tmp_path)


def test_a_checkpoint_can_be_sent_to_another_process(tmp_path):
    checkpoint = Checkpoint(write_checkpoint(tmp_path, neox()), 0)
    before = checkpoint.digest("input_embedding")
    copy = pickle.loads(pickle.dumps(checkpoint))  # noqa: S301
    assert copy.digest("input_embedding") == before


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{", "index.json: is damaged"),
        ("[]", "a JSON object is expected, not a list"),
        ("{}", "has no 'weight_map'"),
        ('{"weight_map": {"wte.weight": "../secret"}}', "'../secret' is not the file name"),
        ('{"weight_map": {"wte.weight": 3}}', "3 is not the file name of a shard"),
        ('{"weight_map": {"wte.weight": "absent.bin"}}', "absent.bin: cannot be read"),
        ('{"weight_map": {"wte.weight": "a.safetensors"}}', "does not hold 'wte.weight'"),
    ],
)
def test_damaged_shard_index(tmp_path, index, message):
    write_checkpoint(tmp_path, {"other": torch.zeros(2)})
    (tmp_path / "model.safetensors").rename(tmp_path / "a.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(CheckpointError, match=message):
        Checkpoint(tmp_path, 0).tensor("input_embedding")


def test_a_shard_is_opened_when_it_is_needed(tmp_path):
    write_checkpoint(tmp_path, neox(), "sharded safetensors")
    (shard,) = tmp_path.glob("model-00002-*")
    shard.write_bytes(b"damaged")
    assert Checkpoint(tmp_path, 0).vocab_size == 12
    with pytest.raises(CheckpointError, match=r"model-00002-of-00005\.safetensors: "):
        Weights(LocalFolder(tmp_path))["gpt_neox.layers.0.attention.dense.weight"]


@pytest.mark.shared_data
@pytest.mark.skipif(not STORIES.is_dir(), reason=f"{STORIES} is not there")
def test_a_real_model():
    (checkpoint,) = open_series(STORIES)
    with safe_open(STORIES / "model.safetensors", "pt") as file:
        expected = file.get_tensor("model.embed_tokens.weight")
        norm = file.get_tensor("model.norm.weight")
    assert_same(checkpoint.tensor("input_embedding"), expected)
    assert_same(checkpoint.tensor("output_embedding"), expected)
    assert_same(checkpoint.tensor("final_norm_weight"), norm)
    assert (checkpoint.tied, checkpoint.final_norm, checkpoint.vocab_size) == (True, "rms", 512)
