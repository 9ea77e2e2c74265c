import pytest
import torch
from torch import nn
from torch.autograd import forward_ad

from dynamics.attribution.gradients import looked_up, predict
from dynamics.attribution.lrp import cp_lrp
from dynamics.attribution.methods import find_method
from dynamics.errors import ConfigError, MeasureError
from dynamics.models.linearized import linearized
from tests.attribution.batches import (
    ATTENTION,
    BATCHED,
    alone,
    attribution_batch,
    fresh_model,
    live_model,
    named,
)


@pytest.mark.parametrize(("name", "task", "side"), **named(ATTENTION))
def test_scores_and_bias_sum_to_the_unchanged_prediction(name, task, side):
    batch = attribution_batch(live_model(name, task), side)
    own = batch.predictions(batch.read())[batch.target_mask]
    rows = looked_up(batch).requires_grad_()
    with linearized(batch.model.network):
        linear = forward_ad.unpack_dual(predict(batch, rows)).primal[batch.target_mask]
    torch.testing.assert_close(linear, own, rtol=1e-6, atol=1e-9)
    scores = cp_lrp(batch)
    total = (scores.values.sum(1) + scores.checks["bias"])[batch.target_mask]
    # Norms of T5, LLaMA and Gemma round to float32 whatever the model's type is.
    torch.testing.assert_close(total, own, rtol=1e-6, atol=1e-6)
    assert (scores.checks["conservation"][batch.target_mask] < 1e-6).all()
    assert scores.checks["conservation"][~batch.target_mask].isnan().all()


@pytest.mark.parametrize(("name", "task", "side"), **named(BATCHED))
def test_batched_inputs_score_as_one_by_one(name, task, side):
    batch = attribution_batch(live_model(name, task), side)
    both = cp_lrp(batch)
    for index in range(2):
        single = cp_lrp(alone(batch, index))
        length = single.values.shape[1]
        torch.testing.assert_close(
            both.values[index, :length], single.values[0], rtol=1e-5, atol=1e-7
        )
        assert both.values[index, length:].abs().sum() == 0
        torch.testing.assert_close(
            both.checks["bias"][index],
            single.checks["bias"][0],
            rtol=1e-5,
            atol=1e-7,
            equal_nan=True,
        )


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "bloom"])
def test_it_conserves_in_single_precision(name):
    task = "masked" if name == "bert" else "causal"
    batch = attribution_batch(live_model(name, task, torch.float32))
    scores = cp_lrp(batch)
    assert scores.values.dtype == torch.float32
    assert (scores.checks["conservation"][batch.target_mask] < 1e-5).all()


@pytest.mark.parametrize("name", ["t5", "t5_gated"])
def test_bias_of_one_side_is_the_sum_of_the_other_where_nothing_else_is_added(name):
    model = live_model(name, "seq2seq")
    source, target = (cp_lrp(attribution_batch(model, side)) for side in ("source", "target"))
    there = attribution_batch(model).target_mask
    for one, other in ((source, target), (target, source)):
        torch.testing.assert_close(
            one.checks["bias"][there], other.values.sum(1)[there], rtol=1e-6, atol=1e-7
        )


@pytest.mark.parametrize(
    ("name", "task"),
    [("gpt2", "causal"), ("bert", "classification"), ("bart", "seq2seq")],
    ids=["gpt2", "bert", "bart"],
)
def test_bias_is_the_sum_of_additive_terms_times_their_gradients(name, task):
    batch = alone(attribution_batch(live_model(name, task)), 1)
    rows = looked_up(batch).requires_grad_()
    with linearized(batch.model.network) as terms:
        predicted = predict(batch, rows)[0, 0]
        slopes = torch.autograd.grad(predicted, terms, allow_unused=True)
    shares = [(a * b).sum() for a, b in zip(terms, slopes, strict=True) if b is not None]
    assert len(shares) > 10
    torch.testing.assert_close(cp_lrp(batch).checks["bias"][0, 0], sum(shares).detach())


def test_without_additive_terms_scores_sum_to_the_logit():
    scores = cp_lrp(attribution_batch(live_model("llama")))
    assert scores.checks["bias"].nan_to_num(0).abs().sum() == 0


def test_centered_logit_is_shared_out():
    batch = attribution_batch(live_model("gpt2"), logit_form="centered")
    scores = cp_lrp(batch)
    total = scores.values.sum(1) + scores.checks["bias"].nan_to_num(0)
    torch.testing.assert_close(total, batch.predictions(batch.read()))
    assert not torch.allclose(total, attribution_batch(batch.model).predictions(batch.read()))


def test_log_probability_is_refused_without_foils():
    batch = attribution_batch(live_model("gpt2"), logit_form="log_probability")
    with pytest.raises(ConfigError, match="no sum of shares; use the logit form raw or centered"):
        cp_lrp(batch)


def test_state_space_models_are_refused():
    with pytest.raises(ConfigError, match=r"cp_lrp does not cover MambaForCausalLM: its scan"):
        find_method("cp_lrp", live_model("mamba"))
    assert find_method("cp_lrp", live_model("llama")).function is cp_lrp


