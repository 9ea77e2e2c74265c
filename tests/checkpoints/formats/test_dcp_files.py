"""Folders of torch.distributed.checkpoint against torch's own loader."""

import json
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata

from dynamics.checkpoints.checkpoint import Checkpoint
from dynamics.checkpoints.series import open_series
from dynamics.checkpoints.stores import LocalFolder
from dynamics.checkpoints.weights import Weights
from dynamics.errors import CheckpointError
from tests.checkpoints.writers import assert_same

VOCABULARY, FEATURES = 37, 6

pytestmark = [
    pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning"),
    pytest.mark.filterwarnings("ignore:TypedStorage is deprecated:UserWarning"),
]


def llama():
    return {
        "model.embed_tokens.weight": torch.randn(VOCABULARY, FEATURES),
        "model.norm.weight": torch.randn(FEATURES, dtype=torch.bfloat16),
        "model.layers.0.mlp.up_proj.weight": torch.randn(4, FEATURES, 2),
        "lm_head.weight": torch.randn(VOCABULARY, FEATURES).half(),
    }


def save(folder, state):
    dcp.save(state, checkpoint_id=folder, no_dist=True)
    return folder


def torch_reads(folder, path):
    """The state dict as torch assembles it, in one process."""
    dcp_to_torch_save(folder, path)
    return torch.load(path, weights_only=True)


def change_metadata(folder, change):
    """Rewrite the metadata as a damaged or hostile file would be."""
    with (folder / ".metadata").open("rb") as file:
        metadata = pickle.load(file)  # noqa: S301
    change(metadata)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))


def cut_in_four(folder):
    """Cut the embedding into chunks along both axes, each in a file of its own.

    torch's planner cuts what several processes hold; here the same folder is made by one.
    """
    tensors = llama()
    save(folder, {"model": tensors})
    embedding = tensors["model.embed_tokens.weight"]
    pieces = {
        (first, left): embedding[first:last, left:right]
        for first, last in ((0, 10), (10, VOCABULARY))
        for left, right in ((0, 2), (2, FEATURES))
    }

    def change(metadata):
        key = "model.model.embed_tokens.weight"
        described = metadata.state_dict_metadata[key]
        described.chunks = []
        places = metadata.storage_data
        (old,) = [index for index in places if index.fqn == key]
        template = places.pop(old)
        for number, (start, piece) in enumerate(pieces.items()):
            described.chunks.append(ChunkStorageMetadata(torch.Size(start), piece.shape))
            name = f"__{number}_0.distcp"
            with (folder / name).open("ab") as file:
                offset = file.tell()
                torch.save(piece.clone(), file)
                length = file.tell() - offset
            place = type(template)(name, offset, length)
            places[type(old)(key, start, number)] = place

    change_metadata(folder, change)
    return tensors


def test_every_tensor_is_that_of_torchs_own_loader(tmp_path):
    tensors = llama() | {"scalar": torch.tensor(3.0), "empty": torch.zeros(0, 4)}
    save(tmp_path / "step-20", {"model": tensors, "step": 20, "lr": [0.1, {"a": torch.ones(2)}]})
    expected = torch_reads(tmp_path / "step-20", tmp_path / "whole.pt")["model"]
    weights = Weights(LocalFolder(tmp_path / "step-20"))
    assert {f"model.{key}" for key in expected} <= {*weights}
    for key, tensor in expected.items():
        assert_same(weights[f"model.{key}"].read(), tensor)
        assert_same(weights[f"model.{key}"].read(), tensors[key])


def test_a_tensor_cut_along_both_axes_is_put_together(tmp_path):
    tensors = cut_in_four(tmp_path / "folder")
    expected = torch_reads(tmp_path / "folder", tmp_path / "whole.pt")["model"]
    embedding = Checkpoint(tmp_path / "folder", 0).locate("input_embedding")
    assert_same(embedding.read(), tensors["model.embed_tokens.weight"])
    assert_same(embedding.read(), expected["model.embed_tokens.weight"])
    assert (embedding.shape, embedding.dtype) == ((VOCABULARY, FEATURES), torch.float32)
    assert embedding.nbytes == VOCABULARY * FEATURES * 4
    for ids in ([0], [9, 10], [3, 9, 12, 36], range(VOCABULARY)):
        assert_same(embedding.read(ids), tensors["model.embed_tokens.weight"][list(ids)])
        assert sum(embedding.part_bytes(np.asarray(ids))) >= len(ids) * FEATURES * 4
    for rows in (slice(0, 4), slice(8, 12), slice(11, 30), slice(30, 99), slice(5, 5)):
        assert_same(embedding.read(rows), tensors["model.embed_tokens.weight"][rows])
    with pytest.raises(CheckpointError, match=r"no row 37 in a tensor of shape \(37, 6\)"):
        embedding.read([37])


