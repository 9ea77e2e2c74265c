"""Occlusion against brute force: the model itself, run on other ids, one input at a time."""

import numpy as np
import pytest
import torch

from dynamics.attribution.attribute import attribute
from dynamics.attribution.settings import AttributionSettings
from dynamics.attribution.targets import TargetSpec
from dynamics.errors import ConfigError
from tests.models.tiny import CAUSAL, CLASSIFIERS, MASKED, live

TEXTS = ["the cat sat on the mat", "a dog ran", "not a very bad film was good"]


def occluded(model, texts, settings, **more):
    found = attribute(
        model, texts, method="occlusion", settings=AttributionSettings(**settings), **more
    )
    return [(each.token_ids, each.scores[:, 0], each.targets[0]) for each in found]


@torch.no_grad()
def logits(model, ids):
    ids = torch.tensor([ids])
    answer = model.network(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0]
    return answer[-1] if model.task == "causal" else answer


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("kind", ["delete", "unk"])
def test_causal_models(name, kind):
    model = live(name)
    for ids, scores, target in occluded(model, TEXTS, {"occlude_with": kind}):
        whole = logits(model, ids)
        assert target.token_id == whole.argmax()
        for position in range(len(ids)):
            other = list(ids)
            other[position : position + 1] = (
                [] if kind == "delete" else [model.tokenizer.unk_token_id]
            )
            expected = (whole - logits(model, other))[target.token_id]
            assert scores[position] == pytest.approx(float(expected), abs=2e-5), position


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers_with_the_mean_row(name):
    """The embedding's row is replaced in the weights, behind a token that occurs once."""
    model = live(name, "classification")
    texts = ["cat sat on mat", "dog ran"]
    for ids, scores, target in occluded(model, texts, {"occlude_with": "mean"}):
        whole = logits(model, ids)
        weight = model.embedding_matrix
        for position, token_id in enumerate(ids):
            if ids.count(token_id) > 1 or model.is_encoder_decoder:
                continue  # the decoder of a classifier gets the same token as its encoder
            row = weight[token_id].detach().clone()
            with torch.no_grad():
                mean = weight.double().mean(0)
                weight[token_id] = mean
                expected = (whole - logits(model, ids)).flatten()[target.token_id]
                weight[token_id] = row
            assert scores[position] == pytest.approx(float(expected), abs=2e-5), position


@pytest.mark.parametrize("name", MASKED)
def test_masked_models_with_the_mask(name):
    model = live(name)
    texts = [f"the cat {model.tokenizer.mask_token} on a mat"]
    for ids, scores, target in occluded(model, texts, {}):
        whole = logits(model, ids)[target.position]
        for position in range(len(ids)):
            other = list(ids)
            other[position] = model.tokenizer.mask_token_id
            expected = (whole - logits(model, other)[target.position])[target.token_id]
            assert scores[position] == pytest.approx(float(expected), abs=2e-5), position


def test_a_row_that_is_the_mean_row_already_scores_nothing():
    model = live("gpt_neox")
    cat = model.tokenizer.convert_tokens_to_ids("Ġcat")
    with torch.no_grad():
        for _ in range(60):  # the mean moves with the row
            model.embedding_matrix[cat] = model.embedding_matrix.mean(0)
    ((ids, scores, _),) = occluded(model, ["the cat sat"], {"occlude_with": "mean"})
    assert np.abs(scores[ids.index(cat)]) < 1e-5 < np.abs(scores[0])


def test_the_foil_and_the_form_are_part_of_what_is_explained():
    model = live("gpt_neox")
    ids = model.tokenizer("the cat sat").input_ids
    target_spec = TargetSpec(target="id:30", foil="id:31")
    ((_, scores, _),) = occluded(
        model, ["the cat sat"], {"occlude_with": "delete"}, target_spec=target_spec
    )
    both = logits(model, ids) - logits(model, ids[1:])
    assert scores[0] == pytest.approx(float(both[30] - both[31]), abs=2e-5)
    settings = {"occlude_with": "delete", "logit_form": "log_probability"}
    ((_, scores, _),) = occluded(
        model, ["the cat sat"], settings, target_spec=TargetSpec(target="id:30")
    )
    expected = logits(model, ids).log_softmax(-1) - logits(model, ids[1:]).log_softmax(-1)
    assert scores[0] == pytest.approx(float(expected[30]), abs=2e-5)


def test_messages():
    model = live("gpt_neox")
    with pytest.raises(ConfigError, match="has no mask token to occlude with; mean, delete"):
        occluded(model, ["the cat"], {"occlude_with": "mask"})
    with pytest.raises(ConfigError, match="one token has nothing left"):
        occluded(model, ["the"], {"occlude_with": "delete"})
