from dataclasses import replace

import pytest
import torch

from dynamics.attribution.alti import PARTS, alti, alti_logit
from dynamics.attribution.settings import AttributionSettings
from dynamics.errors import ConfigError, MeasureError
from tests.attribution.batches import alone, attribution_batch
from tests.attribution.blocks_by_hand import (
    FAMILIES,
    POST_NORM,
    blocks_by_hand,
    linear_norm,
    network_of,
)
from tests.attribution.golden_models import IDS, assert_golden, golden_batch, golden_model
from tests.models import tiny
from tests.models.test_block_parts import IMPLEMENTATIONS, fresh

PRE_NORM = [name for name in FAMILIES if name not in POST_NORM]
# Of the reference, whose distance adds 1e-6 to each feature.
SHIFT = 1e-6
GOLDEN = {
    ("gpt2", 1, "rolled_out"): [0.126792, 0, 0, 0.081016, 0.792192],
    ("gpt2", None, "rolled_out"): [0.302796, 0.107039, 0.035741, 0.154562, 0.399861],
    ("bert", 1, "single"): [0, 0, 0.974523, 0, 0.025477],
    ("bert", 2, "single"): [0.024879, 0.005544, 0.916118, 0.025764, 0.027695],
    ("bert", None, "rolled_out"): [0.024879, 0.005393, 0.893004, 0.025764, 0.050960],
}


def states_by_hand(block):
    """The state after attention, and the vector of each position j in that of each i."""
    added = block.output(block.mean_of_values())
    whole = block.x + (block.output_norm(added) if block.output_norm else added)
    state = block.sum_norm(whole) if block.sum_norm else whole
    count = len(block.x)
    terms = torch.zeros(count, count, block.x.shape[1], dtype=torch.float64)
    for i in range(count):
        for j in range(count):
            heads = zip(block.attention, block.values, strict=True)
            term = block.weight @ torch.cat([head[i, j] * v[j] for head, v in heads])
            if block.output_norm:
                term = linear_norm(block.output_norm, added[i], term)
            term = term + block.x[i] if i == j else term
            terms[i, j] = linear_norm(block.sum_norm, whole[i], term) if block.sum_norm else term
    return state, terms


def contributions_by_hand(block, shift=0.0):
    state, terms = states_by_hand(block)
    mixing = torch.eye(len(state), dtype=torch.float64)
    for i in range(len(state)):
        near = [
            max(0, float(state[i].abs().sum() - (term - state[i] + shift).abs().sum()))
            for term in terms[i]
        ]
        if sum(near):
            mixing[i] = torch.tensor(near) / sum(near)
    return mixing


def rolled_by_hand(blocks, shift=0.0):
    rolled = torch.eye(len(blocks[0].x), dtype=torch.float64)
    for block in blocks:
        rolled = contributions_by_hand(block, shift) @ rolled
    return rolled


@pytest.mark.parametrize(("name", "layer", "mixing"), GOLDEN)
@torch.no_grad()
def test_golden_numbers(name, layer, mixing):
    expected = GOLDEN[name, layer, mixing]
    found = alti(golden_batch(name, layer=layer, mixing=mixing)).values[0, :, 0]
    torch.testing.assert_close(found, torch.tensor(expected).double(), rtol=0, atol=1e-5)
    # With the shift of the reference they agree in all six digits.
    blocks = blocks_by_hand(name, golden_model(name).network, IDS)[:layer]
    blocks = blocks[-1:] if mixing == "single" else blocks
    readout = 2 if name == "bert" else 4
    assert_golden(rolled_by_hand(blocks, SHIFT)[readout], expected)
    torch.testing.assert_close(found, rolled_by_hand(blocks)[readout], rtol=0, atol=1e-7)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_it_is_the_nearness_of_each_vector(name, implementation):
    batch = alone(attribution_batch(fresh(name, implementation)), 0)
    batch = replace(batch, inputs=replace(batch.inputs, token_type_ids=None))
    found = alti(batch)
    blocks = blocks_by_hand(name, batch.model.network, batch.inputs.input_ids)
    rolled = rolled_by_hand(blocks)
    for target, readout in enumerate(batch.readouts[0].tolist()):
        torch.testing.assert_close(found.values[0, :, target], rolled[readout], rtol=0, atol=1e-5)
    torch.testing.assert_close(found.values.sum(1), torch.ones(1, 2).double())
    if name not in POST_NORM:  # causal: later tokens have exactly no part
        assert (found.values[0, 3:] == 0).all()


