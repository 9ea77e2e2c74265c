import sys
from dataclasses import replace

import pytest
import torch
from captum.attr import InputXGradient, IntegratedGradients, Saliency
from torch import nn

from dynamics.attribution import gradients
from dynamics.attribution.attribute import attribute
from dynamics.attribution.batch import AttributionBatch
from dynamics.attribution.gradients import (
    gradient_norm,
    gradient_x_input,
    integrated_gradients,
    looked_up,
    predict,
)
from dynamics.attribution.methods import METHODS
from dynamics.attribution.settings import AttributionSettings
from dynamics.errors import ConfigError
from dynamics.models.live_model import Batch
from tests.models.tiny import live, tokenizer

ALL = pytest.mark.parametrize(
    "method",
    [gradient_norm, gradient_x_input, integrated_gradients],
    ids=lambda each: each.__name__,
)
BY_HAND = [
    ("bert", "masked", "source"),
    ("bert", "classification", "source"),
    ("gpt2", "causal", "source"),
    ("gpt_neox", "causal", "source"),
    ("llama", "causal", "source"),
    ("gemma2", "causal", "source"),
    ("t5", "seq2seq", "source"),
    ("t5", "seq2seq", "target"),
]
OTHERS = [
    ("deberta", "masked", "source"),
    ("electra", "classification", "source"),
    ("modernbert_mean", "classification", "source"),
    ("llama", "classification", "source"),
    ("bloom", "causal", "source"),
    ("mamba", "causal", "source"),
    ("bart", "seq2seq", "target"),
    ("bart", "classification", "source"),
]


def attribution_batch(name, task=None, side="source", dtype=torch.float64, **settings):
    """Two inputs, the second padded, with two targets and one; a contrast among them."""
    model = live(name, task, dtype=dtype)
    ids = torch.tensor([[50, 51, 52, 53, 54], [55, 56, 57, 0, 0]])
    on = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    readouts, targets = torch.tensor([[2, 1], [1, -1]]), torch.tensor([[41, 42], [43, 0]])
    foils = torch.tensor([[-1, 47], [-1, -1]])
    decoder, decoder_on = None, None
    if model.is_encoder_decoder:
        decoder, decoder_on = torch.tensor([[0, 61, 62], [0, 63, 0]]), on[:, 1:4].clone()
        decoder_on[1, 2] = 0
    if task == "classification":
        if model.head.readout == "end_of_sentence":
            ids[0, 4] = ids[1, 2] = model.network.config.eos_token_id
        decoder, decoder_on = (None, None) if decoder is None else (ids, on)
        first = model.head.readout in ("first", "mean")
        readouts = torch.tensor([[0, 0], [0, -1]] if first else [[4, 4], [2, -1]])
        targets, foils = torch.tensor([[0, 1], [2, 0]]), torch.tensor([[-1, 2], [-1, -1]])
    segments = torch.tensor([[0, 0, 0, 1, 1], [0, 1, 1, 0, 0]]) if name == "bert" else None
    inputs = Batch(ids, on, segments, decoder, decoder_on)
    return AttributionBatch(
        model, inputs, readouts, targets, foils, AttributionSettings(side=side, **settings)
    )


def alone(batch, index):
    """One input of a batch without its padding."""
    inputs = batch.inputs.map(lambda tensor: tensor[index : index + 1])
    parts = {}
    for names, mask in (
        (("input_ids", "attention_mask", "token_type_ids"), inputs.attention_mask),
        (("decoder_input_ids", "decoder_attention_mask"), inputs.decoder_attention_mask),
    ):
        for name in names:
            if (part := getattr(inputs, name)) is not None:
                parts[name] = part[:, : int(mask.sum())]
    return replace(batch.select(torch.tensor([index])), inputs=Batch(**parts))


def slope_and_rows(batch, index, target):
    """Gradient of the network's own logit for each token, and what its embedding looks up."""
    one, network = alone(batch, index), batch.model.network
    given = {name: each for name, each in vars(one.inputs).items() if each is not None}
    before = "decoder_" if one.settings.side == "target" else ""
    ids = given.pop(f"{before}input_ids")
    rows = network.get_input_embeddings()(ids).detach().requires_grad_()
    logits = network(**given, **{f"{before}inputs_embeds": rows}).logits[0]
    if logits.dim() > 1:
        logits = logits[one.readouts[0, target]]
    value = logits[one.targets[0, target]]
    if (foil := one.foils[0, target]) >= 0:
        value = value - logits[foil]
    return torch.autograd.grad(value, rows)[0][0], rows.detach()[0]


