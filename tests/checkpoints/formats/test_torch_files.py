"""State dicts within the files that trainings save, and the objects around them."""

import argparse
import collections
import io
import pickle
import random
import sys
import types

import numpy as np
import pytest
import torch

from dynamics.checkpoints.checkpoint import Checkpoint
from dynamics.checkpoints.formats import torch_files, unpickling
from dynamics.checkpoints.formats.headers import index_tensors
from dynamics.checkpoints.formats.tensors import read_tensor
from dynamics.checkpoints.formats.unpickling import unpickle
from dynamics.checkpoints.series import open_series
from dynamics.errors import CheckpointError, StepError
from tests.checkpoints.writers import (
    Memory,
    assert_same,
    members,
    write_legacy,
    write_members,
    write_zip,
)


def nanogpt(tied=True):
    embedding = torch.randn(9, 4)
    return {
        "transformer.wte.weight": embedding,
        "transformer.h.0.attn.c_attn.weight": torch.randn(12, 4),
        "transformer.ln_f.weight": torch.randn(4),
        "transformer.ln_f.bias": torch.randn(4),
        "lm_head.weight": embedding if tied else torch.randn(9, 4),
    }


def nanogpt_file(model, step=1000):
    """What nanoGPT's train.py saves."""
    moments = {"step": torch.tensor(1.0), "exp_avg": torch.randn(9, 4)}
    return {
        "model": {f"_orig_mod.{key}": tensor for key, tensor in model.items()},
        "optimizer": {"state": {0: moments}, "param_groups": [{"lr": 1e-3, "params": [0]}]},
        "model_args": {"n_layer": 1, "bias": True},
        "iter_num": step,
        "best_val_loss": torch.tensor(3.1),
        "config": {"out_dir": "out", "learning_rate": 6e-4},
    }


def class_elsewhere(name, *bases):
    """A class of a module that does not exist where the file is read."""
    module = types.ModuleType("library_of_a_training")
    made = type(name, bases, {"__module__": module.__name__})
    setattr(module, name, made)
    return module, made


def lightning_file(model, monkeypatch):
    """What a Lightning module saves, with objects of many classes around its state dict."""
    module, attributes = class_elsewhere("AttributeDict", dict)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    hyper = attributes(lr=np.float64(0.1), arguments=argparse.Namespace(depth=2))
    hyper.owner = {"a", "b"}
    saved = {
        "epoch": 1,
        "global_step": 1000,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": {f"model.{key}": tensor for key, tensor in model.items()},
        "callbacks": {"checkpoint": {"scores": collections.defaultdict(list, a=[1])}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.randn(9, 4)}}}],
        "hyper_parameters": hyper,
        "random": random.getstate(),
        "numpy": np.random.default_rng(0).bit_generator.state,  # holds a class of numpy
        "array": np.arange(3),
    }
    buffer = io.BytesIO()
    torch.save(saved, buffer)
    monkeypatch.delitem(sys.modules, module.__name__)
    return buffer.getvalue()


@pytest.mark.parametrize("write", [write_zip, write_legacy])
def test_a_checkpoint_of_nanogpt_is_read_with_its_step(tmp_path, write):
    model = nanogpt()
    write(tmp_path / "ckpt.pt", nanogpt_file(model))
    for place in (tmp_path, tmp_path / "ckpt.pt"):
        (checkpoint,) = open_series(place)
        assert checkpoint.step == 1000
        assert_same(checkpoint.tensor("input_embedding"), model["transformer.wte.weight"])
        assert_same(checkpoint.tensor("output_embedding"), model["transformer.wte.weight"])
        assert checkpoint.tied
        assert checkpoint.final_norm == "layer"
        assert checkpoint.notes == (
            "the state dict is read from 'model'",
            "keys are read without '_orig_mod.' of a wrapper",
        )


def test_heads_of_nanogpt_that_are_not_tied_are_told_apart(tmp_path):
    model = nanogpt(tied=False)
    write_zip(tmp_path / "ckpt.pt", nanogpt_file(model))
    (checkpoint,) = open_series(tmp_path)
    assert_same(checkpoint.tensor("output_embedding"), model["lm_head.weight"])
    assert not checkpoint.tied


def test_a_norm_that_keys_leave_open_has_no_type(tmp_path):
    """nanoGPT without biases has a layer norm, LitGPT an RMS norm, both under the same keys."""
    model = nanogpt()
    del model["transformer.ln_f.bias"]
    write_zip(tmp_path / "ckpt.pt", {"model": model})
    assert Checkpoint(tmp_path, 0).final_norm is None


def test_objects_around_a_state_dict_of_lightning_are_passed_over(tmp_path, monkeypatch):
    model = nanogpt(tied=False)
    (tmp_path / "last.ckpt").write_bytes(lightning_file(model, monkeypatch))
    (checkpoint,) = open_series(tmp_path)
    assert checkpoint.step == 1000
    assert_same(checkpoint.tensor("input_embedding"), model["transformer.wte.weight"])
    assert_same(checkpoint.tensor("output_embedding"), model["lm_head.weight"])
    assert "library_of_a_training" not in sys.modules


