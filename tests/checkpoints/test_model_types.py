"""Facts of model classes are compared with the live models that transformers builds."""

import copy
import importlib.metadata
import inspect
import logging
from types import SimpleNamespace

import pytest
import torch
import transformers

from dynamics.checkpoints.checkpoint import Checkpoint
from dynamics.checkpoints.model_types import facts_of, facts_table, find_logit_softcap
from dynamics.checkpoints.opening import open_any
from dynamics.checkpoints.ties import default_tie
from dynamics.errors import CheckpointError
from dynamics.models.norm_response import norm_response
from dynamics.tracking.callback import NormDynamicsCallback
from dynamics.tracking.model_tensors import ModelTensors
from dynamics.tracking.track import track
from scripts.architecture_facts import (
    LiveFacts,
    NotProbedError,
    live_facts,
    model_classes,
    variations,
)
from scripts.small_models import ModelClass, small_model
from tests.checkpoints.writers import write_checkpoint

V, D = 40, 8

REPRESENTATIVE = [
    # 1 + weight
    ("gemma", "GemmaForCausalLM", {}),
    ("gemma2", "Gemma2ForCausalLM", {}),
    ("vaultgemma", "VaultGemmaForCausalLM", {}),
    ("recurrent_gemma", "RecurrentGemmaForCausalLM", {}),
    ("qwen3_next", "Qwen3NextForCausalLM", {}),
    ("qwen3_5_text", "Qwen3_5ForCausalLM", {}),
    ("t5gemma", "T5GemmaForConditionalGeneration", {}),
    ("nemotron", "NemotronForCausalLM", {}),
    # weight
    ("gemma4_text", "Gemma4ForCausalLM", {}),
    ("llama", "LlamaForCausalLM", {}),
    ("qwen3", "Qwen3ForCausalLM", {}),
    ("olmo2", "Olmo2ForCausalLM", {}),
    ("stablelm", "StableLmForCausalLM", {}),
    ("cohere", "CohereForCausalLM", {}),
    ("mpt", "MptForCausalLM", {}),
    ("t5", "T5ForConditionalGeneration", {}),
    # no weight
    ("olmo", "OlmoForCausalLM", {}),
    ("nanochat", "NanoChatForCausalLM", {}),
    ("opt", "OPTForCausalLM", {"layer_norm_elementwise_affine": False}),
    # the norm of the last layer
    ("bart", "BartForCausalLM", {}),
    ("openai-gpt", "OpenAIGPTLMHeadModel", {}),
    ("xlm", "XLMWithLMHeadModel", {}),
    ("opt", "OPTForCausalLM", {"do_layer_norm_before": False}),
    # none
    ("opt", "OPTForCausalLM", {"word_embed_proj_dim": 16}),
    ("opt", "OPTForCausalLM", {"word_embed_proj_dim": 16, "do_layer_norm_before": False}),
    # a cap of the logits that the class has not by default
    ("gemma3_text", "Gemma3ForCausalLM", {"final_logit_softcapping": 5.0}),
    ("gemma2", "Gemma2ForCausalLM", {"final_logit_softcapping": None}),
    # bias in the head
    ("phi", "PhiForCausalLM", {}),
    ("gptj", "GPTJForCausalLM", {}),
    # keys on disk are not the names in memory
    ("gpt_neox", "GPTNeoXForCausalLM", {}),
    ("gemma3", "Gemma3ForConditionalGeneration", {}),
]


def recomputed_logits(tensors, live: LiveFacts, before_norm):
    """Logits from what is known of a model and the input of its final norm."""
    states = before_norm.double()
    if tensors.final_norm == "layer":
        states = states - states.mean(-1, keepdim=True)
    unit = states / states.square().mean(-1, keepdim=True).sqrt()
    gain = tensors.final_norm_gain()
    normed = unit if gain is None else unit * gain
    if tensors.has("final_norm_bias"):
        normed = normed + tensors.tensor("final_norm_bias")
    logits = live.factor * normed.double() @ tensors.tensor("output_embedding").double().T
    return logits + tensors.tensor("output_bias") if tensors.has("output_bias") else logits


def head_output(model, norm):
    """Input of the final norm and output of the output embedding, in one pass."""
    seen = {}

    def keep_norm(module, args, output):
        seen["before"] = args[0]

    def keep_head(module, args, output):
        seen["logits"] = output

    handles = [norm.register_forward_hook(keep_norm)]
    handles.append(model.get_output_embeddings().register_forward_hook(keep_head))
    ids = torch.randint(5, 40, (1, 12), generator=torch.Generator().manual_seed(1))
    arguments = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    if "use_cache" in inspect.signature(model.forward).parameters:
        arguments["use_cache"] = False
    with torch.no_grad():
        model(input_ids=ids, **arguments)
    for handle in handles:
        handle.remove()
    return seen["before"], seen["logits"]


