"""Files and folders of other tools are called what they are, with what to do."""

import json
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dynamics.checkpoints.checkpoint import Checkpoint
from dynamics.checkpoints.formats.supported import NAMED_FORMATS
from dynamics.checkpoints.opening import open_any
from dynamics.checkpoints.series import open_series
from dynamics.checkpoints.stores import LocalFolder
from dynamics.checkpoints.weights import Weights
from dynamics.errors import CheckpointError
from dynamics.models.load import load_model
from tests.checkpoints.writers import assert_same, neox, write_zip

FOLDERS = {
    "adapter": (["adapter_config.json", "adapter_model.safetensors", "value_head.pt"], "merge_and"),
    "zero": (
        [
            "zero_to_fp32.py",
            "latest",
            "global_step5/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt",
        ],
        r"ZeRO.*zero_to_fp32\.py \. OUT",
    ),
    "zero 3": (["zero_pp_rank_0_mp_rank_00_model_states.pt"], r"ZeRO.*zero_to_fp32\.py"),
    "neox": (["layer_00-model_00-model_states.pt", "mp_rank_00_model_states.pt"], "GPT-NeoX"),
    "megatron": (["mp_rank_00/model_optim_rng.pt"], "Megatron-LM checkpoint"),
    "megatron root": (
        ["latest_checkpointed_iteration.txt", "iter_0000010/mp_rank_00/model_optim_rng.pt"],
        "Megatron-LM checkpoint",
    ),
    "meta": (["consolidated.00.pth", "consolidated.01.pth", "params.json"], "split over ranks"),
    "gguf": (["smol-Q4_K_M.gguf"], r"GGUF.*python scripts/convert_gguf\.py"),
    "tensorflow": (["tf_model.h5", "config.json"], "TensorFlow.*from_tf=True"),
    "tensorflow 1": (["model.ckpt.index", "model.ckpt.data-00000-of-00001"], "TensorFlow"),
    "flax": (["flax_model.msgpack"], "Flax.*from_flax=True"),
    "orbax": (["_CHECKPOINT_METADATA", "manifest.ocdbt"], "Orbax"),
    "onnx": (["onnx/model.onnx"], "ONNX"),
    "nemo": (["megatron.nemo"], "NeMo"),
    "mlx": (["weights.npz", "config.json"], r"numpy.*save_safetensors"),
    "shards": (["model-00001-of-00002.safetensors"], r"shards without.*\.index\.json"),
}


