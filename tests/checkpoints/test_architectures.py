"""Every family is held against the live model that transformers builds from the same files."""

import copy

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_model

from dynamics.checkpoints.architectures import FAMILIES, find_family
from dynamics.checkpoints.checkpoint import Checkpoint
from dynamics.checkpoints.formats.byte_sources import LocalFile
from dynamics.errors import CheckpointError
from tests.checkpoints.writers import assert_same, write_checkpoint

V = 40
LLAMA = {
    "vocab_size": V,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 16,
    "pad_token_id": 0,
}
BERT = {key: value for key, value in LLAMA.items() if key != "num_key_value_heads"}
NARROW = BERT | {"embedding_size": 4}
GPT2 = {"vocab_size": V, "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 16}
BLOOM = {"vocab_size": V, "hidden_size": 8, "n_layer": 1, "n_head": 2}
OPT = BERT | {"ffn_dim": 16, "word_embed_proj_dim": 8}
OPT_350M = OPT | {"word_embed_proj_dim": 4, "do_layer_norm_before": False}
DISTILBERT = {"vocab_size": V, "dim": 8, "n_layers": 1, "n_heads": 2, "hidden_dim": 16}
T5 = {"vocab_size": V, "d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2}
MODERNBERT = BERT | dict.fromkeys(["cls_token_id", "bos_token_id"], 1)
MODERNBERT |= dict.fromkeys(["sep_token_id", "eos_token_id"], 2)
MAMBA = {"vocab_size": V, "hidden_size": 8, "num_hidden_layers": 1, "state_size": 4}

# Class, its settings, and where the live model keeps the norm that meets the output embedding.
HEADED = [
    ("GPTNeoXForCausalLM", BERT, "gpt_neox.final_layer_norm"),
    ("GPT2LMHeadModel", GPT2, "transformer.ln_f"),
    ("GPTJForCausalLM", GPT2 | {"rotary_dim": 2}, "transformer.ln_f"),
    ("LlamaForCausalLM", LLAMA, "model.norm"),
    ("MistralForCausalLM", LLAMA, "model.norm"),
    ("GemmaForCausalLM", LLAMA | {"head_dim": 4}, "model.norm"),
    ("Gemma2ForCausalLM", LLAMA | {"head_dim": 4}, "model.norm"),
    ("Qwen2ForCausalLM", LLAMA, "model.norm"),
    ("Qwen3ForCausalLM", LLAMA | {"head_dim": 4}, "model.norm"),
    ("OlmoForCausalLM", LLAMA, "model.norm"),
    ("Olmo2ForCausalLM", LLAMA, "model.norm"),
    ("OlmoeForCausalLM", LLAMA | {"num_experts": 2, "num_experts_per_tok": 1}, "model.norm"),
    ("StableLmForCausalLM", LLAMA, "model.norm"),
    ("PhiForCausalLM", LLAMA, "model.final_layernorm"),
    ("CohereForCausalLM", LLAMA, "model.norm"),
    ("OPTForCausalLM", OPT, "model.decoder.final_layer_norm"),
    ("OPTForCausalLM", OPT_350M, None),
    ("BloomForCausalLM", BLOOM, "transformer.ln_f"),
    ("FalconForCausalLM", BERT, "transformer.ln_f"),
    ("MambaForCausalLM", MAMBA, "backbone.norm_f"),
    ("T5ForConditionalGeneration", T5, "decoder.final_layer_norm"),
    ("BertForMaskedLM", BERT, "cls.predictions.transform.LayerNorm"),
    ("BertForPreTraining", BERT, "cls.predictions.transform.LayerNorm"),
    ("DebertaForMaskedLM", BERT, "cls.predictions.transform.LayerNorm"),
    ("DebertaV2ForMaskedLM", BERT, "cls.predictions.transform.LayerNorm"),
    ("RobertaForMaskedLM", BERT, "lm_head.layer_norm"),
    ("XLMRobertaForMaskedLM", BERT, "lm_head.layer_norm"),
    ("DistilBertForMaskedLM", DISTILBERT, "vocab_layer_norm"),
    ("ElectraForMaskedLM", NARROW, "generator_predictions.LayerNorm"),
    ("AlbertForMaskedLM", NARROW, "predictions.LayerNorm"),
    ("ModernBertForMaskedLM", MODERNBERT, "head.norm"),
    ("ModernBertDecoderForCausalLM", MODERNBERT, "lm_head.norm"),
]


def build(class_name, settings, tied):
    model_class = getattr(transformers, class_name)
    config = model_class.config_class(**settings)
    config.tie_word_embeddings = tied
    model = model_class(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return model


def save(model, folder):
    model.save_pretrained(folder)
    return Checkpoint(folder, 0)


def type_of(norm):
    """`layer` when what a norm gives has no mean, whatever comes in."""
    norm = copy.deepcopy(norm)
    gain_is_offset = "Gemma" in type(norm).__name__
    for name, parameter in norm.named_parameters():
        parameter.data.fill_(0 if gain_is_offset or name == "bias" else 1)
    out = norm(torch.randn(5, 8 if not hasattr(norm, "weight") else len(norm.weight)) + 1)
    return "layer" if out.mean(-1).abs().max() < 1e-5 else "rms"


def assert_matches(checkpoint, model, norm_path):
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    norm = model.get_submodule(norm_path) if norm_path else None
    expected = {
        "input_embedding": inputs.weight,
        "output_embedding": outputs.weight,
        "output_bias": outputs.bias,
        "final_norm_weight": getattr(norm, "weight", None),
        "final_norm_bias": getattr(norm, "bias", None),
    }
    for role, tensor in expected.items():
        assert checkpoint.has(role) == (tensor is not None), role
        if tensor is not None:
            assert_same(checkpoint.tensor(role), tensor.data)
    assert checkpoint.tied == (inputs.weight is outputs.weight)
    assert checkpoint.final_norm == (type_of(norm) if norm else None)
    assert checkpoint.vocab_size == V
    assert_gain(checkpoint.final_norm_gain(), norm)


def assert_gain(gain, norm):
    """The gain is what the live norm multiplies by, whatever it adds to its weight."""
    if getattr(norm, "weight", None) is None:
        assert gain is None
        return
    features = torch.randn(3, len(norm.weight))
    plain = copy.deepcopy(norm)
    for name, parameter in plain.named_parameters():
        if name == "bias":
            parameter.data.zero_()
    multiplied = plain(features)
    plain.weight.data.copy_(plain.weight * 0 + 1)
    ones = plain(features) / (2 if "Gemma" in type(norm).__name__ else 1)
    torch.testing.assert_close(multiplied, ones * gain)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize(
    ("class_name", "settings", "norm"),
    HEADED,
    ids=[f"{at}-{case[0]}" for at, case in enumerate(HEADED)],
)
def test_roles_are_those_of_the_live_model(tmp_path, class_name, settings, norm, tied):
    model = build(class_name, settings, tied)
    assert_matches(save(model, tmp_path), model, norm)


def test_every_family_is_held_against_transformers(tmp_path):
    built = set()
    for at, (class_name, settings, _) in enumerate(HEADED):
        checkpoint = save(build(class_name, settings, True), tmp_path / str(at))
        built.add(find_family(load_file(checkpoint.path / "model.safetensors")))
    untested = {"hf-olmo", "pico", "encoder"}  # tested below
    untested |= {"meta", "olmo-core"}  # of no transformers class; tested in test_key_prefixes
    assert built == FAMILIES.keys() - untested


def test_torch_file_with_both_keys_on_one_storage(tmp_path):
    model = build("GPT2LMHeadModel", GPT2, True)
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    assert_matches(Checkpoint(tmp_path, 0), model, "transformer.ln_f")


def test_one_storage_is_one_embedding_whatever_the_config_says(tmp_path):
    matrix = torch.randn(V, 8)
    tensors = {"wte.weight": matrix, "lm_head.weight": matrix}
    write_checkpoint(tmp_path, tensors, "zip", config={"tie_word_embeddings": False})
    assert Checkpoint(tmp_path, 0).tied


def test_safetensors_that_dropped_the_input_embedding(tmp_path):
    """Older writers keep the first of two tied keys in the alphabet, here the output's."""
    model = build("GPT2LMHeadModel", GPT2, True)
    save_model(model, str(tmp_path / "model.safetensors"))
    assert "transformer.wte.weight" not in load_file(tmp_path / "model.safetensors")
    assert_matches(Checkpoint(tmp_path, 0), model, "transformer.ln_f")


@pytest.mark.parametrize(
    ("class_name", "settings", "norm"),
    [
        ("GPTNeoXModel", BERT, "final_layer_norm"),
        ("GPT2Model", GPT2, "ln_f"),
        ("LlamaModel", LLAMA, "norm"),
        ("OPTModel", OPT, "decoder.final_layer_norm"),
        ("BloomModel", BLOOM, "ln_f"),
        ("MambaModel", MAMBA, "norm_f"),
    ],
)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_decoder_saved_without_its_head(tmp_path, class_name, settings, norm, tied):
    """The output embedding can only be known when it is the input embedding."""
    model = build(class_name, settings, tied)
    checkpoint = save(model, tmp_path)
    assert_same(checkpoint.tensor("input_embedding"), model.get_input_embeddings().weight.data)
    assert_same(checkpoint.tensor("final_norm_weight"), model.get_submodule(norm).weight.data)
    assert checkpoint.tied == checkpoint.has("output_embedding") == tied
    assert checkpoint.final_norm == type_of(model.get_submodule(norm))


@pytest.mark.parametrize(
    ("class_name", "settings"),
    [
        ("BertModel", BERT),
        ("BertForSequenceClassification", BERT),
        ("RobertaModel", BERT),
        ("DistilBertModel", DISTILBERT),
        ("DistilBertForSequenceClassification", DISTILBERT),
        ("DebertaV2Model", BERT),
        ("ElectraModel", NARROW),
        ("ElectraForPreTraining", NARROW),
        ("ModernBertModel", MODERNBERT),
        ("T5EncoderModel", T5),
    ],
)
def test_encoder_without_a_head_has_no_output_embedding(tmp_path, class_name, settings):
    model = build(class_name, settings, True)
    checkpoint = save(model, tmp_path)
    assert_same(checkpoint.tensor("input_embedding"), model.get_input_embeddings().weight.data)
    assert not checkpoint.tied
    assert checkpoint.final_norm is None
    with pytest.raises(CheckpointError, match="has no output_embedding; it has input_embedding"):
        checkpoint.tensor("output_embedding")


@pytest.mark.parametrize("class_name", ["DebertaForMaskedLM", "DebertaV2ForMaskedLM"])
def test_deberta_with_the_original_head(tmp_path, class_name):
    model = build(class_name, BERT | {"legacy": False}, True)
    checkpoint = save(model, tmp_path)
    head = model.lm_predictions.lm_head
    assert_same(checkpoint.tensor("output_embedding"), model.get_input_embeddings().weight.data)
    assert_same(checkpoint.tensor("output_bias"), head.bias.data)
    assert_same(checkpoint.tensor("final_norm_weight"), head.LayerNorm.weight.data)
    assert checkpoint.final_norm == "layer"


def test_bert_converted_from_tensorflow(tmp_path):
    prefix = "cls.predictions.transform.LayerNorm"
    tensors = {
        "bert.embeddings.word_embeddings.weight": torch.randn(V, 8),
        f"{prefix}.gamma": torch.randn(8),
        f"{prefix}.beta": torch.randn(8),
        "cls.predictions.bias": torch.randn(V),
    }
    checkpoint = Checkpoint(write_checkpoint(tmp_path, tensors), 0)
    assert_same(checkpoint.tensor("final_norm_weight"), tensors[f"{prefix}.gamma"])
    assert_same(checkpoint.tensor("final_norm_bias"), tensors[f"{prefix}.beta"])
    assert (checkpoint.tied, checkpoint.final_norm) == (True, "layer")


@pytest.mark.parametrize(
    ("config", "with_norm", "norm"),
    [
        ({"model_type": "hf_olmo", "weight_tying": False}, False, "layer"),
        ({"model_type": "hf_olmo", "layer_norm_type": "rms"}, True, "rms"),
        ({"model_type": "hf_olmo", "layer_norm_type": "default"}, True, "layer"),
        (None, True, None),  # rms has the same keys
        (None, False, None),
    ],
)
def test_hf_olmo(tmp_path, config, with_norm, norm):
    tensors = {
        "model.transformer.wte.weight": torch.randn(V, 8),
        "model.transformer.ff_out.weight": torch.randn(V, 8),
    }
    if with_norm:
        tensors["model.transformer.ln_f.weight"] = torch.randn(8)
    checkpoint = Checkpoint(write_checkpoint(tmp_path, tensors, config=config), 0)
    for role, key in zip(("input_embedding", "output_embedding"), tensors, strict=False):
        assert_same(checkpoint.tensor(role), tensors[key])
    assert (checkpoint.tied, checkpoint.final_norm) == (False, norm)


class Pico(torch.nn.Module):
    """Names and norm of pico-lm/pico-train, `PicoDecoder` (src/model/pico_decoder.py, 5b020d3)."""

    def __init__(self):
        super().__init__()
        self.embedding_proj = torch.nn.Embedding(V, 8)
        self.output_norm = torch.nn.RMSNorm(8)
        self.de_embedding_proj = torch.nn.Linear(8, V, bias=False)
        for parameter in self.parameters():
            torch.nn.init.normal_(parameter)


@pytest.mark.parametrize("prefix", ["pico_decoder.", ""])
@pytest.mark.parametrize("config", [{"model_type": "pico_decoder"}, None])
def test_pico(tmp_path, prefix, config):
    model = Pico()
    tensors = model.state_dict(prefix=prefix)
    checkpoint = Checkpoint(write_checkpoint(tmp_path, tensors, config=config), 0)
    for role, layer in {
        "input_embedding": model.embedding_proj,
        "output_embedding": model.de_embedding_proj,
        "final_norm_weight": model.output_norm,
    }.items():
        assert_same(checkpoint.tensor(role), layer.weight.data)
    assert (checkpoint.tied, checkpoint.vocab_size) == (False, V)
    assert checkpoint.final_norm == type_of(model.output_norm) == "rms"
    assert_gain(checkpoint.final_norm_gain(), model.output_norm)


@pytest.mark.parametrize(
    ("config", "equal", "tied"),
    [
        (None, True, True),
        (None, False, False),
        ({}, True, True),
        ({"tie_word_embeddings": True}, True, True),
        # transformers 5 warns, and does not tie what the files hold with different values
        ({"tie_word_embeddings": True}, False, False),
        ({"tie_word_embeddings": False}, True, False),
    ],
)
def test_both_embeddings_in_the_file(tmp_path, config, equal, tied):
    inputs = torch.randn(V, 8)
    outputs = inputs.clone()
    if not equal:
        outputs[-1, -1] += 1
    tensors = {"model.embed_tokens.weight": inputs, "lm_head.weight": outputs}
    checkpoint = Checkpoint(write_checkpoint(tmp_path, tensors, config=config), 0)
    assert checkpoint.tied == tied
    assert_same(checkpoint.tensor("output_embedding"), outputs)


def test_unequal_widths_are_not_tied(tmp_path):
    tensors = {"wte.weight": torch.zeros(V, 8), "lm_head.weight": torch.zeros(V, 4)}
    assert not Checkpoint(write_checkpoint(tmp_path, tensors), 0).tied


def test_reading_one_embedding_leaves_the_other_alone(tmp_path, monkeypatch):
    tensors = {
        "gpt_neox.embed_in.weight": torch.randn(5000, 100),
        "embed_out.weight": torch.randn(5000, 100),
    }
    touched = []
    read = LocalFile.read

    def counting(self, start, stop):
        touched.append(stop - start)
        return read(self, start, stop)

    monkeypatch.setattr(LocalFile, "read", counting)
    checkpoint = Checkpoint(write_checkpoint(tmp_path, tensors), 0)
    checkpoint.tensor("input_embedding")
    assert 2_000_000 <= sum(touched) <= 2_000_000 + 300_000


def test_unknown_layout_lists_what_was_found(tmp_path):
    tensors = {
        "net.words.weight": torch.zeros(V, 8),
        "net.mix.weight": torch.zeros(8, 8),
        "net.bias": torch.zeros(8),
    }
    checkpoint = Checkpoint(write_checkpoint(tmp_path, tensors), 0)
    found = (
        r"matrices are 'net.words.weight' \(40, 8\), 'net.mix.weight' \(8, 8\); "
        r"known families.* opt"
    )
    with pytest.raises(CheckpointError, match=found) as error:
        checkpoint.tensor("input_embedding")
    assert "\n" not in str(error.value)
    assert str(tmp_path) in str(error.value)


def test_embedding_that_is_no_matrix(tmp_path):
    checkpoint = Checkpoint(write_checkpoint(tmp_path, {"wte.weight": torch.zeros(V)}), 0)
    with pytest.raises(CheckpointError, match=r"should be a matrix, but is of shape \(40,\)"):
        checkpoint.tied  # noqa: B018
