"""An index that does not say what its shards hold: every tensor is found, and it is noted."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from dynamics.checkpoints.checkpoint import Checkpoint
from dynamics.errors import CheckpointError
from tests.checkpoints.writers import FILES, assert_same, neox, write_checkpoint

INDEX = "model.safetensors.index.json"
HEAD = "embed_out.weight"


def change_index(folder, change, index=INDEX):
    path = folder / index
    content = json.loads(path.read_text())
    content["weight_map"] = change(content["weight_map"])
    path.write_text(json.dumps(content))


def without(*keys):
    return lambda placed: {key: shard for key, shard in placed.items() if key not in keys}


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """An untied llama in shards, and its tensors by key."""
    folder = tmp_path_factory.mktemp("llama")
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=16,
        tie_word_embeddings=False,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder, max_shard_size="6KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 2
    tensors = {key: tensor for shard in shards for key, tensor in load_file(shard).items()}
    return folder, tensors


@pytest.fixture
def stale(tmp_path, llama):
    """A copy whose index lacks some keys, of shards that it names."""
    folder, tensors = llama
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())

    def stale(*keys):
        change_index(tmp_path, without(*keys))
        return tmp_path, tensors

    return stale


@pytest.mark.parametrize("keys", [(), ("lm_head.weight",), ("lm_head.weight", "model.norm.weight")])
def test_a_stale_index_of_named_shards_gives_what_transformers_loads(stale, keys):
    folder, tensors = stale(*keys)
    index = json.loads((folder / INDEX).read_text())["weight_map"]
    checkpoint = Checkpoint(folder, 0)
    named = {tensor for key in keys for tensor in [key] if key in tensors}
    assert_same(checkpoint.tensor("output_embedding"), tensors["lm_head.weight"])
    assert_same(checkpoint.tensor("final_norm_weight"), tensors["model.norm.weight"])
    assert not checkpoint.tied
    model = transformers.LlamaForCausalLM.from_pretrained(folder)
    if len({*index.values()}) == len([*folder.glob("model-*.safetensors")]):
        assert_same(checkpoint.tensor("output_embedding"), model.lm_head.weight.data)
    assert any("does not name" in note for note in checkpoint.notes) == bool(named)


@pytest.mark.parametrize("format_name", FILES)
def test_shards_that_the_index_does_not_name_are_read_where_their_name_tells(tmp_path, format_name):
    tensors = neox()
    write_checkpoint(tmp_path, tensors, f"sharded {format_name}", config={"model_type": "gpt_neox"})
    index = f"{FILES[format_name][0]}.index.json"
    change_index(tmp_path, lambda placed: {key: placed[key] for key in list(placed)[:1]}, index)
    checkpoint = Checkpoint(tmp_path, 0)
    assert_same(checkpoint.tensor("output_embedding"), tensors[HEAD])
    assert not checkpoint.tied
    assert checkpoint.final_norm == "layer"
    *read, unnamed = checkpoint.notes
    assert len(read) == len(tensors) - 1
    assert all("by its name it belongs to the same set" in note for note in read)
    assert f"{index} does not name 'embed_out.weight'" in unnamed
    assert unnamed.endswith("and 1 more, which its shards hold")


def test_a_key_that_the_index_places_in_another_shard_is_found(tmp_path):
    tensors = neox()
    write_checkpoint(tmp_path, tensors, "sharded safetensors")
    wrong = "model-00001-of-00005.safetensors"
    change_index(tmp_path, lambda placed: placed | {HEAD: wrong})
    checkpoint = Checkpoint(tmp_path, 0)
    assert_same(checkpoint.tensor("output_embedding"), tensors[HEAD])
    assert any(f"{HEAD!r} lies in model-00005-of-00005" in note for note in checkpoint.notes)


def test_of_a_key_in_two_shards_the_last_counts_as_in_transformers(stale):
    folder, _ = stale()
    first, *_, last = sorted(folder.glob("model-*.safetensors"))
    (key,) = ["model.embed_tokens.weight"]
    for shard in (first, last):
        tensors = load_file(shard)
        save_file(tensors | {key: torch.randn(64, 16)}, shard, {"format": "pt"})
    model = transformers.LlamaForCausalLM.from_pretrained(folder)
    checkpoint = Checkpoint(folder, 0)
    assert_same(checkpoint.tensor("input_embedding"), model.get_input_embeddings().weight.data)
    assert any("is read from the last of them" in note for note in checkpoint.notes)


def test_a_missing_shard_matters_only_to_what_lies_in_it(tmp_path):
    tensors = neox()
    write_checkpoint(tmp_path, tensors, "sharded safetensors")
    placed = json.loads((tmp_path / INDEX).read_text())["weight_map"]
    (tmp_path / placed["gpt_neox.layers.0.attention.dense.weight"]).unlink()
    checkpoint = Checkpoint(tmp_path, 0)
    assert_same(checkpoint.tensor("output_embedding"), tensors[HEAD])
    assert any("model-00002-of-00005" in note for note in checkpoint.notes)
    (tmp_path / placed[HEAD]).unlink()
    with pytest.raises(CheckpointError, match=r"model-00005-of-00005\.safetensors: cannot be read"):
        Checkpoint(tmp_path, 0).tensor("output_embedding")


def test_shards_of_another_set_are_noted_and_not_read(tmp_path):
    tensors = neox(tied=True)
    write_checkpoint(tmp_path, tensors, "sharded safetensors", {"tie_word_embeddings": True})
    save_file({HEAD: torch.zeros(12, 4)}, tmp_path / "model-00003-of-00003.safetensors")
    checkpoint = Checkpoint(tmp_path, 0)
    assert checkpoint.tied
    assert checkpoint.notes == (
        "not read because they belong to another set of shards: model-00003-of-00003.safetensors",
    )


def test_a_whole_index_is_not_noted(tmp_path):
    checkpoint = Checkpoint(write_checkpoint(tmp_path, neox(), "sharded safetensors"), 0)
    assert checkpoint.notes == ()
    assert checkpoint.identity() == Checkpoint(tmp_path, 0).identity()


@pytest.mark.parametrize("metadata", [{"a": [1]}, {"a": {"b": 1}}, {"embed_out.weight": [1]}, [1]])
def test_metadata_of_a_header_that_are_no_strings_are_passed_over(tmp_path, metadata):
    save_file({"wte.weight": torch.ones(3, 2)}, tmp_path / "model.safetensors")
    content = (tmp_path / "model.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + length]) | {"__metadata__": metadata}).encode()
    (tmp_path / "model.safetensors").write_bytes(
        len(header).to_bytes(8, "little") + header + content[8 + length :]
    )
    assert_same(Checkpoint(tmp_path, 0).tensor("input_embedding"), torch.ones(3, 2))
