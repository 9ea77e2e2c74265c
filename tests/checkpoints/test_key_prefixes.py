import pytest
import torch

from dynamics.checkpoints.checkpoint import Checkpoint
from dynamics.errors import CheckpointError
from tests.checkpoints.writers import assert_same, write_checkpoint


def llama(tied=False):
    tensors = {
        "model.embed_tokens.weight": torch.randn(9, 4),
        "model.layers.0.self_attn.q_proj.weight": torch.randn(4, 4),
        "model.norm.weight": torch.randn(4),
    }
    return tensors if tied else tensors | {"lm_head.weight": torch.randn(9, 4)}


def gpt2():
    return {
        "transformer.wte.weight": torch.randn(9, 4),
        "transformer.ln_f.weight": torch.randn(4),
        "transformer.ln_f.bias": torch.randn(4),
        "lm_head.weight": torch.randn(9, 4),
    }


def prefixed(tensors, prefix):
    return {prefix + key: tensor for key, tensor in tensors.items()}


def read_roles(folder):
    checkpoint = Checkpoint(folder, 0)
    roles = ("input_embedding", "output_embedding", "final_norm_weight")
    return checkpoint, *(checkpoint.tensor(role) for role in roles)


def assert_llama(folder, tensors):
    checkpoint, embedding, head, norm = read_roles(folder)
    assert_same(embedding, tensors["model.embed_tokens.weight"])
    assert_same(head, tensors["lm_head.weight"])
    assert_same(norm, tensors["model.norm.weight"])
    assert (checkpoint.tied, checkpoint.final_norm) == (False, None)  # no config
    return checkpoint


@pytest.mark.parametrize(
    "prefix",
    [
        "module.",
        "_orig_mod.",
        "_forward_module.",
        "model.",
        "net.",
        "base_model.model.",
        "module._orig_mod.model.",
        "model._orig_mod.module.",
        "any_attribute.",
        "lit.inner.",
    ],
)
def test_what_wrappers_put_in_front_is_taken_off(tmp_path, prefix):
    tensors = llama()
    checkpoint = assert_llama(write_checkpoint(tmp_path, prefixed(tensors, prefix)), tensors)
    (note,) = checkpoint.notes
    first = prefix.partition(".")[0]
    assert first in note
    assert note.startswith("keys are read without '")


@pytest.mark.parametrize(
    "change",
    [
        lambda key: key.replace("model.", "model._orig_mod.", 1),
        lambda key: key.replace("weight", "_fsdp_wrapped_module.weight"),
        lambda key: key.replace("layers.0.", "layers.0._checkpoint_wrapped_module."),
        lambda key: "module." + key.replace("lm_head", "lm_head._fsdp_wrapped_module"),
    ],
)
def test_what_wrappers_put_between_is_taken_out(tmp_path, change):
    tensors = llama()
    state = {change(key): tensor for key, tensor in tensors.items()}
    assert_llama(write_checkpoint(tmp_path, state), tensors)


@pytest.mark.parametrize("tied", [True, False])
def test_a_prefix_of_the_models_own_stays(tmp_path, tied):
    tensors = llama(tied=tied)
    checkpoint = Checkpoint(write_checkpoint(tmp_path, tensors), 0)
    located = checkpoint.locate("input_embedding")
    assert_same(located.read(), tensors["model.embed_tokens.weight"])
    assert checkpoint.tied is tied
    assert not any("of a wrapper" in note for note in checkpoint.notes)


def test_gpt2_in_a_lightning_module_is_no_hf_olmo(tmp_path):
    """`model.transformer.wte.weight` is a key of hf_olmo, whose head is not `model.lm_head`."""
    tensors = gpt2()
    checkpoint, embedding, head, _ = read_roles(
        write_checkpoint(tmp_path, prefixed(tensors, "model."))
    )
    assert_same(embedding, tensors["transformer.wte.weight"])
    assert_same(head, tensors["lm_head.weight"])
    assert not checkpoint.tied


def test_an_hf_olmo_keeps_its_head(tmp_path):
    tensors = {
        "model.transformer.wte.weight": torch.randn(9, 4),
        "model.transformer.ff_out.weight": torch.randn(9, 4),
        "model.transformer.blocks.0.att_proj.weight": torch.randn(4, 4),
    }
    checkpoint = Checkpoint(write_checkpoint(tmp_path, tensors), 0)
    assert_same(checkpoint.tensor("output_embedding"), tensors["model.transformer.ff_out.weight"])


