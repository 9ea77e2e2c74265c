from dataclasses import replace

import pytest
import torch
from torch.autograd import forward_ad
from torch.nn import LayerNorm, Linear

from dynamics.attribution.decompx import (
    decomposed,
    decompx,
    decompx_without_biases,
    keep_apart,
    share_by_dot_product,
)
from dynamics.attribution.lrp import cp_lrp
from dynamics.attribution.settings import AttributionSettings
from dynamics.errors import ConfigError, MeasureError
from dynamics.models.linearized import linearized
from dynamics.models.recorded_blocks import record_blocks
from tests.attribution.batches import alone, attribution_batch
from tests.attribution.blocks_by_hand import FAMILIES, TASKS, blocks_by_hand, linear_norm
from tests.attribution.golden_models import golden_batch, golden_model
from tests.models import tiny
from tests.models.test_block_parts import IMPLEMENTATIONS, fresh

METHODS = (decompx, decompx_without_biases)
WITH_VARIANTS = (*FAMILIES, "gpt_neox_sequential")
TOLERANCE = {"rtol": 0, "atol": 1e-5}  # norms of LLaMA and its like round to float32


def test_it_is_cp_lrp_where_nothing_is_added_to_embeddings():
    """The published numbers of CP-LRP with half of the gradient to each factor of a gate."""
    for method in METHODS:
        found = method(golden_batch("llama")).values[0, :, 0]
        expected = torch.tensor([-0.322, -0.251, -0.251, 0.199, 1.341]).double()
        torch.testing.assert_close(found, expected, rtol=0, atol=5e-4)


@pytest.mark.parametrize("name", ["gpt_neox", "gpt_neox_sequential", "llama", "olmo2", "gemma2"])
def test_without_biases_it_is_cp_lrp(name):
    batch = attribution_batch(fresh(name))
    found, expected = decompx_without_biases(batch), cp_lrp(batch)
    torch.testing.assert_close(found.values, expected.values, **TOLERANCE)
    torch.testing.assert_close(
        found.checks["bias"], expected.checks["bias"], equal_nan=True, **TOLERANCE
    )


@pytest.mark.parametrize("task", ["language", "classification"])
@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "gpt2"])
def test_without_biases_it_is_the_gradient_at_the_first_block(name, task):
    """Automatic differentiation of the linearised network, through every head."""
    task = TASKS[name] if task == "language" else task
    model = tiny.live(name, task, dtype=torch.float64, large_weights=True)
    batch = alone(attribution_batch(model), 1)
    _, leaves = model.head, []

    def leaf(_, args):
        leaves.append(forward_ad.unpack_dual(args[0]).primal.detach().requires_grad_())
        return (leaves[-1], *args[1:])

    with (
        model.stack().first_block.register_forward_pre_hook(leaf),
        torch.enable_grad(),
        linearized(model.network),
    ):
        predicted = forward_ad.unpack_dual(batch.predictions(batch.read())).primal
        (slope,) = torch.autograd.grad(predicted[0, 0], leaves[-1])
    expected = (slope * leaves[-1]).sum(-1).detach()[0]
    found = decompx_without_biases(batch).values[0, :, 0]
    torch.testing.assert_close(found, expected, **TOLERANCE)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", WITH_VARIANTS)
@torch.no_grad()
def test_parts_sum_to_every_representation(name, implementation):
    model = fresh(name, implementation)
    inputs = alone(attribution_batch(model), 0).inputs
    blocks = record_blocks(model, inputs)
    states = blocks.reading.scored
    for share in (share_by_dot_product, keep_apart):
        for layer, state in enumerate((states.embedding, *states.blocks)):
            parts = decomposed(blocks, layer, share)
            torch.testing.assert_close(parts.sum(1), state[0], **TOLERANCE)
            if TASKS.get(name, "causal") == "causal":  # later tokens have exactly no part
                later = torch.ones(parts.shape[0], parts.shape[0]).triu(1).bool()
                assert (parts[:, : len(later)][later] == 0).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("task", ["language", "classification", "regression"])
@pytest.mark.parametrize("name", WITH_VARIANTS)
def test_scores_sum_to_the_prediction_of_the_network(name, task, method):
    task = TASKS.get(name, "causal") if task == "language" else task
    model = tiny.live(name, task, dtype=torch.float64, large_weights=True)
    batch = attribution_batch(model)
    if task == "regression":
        batch = replace(
            batch,
            readouts=torch.tensor([[0], [0]] if TASKS.get(name) == "masked" else [[4], [2]]),
            targets=torch.zeros(2, 1, dtype=torch.long),
            foils=torch.full((2, 1), -1),
        )
    scores = method(batch)
    total = scores.values.sum(1) + scores.checks.get("bias", torch.zeros(1)).nan_to_num(0)
    own = batch.predictions(batch.read())
    torch.testing.assert_close(total[batch.target_mask], own[batch.target_mask], **TOLERANCE)
    assert scores.checks["logit"][~batch.target_mask].isnan().all()


