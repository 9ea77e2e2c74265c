"""Rows of ids are asked what a text with these ids is asked."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dynamics.attribution.attribute import attribute
from dynamics.attribution.from_ids import batch_of_ids
from dynamics.attribution.methods import METHODS
from dynamics.attribution.settings import AttributionSettings
from dynamics.attribution.targets import TargetSpec
from dynamics.errors import ConfigError, MeasureError
from tests.models.tiny import POSITIONS, live

TEXTS = ["the cat sat on the mat", "a very bad film the dog", "the man ran on the dog"]
METHOD_NAMES = ("occlusion", "norm", "logit", "normxlogit", "gradient_x_input", "recency")


def ids_of(model, texts=TEXTS):
    return torch.tensor([model.tokenizer(text)["input_ids"] for text in texts])


@pytest.mark.parametrize("name", ["gpt2", "llama", "mamba"])
@pytest.mark.parametrize("method", METHOD_NAMES)
def test_causal_rows_score_as_their_texts(name, method):
    model, settings = live(name), AttributionSettings(logit_form="log_probability")
    batch = batch_of_ids(model, ids_of(model), settings)
    found = METHODS[method].function(batch).values[:, :, 0]
    for each, expected in zip(
        found, attribute(model, TEXTS, method=method, settings=settings), strict=True
    ):
        np.testing.assert_allclose(each.detach(), expected.scores[:, 0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_the_last_token_of_masked_rows_is_masked(method):
    model = live("bert")
    bare = ids_of(model)[:, :-1]  # without [SEP]: the last token is one of the text
    batch = batch_of_ids(model, bare)
    found = METHODS[method].function(batch).values[:, :, 0].detach()
    # The same rows as texts: a tokenizer that adds [CLS] only gives these ids.
    target_spec = TargetSpec(position=bare.shape[1] - 1)
    model = live("bert")
    whole, backend = model.tokenizer._tokenizer, model.tokenizer._tokenizer.post_processor
    try:
        whole.post_processor = type(backend)(
            single="[CLS] $A", pair="[CLS] $A $B", special_tokens=[("[CLS]", 1)]
        )
        assert torch.equal(ids_of(model), bare)
        for each, expected in zip(
            found, attribute(model, TEXTS, method=method, target_spec=target_spec), strict=True
        ):
            np.testing.assert_allclose(each, expected.scores[:, 0], rtol=1e-5, atol=1e-6)
    finally:
        whole.post_processor = backend


@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_target_is_what_the_model_holds_most_likely(name):
    model = live(name)
    ids = ids_of(model)
    shown = ids.clone()
    if model.task == "masked":
        shown[:, -1] = model.tokenizer.mask_token_id
    batch = batch_of_ids(model, ids)
    with torch.no_grad():
        expected = model.network(shown).logits[:, -1].argmax(-1)
    assert torch.equal(batch.targets[:, 0], expected)
    assert (batch.readouts == ids.shape[1] - 1).all() and (batch.foils == -1).all()


@pytest.mark.parametrize(
    ("name", "task", "ids", "message"),
    [
        ("bert", "classification", [[1, 2]], r"no causal or masked .* classification"),
        ("t5", None, [[1, 2]], "no causal or masked"),
        ("gpt2", None, [[]], r"ids of shape \(1, 0\) hold no token"),
        ("gpt2", None, [[1] * (POSITIONS + 1)], "rows of 41 tokens do not fit the window"),
        ("gpt2", None, [[1, 96]], r"token id 96 is outside .* \(0 to 95\)"),
        ("gpt2", None, [[-1, 3]], "token id -1 is outside"),
    ],
    ids=["labels", "seq2seq", "empty", "long", "high", "low"],
)
def test_rows_that_cannot_be_asked(name, task, ids, message):
    with pytest.raises(ConfigError, match=message):
        batch_of_ids(live(name, task), torch.tensor(ids, dtype=torch.long))


def test_a_masked_model_needs_a_mask():
    model = live("bert")
    object.__setattr__(
        model,
        "tokenizer",
        SimpleNamespace(mask_token_id=None, model_max_length=POSITIONS),
    )
    with pytest.raises(ConfigError, match="the tokenizer of tiny bert has no mask token"):
        batch_of_ids(model, torch.tensor([[1, 2]]))


def test_logits_must_be_finite():
    model = live("gpt2")
    _ = model.head
    with torch.no_grad():
        model.network.transformer.ln_f.weight.fill_(torch.nan)
    with pytest.raises(MeasureError, match="logits that are not finite"):
        batch_of_ids(model, torch.tensor([[1, 2]]))