def test_rows_are_read_from_their_chunks_alone(tmp_path):
    tensors = cut_in_four(tmp_path)
    embedding = Checkpoint(tmp_path, 0).locate("input_embedding")
    for name in ("__2_0.distcp", "__3_0.distcp"):  # rows from 10 on
        (tmp_path / name).unlink()
    assert_same(embedding.read(slice(2, 9)), tensors["model.embed_tokens.weight"][2:9])
    with pytest.raises(CheckpointError, match=r"__2_0\.distcp: cannot be read: there is no such"):
        embedding.read([9, 10])


@pytest.mark.parametrize("inner", ["pytorch_model_fsdp_0", "model_and_optim", "."])
def test_a_trainer_folder_with_shards_is_a_checkpoint(tmp_path, inner):
    tensors = llama()
    folder = tmp_path / "checkpoint-10"
    save(folder / inner, {"model": tensors})
    if inner != ".":
        save(folder / "optimizer_0", {"optimizer": {"exp_avg": torch.zeros(3, 3)}})
    for name in ("scheduler.pt", "rng_state_0.pth", "training_args.bin", "optimizer.pt"):
        torch.save({"a": torch.zeros(2, 2)}, folder / name)
    (folder / "trainer_state.json").write_text(json.dumps({"num_input_tokens_seen": 77}))
    (checkpoint,) = open_series(tmp_path)
    assert (checkpoint.step, checkpoint.tokens_seen, checkpoint.tied) == (10, 77, False)
    assert_same(checkpoint.tensor("input_embedding"), tensors["model.embed_tokens.weight"])
    assert_same(checkpoint.tensor("output_embedding"), tensors["lm_head.weight"])
    assert_same(checkpoint.tensor("final_norm_weight"), tensors["model.norm.weight"])
    assert checkpoint.notes == ("keys are read without 'model.' of a wrapper",)
    before = checkpoint.identity()
    assert before == Checkpoint(folder, 10).identity()
    data = next((folder / inner).glob("*.distcp"))
    data.write_bytes(data.read_bytes() + b"x")
    assert checkpoint.identity() != before


@pytest.mark.parametrize("prefix", ["app.model", "state.model", "model", ""])
def test_names_of_states_around_the_model_are_taken_off(tmp_path, prefix):
    tensors = llama()
    state = tensors
    for name in reversed(prefix.split(".") if prefix else []):
        state = {name: state}
    optimizer = {f"state.{key}.exp_avg": torch.zeros_like(value) for key, value in tensors.items()}
    save(tmp_path, state | {"optim": optimizer, "train_state": {"step": torch.tensor(5)}})
    checkpoint = Checkpoint(tmp_path, 0)
    assert_same(checkpoint.tensor("output_embedding"), tensors["lm_head.weight"])
    assert checkpoint.vocab_size == VOCABULARY


def remove_file(metadata):
    next(iter(metadata.storage_data.values())).relative_path = "__7_0.distcp"


def leave_the_folder(metadata):
    for place in metadata.storage_data.values():
        place.relative_path = "../__0_0.distcp"


def compress(metadata):
    for place in metadata.storage_data.values():
        place.transform_descriptors = ["stream.zstd/1"]


def lose_a_shard(metadata):
    metadata.state_dict_metadata["model.embed_tokens.weight"].size = torch.Size((99, FEATURES))


def overlap(metadata):
    described = metadata.state_dict_metadata["model.embed_tokens.weight"]
    described.size = torch.Size((2 * VOCABULARY, FEATURES))
    described.chunks = described.chunks * 2


def lie_about_a_shape(metadata):
    described = metadata.state_dict_metadata["model.embed_tokens.weight"]
    described.size = torch.Size((FEATURES, VOCABULARY))
    described.chunks[0].sizes = described.size


def lose_a_place(metadata):
    metadata.storage_data = {
        index: place for index, place in metadata.storage_data.items() if "embed" not in index.fqn
    }


def reach_beyond(metadata):
    for place in metadata.storage_data.values():
        place.length = 10**12


def use_negative_offset(metadata):
    for place in metadata.storage_data.values():
        place.offset = -5


def use_other_bytes(metadata):
    for place in metadata.storage_data.values():
        place.offset += 1
        place.length -= 1