def by_loops(block, parts, inner_maps):
    """One block of BERT with shared biases, one pair of positions at a time."""
    count = len(parts)
    attention, feed_forward = inner_maps

    def shared(row, bias):
        weights = [abs(float(part @ bias)) for part in row]
        total = sum(weights)
        return [part + weight / total * bias for part, weight in zip(row, weights, strict=True)]

    def normed(norm, row):
        whole = sum(row)
        return shared([linear_norm(norm, whole, part) for part in row], norm.bias)

    value = block.value
    width = block.x.shape[1] // len(block.attention)
    rows = []
    for i in range(count):
        row = []
        for k in range(count):
            heads = []
            for h, weights in enumerate(block.attention):
                chosen = slice(h * width, (h + 1) * width)
                heads.append(
                    sum(weights[i, j] * (value.weight[chosen] @ parts[j][k]) for j in range(count))
                )
            row.append(parts[i][k] + attention.weight @ torch.cat(heads))
        bias = attention.weight @ value.bias + attention.bias
        mixed = normed(block.sum_norm, shared(row, bias))
        up, down = feed_forward
        inner = shared([up.weight @ part for part in mixed], up.bias)
        whole = sum(inner)
        slope = torch.nn.functional.gelu(whole) / whole
        outer = shared([down.weight @ (slope * part) for part in inner], down.bias)
        summed = [one + other for one, other in zip(mixed, outer, strict=True)]
        rows.append(normed(block.last_norm, summed))
    return rows


@torch.no_grad()
def test_shared_biases_by_loops():
    model, batch = golden_model("bert"), golden_batch("bert")
    network, ids = model.network, batch.inputs.input_ids
    embedding = network(ids, output_hidden_states=True).hidden_states[0][0]
    count = len(embedding)
    zero = torch.zeros_like(embedding[0])
    parts = [[embedding[i] if i == k else zero for k in range(count)] for i in range(count)]
    for block in blocks_by_hand("bert", network, ids):
        layer = block.module
        maps = (layer.attention.output.dense, (layer.intermediate.dense, layer.output.dense))
        parts = by_loops(block, parts, maps)
    found = decomposed(record_blocks(model, batch.inputs), 2, share_by_dot_product)
    expected = torch.stack([torch.stack(row) for row in parts])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    # Then the head: dense, slope, norm, decoder; each bias shared out on the way.
    head = network.cls.predictions
    row, transform = found[2], head.transform
    for module in (transform.dense, transform.LayerNorm, head.decoder):
        if isinstance(module, Linear):
            row = row @ module.weight.T
        else:
            whole = row.sum(0)
            slope = torch.nn.functional.gelu(whole) / whole
            whole = whole * slope
            assert isinstance(module, LayerNorm)
            row = torch.stack([linear_norm(module, whole, part * slope) for part in row])
        weights = (row @ module.bias).abs()
        row = row + (weights / weights.sum())[:, None] * module.bias
    torch.testing.assert_close(decompx(batch).values[0, :, 0], row[:, 1], rtol=0, atol=1e-9)


def test_a_bias_that_no_part_points_to_is_shared_equally_by_those_that_there_are():
    parts = torch.tensor([[[1.0, 0.0], [2.0, 0.0], [0.0, 0.0]]])
    shared = share_by_dot_product(parts, torch.tensor([0.0, 4.0]))
    torch.testing.assert_close(shared, torch.tensor([[[1.0, 2.0], [2.0, 2.0], [0.0, 0.0]]]))
    shared = share_by_dot_product(parts, torch.tensor([3.0, 0.0]))
    torch.testing.assert_close(shared, torch.tensor([[[2.0, 0.0], [4.0, 0.0], [0.0, 0.0]]]))


def test_both_rules_for_biases_change_the_scores():
    batch = attribution_batch(fresh("bert"))
    found, without = (method(batch).values for method in METHODS)
    assert (found - without).abs().max() > 1e-2


@pytest.mark.parametrize("method", METHODS)
@torch.no_grad()
def test_a_layer_is_the_logit_that_the_head_gives_to_it(method):
    batch = alone(attribution_batch(fresh("bert")), 1)
    states = batch.model.read(batch.inputs, blocks=True).scored
    for layer, state in enumerate((states.embedding, *states.blocks)):
        scores = method(replace(batch, settings=AttributionSettings(layer=layer)))
        expected = batch.model.head(state[0])[batch.readouts[0, 0], batch.targets[0, 0]]
        torch.testing.assert_close(scores.checks["logit"][0, 0], expected)
    if method is decompx:
        assert scores.values.sum() == pytest.approx(float(expected))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"logit_form": "log_probability"}, r"log-probability is no sum .* raw or centered"),
        ({"mixing": "single"}, r"sums over blocks, and mixing is single; use mixing=rolled"),
    ],
)
def test_what_is_no_sum_is_refused(method, settings, message):
    with pytest.raises(ConfigError, match=f"^{method.__name__} .*{message}"):
        method(attribution_batch(fresh("gpt2"), **settings))


@pytest.mark.parametrize("method", METHODS)
def test_a_rule_that_is_left_out_is_an_error(method, monkeypatch):
    """Switched off: activations without slopes."""
    monkeypatch.setattr(
        "dynamics.attribution.decompx.slope", lambda result, value: torch.ones_like(value)
    )
    with pytest.raises(MeasureError, match="block 1, the parts of its output miss it by"):
        method(attribution_batch(fresh("gpt2")))