class Exponential(nn.Module):
    def forward(self, value):
        return value.exp()


def test_an_operation_that_is_not_covered_is_an_error():
    model = fresh_model("gpt2")
    model.network.transformer.h[0].mlp.act = Exponential()
    with pytest.raises(MeasureError, match=r"gpt2 \(GPT2LMHeadModel\): scores and bias miss"):
        cp_lrp(attribution_batch(model))


class WithoutForwardMode(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value):
        return value * 2

    @staticmethod
    def backward(ctx, slope):
        return slope * 2


class Opaque(nn.Module):
    def forward(self, value):
        return WithoutForwardMode.apply(value)


def test_an_operation_that_torch_cannot_follow_is_an_error():
    model = fresh_model("gpt2")
    model.network.transformer.h[0].mlp.act = Opaque()
    with pytest.raises(MeasureError, match="operation that the rules of cp_lrp do not cover"):
        cp_lrp(attribution_batch(model))


def test_the_model_is_left_as_it_was():
    model = fresh_model("t5_gated", "seq2seq")
    batch = attribution_batch(model)
    before = batch.predictions(batch.read())
    model.network.shared.weight.requires_grad_(False)
    flags = [each.requires_grad for each in model.network.parameters()]
    cp_lrp(batch)
    assert [each.requires_grad for each in model.network.parameters()] == flags
    assert not any("forward" in vars(each) for each in model.network.modules())
    assert torch.equal(batch.predictions(batch.read()), before)


def decomposition(network, ids, readout, target):
    """DecompX without biases, forward: vectors[i, k] is the share of token k in position i."""
    config = network.config
    base, heads = network.gpt_neox, config.num_attention_heads
    tokens, size = len(ids), config.hidden_size
    states = network(ids[None], output_hidden_states=True, output_attentions=True)
    rows = network.get_input_embeddings()(ids)
    vectors = torch.eye(tokens, dtype=rows.dtype)[:, :, None] * rows

    def normed(norm, vectors, true):
        spread = (true.var(-1, unbiased=False) + norm.eps).sqrt()
        return (vectors - vectors.mean(-1, keepdim=True)) / spread[:, None, None] * norm.weight

    def attended(attention, vectors, weights):
        projection = attention.query_key_value.weight.view(heads, 3, size // heads, size)[:, 2]
        values = torch.einsum("hed,jkd->hjke", projection, vectors)
        mixed = torch.einsum("hij,hjke->ikhe", weights, values).flatten(2)
        return mixed @ attention.dense.weight.T

    def fed_forward(mlp, vectors, true):
        before = mlp.dense_h_to_4h(true)
        slope = mlp.act(before) / before
        return (vectors @ mlp.dense_h_to_4h.weight.T * slope[:, None]) @ mlp.dense_4h_to_h.weight.T

    true = rows
    for layer, weights in zip(base.layers, states.attentions, strict=True):
        mixed = attended(layer.attention, normed(layer.input_layernorm, vectors, true), weights[0])
        own = layer.input_layernorm(true)
        middle = layer.attention.query_key_value(own).view(tokens, heads, 3, size // heads)[:, :, 2]
        passed = torch.einsum("hij,jhe->ihe", weights[0], middle).flatten(1)
        added = layer.attention.dense(passed)
        inner, inner_true = vectors, true
        if not config.use_parallel_residual:
            inner, inner_true = vectors + mixed, true + added
        second = layer.post_attention_layernorm
        vectors = (
            vectors
            + mixed
            + fed_forward(layer.mlp, normed(second, inner, inner_true), second(inner_true))
        )
        true = true + added + layer.mlp(second(inner_true))
    final = normed(base.final_layer_norm, vectors, true)
    torch.testing.assert_close(base.final_layer_norm(true), states.hidden_states[-1][0])
    return final[readout] @ network.get_output_embeddings().weight[target]


@pytest.mark.parametrize("name", ["gpt_neox", "gpt_neox_sequential"])
def test_it_is_the_forward_decomposition(name):
    model = live_model(name)
    batch = attribution_batch(model)
    scores = cp_lrp(batch).values
    before = model.network.config._attn_implementation
    model.network.set_attn_implementation("eager")
    try:
        for index, target, ids in ((0, 0, [5, 6, 1, 8, 9]), (1, 0, [14, 15, 7])):
            with torch.no_grad():
                expected = decomposition(
                    model.network,
                    torch.tensor(ids),
                    batch.readouts[index, target],
                    batch.targets[index, target],
                )
            found = scores[index, : len(ids), target]
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
    finally:
        model.network.set_attn_implementation(before)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_attention_implementations_agree(implementation):
    model = fresh_model("llama")
    expected = cp_lrp(attribution_batch(live_model("llama"))).values
    model.network.set_attn_implementation(implementation)
    torch.testing.assert_close(
        cp_lrp(attribution_batch(model)).values, expected, rtol=1e-6, atol=1e-8
    )
