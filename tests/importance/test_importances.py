"""Every importance against the model run by hand, one context at a time."""

import copy
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
import transformers as hf

from dynamics.attribution.attribute import attribute
from dynamics.errors import CheckpointError, ConfigError, MeasureError
from dynamics.importance import importances as module
from dynamics.importance.importances import (
    IMPORTANCES,
    check_importances,
    choose_importances,
    forwards_per_context,
    measure_contexts,
    measure_importances,
)
from dynamics.importance.probes import ProbeSet, sample_probes
from dynamics.models.live_model import LiveModel
from tests.models import tiny
from tests.probe_settings import probe_settings

MODELS = {
    "gpt_neox": {},
    "llama": {"tie_word_embeddings": True},
    "bert": {},
    "opt": {},
    "gemma2": {},  # scales what it looks up, and caps its logits
}
OCCLUSIONS = [name for name in IMPORTANCES if name.startswith("occlusion")]


@cache
def live(name):
    return tiny.live(name, **MODELS.get(name, {}))


@pytest.fixture(scope="module")
def probes(corpus):
    counts = np.bincount(corpus.ravel(), minlength=tiny.V)
    settings = probe_settings(strata=2, tokens_per_stratum=1, contexts=3, length=12)
    return sample_probes(corpus, counts, counts >= 10, settings)


@cache
def equalized(model):
    """A copy of the model whose input rows, and they alone, have the mean norm."""
    network = copy.deepcopy(model.network)
    embedding = network.get_input_embeddings()
    weight = embedding.weight.detach()
    norms = weight.norm(dim=1)
    weight = weight * (norms[entries(model)].mean() / norms)[:, None]
    embedding.weight = torch.nn.Parameter(weight)
    return network


def entries(model):
    return sorted(set(model.tokenizer.get_vocab().values()))


def measured(model, probes, names, counts=None):
    """With mean row and mean norm of the rows that the tokenizer has an entry for."""
    known = np.isin(np.arange(len(model.embedding_matrix)), entries(model))
    return measure_contexts(model, probes, names, counts, known)


def put(network, ids, position, row):
    """Logits with a row of the embedding's own units in one place."""
    embedding = network.get_input_embeddings()
    scale = getattr(embedding, "embed_scale", 1.0)

    def hook(module, inputs, answer):
        answer = answer.clone()
        answer[0, position] = row * scale
        return answer

    handle = embedding.register_forward_hook(hook)
    try:
        return network(ids[None]).logits[0]
    finally:
        handle.remove()


def kl(before, after):
    before, after = before.double().log_softmax(-1), after.double().log_softmax(-1)
    return (before.exp() * (before - after)).sum(-1)


@torch.no_grad()
def by_hand(model, name, ids, position, other):
    """An importance of one context, from whole models with changed embeddings."""
    ids = torch.tensor(ids)
    shown, at, wanted = ids.clone(), position, ids[position + 1]
    if model.task == "masked":
        shown[position + 1], at = model.tokenizer.mask_token_id, position + 1
    if name == "surprisal":
        if model.task == "masked":
            shown = ids.clone()
            shown[position], at = model.tokenizer.mask_token_id, position
        else:
            at = position - 1
        return -model.network(shown[None]).logits[0, at].double().log_softmax(-1)[ids[position]]
    network = model.network
    if "norm_matched" in name:
        network = equalized(model)
        row = network.get_input_embeddings().weight[other]
    else:
        row = network.get_input_embeddings().weight[entries(model)].mean(0)
    before, after = network(shown[None]).logits[0], put(network, shown, position, row)
    if name == "occlusion_loss":
        losses = [-each[at].double().log_softmax(-1)[wanted] for each in (before, after)]
        return losses[1] - losses[0]
    if name.endswith("later"):
        return kl(before, after)[position : len(ids) - 1].sum()
    return kl(before[at], after[at])


@pytest.mark.parametrize("architecture", MODELS)
def test_it_is_what_a_changed_model_gives_by_hand(architecture, probes):
    model = live(architecture)
    names = [name for name in ("surprisal", *OCCLUSIONS) if model.task in IMPORTANCES[name].tasks]
    for name, found in measured(model, probes, names).items():
        expected = [
            by_hand(model, name, *each).item()
            for each in zip(probes.ids, probes.positions, probes.replacements, strict=True)
        ]
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-6, err_msg=name)
        assert np.ptp(found) > 0