def assert_facts(tensors, live: LiveFacts, model):
    """What is said of a model is what it does; None when the norm is said not to be known."""
    assert torch.equal(tensors.tensor("input_embedding"), live.input_embedding)
    assert torch.equal(tensors.tensor("output_embedding"), live.output_embedding)
    assert tensors.tied == (live.output_embedding is live.input_embedding)
    assert tensors.has("output_bias") == (live.output_bias is not None)
    if live.output_bias is not None:
        assert torch.equal(tensors.tensor("output_bias"), live.output_bias)
    if tensors.final_norm_note:
        assert tensors.final_norm is None and tensors.final_norm_gain() is None
        return False
    if live.response is None:
        assert tensors.final_norm is None and tensors.final_norm_gain() is None
        return True
    assert tensors.final_norm == live.response.type
    gain = tensors.final_norm_gain()
    measured = torch.ones_like(live.response.gain) if gain is None else gain.double()
    torch.testing.assert_close(measured, live.response.gain, rtol=1e-5, atol=1e-5)
    bias = tensors.tensor("final_norm_bias") if tensors.has("final_norm_bias") else 0 * measured
    torch.testing.assert_close(bias.double(), live.response.bias, rtol=1e-5, atol=1e-4)
    if type(model).__name__ in _OTHER_PASSES:
        return True
    before, logits = head_output(model, live.norm)
    expected = recomputed_logits(tensors, live, before)
    count = logits.shape[-2] if logits.dim() > 2 else len(logits)
    expected = expected.reshape(-1, expected.shape[-1])[-count:]
    logits = logits.reshape(-1, logits.shape[-1])[-count:].double()
    torch.testing.assert_close(expected, logits, rtol=1e-3, atol=1e-3 * float(logits.abs().max()))
    return True


# Several predicted positions are stacked, or positions come first.
_OTHER_PASSES = ("ProphetNetForCausalLM", "ProphetNetForConditionalGeneration", "XLNetLMHeadModel")


