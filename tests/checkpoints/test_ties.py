"""Ties and roles are those of the model that transformers loads from the same files."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file, save_model

from dynamics.checkpoints.checkpoint import Checkpoint
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
    "pad_token_id": 0,
}
BERT = {key: value for key, value in LLAMA.items() if key != "num_key_value_heads"}
GPT2 = {"vocab_size": V, "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 16}
T5 = {"vocab_size": V, "d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2}
OPT = BERT | {"ffn_dim": 16, "word_embed_proj_dim": 8, "max_position_embeddings": 16}

# Class, its settings, keys of the input and of the output embedding in files.
MODELS = [
    ("LlamaForCausalLM", LLAMA, "model.embed_tokens.weight", "lm_head.weight"),
    ("Qwen2ForCausalLM", LLAMA, "model.embed_tokens.weight", "lm_head.weight"),
    (
        "GemmaForCausalLM",
        LLAMA | {"head_dim": 4},
        "model.embed_tokens.weight",
        "lm_head.weight",
    ),
    ("GPT2LMHeadModel", GPT2, "transformer.wte.weight", "lm_head.weight"),
    ("GPTNeoXForCausalLM", BERT, "gpt_neox.embed_in.weight", "embed_out.weight"),
    ("OPTForCausalLM", OPT, "model.decoder.embed_tokens.weight", "lm_head.weight"),
    ("T5ForConditionalGeneration", T5, "shared.weight", "lm_head.weight"),
    (
        "BertForMaskedLM",
        BERT,
        "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.weight",
    ),
]
IDS = [case[0] for case in MODELS]
DECODERS = [case for case in MODELS if "T5" not in case[0] and "Bert" not in case[0]]


@pytest.fixture(autouse=True)
def quiet():
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    yield
    transformers.logging.set_verbosity(before)
    transformers.logging.enable_progress_bar()


def saved(folder, class_name, settings, tied):
    """Save a model with every element drawn at random; its tensors."""
    model_class = getattr(transformers, class_name)
    model = model_class(model_class.config_class(**settings, tie_word_embeddings=tied))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    model.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def write(folder, tensors):
    save_file(
        {key: tensor.clone() for key, tensor in tensors.items()},
        folder / "model.safetensors",
        {"format": "pt"},
    )


def forget_tie(folder):
    """Take what config.json says of ties out of it."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    del config["tie_word_embeddings"]
    path.write_text(json.dumps(config))


def assert_as_loaded(folder, class_name):
    """What a checkpoint holds is what transformers loads; what it makes up is not there."""
    model, told = getattr(transformers, class_name).from_pretrained(
        folder, output_loading_info=True
    )
    inputs, outputs = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    made_up = {
        id(parameter)
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if name in told["missing_keys"]
    }
    checkpoint = Checkpoint(folder, 0)
    assert_same(checkpoint.tensor("input_embedding"), inputs.data)
    assert checkpoint.tied == (inputs is outputs)
    assert checkpoint.has("output_embedding") == (id(outputs) not in made_up)
    if checkpoint.has("output_embedding"):
        assert_same(checkpoint.tensor("output_embedding"), outputs.data)
    return checkpoint