@pytest.mark.parametrize(
    ("architecture", "method"),
    [("gpt_neox", "normxlogit"), ("llama", "gradient_x_input"), ("llama", "occlusion")],
)
def test_attribution_is_that_of_a_text_of_these_tokens(architecture, method, probes, monkeypatch):
    model = live(architecture)
    names = [f"attribution_{method}"]
    found = measured(model, probes, names)
    assert ("attribution_normxlogit_norm" in found) == (method == "normxlogit")
    for at, (ids, position) in enumerate(zip(probes.ids, probes.positions, strict=True)):
        with monkeypatch.context() as patched:  # no text has exactly these ids
            patched.setattr("dynamics.attribution.attribute.encode", as_ids)
            (made,) = attribute(model, [" ".join(map(str, ids))], method=method)
        expected = {"": made.scores}
        if method == "normxlogit":
            expected |= {"_norm": made.norm[:, None], "_logit": made.logit}
        for suffix, scores in expected.items():
            value = found[names[0] + suffix][at]
            assert value == pytest.approx(abs(scores[position, 0]), rel=1e-4, abs=1e-7)


def as_ids(model, text):
    from dynamics.attribution.inputs import Input, Tokens

    ids = [int(each) for each in text.split()]
    return Input(text, Tokens(ids, [False] * len(ids), [*range(len(ids))]))


@torch.no_grad()
def test_attribution_in_a_masked_model_is_for_the_end_of_the_context(probes):
    model = live("bert")
    names = ["attribution_normxlogit"]
    found = measured(model, probes, names)
    for at, (ids, position) in enumerate(zip(probes.ids, probes.positions, strict=True)):
        shown = torch.tensor(ids)
        shown[-1] = model.tokenizer.mask_token_id
        answer = model.network(shown[None], output_hidden_states=True)
        norm = answer.hidden_states[0][0, position].norm().item()
        logit = answer.logits[0, position, answer.logits[0, -1].argmax()].abs().item()
        assert found["attribution_normxlogit_norm"][at] == pytest.approx(norm, rel=1e-5)
        assert found["attribution_normxlogit_logit"][at] == pytest.approx(logit, rel=1e-4)
        assert found["attribution_normxlogit"][at] == pytest.approx(norm * logit, rel=1e-4)


@pytest.mark.parametrize("architecture", ["gpt_neox", "bert"])
def test_what_does_not_change_is_exactly_0(architecture, probes):
    model = tiny.live(architecture)
    with torch.no_grad():
        model.embedding_matrix[:] = model.embedding_matrix[5]
    fitting = [name for name in OCCLUSIONS if model.task in IMPORTANCES[name].tasks]
    for name, values in measured(model, probes, fitting).items():
        assert (values == 0).all(), name


def test_a_token_replaced_by_itself_is_exactly_0(probes):
    same = replace(probes, replacements=probes.token_ids)
    names = ["occlusion_norm_matched", "occlusion_norm_matched_later"]
    for values in measured(live("llama"), same, names).values():
        assert (values == 0).all()


def test_norms_have_no_part_in_what_is_norm_matched(probes):
    model, scaled = tiny.live("gpt_neox"), tiny.live("gpt_neox")
    names = ["occlusion", "occlusion_norm_matched"]
    factors = 0.2 + 3 * torch.rand(tiny.V, 1, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        norms = scaled.embedding_matrix.norm(dim=1)
        weight = scaled.embedding_matrix
        weight *= factors
        known = entries(model)
        weight /= weight.norm(dim=1)[known].mean() / norms[known].mean()
    before, after = (measured(each, probes, names) for each in (model, scaled))
    np.testing.assert_allclose(after[names[1]], before[names[1]], rtol=1e-3, atol=1e-6)
    assert np.abs(np.log(after[names[0]] / before[names[0]])).max() > 0.1


def test_only_the_input_of_a_tied_model_is_changed(probes):
    model = tiny.live("llama", tie_word_embeddings=True)
    before = {name: each.clone() for name, each in model.network.state_dict().items()}
    measured(model, probes, ["all"])
    assert all(torch.equal(each, before[name]) for name, each in model.network.state_dict().items())
    assert model.network.lm_head.weight is model.network.model.embed_tokens.weight


def test_rows_without_an_entry_have_no_part_in_the_mean(probes):
    model, padded = live("gpt_neox"), tiny.live("gpt_neox")
    beyond = sorted({*range(tiny.V)} - {*entries(model)})
    assert beyond
    with torch.no_grad():
        padded.embedding_matrix[beyond] = 100
    inside = ProbeSet(*(np.minimum(each, len(entries(model)) - 1) for each in parts(probes)))
    names = ["occlusion", "occlusion_norm_matched"]
    expected, everything = measured(model, inside, names), measure_contexts(padded, inside, names)
    for name, values in measured(padded, inside, names).items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-5)
        assert not np.allclose(values, everything[name], rtol=1e-3)