def assert_cap(tensors, model):
    """One vector added to every output row changes predictions where logits are capped, alone."""
    ids = torch.randint(5, 40, (1, 12), generator=torch.Generator().manual_seed(1))
    inputs = {"input_ids": ids}
    inputs |= {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    inputs |= (
        {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}
    )
    shifted = copy.deepcopy(model)
    head = shifted.get_output_embeddings()
    vector = 3 * torch.randn(head.weight.shape[1], generator=torch.Generator().manual_seed(2))
    head.weight = torch.nn.Parameter(head.weight.detach() + vector)
    with torch.no_grad():
        before, after = (network(**inputs).logits.log_softmax(-1) for network in (model, shifted))
    change = float((after - before).abs().max() / before.abs().max())
    cap = tensors.logit_softcap
    assert cap is None or (change < 1e-3 if cap == 0 else change > 1e-3), (cap, change)


def compare(model, folder):
    """Whether the facts of a saved model and of the live one are exact; False when left out."""
    live = live_facts(model)
    model.save_pretrained(folder)
    checkpoint = open_any(str(folder)).checkpoints[0]
    exact = assert_facts(checkpoint, live, model)
    assert assert_facts(ModelTensors(model, 0), live, model) == exact
    assert ModelTensors(model, 0).logit_softcap == checkpoint.logit_softcap
    assert_cap(checkpoint, model)
    return exact


@pytest.mark.parametrize("tied", [True, False, None], ids=["tied", "untied", "default"])
@pytest.mark.parametrize(
    ("model_type", "class_name", "changes"),
    REPRESENTATIVE,
    ids=[f"{at}-{case[0]}" for at, case in enumerate(REPRESENTATIVE)],
)
def test_facts_are_those_of_the_live_model(tmp_path, model_type, class_name, changes, tied):
    changes = changes if tied is None else changes | {"tie_word_embeddings": tied}
    model = small_model(ModelClass(model_type, class_name), changes)
    assert compare(model, tmp_path)


@pytest.mark.sweep
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("model_class", model_classes(), ids=str)
def test_facts_of_every_class_under_every_setting(tmp_path, model_class):
    table = facts_table()
    if str(model_class) in table.not_built:
        pytest.skip(table.not_built[str(model_class)])
    changes = [{}, {"tie_word_embeddings": True}, {"tie_word_embeddings": False}]
    for at, change in enumerate([*changes, *variations(model_class)]):
        folder = tmp_path / str(at)
        try:
            model = small_model(model_class, change)
            live = live_facts(model)
        except NotProbedError:
            live = None
        except Exception as error:
            assert change, error
            continue  # not a setting that a model this small can have
        if live is None or str(model_class) in table.refused:
            model.save_pretrained(folder)
            assert_refused(model, folder)
        else:
            assert compare(model, folder)


def assert_refused(model, folder):
    live = ModelTensors(model, 0)
    assert live.final_norm is None and live.final_norm_gain() is None
    assert live.final_norm_note or not live.has("output_embedding")
    if type(model).__name__ in ("DebertaForMaskedLM", "DebertaV2ForMaskedLM"):
        return  # their other head is known from its source, see test_architectures
    try:
        checkpoint = open_any(str(folder)).checkpoints[0]
        assert checkpoint.final_norm is None and checkpoint.final_norm_gain() is None
        assert checkpoint.final_norm_note or not checkpoint.has("output_embedding")
    except CheckpointError as error:
        assert "\n" not in str(error)


class TestTable:
    def test_it_is_of_the_installed_transformers(self):
        installed = importlib.metadata.version("transformers")
        assert facts_table().transformers == installed, "run python -m scripts.architecture_facts"

    def test_every_class_is_covered_or_refused_or_not_built(self):
        table = facts_table()
        covered = {
            f"{facts.model_type}/{facts.class_name}"
            for classes in table.facts.values()
            for facts in classes
        }
        names = set(map(str, model_classes()))
        parts = [covered & names, table.refused.keys(), table.not_built.keys()]
        assert sorted(name for part in parts for name in part) == sorted(names)
        assert len(covered) >= 0.9 * (len(covered) + len(table.refused))
        assert all(len(reason) > 10 for part in parts[1:] for reason in part)

    @pytest.mark.parametrize(
        ("model_type", "tied"),
        [("llama", False), ("gemma", True), ("gpt2", True), ("gpt_neox", False), ("foo", None)],
    )
    def test_ties_where_config_json_does_not_say(self, model_type, tied):
        assert default_tie({"model_type": model_type}) is tied

    @pytest.mark.parametrize(
        ("config", "cap"),
        [
            ({"model_type": "gemma2"}, 30.0),  # the default of the class
            ({"model_type": "gemma2", "final_logit_softcapping": 20}, 20.0),
            ({"model_type": "gemma2", "final_logit_softcapping": None}, 0.0),
            ({"model_type": "gemma2", "final_logit_softcapping": "20"}, None),
            ({"model_type": "gemma4", "text_config": {"final_logit_softcapping": 7.0}}, 7.0),
            ({"model_type": "t5gemma2", "decoder": {"final_logit_softcapping": 7.0}}, 7.0),
            # Gemma3ForConditionalGeneration does not use the setting.
            ({"model_type": "gemma3", "text_config": {"final_logit_softcapping": 7.0}}, 0.0),
            ({"model_type": "gemma3_text"}, 0.0),
            ({"model_type": "recurrent_gemma", "logits_soft_cap": 11.0}, 11.0),
            ({"model_type": "gpt_neox"}, 0.0),
            ({"model_type": "bert"}, 0.0),
            ({"model_type": "pico_decoder"}, 0.0),
            ({"model_type": "hf_olmo"}, 0.0),
            ({"model_type": "foo"}, None),
            ({}, None),
        ],
    )
    def test_cap_of_the_logits_by_config(self, config, cap):
        assert find_logit_softcap(config) == cap

    def test_the_classes_of_a_model_type_agree(self):
        for model_type, classes in facts_table().facts.items():
            usual = [facts for facts in classes if not facts.is_special]
            assert len({(facts.norm, facts.gain_offset) for facts in usual}) == 1, model_type

    def test_a_class_with_two_answers_names_the_setting(self):
        settings = [facts.settings for facts in facts_of("opt") if facts.settings]
        assert {"do_layer_norm_before": False} in settings


def norm_tensors(embedding, stem, *ends, **more):
    tensors = {f"{stem}.{end}": torch.rand(D) for end in ends}
    return {embedding: torch.randn(V, D), "lm_head.weight": torch.randn(V, D), **tensors, **more}


LLAMA_KEYS = norm_tensors("model.embed_tokens.weight", "model.norm", "weight")
NANOGPT = ("transformer.wte.weight", "transformer.ln_f")


class TestWithoutConfig:
    @pytest.mark.parametrize(
        ("tensors", "norm"),
        [
            (norm_tensors(*NANOGPT, "weight", "bias"), "layer"),
            (norm_tensors("wte.weight", "ln_f", "weight", "bias"), "layer"),
            (
                norm_tensors(
                    "gpt_neox.embed_in.weight", "gpt_neox.final_layer_norm", "weight", "bias"
                ),
                "layer",
            ),
            (norm_tensors("shared.weight", "decoder.final_layer_norm", "weight"), "rms"),
            (norm_tensors("backbone.embeddings.weight", "backbone.norm_f", "weight"), "rms"),
            (
                norm_tensors(*NANOGPT, "weight", **{"transformer.wpe.weight": torch.randn(16, D)}),
                "layer",
            ),
        ],
    )
    def test_keys_that_belong_to_one_kind_of_norm(self, tmp_path, tensors, norm):
        checkpoint = Checkpoint(write_checkpoint(tmp_path, tensors), 0)
        assert (checkpoint.final_norm, checkpoint.final_norm_note) == (norm, None)
        expected = next(
            value for key, value in tensors.items() if key.endswith(("f.weight", "norm.weight"))
        )
        assert torch.equal(checkpoint.final_norm_gain(), expected)

    @pytest.mark.parametrize(
        "tensors",
        [
            LLAMA_KEYS,
            norm_tensors("model.embed_tokens.weight", "model.norm", "weight", "bias"),  # Nemotron
            norm_tensors(*NANOGPT, "weight"),  # LitGPT
            {"model.embed_tokens.weight": torch.randn(V, D), "lm_head.weight": torch.randn(V, D)},
        ],
    )
    def test_keys_of_several_kinds_of_norm(self, tmp_path, tensors):
        checkpoint = Checkpoint(write_checkpoint(tmp_path, tensors), 0)
        assert checkpoint.final_norm is None and checkpoint.final_norm_gain() is None
        assert "no config.json with a model_type" in checkpoint.final_norm_note
        assert "\n" not in checkpoint.final_norm_note

    def test_a_projection_before_the_output_embedding(self, tmp_path):
        tensors = {
            "model.decoder.embed_tokens.weight": torch.randn(V, 4),
            "model.decoder.project_out.weight": torch.randn(4, D),
            "model.decoder.layers.0.final_layer_norm.weight": torch.rand(D),
            "model.decoder.layers.0.final_layer_norm.bias": torch.rand(D),
        }
        checkpoint = Checkpoint(write_checkpoint(tmp_path, tensors), 0)
        assert (checkpoint.final_norm, checkpoint.final_norm_note) == (None, None)


class TestModelTypes:
    def test_one_that_is_not_covered_gets_no_folded_norms_and_a_note(self, tmp_path):
        folder = tmp_path / "series" / "step-0"
        folder.mkdir(parents=True)
        write_checkpoint(folder, LLAMA_KEYS, config={"model_type": "gemma9"})
        lines = []
        run = track(open_any(str(folder.parent)), tmp_path / "run", report=lines.append)
        (line,) = lines
        assert line.startswith("the final norm of model type gemma9 is not known (the classes of")
        assert "output_embedding_norm" in run.info["measures"]
        assert not [name for name in run.info["measures"] if "folded" in name]

    def test_a_class_that_was_refused_says_why(self, tmp_path):
        config = {"model_type": "mobilebert"}
        checkpoint = Checkpoint(write_checkpoint(tmp_path, LLAMA_KEYS, config=config), 0)
        assert "(its logits do not come from get_output_embeddings" in checkpoint.final_norm_note

    def test_keys_that_the_class_does_not_write(self, tmp_path):
        tensors = norm_tensors("model.embed_tokens.weight", "model.norm", "weight", "bias")
        path = write_checkpoint(tmp_path, tensors, config={"model_type": "llama"})
        checkpoint = Checkpoint(path, 0)
        assert checkpoint.final_norm is None
        assert "model type llama is expected under other keys" in checkpoint.final_norm_note

    @pytest.mark.parametrize(
        "config",
        [{"model_type": ["llama"]}, {"model_type": 3}, {"model_type": ""}, {"text_config": "opt"},
         {"model_type": "opt", "text_config": [1], "architectures": 7}],
    )  # fmt: skip
    def test_odd_configs_are_no_model_type(self, tmp_path, config):
        checkpoint = Checkpoint(write_checkpoint(tmp_path, LLAMA_KEYS, config=config), 0)
        assert checkpoint.final_norm is None and "\n" not in checkpoint.final_norm_note

    def test_an_encoder_without_a_head_has_no_note(self, tmp_path):
        tensors = {"embeddings.word_embeddings.weight": torch.randn(V, D)}
        path = write_checkpoint(tmp_path, tensors, config={"model_type": "bert"})
        assert Checkpoint(path, 0).final_norm_note is None

    def test_norms_of_older_writers(self, tmp_path):
        stem = "cls.predictions.transform.LayerNorm"
        tensors = norm_tensors("bert.embeddings.word_embeddings.weight", stem, "gamma", "beta")
        path = write_checkpoint(tmp_path, tensors, config={"model_type": "bert"})
        assert torch.equal(Checkpoint(path, 0).final_norm_gain(), tensors[f"{stem}.gamma"])

    def test_settings_of_the_text_part_count(self, tmp_path):
        tensors = {
            "model.decoder.embed_tokens.weight": torch.randn(V, D),
            "model.decoder.layers.9.final_layer_norm.weight": torch.rand(D),
            "model.decoder.layers.10.final_layer_norm.weight": torch.rand(D),
        }
        config = {"model_type": "opt", "text_config": {"do_layer_norm_before": False}}
        checkpoint = Checkpoint(write_checkpoint(tmp_path, tensors, config=config), 0)
        last = tensors["model.decoder.layers.10.final_layer_norm.weight"]
        assert torch.equal(checkpoint.final_norm_gain(), last)


class TestLiveModels:
    def test_a_norm_that_was_replaced_is_not_believed(self, tmp_path, caplog):
        class Shifted(torch.nn.RMSNorm):
            def forward(self, states):
                return super().forward(states) * (1 + self.weight) / self.weight

        model = small_model(ModelClass("llama", "LlamaForCausalLM"))
        assert ModelTensors(model, 0).final_norm == "rms"
        model.model.norm = Shifted(32)
        tensors = ModelTensors(model, 0)
        assert tensors.final_norm is None and tensors.final_norm_gain() is None
        callback = NormDynamicsCallback(tmp_path / "run", steps="1")
        state = transformers.TrainerState(global_step=0, max_steps=1)
        arguments = SimpleNamespace(load_best_model_at_end=False)
        with caplog.at_level(logging.WARNING):
            callback.on_train_begin(arguments, state, transformers.TrainerControl(), model=model)
        (record,) = caplog.records
        assert "LlamaForCausalLM does not do what that of model type llama" in record.message

    @pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
    def test_a_head_that_the_class_does_not_give_is_not_measured(self):
        model = small_model(ModelClass("mobilebert", "MobileBertForMaskedLM"))
        tensors = ModelTensors(model, 0)
        assert tensors.has("input_embedding") and not tensors.has("output_embedding")
        assert tensors.final_norm_note.startswith("MobileBertForMaskedLM is measured without an")

    @pytest.mark.parametrize("value", [0.0, float("nan")])
    def test_a_gain_that_shows_nothing_is_taken_as_it_is(self, value):
        model = small_model(ModelClass("llama", "LlamaForCausalLM"))
        torch.nn.init.constant_(model.model.norm.weight, value)
        tensors = ModelTensors(model, 0)
        assert (tensors.final_norm, tensors.final_norm_note) == ("rms", None)
        torch.testing.assert_close(
            tensors.final_norm_gain(), torch.full((32,), value), equal_nan=True
        )

    def test_probing_leaves_model_and_random_state_alone(self):
        model = small_model(ModelClass("gemma2", "Gemma2ForCausalLM"))
        calls = []
        model.model.norm.register_forward_hook(lambda *_: calls.append(1))
        before, weight = torch.get_rng_state(), model.model.norm.weight.clone()
        response = norm_response(model.model.norm, 32)
        assert response.type == "rms" and not calls
        torch.testing.assert_close(response.gain, 1 + weight.double(), rtol=1e-5, atol=1e-5)
        assert torch.equal(torch.get_rng_state(), before)
        assert torch.equal(model.model.norm.weight, weight)

    @pytest.mark.parametrize(
        ("module", "kind"),
        [
            (torch.nn.LayerNorm(D), "layer"),
            (torch.nn.LayerNorm(D, elementwise_affine=False), "layer"),
            (torch.nn.RMSNorm(D), "rms"),
            (torch.nn.Identity(), None),
            (torch.nn.Linear(D, D), None),
            (torch.nn.Linear(D, 3), None),
            (torch.nn.GELU(), None),
            (torch.nn.Softmax(-1), None),
            (torch.nn.BatchNorm1d(5), None),
        ],
    )
    def test_responses_of_known_modules(self, module, kind):
        response = norm_response(module, D)
        assert (None if response is None else response.type) == kind