@pytest.mark.parametrize(
    ("wrap", "path"),
    [
        (lambda model: {"model_state_dict": model, "loss": torch.tensor(1.0)}, "model_state_dict"),
        (lambda model: {"module": model, "param_shapes": [], "dp_world_size": 1}, "module"),
        (lambda model: {"state": {"model": model, "optimizers": {}}}, "state.model"),
        (lambda model: {"weights_of_mine": model}, "weights_of_mine"),
        (lambda model: {"model": model, "ema": dict(model), "step": 3}, "model"),
    ],
)
def test_the_state_dict_is_found_under_its_name(tmp_path, wrap, path):
    model = nanogpt()
    write_zip(tmp_path / "model.pt", wrap(model))
    checkpoint = Checkpoint(tmp_path, 0)
    assert_same(checkpoint.tensor("input_embedding"), model["transformer.wte.weight"])
    (note,) = checkpoint.notes
    assert f"read from {path!r}" in note
    assert ("'ema'" in note or "ema beside it is not read" in note) == (path == "model")


def test_two_state_dicts_of_equal_right_are_refused(tmp_path):
    write_zip(tmp_path / "pair.pt", {"generator": nanogpt(), "judge": nanogpt()})
    with pytest.raises(
        CheckpointError, match="holds tensors in generator, judge, and none of them"
    ):
        Checkpoint(tmp_path, 0).tensor("input_embedding")


def test_a_plain_state_dict_records_no_step(tmp_path):
    write_zip(tmp_path / "model.pt", nanogpt() | {"step": torch.tensor(5)})
    (checkpoint,) = open_series(tmp_path)
    assert (checkpoint.step, checkpoint.notes) == (0, ())


