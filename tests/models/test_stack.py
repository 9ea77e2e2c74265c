"""Representations read by hooks are those that transformers tells of."""

import pytest
import torch
import transformers as hf
from torch import nn

from dynamics.errors import CheckpointError
from dynamics.models.stack import Stack
from tests.models.tiny import CONFIGS, FINAL_NORMS, MASKED, SEQ2SEQ, D, F, H, V, build

IDS = torch.tensor([[7, 9, 12, 5, 8], [6, 5, 11, 3, 3]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


def parts(name):
    """The modules with blocks that an architecture has, by side, and what else they take."""
    if name not in SEQ2SEQ:
        return {"only": (build(name, "none"), {})}
    network = build(name)
    crossed = {"encoder_hidden_states": torch.randn(2, 3, D)}
    return {"source": (network.get_encoder(), {}), "target": (network.get_decoder(), crossed)}


SIDES = [(name, side) for name in CONFIGS for side in (parts(name))]


@pytest.fixture(params=SIDES, ids=lambda each: "-".join(each))
def part(request):
    name, side = request.param
    torch.manual_seed(0)
    module, others = parts(name)[side]
    inputs = {"input_ids": IDS, "attention_mask": MASK, **others}
    with torch.no_grad():
        told = module(**inputs, output_hidden_states=True)
        found = Stack(module).read(**inputs, blocks=True)
    return name, module, inputs, told, found


def test_embedding_blocks_and_final_state(part):
    name, module, _, told, found = part
    hidden = told.hidden_states
    assert Stack(module).depth == len(found.blocks) == module.config.num_hidden_layers
    torch.testing.assert_close(found.final, told.last_hidden_state, rtol=0, atol=0)
    if name == "mamba":  # what transformers calls the first hidden state is after the first block
        assert found.embedding.equal(module.embeddings.weight[IDS])
        hidden = (found.embedding, *hidden)
    assert found.embedding.equal(hidden[0])
    for block, expected in zip(found.blocks[:-1], hidden[1:-1], strict=False):
        assert block.equal(expected)
    norm = FINAL_NORMS.get(name, lambda _: nn.Identity())(module)
    torch.testing.assert_close(norm(found.blocks[-1]), hidden[-1])


def test_the_final_norm_is_applied_to_any_layer(part):
    name, module, _, _, found = part
    stack = Stack(module)
    norm = FINAL_NORMS.get(name, lambda _: nn.Identity())(module)
    states = (found.embedding, *found.blocks)
    with torch.no_grad():
        for layer, state in enumerate(states):
            torch.testing.assert_close(stack.as_final(found, layer), norm(state))
    assert stack.as_final(found, stack.depth) is found.final


def test_blocks_are_kept_only_when_asked_for(part):
    _, module, inputs, _, found = part
    with torch.no_grad():
        brief = Stack(module).read(**inputs)
    assert brief.blocks == ()
    assert brief.final.equal(found.final)
    assert brief.embedding.equal(found.embedding)


def test_rows_take_the_place_of_what_is_looked_up(part):
    """The rows themselves change nothing; positions and segments are added to them once."""
    _, module, inputs, _, found = part
    stack = Stack(module)
    with torch.no_grad():
        rows = stack.embedding(IDS)
        same = stack.read(rows=rows, **inputs)
        changed = stack.read(rows=torch.cat([rows[:1], -rows[1:]]), **inputs)
        after = stack.read(**inputs)
    assert same.final.equal(found.final)
    assert same.embedding.equal(found.embedding)
    torch.testing.assert_close(changed.final[0], found.final[0])
    assert not torch.allclose(changed.embedding[1, :3], found.embedding[1, :3])
    assert after.final.equal(found.final)


def test_gradients_reach_the_rows(part):
    _, module, inputs, _, _ = part
    rows = Stack(module).embedding(IDS).detach().requires_grad_()
    found = Stack(module).read(rows=rows, **inputs)
    weights = torch.arange(D) - 3.0  # LayerNorm makes the plain sum constant
    (found.final[0] @ weights).sum().backward()
    assert rows.grad is not None
    assert rows.grad[0].abs().sum() > 0
    assert rows.grad[1].abs().max() == 0


def test_an_error_in_the_model_leaves_no_hook(part):
    _, module, inputs, _, _ = part
    hooks = [(len(each._forward_hooks), len(each._forward_pre_hooks)) for each in module.modules()]
    with pytest.raises((RuntimeError, IndexError, ValueError)):
        Stack(module).read(**{**inputs, "input_ids": IDS + V}, blocks=True)
    left = [(len(each._forward_hooks), len(each._forward_pre_hooks)) for each in module.modules()]
    assert left == hooks


def test_the_post_norm_models_have_no_final_norm():
    assert {*CONFIGS} - {*FINAL_NORMS} == {*MASKED[:5], "bart"}


def test_a_module_without_blocks_is_refused():
    with pytest.raises(CheckpointError, match="Linear has no list of blocks"):
        Stack(nn.Linear(2, 2))


def test_a_last_layer_that_no_norm_explains_is_refused():
    """OPT's smallest post-norm model projects what the last block gives."""
    config = CONFIGS["opt"]()
    config.do_layer_norm_before, config.word_embed_proj_dim = False, 8
    stack = Stack(hf.OPTModel(config).eval())
    states = stack.read(input_ids=IDS, blocks=True)
    with pytest.raises(CheckpointError, match="OPTModel: no final norm turns the output"):
        stack.as_final(states, 1)
    assert stack.as_final(states, 2) is states.final


def test_blocks_that_run_more_than_once_are_refused_where_layers_are_asked_for():
    config = hf.AlbertConfig(
        vocab_size=V, embedding_size=8, hidden_size=D, num_hidden_layers=3, intermediate_size=F,
        num_attention_heads=H,
    )  # fmt: skip
    torch.manual_seed(0)
    module = hf.AlbertModel(config).eval()
    with torch.no_grad():
        told = module(input_ids=IDS, output_hidden_states=True)
        found = Stack(module).read(input_ids=IDS)
        assert found.embedding.equal(told.hidden_states[0])
        assert found.final.equal(told.last_hidden_state)
        with pytest.raises(CheckpointError, match="AlbertModel runs 1 blocks 3 times"):
            Stack(module).read(input_ids=IDS, blocks=True)