@pytest.mark.parametrize("mentioned", [True, False], ids=["mentioned", "not mentioned"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize(("class_name", "settings", "first", "second"), MODELS, ids=IDS)
def test_a_model_as_it_is_saved(tmp_path, class_name, settings, first, second, tied, mentioned):
    saved(tmp_path, class_name, settings, tied)
    if not mentioned:
        forget_tie(tmp_path)
    checkpoint = assert_as_loaded(tmp_path, class_name)
    if checkpoint.has("output_embedding"):
        assert checkpoint.notes == ()


@pytest.mark.parametrize("mentioned", [True, False], ids=["mentioned", "not mentioned"])
@pytest.mark.parametrize(("class_name", "settings", "first", "second"), DECODERS)
def test_an_untied_model_without_its_head_is_measured_at_its_input(
    tmp_path, class_name, settings, first, second, mentioned
):
    tensors = saved(tmp_path, class_name, settings, tied=False)
    del tensors[second]
    write(tmp_path, tensors)
    if not mentioned:
        forget_tie(tmp_path)
    checkpoint = assert_as_loaded(tmp_path, class_name)
    if checkpoint.tied:  # by the default of the class
        assert not mentioned
        assert checkpoint.notes == ()
    else:
        assert checkpoint.notes == (
            "no output embedding in the files, and it is not tied: only the input embedding is "
            "read",
        )


@pytest.mark.parametrize(
    ("tied", "equal"), [(True, True), (True, False), (False, False), (False, True)]
)
@pytest.mark.parametrize(("class_name", "settings", "first", "second"), MODELS, ids=IDS)
def test_both_matrices_in_the_files(tmp_path, class_name, settings, first, second, tied, equal):
    tensors = saved(tmp_path, class_name, settings, tied)
    tensors[second] = tensors[first] + (0 if equal else 1)
    write(tmp_path, tensors)
    says_tied = json.loads((tmp_path / "config.json").read_text())["tie_word_embeddings"]
    checkpoint = assert_as_loaded(tmp_path, class_name)
    differs = any("two different matrices" in note for note in checkpoint.notes)
    assert differs == (says_tied and not equal)


@pytest.mark.parametrize(("class_name", "settings", "first", "second"), MODELS, ids=IDS)
def test_a_tied_matrix_under_the_key_of_the_output_alone(
    tmp_path, class_name, settings, first, second
):
    tensors = saved(tmp_path, class_name, settings, tied=True)
    tensors[second] = tensors.pop(first)
    write(tmp_path, tensors)
    checkpoint = assert_as_loaded(tmp_path, class_name)
    assert checkpoint.final_norm == Checkpoint(tmp_path, 0).final_norm is not None


@pytest.mark.parametrize(("class_name", "settings", "first", "second"), DECODERS)
def test_an_untied_model_without_its_input_is_refused(
    tmp_path, class_name, settings, first, second
):
    tensors = saved(tmp_path, class_name, settings, tied=False)
    del tensors[first]
    write(tmp_path, tensors)
    expected = f"holds an output embedding, {second!r}, but no input embedding"
    with pytest.raises(CheckpointError, match=expected):
        Checkpoint(tmp_path, 0).tensor("input_embedding")


@pytest.mark.parametrize("key", ["shared", "encoder.embed_tokens", "decoder.embed_tokens"])
def test_t5_keeps_one_of_three_keys(tmp_path, key):
    tensors = saved(tmp_path, "T5ForConditionalGeneration", T5, tied=True)
    tensors[f"{key}.weight"] = tensors.pop("shared.weight")
    write(tmp_path, tensors)
    checkpoint = assert_as_loaded(tmp_path, "T5ForConditionalGeneration")
    assert checkpoint.final_norm == "rms"


def test_t5_as_safetensors_saves_one_of_shared_tensors(tmp_path):
    saved(tmp_path, "T5ForConditionalGeneration", T5, tied=True)
    model = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path)
    save_model(model, str(tmp_path / "model.safetensors"))
    write(tmp_path, load_file(tmp_path / "model.safetensors"))  # without its list of the dropped
    assert_as_loaded(tmp_path, "T5ForConditionalGeneration")


def test_opt_without_its_head_is_no_t5(tmp_path):
    saved(tmp_path, "OPTModel", OPT, tied=True)
    checkpoint = Checkpoint(tmp_path, 0)
    assert checkpoint.final_norm == "layer"
    assert checkpoint.tied


@pytest.mark.parametrize("inner", [True, False])
def test_a_tie_may_be_mentioned_for_the_text_part(tmp_path, inner):
    tensors = {"model.embed_tokens.weight": torch.randn(V, 8), "model.norm.weight": torch.ones(8)}
    config = {"model_type": "its own", "text_config": {"tie_word_embeddings": inner}}
    checkpoint = Checkpoint(write_checkpoint(tmp_path, tensors, config=config), 0)
    assert checkpoint.tied == inner == checkpoint.has("output_embedding")


@pytest.mark.parametrize("field", ["weight_tying", "tie_embeddings"])
@pytest.mark.parametrize("tied", [True, False])
def test_other_names_of_ties(tmp_path, field, tied):
    """`weight_tying` of hf_olmo, `tie_embeddings` of mamba_ssm."""
    tensors = {"model.transformer.wte.weight": torch.randn(V, 8)}
    checkpoint = Checkpoint(write_checkpoint(tmp_path, tensors, config={field: tied}), 0)
    assert checkpoint.tied == tied


@pytest.mark.parametrize("config", [None, {}, {"model_type": "its own"}])
def test_where_nothing_tells_the_assumption_is_noted(tmp_path, config):
    tensors = {"model.embed_tokens.weight": torch.randn(V, 8), "model.norm.weight": torch.ones(8)}
    checkpoint = Checkpoint(write_checkpoint(tmp_path, tensors, config=config), 0)
    assert checkpoint.tied
    (note,) = checkpoint.notes
    assert "the input embedding is taken for both" in note


@pytest.mark.parametrize(
    "companion",
    ["weight_packed", "qweight", "W_q", "weight._data", "weight.absmax"],
)
def test_a_quantised_head_is_a_head_of_its_own(tmp_path, companion):
    tensors = {
        "model.embed_tokens.weight": torch.randn(V, 8),
        f"lm_head.{companion}": torch.zeros(V, 4, dtype=torch.int32),
    }
    if companion == "weight.absmax":
        tensors["lm_head.weight"] = torch.zeros(V * 4, 1, dtype=torch.uint8)
    config = {"model_type": "llama", "tie_word_embeddings": True}
    checkpoint = Checkpoint(write_checkpoint(tmp_path, tensors, config=config), 0)
    assert checkpoint.has("output_embedding")
    with pytest.raises(CheckpointError, match=r"the numbers of 'lm_head\.weight'"):
        checkpoint.tensor("output_embedding")


@pytest.mark.parametrize("companion", ["compressed", "weight_blocks", "lora_A.weight"])
def test_whatever_is_stored_of_a_head_shows_that_there_is_one(tmp_path, companion):
    tensors = {
        "model.embed_tokens.weight": torch.randn(V, 8),
        "lm_head.bias": torch.zeros(V),
        f"lm_head.{companion}": torch.zeros(V, 4),
    }
    config = {"model_type": "llama", "tie_word_embeddings": True}
    checkpoint = Checkpoint(write_checkpoint(tmp_path, tensors, config=config), 0)
    told = f"holds 'lm_head.{companion}', so there is an output embedding"
    with pytest.raises(CheckpointError, match=told):
        checkpoint.tied  # noqa: B018


def test_a_config_that_its_class_refuses_leaves_the_default_of_the_class(tmp_path):
    tensors = {"model.embed_tokens.weight": torch.randn(V, 8), "model.norm.weight": torch.ones(8)}
    config = {"model_type": "llama", "hidden_size": "eight", "num_attention_heads": []}
    checkpoint = Checkpoint(write_checkpoint(tmp_path, tensors, config=config), 0)
    assert not checkpoint.tied