def forget_storage(metadata):
    metadata.storage_data = None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (leave_the_folder, r"'\.\./__0_0\.distcp' is no file name"),
        (compress, r"embed_tokens.* through extensions \(stream\.zstd/1\).* save it without"),
        (lose_a_shard, r"embed_tokens.* of shape \(99, 6\) is not filled by its 1 chunks"),
        (overlap, r"is not filled by its 2 chunks"),
        (lie_about_a_shape, r"should have shape \(6, 37\).* has \(37, 6\)"),
        (lose_a_place, "has no location of model.embed_tokens.weight"),
        (reach_beyond, "truncated or damaged: bytes"),
        (use_negative_offset, "truncated or damaged: bytes"),
        (use_other_bytes, "written by torch.save is expected there"),
        (forget_storage, "'storage_data' of Metadata should be of type dict, not NoneType"),
    ],
)
def test_what_the_metadata_says_wrongly_is_refused(tmp_path, change, message):
    save(tmp_path, llama())
    change_metadata(tmp_path, change)
    with pytest.raises(CheckpointError, match=message) as error:
        Checkpoint(tmp_path, 0).tensor("input_embedding")
    assert "\n" not in str(error.value)


class Touch:
    """Creates a folder when a careless reader unpickles it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.mkdir, (Path(self.path),)


def test_a_trap_in_the_metadata_does_nothing(tmp_path):
    trap = tmp_path / "created"
    tensors = llama()
    save(tmp_path / "a", tensors)
    change_metadata(tmp_path / "a", lambda metadata: setattr(metadata, "planner_data", Touch(trap)))
    assert_same(
        Checkpoint(tmp_path / "a", 0).tensor("input_embedding"),
        tensors["model.embed_tokens.weight"],
    )
    (tmp_path / "a/.metadata").write_bytes(pickle.dumps(Touch(trap)))
    with pytest.raises(
        CheckpointError, match=r"refused: the pickle refers to 'pathlib\.Path\.mkdir"
    ):
        Checkpoint(tmp_path / "a", 0).tensor("input_embedding")
    assert not trap.exists()


def test_a_save_that_did_not_finish_is_named(tmp_path):
    save(tmp_path / "step-3", llama())
    (tmp_path / "step-3/.metadata").unlink()
    with pytest.raises(
        CheckpointError, match=r"step-3: holds a distributed.*\.metadata is missing"
    ):
        open_series(tmp_path)


def test_several_distributed_checkpoints_in_a_folder_are_listed(tmp_path):
    for name in ("generator", "judge"):
        save(tmp_path / name, llama())
    message = r"several distributed checkpoints \(generator/.*judge/.*such as .*/generator$"
    with pytest.raises(CheckpointError, match=message):
        open_series(tmp_path)


TWO_RANKS = """
    import sys, torch
    import torch.distributed as dist, torch.distributed.checkpoint as dcp
    from torch import nn
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import Shard, distribute_tensor

    folder, rank = sys.argv[1], int(sys.argv[2])
    dist.init_process_group("gloo", init_method=f"file://{folder}.init", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    torch.manual_seed(7)
    embedding, head = torch.randn(37, 6), torch.randn(37, 6)
    norm = torch.randn(1)
    state = {
        "embed_tokens.weight": distribute_tensor(embedding, mesh, [Shard(0)]),
        "lm_head.weight": distribute_tensor(head, mesh, [Shard(1)]),
        "norm.weight": distribute_tensor(norm, mesh, [Shard(0)]),
    }
    model = nn.Linear(5, 3)
    fully_shard(model, mesh=mesh)
    dcp.save({"model": state, "fsdp": model.state_dict()}, checkpoint_id=folder)
    if rank == 0:
        torch.save([embedding, head, norm], folder + ".expected")
    dist.barrier()
    dist.destroy_process_group()
"""


@pytest.mark.slow
def test_shards_of_two_ranks_are_put_together(tmp_path):
    """Uneven rows, columns, and a tensor of which one rank has nothing."""
    folder = tmp_path / "shards"
    (tmp_path / "two.py").write_text(textwrap.dedent(TWO_RANKS))
    ranks = [
        subprocess.Popen([sys.executable, str(tmp_path / "two.py"), str(folder), str(rank)])
        for rank in range(2)
    ]
    assert [process.wait(timeout=300) for process in ranks] == [0, 0]
    embedding, head, norm = torch.load(f"{folder}.expected")
    expected = torch_reads(folder, tmp_path / "whole.pt")
    checkpoint = Checkpoint(folder, 0)
    assert len({path.name for path in folder.glob("*.distcp")}) == 2
    assert_same(checkpoint.tensor("input_embedding"), embedding)
    assert_same(checkpoint.tensor("output_embedding"), head)
    assert_same(checkpoint.tensor("output_embedding", [1, 20, 36]), head[[1, 20, 36]])
    assert_same(checkpoint.tensor("final_norm_weight"), norm)
    weights = Weights(LocalFolder(folder))
    for key, tensor in expected["fsdp"].items():
        assert_same(weights[f"fsdp.{key}"].read(), tensor)