def parts(probes):
    return probes.ids, probes.positions, probes.replacements, probes.halves


def test_a_row_of_zeros_stays_one(probes):
    model = tiny.live("gpt_neox")
    with torch.no_grad():
        model.embedding_matrix[probes.token_ids[0]] = 0
    assert np.isfinite(measured(model, probes, ["all"])["occlusion_norm_matched"]).all()


def test_it_does_not_matter_what_runs_together(probes, monkeypatch):
    model = live("gpt_neox")
    whole = measured(model, probes, ["all"])
    monkeypatch.setattr(module, "IDS_AT_ONCE", 24)
    for name, values in measured(model, probes, ["all"]).items():
        np.testing.assert_allclose(values, whole[name], rtol=1e-4, atol=2e-6)


class MixesInputs(hf.GPT2LMHeadModel):
    """Each input gets something of the others that are in the batch; alone it is as it is."""

    def forward(self, *args, **kwargs):
        answer = super().forward(*args, **kwargs)
        answer.logits = (answer.logits + answer.logits.mean(0)) / 2
        return answer


@pytest.mark.parametrize("name", ["occlusion", "occlusion_norm_matched", "surprisal"])
def test_a_network_that_mixes_inputs_gives_what_it_gives_alone(name, probes):
    network = MixesInputs(tiny.CONFIGS["gpt2"]()).eval()
    model = LiveModel(network, tiny.tokenizer("gpt2"), "causal", "mixes")
    assert model.batching == "one_by_one"
    contexts = zip(probes.ids, probes.positions, probes.replacements, strict=True)
    expected = [by_hand(model, name, *each) for each in contexts]
    found = measured(model, probes, [name])[name]
    np.testing.assert_allclose(found, torch.stack(expected), rtol=2e-4, atol=2e-6)


class AddsToWhatItReads(hf.GPT2LMHeadModel):
    """The last logits are not what the head gives, where a context holds a token."""

    def forward(self, input_ids=None, **kwargs):
        answer = super().forward(input_ids, **kwargs)
        if input_ids is not None and (input_ids == 6).any():
            answer.logits = answer.logits + 1
        return answer


def test_a_head_that_does_not_give_the_logits_of_these_contexts_is_refused(probes):
    network = AddsToWhatItReads(tiny.CONFIGS["gpt2"]()).eval()
    model = LiveModel(network, tiny.tokenizer("gpt2"), "causal", "adds")
    with pytest.raises(CheckpointError, match="adds: its head, applied to one representation, doe"):
        measured(model, probes, ["occlusion"])


@pytest.mark.parametrize("number", [50256, 10**6])
def test_special_tokens_of_a_larger_vocabulary_change_nothing(number, probes):
    defaults = tiny.live("gpt2", eos_token_id=number, bos_token_id=number)
    names = ["occlusion", "surprisal", "attribution_normxlogit"]
    for name, values in measured(defaults, probes, names).items():
        expected = measured(tiny.live("gpt2"), probes, [name])[name]
        np.testing.assert_array_equal(values, expected)