def test_rows_without_contributions_are_counted():
    """A value that turns the state around: nothing is nearer to it than zero is."""
    model = fresh("gpt2")
    block = model.network.transformer.h[0]
    with torch.no_grad():
        block.attn.c_proj.weight.zero_()
        block.attn.c_proj.bias.fill_(1e4)
        model.network.transformer.wte.weight.copy_(-model.network.transformer.wte.weight.abs())
        model.network.transformer.wpe.weight.zero_()
    batch = alone(attribution_batch(model, layer=1), 1)
    scores = alti(batch)
    assert scores.checks["empty_rows"][0, 0] == 3
    torch.testing.assert_close(scores.values[0, :, 0], torch.tensor([0, 1, 0]).double())


class TestLogit:
    def test_golden_numbers(self):
        scores = alti_logit(golden_batch("gpt2"))
        shares = scores.values[0, :, 0]
        expected = [-0.017436, 0.039091, -0.015212, 0.020919, -0.020495]
        torch.testing.assert_close(shares, torch.tensor(expected).double(), rtol=0, atol=1e-5)
        parts = {name: float(scores.checks[name]) for name in (*PARTS, "logit")}
        assert parts == pytest.approx(
            {
                "initial": 0.140287,
                "feed_forward": 0.564095,
                "attention_bias": -0.023892,
                "final_bias": -0.002817,
                "logit": 0.684541,
            },
            abs=1e-6,
        )
        assert float(shares.sum()) == pytest.approx(0.006867, abs=1e-6)

    def test_golden_numbers_of_a_contrast(self):
        found = alti_logit(golden_batch("gpt2", foil=5)).values[0, :, 0]
        expected = [-0.114203, 0.009609, -0.097983, 0.031983, -0.137289]
        torch.testing.assert_close(found, torch.tensor(expected).double(), rtol=0, atol=1e-5)

    @pytest.mark.parametrize("form", ["raw", "centered"])
    @pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
    @pytest.mark.parametrize("name", [*PRE_NORM, "gpt_neox_sequential"])
    @torch.no_grad()
    def test_shares_by_hand_and_parts_that_sum_to_the_logit(self, name, implementation, form):
        batch = attribution_batch(fresh(name, implementation), logit_form=form)
        network = batch.model.network
        scores = alti_logit(batch)
        base = network_of(name, network)
        norm = (tiny.FINAL_NORMS | {"olmo2": tiny.FINAL_NORMS["llama"]})[
            name.removesuffix("_sequential")
        ](base)
        for index, target in batch.target_mask.nonzero().tolist():
            ids = alone(batch, index).inputs.input_ids
            readout = int(batch.readouts[index, target])
            blocks = blocks_by_hand(name, network, ids)
            last = []
            with norm.register_forward_pre_hook(lambda _, args, last=last: last.append(args[0])):
                logits = network(ids).logits[0, readout]
            cap = getattr(network.config, "final_logit_softcapping", None)
            logits = cap * (logits / cap).atanh() if cap else logits
            weight = network.get_output_embeddings().weight
            token, foil = int(batch.targets[index, target]), int(batch.foils[index, target])
            subtracted = weight.mean(0) if form == "centered" else torch.zeros_like(weight[0])
            direction = weight[token] - (weight[foil] if foil >= 0 else subtracted)
            mean = logits.mean() if form == "centered" else 0
            logit = logits[token] - (logits[foil] if foil >= 0 else mean)
            expected = torch.zeros(ids.shape[1], dtype=torch.float64)
            below = torch.eye(len(expected), dtype=torch.float64)
            for block in blocks:
                whole = block.output(block.mean_of_values())[readout]
                shares = []
                for j in range(len(expected)):
                    heads = zip(block.attention, block.values, strict=True)
                    vector = block.weight @ torch.cat([h[readout, j] * v[j] for h, v in heads])
                    if block.output_norm:
                        vector = linear_norm(block.output_norm, whole, vector)
                    shares.append(direction @ linear_norm(norm, last[0][0, readout], vector))
                expected += torch.stack(shares) @ below
                below = contributions_by_hand(block) @ below
            found = scores.values[index, : len(expected), target]
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
            first = linear_norm(norm, last[0][0, readout], blocks[0].x[readout])
            initial = scores.checks["initial"][index, target]
            torch.testing.assert_close(initial, direction @ first, rtol=0, atol=1e-5)
            total = found.sum() + sum(scores.checks[part][index, target] for part in PARTS)
            torch.testing.assert_close(total, logit, rtol=0, atol=1e-5)
            torch.testing.assert_close(
                scores.checks["logit"][index, target], logit, rtol=0, atol=1e-5
            )
        assert scores.checks["logit"][~batch.target_mask].isnan().all()

    @pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "llama", "gemma2"])
    def test_labels_are_shared_out_too(self, name):
        model = tiny.live(name, "classification", dtype=torch.float64, large_weights=True)
        batch = attribution_batch(model)
        scores = alti_logit(batch)
        parts = sum(scores.checks[part] for part in PARTS)
        total = (scores.values.sum(1) + parts)[batch.target_mask]
        own = batch.predictions(batch.read())[batch.target_mask]
        torch.testing.assert_close(total, own, rtol=0, atol=1e-5)

    def test_a_layer_is_the_logit_that_the_head_gives_to_it(self):
        batch = attribution_batch(fresh("gpt2"))
        states = batch.model.read(batch.inputs, blocks=True).scored
        for layer in range(3):
            scores = alti_logit(replace(batch, settings=AttributionSettings(layer=layer)))
            lens = batch.model.head(batch.model.stack().as_final(states, layer)[0])
            for target in range(2):
                logits = lens[batch.readouts[0, target]]
                foil = int(batch.foils[0, target])
                logit = logits[batch.targets[0, target]] - (logits[foil] if foil >= 0 else 0)
                parts = sum(scores.checks[part][0, target] for part in PARTS)
                total = scores.values[0, :, target].sum() + parts
                torch.testing.assert_close(total, logit, rtol=0, atol=1e-9)
        assert (alti_logit(replace(batch, settings=AttributionSettings(layer=0))).values == 0).all()

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"logit_form": "log_probability"}, r"log-probability is no sum .* raw or centered"),
            ({"mixing": "single"}, r"sums over blocks, and mixing is single; use mixing=rolled"),
        ],
    )
    def test_what_is_no_sum_is_refused(self, settings, message):
        with pytest.raises(ConfigError, match=f"^alti_logit .*{message}"):
            alti_logit(attribution_batch(fresh("gpt2"), **settings))

    def test_a_head_that_is_not_linear_is_refused(self):
        model = fresh("gpt2")
        head = model.network.lm_head
        head.forward = lambda value, run=head.forward: run(value).exp()
        with pytest.raises(ConfigError, match="its head is not one linear map"):
            alti_logit(attribution_batch(model))

    def test_logits_that_are_scaled_behind_the_head_are_refused(self):
        model = fresh("llama")
        network, run = model.network, model.network.forward

        def scaled(*args, **more):
            output = run(*args, **more)
            output.logits = output.logits * 2
            return output

        network.forward = scaled
        with pytest.raises(ConfigError, match="not one linear map behind which a cap alone may"):
            alti_logit(attribution_batch(model))

    def test_shares_that_miss_the_logit_are_refused(self, monkeypatch):
        """Switched off: without the norm's divisor the parts are those of another logit."""
        from dynamics.models.frozen_maps import FrozenNorm

        monkeypatch.setattr(FrozenNorm, "__call__", lambda norm, parts, rows=None: parts)
        with pytest.raises(MeasureError, match="parts of alti_logit miss the logit by"):
            alti_logit(attribution_batch(fresh("gpt2")))