@pytest.mark.parametrize(("name", "task", "side"), BY_HAND, ids=map("-".join, BY_HAND))
def test_gradients_are_those_of_the_whole_network(name, task, side):
    batch = attribution_batch(name, task, side)
    norm, product = gradient_norm(batch).values, gradient_x_input(batch).values
    for index, target in batch.target_mask.nonzero().tolist():
        slope, rows = slope_and_rows(batch, index, target)
        here = (index, slice(len(rows)), target)
        torch.testing.assert_close(norm[here], slope.norm(dim=-1), rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(product[here], (slope * rows).sum(-1), rtol=1e-6, atol=1e-7)
        assert norm[index, len(rows) :].sum() == 0


@pytest.mark.parametrize(
    ("name", "task", "side"), BY_HAND + OTHERS, ids=map("-".join, BY_HAND + OTHERS)
)
def test_batched_inputs_score_as_one_by_one(name, task, side, monkeypatch):
    monkeypatch.setattr(gradients, "MOST_STEPS", 16)
    batch = attribution_batch(name, task, side, steps=8)
    for method in (gradient_norm, gradient_x_input, integrated_gradients):
        both = method(batch)
        assert both.values.isfinite().all()
        for index in range(2):
            single = method(alone(batch, index))
            size = single.values.shape[1]
            torch.testing.assert_close(
                both.values[index, :size], single.values[0], rtol=1e-4, atol=1e-6
            )
            assert (both.values[index, size:] == 0).all()
            for check, values in single.checks.items():
                found = both.checks[check][index]
                torch.testing.assert_close(found, values[0], rtol=1e-3, atol=1e-5, equal_nan=True)


def network_of_rows(batch):
    """The second input for captum: logits, rows, and what else the network takes."""
    network, inputs = batch.model.network, alone(batch, 1).inputs

    def logits(rows, mask, segments):
        return network(inputs_embeds=rows, attention_mask=mask, token_type_ids=segments).logits

    return logits, inputs.input_ids, (inputs.attention_mask, inputs.token_type_ids)


def test_captum_gives_the_same_gradients():
    batch = attribution_batch("bert", "classification")
    logits, ids, more = network_of_rows(batch)
    rows = batch.model.network.get_input_embeddings()(ids).detach().requires_grad_()
    target = int(batch.targets[1, 0])
    slope = Saliency(logits).attribute(rows, target, abs=False, additional_forward_args=more)
    product = InputXGradient(logits).attribute(rows, target, additional_forward_args=more)
    torch.testing.assert_close(gradient_norm(batch).values[1, :3, 0], slope[0].norm(dim=-1))
    torch.testing.assert_close(gradient_x_input(batch).values[1, :3, 0], product[0].sum(-1))


@pytest.mark.parametrize("made", [False, True], ids=["to_read", "read_before"])
def test_the_paper_embeds_twice_without_segments(made):
    batch = attribution_batch("bert", "classification", protocol="paper")
    if made:
        batch = replace(batch, reading=batch.read())
    logits, ids, (mask, segments) = network_of_rows(batch)
    assert segments.any()
    twice = batch.model.network.bert.embeddings(ids).detach().requires_grad_()
    target, more = int(batch.targets[1, 0]), (mask, torch.zeros_like(segments))
    expected = {
        gradient_norm: Saliency(logits).attribute(twice, target, additional_forward_args=more),
        gradient_x_input: InputXGradient(logits)
        .attribute(twice, target, additional_forward_args=more)
        .abs(),
        integrated_gradients: IntegratedGradients(logits)
        .attribute(twice, target=target, additional_forward_args=more, n_steps=50)
        .abs(),
    }
    for method, each in expected.items():
        found, sound = (
            method(one).values[1, :3, 0]
            for one in (batch, replace(batch, settings=AttributionSettings()))
        )
        torch.testing.assert_close(found, each[0].sum(-1).detach())
        assert not torch.allclose(sound.abs(), found, rtol=0.05)
    assert (integrated_gradients(batch).checks["steps"][batch.target_mask] == 50).all()


def test_embedding_twice_is_embedding_once_where_nothing_is_added():
    batch = attribution_batch("gpt_neox", protocol="paper")
    norm, product = gradient_norm(batch).values, gradient_x_input(batch).values
    for index, target in batch.target_mask.nonzero().tolist():
        slope, rows = slope_and_rows(batch, index, target)
        here = (index, slice(len(rows)), target)
        torch.testing.assert_close(norm[here], slope.abs().sum(-1))
        torch.testing.assert_close(product[here], (slope * rows).abs().sum(-1))


def test_embedding_twice_needs_embeddings_of_the_hidden_size():
    batch = attribution_batch("electra", protocol="paper")
    with pytest.raises(ConfigError, match="output, of size 16, as rows, of size 8; use protocol"):
        gradient_norm(batch)


@ALL
def test_no_input_leaks_into_another(method):
    batch = attribution_batch("gpt2")
    other = batch.with_ids(batch.inputs.input_ids + torch.tensor([[9], [0]]))
    one, two = method(batch).values, method(other).values
    torch.testing.assert_close(one[1], two[1])
    assert not torch.allclose(one[0], two[0], rtol=0.01)


@ALL
def test_callers_may_switch_gradients_off_and_weights_get_none(method):
    batch = attribution_batch("gpt2", steps=4)
    expected = method(batch).values
    with torch.no_grad():
        found = method(batch).values
    assert torch.equal(found, expected)
    assert not found.requires_grad
    weights = list(batch.model.network.parameters())
    assert all(each.requires_grad and each.grad is None for each in weights)


@ALL
def test_half_precision_is_summed_in_single(method):
    low = attribution_batch("gpt_neox", dtype=torch.bfloat16)
    high = attribution_batch("gpt_neox", dtype=torch.bfloat16)
    high.model.network.float()
    found, expected = method(low).values, method(high).values
    assert found.dtype == torch.float32
    assert (found - expected).abs().max() < 0.05 * expected.abs().max()


class SumSquared(nn.Module):
    def forward(self, states):
        return states.cumsum(1).square()


@pytest.fixture
def squares():
    """Logits are the output embedding times the squared sum of rows and positions up to a token."""
    batch = attribution_batch("gpt2", baseline="zero")
    transformer = batch.model.network.transformer
    for block in transformer.h:
        for projection in (block.attn.c_proj, block.mlp.c_proj):
            nn.init.zeros_(projection.weight)
            nn.init.zeros_(projection.bias)
    transformer.ln_f = SumSquared()
    return batch


def closed_form(batch, start):
    """Gradient norm, gradient x input and integrated gradients of the squared sums, by hand."""
    weight = batch.model.embedding_matrix.detach()
    rows = weight[batch.inputs.input_ids]
    positions = batch.model.network.transformer.wpe.weight.detach()[: rows.shape[1]]
    for index, target in batch.target_mask.nonzero().tolist():
        seen = slice(int(batch.readouts[index, target]) + 1)
        chosen = weight[batch.targets[index, target]]
        if (foil := batch.foils[index, target]) >= 0:
            chosen = chosen - weight[foil]
        whole, least = ((each[index] + positions)[seen].sum(0) for each in (rows, start))
        mine, way = rows[index, seen], (rows - start)[index, seen]
        slope = 2 * chosen * whole
        yield (
            (index, seen, target),
            slope.norm().expand(len(mine)),
            mine @ slope,
            way @ (chosen * (whole + least)),
        )


def test_closed_form_of_a_quadratic_model(squares):
    norm, product = gradient_norm(squares).values, gradient_x_input(squares).values
    one_step = replace(squares, settings=AttributionSettings(baseline="zero", steps=1))
    integrated = integrated_gradients(one_step)
    start = torch.zeros_like(looked_up(squares))
    for here, *expected in closed_form(squares, start):
        for found, own in zip((norm, product, integrated.values), expected, strict=True):
            torch.testing.assert_close(found[here], own)
    assert (integrated.checks["steps"][squares.target_mask] == 1).all()
    assert (integrated.checks["completeness_delta"][squares.target_mask] < 1e-6).all()
    unseen = ~squares.visible & squares.target_mask[:, None]
    assert (norm[unseen] == 0).all()


def test_special_tokens_keep_their_rows(squares):
    """GPT-2's end of text is its unknown token as well, and special."""
    ids = squares.inputs.input_ids.clone()
    ids[0, 1] = 0
    batch = squares.with_ids(ids)
    start = torch.zeros_like(looked_up(batch))
    start[0, 1] = batch.model.embedding_matrix[0].detach()
    found = integrated_gradients(batch).values
    for here, *_, expected in closed_form(batch, start):
        torch.testing.assert_close(found[here], expected)
    assert (found[0, 1] == 0).all()


def test_an_unknown_word_is_no_special_token():
    batch = attribution_batch("bert")
    ids = batch.inputs.input_ids.clone()
    special = batch.model.tokenizer
    ids[0, :3] = torch.tensor([special.cls_token_id, special.unk_token_id, special.sep_token_id])
    found = integrated_gradients(batch.with_ids(ids)).values[0, :, 0]
    assert (found == 0).tolist() == [True, False, True, False, False]


@pytest.mark.parametrize("baseline", ["zero", "pad", "mask"])
def test_integrated_gradients_sum_to_the_change_of_the_prediction(baseline):
    batch = attribution_batch("bert", baseline=baseline, steps=1)
    scores = integrated_gradients(batch)
    start = looked_up(batch)
    token = getattr(batch.model.tokenizer, f"{baseline}_token_id", None)
    row = 0.0 if token is None else batch.model.embedding_matrix[token].detach()
    start[batch.token_mask] = row
    with torch.no_grad():
        change = batch.predictions(batch.read()) - predict(batch, start)
    delta = (scores.values.sum(1) / change - 1).abs()[batch.target_mask]
    assert (delta <= 0.05).all()
    found = scores.checks["completeness_delta"]
    torch.testing.assert_close(found[batch.target_mask], delta, rtol=1e-3, atol=1e-6)
    assert found[~batch.target_mask].isnan().all()


@pytest.mark.parametrize(
    ("tokens", "chosen"), [("bert", "mask"), ("gemma2", "pad"), ("gpt2", "zero")]
)
def test_auto_is_the_first_baseline_that_the_tokenizer_has(tokens, chosen):
    batch = attribution_batch("gpt_neox", steps=8)
    model = replace(batch.model, tokenizer=tokenizer(tokens))
    named, auto = (
        integrated_gradients(
            replace(batch, model=model, settings=AttributionSettings(baseline=each))
        ).values
        for each in (chosen, "auto")
    )
    assert torch.equal(named, auto)


def test_steps_are_doubled_only_until_the_sum_is_complete(monkeypatch):
    monkeypatch.setattr(gradients, "MOST_STEPS", 24)
    batch = attribution_batch("llama", baseline="zero", steps=1)
    found = integrated_gradients(batch)
    steps, delta = found.checks["steps"], found.checks["completeness_delta"]
    assert steps[1, 1].isnan()
    for index, target in batch.target_mask.nonzero().tolist():
        taken = int(steps[index, target])
        assert taken in (1, 2, 4, 8, 16, 24)
        assert delta[index, target] <= 0.05 or taken == 24
        fewer = replace(
            batch, settings=AttributionSettings(baseline="zero", steps=(taken + 1) // 2)
        )
        if taken > 1:
            monkeypatch.setattr(gradients, "MOST_STEPS", (taken + 1) // 2)
            stopped = integrated_gradients(fewer).checks["completeness_delta"]
            assert stopped[index, target] > 0.05
        monkeypatch.setattr(gradients, "MOST_STEPS", 24)
    assert steps[batch.target_mask].max() > 1


def test_few_rows_at_once_change_nothing(monkeypatch):
    batch = attribution_batch("gpt2")
    expected, sizes = integrated_gradients(batch).values, []
    monkeypatch.setattr(gradients, "POSITIONS_AT_ONCE", 30)
    block = batch.model.network.transformer.h[0]
    with block.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0]))):
        found = integrated_gradients(batch).values
    torch.testing.assert_close(found, expected)
    assert max(sizes) == 6