def test_a_head_beside_a_flat_body_is_found_under_the_prefix(tmp_path):
    """As keys are, this is a LLaMA whose head is missing, and would be read as tied."""
    tensors = {
        "model.embed_tokens.weight": torch.randn(9, 4),
        "model.norm.weight": torch.randn(4),
        "model.lm_head.weight": torch.randn(9, 4),
    }
    checkpoint = Checkpoint(write_checkpoint(tmp_path, tensors), 0)
    assert_same(checkpoint.tensor("output_embedding"), tensors["model.lm_head.weight"])
    assert not checkpoint.tied


def test_a_head_outside_the_wrapped_body_is_kept(tmp_path):
    tensors = llama()
    state = {
        (f"module.{key}" if key.startswith("model.") else key): tensor
        for key, tensor in tensors.items()
    }
    assert_llama(write_checkpoint(tmp_path, state), tensors)


def test_other_tensors_beside_the_wrapped_model_do_not_disturb(tmp_path):
    tensors = llama()
    state = prefixed(tensors, "model.") | {"loss.weight": torch.ones(9), "ema.step": torch.ones(1)}
    assert_llama(write_checkpoint(tmp_path, state), tensors)


@pytest.mark.parametrize(
    "key", ["model.gpt_neox.embed_in.weight", "module.gpt_neox.embed_in.weight"]
)
def test_a_wrapper_in_front_of_another_family(tmp_path, key):
    prefix = key.partition("gpt_neox")[0]
    tensors = {key: torch.randn(9, 4), prefix + "embed_out.weight": torch.randn(9, 4)}
    checkpoint = Checkpoint(write_checkpoint(tmp_path, tensors), 0)
    assert_same(checkpoint.tensor("input_embedding"), tensors[key])
    assert_same(checkpoint.tensor("output_embedding"), tensors[prefix + "embed_out.weight"])


def test_an_unknown_model_is_not_taken_for_a_known_one(tmp_path):
    """Without `model.`, one key is Mamba's; nothing else of Mamba is there."""
    tensors = {"model.embedding.weight": torch.randn(9, 4), "model.head.weight": torch.randn(9, 4)}
    with pytest.raises(CheckpointError, match=r"no input embedding.*model\.embedding\.weight"):
        Checkpoint(write_checkpoint(tmp_path, tensors), 0).tensor("input_embedding")


def test_two_models_in_one_state_dict_are_refused(tmp_path):
    tensors = prefixed(llama(), "net.") | prefixed(llama(), "student.")
    with pytest.raises(
        CheckpointError, match=r"two models, under the prefixes 'net\.' and 'student"
    ):
        Checkpoint(write_checkpoint(tmp_path, tensors), 0).tensor("input_embedding")


def test_adapters_that_were_not_merged_are_refused(tmp_path):
    tensors = prefixed(llama(), "base_model.model.") | {
        "base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight": torch.ones(2, 4)
    }
    with pytest.raises(CheckpointError, match=r"not merged.*lora_A.*merge_and_unload"):
        Checkpoint(write_checkpoint(tmp_path, tensors), 0).tensor("input_embedding")


def test_keys_of_meta_and_of_olmo_core(tmp_path):
    meta = {
        "tok_embeddings.weight": torch.randn(9, 4),
        "norm.weight": torch.randn(4),
        "output.weight": torch.randn(9, 4),
    }
    checkpoint, embedding, head, norm = read_roles(write_checkpoint(tmp_path / "meta", meta))
    assert_same(embedding, meta["tok_embeddings.weight"])
    assert_same(head, meta["output.weight"])
    assert_same(norm, meta["norm.weight"])
    assert checkpoint.has("final_norm_weight")
    olmo = {
        "model.embeddings.weight": torch.randn(9, 4),
        "model.lm_head.norm.weight": torch.randn(4),
        "model.lm_head.w_out.weight": torch.randn(9, 4),
    }
    checkpoint, embedding, head, _ = read_roles(write_checkpoint(tmp_path / "olmo", olmo))
    assert_same(embedding, olmo["model.embeddings.weight"])
    assert_same(head, olmo["model.lm_head.w_out.weight"])
    assert not checkpoint.tied
