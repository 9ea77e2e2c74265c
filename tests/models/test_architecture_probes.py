"""What a probe says of an architecture against its source, and against copies edited by hand."""

from copy import deepcopy

import pytest
import torch

from dynamics.models.architecture_probes import probe_architecture
from tests.models.tiny import CAUSAL, MASKED, V, live

# Norm of looked-up rows, norm of the first block, final norm; from the source of each class.
NORMS = {
    **dict.fromkeys(MASKED, ("layer", "none", "layer")),  # positions are added before the first
    **dict.fromkeys(("gpt2", "gpt_neox", "opt"), ("none", "layer", "layer")),
    **dict.fromkeys(("llama", "gemma2", "mamba"), ("none", "rms", "rms")),
    "bloom": ("layer", "layer", "layer"),
}
UNTIED = ("gpt_neox", "llama")


@pytest.mark.parametrize("name", [*CAUSAL, *MASKED])
def test_norms_ties_and_caps_are_those_of_the_source(name):
    embedding, block, final = NORMS[name]
    assert probe_architecture(live(name)) == {
        "embedding_norm": embedding,
        "first_block_norm": block,
        "final_norm": final,
        "tied": name not in UNTIED,
        "logit_softcap": 2.0 if name == "gemma2" else 0.0,
    }


def predictions(network, ids):
    with torch.no_grad():
        return network(ids).logits.log_softmax(-1)


@pytest.mark.parametrize("name", ["gpt_neox", "llama", "gemma2", "bert"])
def test_without_a_cap_a_vector_added_to_every_output_row_changes_no_prediction(name):
    model, ids = live(name), torch.arange(5, 20)[None]
    network = deepcopy(model.network)
    write = network.get_output_embeddings()  # BERT's head has a bias
    vector = torch.randn(write.weight.shape[1], generator=torch.Generator().manual_seed(0))
    write.weight = torch.nn.Parameter(write.weight.detach() + vector)
    change = (predictions(network, ids) - predictions(model.network, ids)).abs().max()
    assert (change < 1e-4) == (probe_architecture(model)["logit_softcap"] == 0)


@pytest.mark.parametrize("cap", [None, 15.0, 50.0])
def test_the_cap_is_the_setting(cap):
    facts = probe_architecture(live("gemma2", final_logit_softcapping=cap))
    assert facts["logit_softcap"] == (cap or 0)


def test_what_a_probe_does_not_decide_is_missing():
    model = live("gpt_neox")
    model.network.lm_head.weight.data.zero_()  # all logits equal: their differences say nothing
    facts = probe_architecture(model)
    assert "logit_softcap" not in facts
    assert facts["first_block_norm"] == "layer"


def test_a_final_norm_that_is_not_there():
    model = live("gpt_neox")
    model.network.gpt_neox.final_layer_norm = torch.nn.Identity()
    assert probe_architecture(model)["final_norm"] == "none"


def test_a_block_that_reads_its_input_itself():
    model = live("llama")
    model.network.model.layers[0].input_layernorm = torch.nn.Identity()
    facts = probe_architecture(model)
    assert (facts["embedding_norm"], facts["first_block_norm"]) == ("none", "none")


def test_the_model_is_left_as_it_was():
    model = live("gpt2")
    tied, before = model.network.lm_head.weight, deepcopy(model.network.state_dict())
    probe_architecture(model)
    assert model.network.transformer.wte.weight is tied is model.network.lm_head.weight
    after = model.network.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert not any(module._forward_hooks for module in model.network.modules())
    assert len(tied) == V