class Trap:
    """Calls a function on unpickling."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_a_trap_around_the_state_dict_does_nothing(tmp_path):
    trap = tmp_path / "created"
    model = nanogpt()
    saved = {"model": model, "config": Trap(trap.mkdir), "x": Trap(exec, "raise SystemExit")}
    write_zip(tmp_path / "ckpt.pt", saved)
    assert_same(Checkpoint(tmp_path, 0).tensor("input_embedding"), model["transformer.wte.weight"])
    assert not trap.exists()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda trap: {"model": nanogpt() | {"transformer.wte.weight": trap}},
        lambda trap: {"model": trap, "iter_num": 3},
        lambda trap: nanogpt() | {"other": trap},
        lambda trap: {"trap": trap},
        lambda trap: trap,
    ],
)
def test_a_trap_in_the_place_of_weights_is_refused_by_name(tmp_path, wrap):
    trap = tmp_path / "created"
    write_zip(tmp_path / "ckpt.pt", wrap(Trap(trap.mkdir)))
    with pytest.raises(
        CheckpointError, match=r"refused: the pickle refers to '__builtin__\.getattr'"
    ):
        Checkpoint(tmp_path, 0).tensor("input_embedding")
    assert not trap.exists()


def test_a_pickled_model_is_refused_with_its_class(tmp_path, monkeypatch):
    module, model = class_elsewhere("Transformer", torch.nn.Linear)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    write_zip(tmp_path / "model.pt", model(3, 2))
    with pytest.raises(
        CheckpointError, match=r"'library_of_a_training\.Transformer'.*model\.state_dict\(\)"
    ):
        Checkpoint(tmp_path, 0).tensor("input_embedding")


def read_pickle(opcodes):
    return unpickle(io.BytesIO(opcodes), "memory")[0]


LAUGHS = b"\x80\x02)q\x00" + b"h\x00h\x00\x86q\x00" * 60  # a tuple of 2 ** 60 empty ones


@pytest.mark.parametrize(
    ("opcodes", "message"),
    [
        (LAUGHS + b"0}h\x00Ns.", "a tuple is the key of a dictionary"),
        (b"\x80\x02c__main__\nA\nh\x00\x85R.", "cannot be read"),
        (LAUGHS + b"0(h\x00\x91.", None),  # FROZENSET: not hashed
        (LAUGHS + b"0ctorch\nSize\nh\x00\x85R.", None),
        (LAUGHS + b"0ctorch._utils\n_rebuild_tensor_v2\n(h\x00h\x00h\x00h\x00tR.", "without a st"),
        (b"\x80\x02K\x05)R.", "something that is no global is called"),
        (b"\x80\x02ctorch\nSize\n(" + b"K\x01" * 65 + b"t\x85R.", "at most 64"),
        (b"\x80\x04\x96" + (1 << 40).to_bytes(8, "little") + b"x.", "cannot be read"),
        (b"\x80\x02\x82\x01.", "a registry of this process"),
        (b"\x80\x02Nr\xf0\xff\xff\xff.", None),  # a memo of 2 ** 32 entries
    ],
)
def test_small_pickles_that_would_fill_memory_or_time(opcodes, message):
    if message is None:
        read_pickle(opcodes)
        return
    with pytest.raises(CheckpointError, match=message) as error:
        read_pickle(opcodes)
    assert len(str(error.value)) < 300


def test_one_long_list_is_not_copied_again_and_again():
    """Each call of 5 bytes would make a dictionary of the whole list."""
    pair = b"(K\x01K\x02t"
    items = b"]q\x00(" + pair * 1000 + b"e"
    call = b"ccollections\nOrderedDict\nq\x01h\x00\x85R"
    again = b"h\x01h\x00\x85R"
    _, first, second = read_pickle(b"\x80\x02(" + items + call + again + b"t.")
    assert (len(first), len(second)) == (1, 0)


@pytest.mark.parametrize("name", ["torch._dynamo", "torch.onnx", "torch.testing"])
def test_no_module_is_imported_for_a_name(name, monkeypatch):
    monkeypatch.delitem(sys.modules, name, raising=False)
    module, _, attribute = name.rpartition(".")
    read_pickle(f"c{module}\n{attribute}\n.".encode())
    assert name not in sys.modules


def test_state_is_set_on_nothing(tmp_path):
    """BUILD on a tensor would move it after its place was checked."""
    buffer = io.BytesIO()
    torch.save({"a.b.weight": torch.zeros(2, 2)}, buffer)
    parts = {name.partition("/")[2]: content for name, content in members(buffer).items()}
    pickled = parts["data.pkl"]
    end = pickled.rindex(b"R")  # the call that makes the tensor
    state = b"}(X\x05\x00\x00\x00shapeK\x09K\x09\x86ub"
    parts["data.pkl"] = pickled[: end + 1] + state + pickled[end + 1 :]
    write_members(tmp_path / "a.bin", {f"a/{name}": content for name, content in parts.items()})
    source = Memory((tmp_path / "a.bin").read_bytes())
    assert read_tensor(source, index_tensors(source)["a.b.weight"]).shape == (2, 2)


def test_one_dictionary_under_many_names_is_looked_at_once():
    """Looked at under every name, 3,000 x 3,000 entries would be gone through several times."""
    inner = dict.fromkeys(map(str, range(3000)), 1)
    buffer = io.BytesIO()
    torch.save(dict.fromkeys((f"name {number}" for number in range(3000)), inner), buffer)
    looked_at = []
    original = torch_files._tensors

    def counting(state):
        looked_at.append(id(state))
        return original(state)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_files, "_tensors", counting)
        with pytest.raises(CheckpointError, match="holds no tensors"):
            index_tensors(Memory(buffer.getvalue()))
    assert len(looked_at) < 10


def test_a_tensor_that_repeats_few_bytes_beyond_the_file_is_refused(tmp_path):
    torch.save({"wte.weight": torch.zeros(1, 4).expand(10**9, 4)}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"repeats its 16 bytes to 16000000000.*contiguous"):
        Checkpoint(tmp_path, 0).tensor("input_embedding")


def test_the_interpreter_has_a_method_for_every_opcode_that_can_change_something():
    """Those of the standard library that are left only push, pop, mark, memoise or append."""
    ours = {
        opcode
        for opcode, method in unpickling._InertUnpickler.dispatch.items()
        if pickle._Unpickler.dispatch[opcode] is not method
    }
    for name in (
        *("REDUCE", "NEWOBJ", "NEWOBJ_EX", "BUILD", "DICT", "SETITEM", "SETITEMS", "FROZENSET"),
        *("EMPTY_SET", "BYTEARRAY8", "EXT1", "EXT2", "EXT4"),
    ):
        assert getattr(pickle, name)[0] in ours


@pytest.mark.parametrize(
    "names",
    [
        ["ckpt_10.pt", "ckpt_2.pt"],
        ["epoch=0-step=2.ckpt", "epoch=1-step=10.ckpt"],
        ["model_000002.pt", "model_000010.pt"],
        ["iter-2-ckpt.pth", "iter-10-ckpt.pth"],
    ],
)
def test_files_whose_names_tell_steps_are_a_series(tmp_path, names):
    models = {}
    for name in names:
        step = 10 if "10" in name else 2
        models[step] = nanogpt()
        write_zip(tmp_path / name, nanogpt_file(models[step], step))
    write_zip(tmp_path / "last.ckpt", nanogpt_file(nanogpt(), 10))
    write_zip(tmp_path / "optim_000010.pt", {"state": {"exp_avg": torch.zeros(9, 4)}})
    series = open_series(tmp_path)
    assert series.steps == [2, 10]
    assert series.notes == ("last.ckpt: skipped because the name has no step",)
    for checkpoint in series:
        expected = models[checkpoint.step]["transformer.wte.weight"]
        assert_same(checkpoint.tensor("input_embedding"), expected)
    assert len({checkpoint.name for checkpoint in series}) == 2
    assert len({checkpoint.identity() for checkpoint in series}) == 2


def test_a_name_that_contradicts_the_file_is_refused(tmp_path):
    """An epoch in a name that looks like a step."""
    write_zip(tmp_path / "ckpt_3.pt", nanogpt_file(nanogpt(), 3000))
    write_zip(tmp_path / "ckpt_4.pt", nanogpt_file(nanogpt(), 4000))
    with pytest.raises(StepError, match=r"ckpt_3\.pt.*step 3, the file records step 3000; rename"):
        open_series(tmp_path)
