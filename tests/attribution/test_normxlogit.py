"""NormXLogit and its factors, computed again from what transformers tells and heads by name."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import gelu
from torch.testing import assert_close

from dynamics.attribution.batch import AttributionBatch
from dynamics.attribution.normxlogit import logit_only, norm_only, normxlogit
from dynamics.attribution.settings import AttributionSettings
from dynamics.errors import ConfigError
from dynamics.models.live_model import Batch
from tests.models.tiny import FINAL_NORMS, LANGUAGE_MODELS, SEQ2SEQ, live

# What each architecture's head is, in the names of its modules.
HEADS = dict.fromkeys(LANGUAGE_MODELS, lambda net, h: net.lm_head(h)) | {
    "bert": lambda net, h: net.cls(h),
    "deberta": lambda net, h: net.cls(h),
    "distilbert": lambda net, h: net.vocab_projector(
        net.vocab_layer_norm(gelu(net.vocab_transform(h)))
    ),
    "electra": lambda net, h: net.generator_lm_head(net.generator_predictions(h)),
    "modernbert": lambda net, h: net.decoder(net.head(h)),
    "gemma2": lambda net, h: 2 * torch.tanh(net.lm_head(h) / 2),
    "t5": lambda net, h: net.lm_head(h * net.config.d_model**-0.5),
    "bart": lambda net, h: net.lm_head(h) + net.final_logits_bias,
}
CLASSIFIER_HEADS = {
    "bert": lambda net, h: net.classifier(net.bert.pooler(h.flatten(0, 1)[:, None])),
    "roberta": lambda net, h: net.classifier(h.flatten(0, 1)[:, None]),
    "llama": lambda net, h: net.score(h.flatten(0, 1)),
}
IDS = torch.tensor([[7, 9, 12, 35, 8, 6], [11, 9, 30, 14, 5, 5]])
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])
PREFIX = torch.tensor([[0, 21, 33, 9], [0, 17, 8, 8]])
PREFIX_MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
READOUTS = torch.tensor([[3, 1], [2, -1]])
TARGETS = torch.tensor([[40, 7], [52, -1]])
FOILS = torch.tensor([[41, -1], [-1, -1]])
NO_FOIL = torch.full((2, 1), -1)
CASES = [
    (name, side)
    for name in LANGUAGE_MODELS
    for side in (("source", "target") if name in SEQ2SEQ else ("source",))
]


class Reference:
    """A language model with two targets of one input and one of another.

    hidden: every state of the tokens that are scored, by transformers.
    """

    def __init__(self, name, side):
        self.model = live(name)
        self.network = self.model.network
        scores_encoder = name in SEQ2SEQ
        self.inputs = Batch(IDS, MASK, None, *((PREFIX, PREFIX_MASK) if scores_encoder else ()))
        self.settings = AttributionSettings(side=side)
        inputs = {"input_ids": IDS, "attention_mask": MASK}
        if scores_encoder:
            inputs |= {"decoder_input_ids": PREFIX, "decoder_attention_mask": PREFIX_MASK}
        with torch.no_grad():
            answer = self.network(**inputs, output_hidden_states=True)
        base, self.weight = self.network.base_model, self.network.get_input_embeddings().weight
        self.ids, self.mask = (PREFIX, PREFIX_MASK) if side == "target" else (IDS, MASK)
        if not scores_encoder:
            self.hidden = answer.hidden_states
        elif side == "source":
            base, self.hidden = base.encoder, answer.encoder_hidden_states
        else:
            base, self.hidden = base.decoder, answer.decoder_hidden_states
        if name == "mamba":  # tells of what each block gives, of the last with and without norm
            self.hidden = (self.weight[IDS], *self.hidden[:-2], self.hidden[-1])
        self.final_norm = FINAL_NORMS.get(name, lambda _: lambda states: states)(base)
        self.head = HEADS[name]

    def batch(self, **settings):
        settings = replace(self.settings, **settings)
        return AttributionBatch(self.model, self.inputs, READOUTS, TARGETS, FOILS, settings)

    @torch.no_grad()
    def logits(self, layer=None, form="raw"):
        """The targets' at each token that is scored, of the first target less its foil's."""
        is_last = layer is None or layer == len(self.hidden) - 1
        states = self.hidden[-1] if is_last else self.final_norm(self.hidden[layer])
        logits = self.head(self.network, states)
        if form == "centered":
            logits = logits - logits.mean(-1, keepdim=True)
        elif form == "log_probability":
            logits = logits.log_softmax(-1)
        first = torch.stack([logits[0, :, 40] - logits[0, :, 41], logits[0, :, 7]], -1)
        second = torch.stack([logits[1, :, 52], torch.full_like(logits[1, :, 0], torch.nan)], -1)
        return torch.stack([first, second])

    def same(self, found, expected):
        """Compare where there are tokens and targets."""
        there = self.mask.bool()
        if found.ndim == 3:
            there = there[:, :, None] & (READOUTS >= 0)[:, None]
        assert_close(found[there], expected[there], rtol=1e-5, atol=1e-5)
        assert expected[there].abs().max() > 0.01


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def reference(request):
    return Reference(*request.param)


def test_the_factors_and_their_product(reference):
    norm, logit = reference.hidden[0].norm(dim=-1), reference.logits()
    found = normxlogit(reference.batch())
    reference.same(found.norm, norm)
    reference.same(found.logit, logit)
    reference.same(found.values, norm[:, :, None] * logit)
    reference.same(logit_only(reference.batch()).values, logit)
    reference.same(norm_only(reference.batch()).values, norm[:, :, None].expand(-1, -1, 2))
    assert not any(each.requires_grad for each in (found.values, found.norm, found.logit))


def test_at_the_read_out_the_logit_is_the_prediction(reference):
    batch = reference.batch()
    if batch.scores_encoder:
        return  # the read-out is no token of the source
    scores = logit_only(batch)
    with torch.no_grad():
        predicted = batch.predictions(batch.read())
    for i, j in ((0, 0), (0, 1), (1, 0)):
        assert_close(scores.values[i, READOUTS[i, j], j], predicted[i, j])


def test_every_layer(reference):
    for layer in range(len(reference.hidden)):
        found = normxlogit(reference.batch(layer=layer))
        reference.same(found.logit, reference.logits(layer))
        reference.same(found.norm, reference.hidden[0].norm(dim=-1))


@pytest.mark.parametrize("form", ["centered", "log_probability"])
def test_logit_forms(form, reference):
    reference.same(logit_only(reference.batch(logit_form=form)).values, reference.logits(form=form))


def test_norm_sources(reference):
    with torch.no_grad():
        rows, mean = reference.weight[reference.ids], reference.weight.mean(0)
    reference.same(norm_only(reference.batch(norm_source="row")).norm, rows.norm(dim=-1))
    reference.same(
        norm_only(reference.batch(norm_source="row_centered")).norm, (rows - mean).norm(dim=-1)
    )
    for layer, states in enumerate(reference.hidden):
        reference.same(
            norm_only(reference.batch(norm_source=f"layer {layer}")).norm, states.norm(dim=-1)
        )


def classified(name, task, **settings):
    """A batch of two inputs with a label each, and the logits of the head for every token."""
    model = live(name, task)
    with torch.no_grad():
        base = model.network.base_model
        answer = base(input_ids=IDS, attention_mask=MASK, output_hidden_states=True)
        logits = CLASSIFIER_HEADS[name](model.network, answer.hidden_states[-1])
    readouts = torch.tensor([[5], [3]] if name == "llama" else [[0], [0]])
    targets = torch.tensor([[0], [0]] if task == "regression" else [[2], [1]])
    batch = AttributionBatch(
        model, Batch(IDS, MASK), readouts, targets, NO_FOIL, AttributionSettings(**settings)
    )
    return batch, logits.unflatten(0, (2, 6)), answer.hidden_states[0].norm(dim=-1)


@pytest.mark.parametrize("name", CLASSIFIER_HEADS)
def test_classifiers_read_every_token_as_if_it_were_the_read_out(name):
    batch, logits, norm = classified(name, "classification")
    found, there = normxlogit(batch), MASK.bool()
    expected = torch.stack([logits[0, :, 2], logits[1, :, 1]])
    assert_close(found.logit[there][:, 0], expected[there], rtol=1e-5, atol=1e-5)
    assert_close(found.values[there][:, 0], (norm * expected)[there], rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        one = [
            batch.model.network(ids[None, mask.bool()]).logits[0]
            for ids, mask in zip(IDS, MASK, strict=True)
        ]
    for i, own in enumerate(one):
        read = batch.readouts[i, 0]
        assert_close(found.logit[i, read, 0], own[batch.targets[i, 0]], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CLASSIFIER_HEADS)
def test_regression_is_the_distance_to_the_read_out(name):
    batch, logits, norm = classified(name, "regression")
    found, there = normxlogit(batch), MASK.bool()
    read = torch.stack([logits[i, batch.readouts[i]] for i in range(2)])
    expected = (logits - read).abs()
    assert_close(found.logit[there], expected[there], rtol=1e-5, atol=1e-5)
    assert_close(found.values[there], (norm[..., None] * expected)[there], rtol=1e-5, atol=1e-5)
    assert max(found.logit[i, batch.readouts[i]].item() for i in range(2)) < 1e-6
    assert expected[there].max() > 0.01


def test_regression_that_reads_the_mean():
    model = live("modernbert_mean", "regression")

    def head(states):
        return model.network.classifier(model.network.head(states))

    with torch.no_grad():
        answer = model.network(IDS, attention_mask=MASK, output_hidden_states=True)
        states, weights = answer.hidden_states[-1], MASK[:, :, None].float()
        mean = (states * weights).sum(1, keepdim=True) / weights.sum(1, keepdim=True)
        assert_close(head(mean)[:, 0], answer.logits)
        expected = (head(states) - head(mean)).abs()
    targets = torch.zeros(2, 1, dtype=torch.long)
    batch = AttributionBatch(model, Batch(IDS, MASK), targets, targets, NO_FOIL)
    there = MASK.bool()
    assert_close(logit_only(batch).values[there], expected[there], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", ["centered", "log_probability"])
def test_a_number_has_no_softmax(form):
    with pytest.raises(ConfigError, match=rf"tiny bert predicts a number.* is raw, not {form}"):
        classified("bert", "regression", logit_form=form)


@pytest.mark.parametrize("source", ["rows", "layer", "layer 3", "layer -1", "layer 1.5", ""])
def test_norm_sources_that_do_not_exist(source):
    with pytest.raises(
        ConfigError,
        match=rf"norm source '{source}' is unknown; it is one of row, row_centered, module_output, "
        "layer N, with N from 0 to 2",
    ):
        norm_only(Reference("gpt2", "source").batch(norm_source=source))
