"""The worked points of NormXLogit (arXiv 2411.16252) in `protocol="paper"`.

As its released code has them, by hand from transformers' own modules; the texts share a batch.
"""

import numpy as np
import pytest
import torch

from dynamics.attribution.attribute import attribute
from dynamics.attribution.settings import AttributionSettings
from dynamics.attribution.targets import TargetSpec
from tests.models.tiny import live, tokenizer

PAPER = AttributionSettings(protocol="paper")
TEXTS = ["the cat sat on the mat", "a very bad film", "the dog ran not on the mat was good"]
HEADS = {  # of one token's representation, as if it stood first
    "bert": lambda net, h: net.classifier(torch.tanh(net.bert.pooler.dense(h))),
    "roberta": lambda net, h: net.classifier(h[None, None])[0],
}


@pytest.fixture(scope="module", params=HEADS)
def classifier(request):
    """A model, what `attribute` says of the texts, and what transformers says of each alone."""
    model = live(request.param, "classification")
    told = []
    for text in TEXTS:
        ids = torch.tensor([tokenizer(request.param)(text)["input_ids"]])
        with torch.no_grad():
            answer = model.network(ids, output_hidden_states=True)
        told.append(answer)
    found = list(attribute(model, TEXTS, settings=PAPER, batch_size=3))
    assert len({len(each.tokens) for each in found}) > 1
    return request.param, model.network, found, told


def test_the_target_is_the_predicted_class(classifier):
    _, _, found, told = classifier
    for one, answer in zip(found, told, strict=True):
        (target,) = one.targets
        assert target.token_id == answer.logits[0].softmax(-1).argmax()


def test_the_norm_is_that_of_hidden_states_0(classifier):
    _, network, found, told = classifier
    rows = network.get_input_embeddings().weight
    for one, answer in zip(found, told, strict=True):
        np.testing.assert_allclose(one.norm, answer.hidden_states[0][0].norm(dim=-1), rtol=1e-5)
        assert not np.allclose(one.norm, rows[list(one.token_ids)].detach().norm(dim=-1), rtol=0.1)


@torch.no_grad()
def test_the_head_reads_every_token_as_if_it_stood_first(classifier):
    name, network, found, told = classifier
    for one, answer in zip(found, told, strict=True):
        label = one.targets[0].token_id
        logits = [HEADS[name](network, h)[label] for h in answer.hidden_states[-1][0]]
        np.testing.assert_allclose(one.logit[:, 0], logits, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(one.logit[0, 0], answer.logits[0, label], rtol=1e-4)
        np.testing.assert_allclose(one.scores[:, 0], one.norm * one.logit[:, 0], rtol=1e-5)


def test_tokens_are_ranked_by_signed_score_all_but_the_first(classifier):
    _, _, found, _ = classifier
    for one in found:
        length = len(one.tokens)
        order = torch.topk(torch.tensor(one.scores[:, 0]), k=length).indices.tolist()
        assert one.ranking() == [index for index in order if index != 0]
        assert one.special[-1]
        assert length - 1 in one.ranking()
    assert any((one.scores[one.ranking(), 0] < 0).any() for one in found)
    sound = list(attribute(live("bert", "classification"), TEXTS))
    assert all(not one.special[index] for one in sound for index in one.ranking())


@torch.no_grad()
@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_a_given_word_behind_the_mask_is_read_at_every_layer_with_the_norm_of_the_first(name):
    model = live(name)
    text = f"the cat {model.tokenizer.mask_token} on the mat"
    ids = torch.tensor([tokenizer(name)(text)["input_ids"]])
    states = model.network(ids, output_hidden_states=True).hidden_states
    head = model.network.cls if name == "bert" else model.network.lm_head
    given = list(
        attribute(model, [text], target_spec=TargetSpec("sat"), layers="all", settings=PAPER)
    )
    assert [one.layer for one in given] == [*range(len(states))]
    norm = states[0][0].norm(dim=-1)
    for one, hidden in zip(given, states, strict=True):
        (target,) = one.targets
        assert target.token.strip() == "sat"
        logits = head(hidden)[0, :, target.token_id]
        np.testing.assert_allclose(one.scores[:, 0], norm * logits, rtol=1e-4, atol=1e-4)