@pytest.mark.parametrize("baseline", ["mask", "pad"])
def test_a_baseline_token_that_does_not_exist_is_named(baseline):
    with pytest.raises(ConfigError, match=rf"tiny gpt2: the tokenizer has no {baseline} token"):
        integrated_gradients(attribution_batch("gpt2", baseline=baseline))


def test_no_steps_are_refused():
    with pytest.raises(ConfigError, match="need at least 1 step, steps is 0"):
        integrated_gradients(attribution_batch("gpt2", steps=0))


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    message = r"needs captum: pip install 'pretraining-dynamics\[attribution\]'"
    with pytest.raises(ConfigError, match=message):
        integrated_gradients(attribution_batch("gpt2"))


@pytest.mark.parametrize("name", ["gradient_norm", "gradient_x_input", "integrated_gradients"])
def test_texts_are_explained(name):
    model = live("bert", "classification")
    short, long = attribute(model, ["bad film", "the film was not very good"], method=name)
    (single,) = attribute(model, ["bad film"], method=name, batch_size=1)
    torch.testing.assert_close(
        torch.tensor(short.scores), torch.tensor(single.scores), rtol=1e-3, atol=1e-5
    )
    assert (long.scores[1:-1] != 0).all()
    integrates = METHODS[name].function is integrated_gradients
    assert set(short.checks) == ({"completeness_delta", "steps"} if integrates else set())