@pytest.mark.parametrize(("names", "message"), FOLDERS.values(), ids=FOLDERS)
def test_a_folder_is_called_what_it_is(tmp_path, names, message):
    for name in names:
        path = tmp_path / "step-5" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in (".pt", ".pth"):
            write_zip(path, {"a": torch.zeros(2, 2)})
        else:
            path.write_bytes(b"{}")
    for refuse in (
        lambda: open_series(tmp_path / "step-5"),
        lambda: open_series(tmp_path),
        lambda: Weights(LocalFolder(tmp_path / "step-5")),
    ):
        with pytest.raises(CheckpointError, match=message) as error:
            refuse()
        assert "\n" not in str(error.value)
        assert "step-5" in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.gguf", b"GGUF\x03\0\0\0", "GGUF"),
        ("model.bin", b"GGUF\x03\0\0\0", "GGUF"),
        ("tf_model.h5", b"\x89HDF\r\n\x1a\n", "TensorFlow"),
        ("a.bin", b"\x89HDF\r\n\x1a\n", "TensorFlow"),
        ("flax_model.msgpack", b"\x81\xa6params", "Flax"),
        ("model.onnx", b"\x08\x07\x12\x07pytorch", "ONNX"),
        ("weights.npz", b"PK\x03\x04", "numpy"),
        ("a.nemo", b"./\0\0", "NeMo"),
        ("model-00001-of-00002.safetensors", b"", "one of several files.*give their folder"),
        ("__0_0.distcp", b"PK\x03\x04", "one of several files.*give their folder"),
        ("counts.parquet", b"PAR1", "neither safetensors nor written by torch.save"),
    ],
)
def test_a_file_is_called_what_it_is(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as error:
        open_any(str(tmp_path / name)).checkpoints[0].tensor("input_embedding")
    assert "\n" not in str(error.value)


def test_archives_of_other_tools_are_named(tmp_path):
    np.savez(tmp_path / "model.bin.npz", a=np.zeros(3))
    (tmp_path / "model.bin.npz").rename(tmp_path / "a.bin")
    with pytest.raises(CheckpointError, match="numpy"):
        Checkpoint(tmp_path / "a.bin", 0).tensor("input_embedding")
    with zipfile.ZipFile(tmp_path / "b.pt", "w") as archive:
        for name in ("m/data.pkl", "m/code/__torch__.py", "m/constants.pkl"):
            archive.writestr(name, b"\x80\x02}.")
    with pytest.raises(CheckpointError, match=r"TorchScript.*state_dict\(\)"):
        Checkpoint(tmp_path / "b.pt", 0).tensor("input_embedding")


@pytest.mark.parametrize(
    "name", ["ckpt.pt", "model.pt", "model.pth", "pytorch_model.pt", "last.ckpt", "other.bin"]
)
def test_the_only_file_with_weights_is_the_checkpoint(tmp_path, name):
    tensors = neox()
    write_zip(tmp_path / name, tensors)
    for beside in ("optimizer.pt", "scheduler.pt", "rng_state_0.pth", "training_args.bin"):
        write_zip(tmp_path / beside, {"a": torch.zeros(2, 2)})
    np.arange(20, dtype=np.uint16).tofile(tmp_path / "train.bin")
    (checkpoint,) = open_series(tmp_path)
    expected = tensors["gpt_neox.embed_in.weight"]
    assert_same(checkpoint.tensor("input_embedding"), expected)
    assert checkpoint.locate("input_embedding").filename == name


def test_a_standard_name_comes_first(tmp_path):
    tensors = neox()
    save_file(tensors, tmp_path / "model.safetensors")
    write_zip(tmp_path / "ckpt.pt", neox())
    (checkpoint,) = open_series(tmp_path)
    expected = tensors["gpt_neox.embed_in.weight"]
    assert_same(checkpoint.tensor("input_embedding"), expected)


def test_several_files_with_weights_are_listed_and_each_can_be_given(tmp_path):
    tensors = {name: neox() for name in ("best.pt", "final.pt")}
    for name, state in tensors.items():
        write_zip(tmp_path / name, state)
    message = r"several files of weights \(best\.pt, final\.pt\); give one.*such as .*/best\.pt"
    with pytest.raises(CheckpointError, match=message):
        open_series(tmp_path)
    for name, state in tensors.items():
        (checkpoint,) = open_any(str(tmp_path / name))
        expected = state["gpt_neox.embed_in.weight"]
        assert_same(checkpoint.tensor("input_embedding"), expected)
        assert (checkpoint.path, checkpoint.name) == (tmp_path, name.removesuffix(".pt"))


def test_a_file_that_only_can_be_measured_is_not_run(tmp_path):
    write_zip(tmp_path / "ckpt.pt", {"model": neox()})
    for place in (tmp_path, tmp_path / "ckpt.pt"):
        with pytest.raises(CheckpointError, match=r"weights in ckpt\.pt can be measured, but no"):
            load_model(place)


def test_parts_of_one_rank_are_not_read_as_the_tensor(tmp_path):
    offsets = {"embed_in.weight": {"saved_offsets": [6, 0]}}
    tensors = {"embed_in.weight": torch.zeros(6, 4)}
    save_file(tensors, tmp_path / "model.safetensors", {"DCP_SHARDING_INFO": json.dumps(offsets)})
    with pytest.raises(CheckpointError, match="one rank's parts of tensors"):
        Checkpoint(tmp_path, 0).tensor("input_embedding")
    whole = {"embed_in.weight": {"saved_offsets": [0, 0]}}
    save_file(tensors, tmp_path / "model.safetensors", {"DCP_SHARDING_INFO": json.dumps(whole)})
    assert Checkpoint(tmp_path, 0).vocab_size == 6


def test_empty_tensors_that_zero_3_leaves_are_explained(tmp_path):
    """The Trainer saves the model's own file as well, from which every tensor is missing."""
    tensors = {key: torch.zeros(0) for key in neox()}
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "global_step5").mkdir()
    for name in ("zero_to_fp32.py", "global_step5/zero_pp_rank_0_mp_rank_00_optim_states.pt"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"of shape \(0,\); .*ZeRO.*zero_to_fp32\.py \. OUT"):
        Checkpoint(tmp_path, 0).tensor("input_embedding")


def test_every_named_format_says_what_to_do():
    for named in NAMED_FORMATS:
        assert named.files
        assert len(named.remedy) > 20