def test_the_table_has_means_and_the_means_of_both_halves(probes):
    model = live("gpt_neox")
    table = measure_importances(model, probes, ["surprisal"])
    values = measured(model, probes, ["surprisal"])["surprisal"]
    assert list(table) == [
        *("token_id", "contexts", "surprisal", "surprisal_half_1", "surprisal_half_2")
    ]
    for at, token in enumerate(table["token_id"]):
        of = probes.token_ids == token
        here = values[of]
        assert table["contexts"][at] == len(here)
        assert table["surprisal"][at] == pytest.approx(here.mean())
        for half in (0, 1):
            expected = values[of & (probes.halves == half)].mean()
            assert table[f"surprisal_half_{half + 1}"][at] == pytest.approx(expected)


def test_the_same_again_is_the_same_bits(probes):
    first, again = (measured(live("bert"), probes, ["all"]) for _ in range(2))
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])


def test_all_is_what_fits():
    causal, masked = (choose_importances(["all"], live(name)) for name in ("llama", "bert"))
    attributions = [f"attribution_{each}" for each in ("normxlogit", "gradient_x_input")]
    factors = ["attribution_normxlogit_norm", "attribution_normxlogit_logit"]
    assert causal == [*OCCLUSIONS, "surprisal", *attributions, *factors]
    assert masked == [name for name in causal if not name.endswith("_later")]
    assert choose_importances(["all", "attribution_recency"], live("bert")) == [
        *masked[:-2], "attribution_recency", *factors,
    ]  # fmt: skip
    assert choose_importances(["surprisal", "occlusion", "surprisal"]) == ["occlusion", "surprisal"]


def test_cost_is_counted_in_passes_that_are_shared(probes, monkeypatch):
    model = live("gpt_neox")
    passed = []
    read = type(model).read
    monkeypatch.setattr(
        type(model), "read", lambda *given, **more: passed.append(1) or read(*given, **more)
    )
    for names in (["occlusion", "occlusion_loss"], ["all"], ["surprisal"]):
        passed.clear()
        measured(model, probes, names)
        assert len(passed) == forwards_per_context(names, probes.length)
    assert forwards_per_context(["attribution_occlusion"], 64) == 65


@pytest.mark.parametrize(
    ("architecture", "task", "names", "message"),
    [
        ("gpt_neox", None, ["oclusion"], "there is no importance 'oclusion'; did you mean 'occl"),
        ("bert", None, ["occlusion_later"], "occlusion_later does not fit .* for causal language"),
        ("bert", "classification", ["surprisal"], "surprisal does not fit .* is classification"),
        ("t5", None, ["all"], "no importance fits tiny t5, whose task is seq2seq"),
        ("mamba", None, ["attribution_cp_lrp"], "attribution_cp_lrp does not fit .* scan over"),
        ("gpt_neox", None, ["attribution_inverse_log_frequency"], "needs the counts"),
    ],
)
def test_what_does_not_fit_is_told(architecture, task, names, message, probes):
    with pytest.raises(ConfigError, match=message):
        measured(tiny.live(architecture, task), probes, names)


def test_a_wrong_name_is_told_before_there_is_a_model():
    check_importances(["all", *IMPORTANCES])
    with pytest.raises(ConfigError, match=r"there is no importance 'x'; known are: all, attrib"):
        check_importances(["surprisal", "x"])


def test_a_model_that_gives_nan_is_told(probes):
    model = tiny.live("gpt_neox")
    _ = model.head
    with torch.no_grad():
        model.network.gpt_neox.final_layer_norm.weight.fill_(torch.nan)
    with pytest.raises(MeasureError, match="occlusion of tiny gpt_neox is not finite"):
        measured(model, probes, ["occlusion"])


def test_counts_are_for_attribution_by_frequency(probes):
    counts = np.arange(tiny.V) * 10
    name = "attribution_inverse_log_frequency"
    found = measured(live("gpt_neox"), probes, [name], counts)[name]
    np.testing.assert_allclose(
        found, np.log(counts.sum() + tiny.V) - np.log(counts[probes.token_ids] + 1), rtol=1e-6
    )


def test_replacements_are_part_of_what_is_asked(probes):
    model, name = live("gpt_neox"), "occlusion_norm_matched"
    other = replace(probes, replacements=np.full_like(probes.positions, 90))
    found = [measured(model, each, [name])[name] for each in (probes, other)]
    assert (found[0] != found[1]).any()
    assert replace(other, left_out=3).digest == other.digest
