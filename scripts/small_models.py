"""Every language model class of the installed transformers, built small with random parameters.

Sizes are shrunk by the names of settings; what a model type needs beside that is listed.
"""

import contextlib
import re
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

V, D, LAYERS = 80, 32, 2

# Sizes of a small model, by the name of the setting; the first pattern that matches counts.
_SIZES = [
    (r"vocab_size|^n_words$", V),
    (
        r"^(hidden_size|d_model|n_embd|dim|emb_dim|embed_dim|embedding_size|embedding_dim|width|"
        r"word_embed_proj_dim|lru_width|projection_dim|decoder_hidden_size|encoder_hidden_size)$",
        D,
    ),
    (r"intermediate_size|ff_size|ffn_dim|ffn_hidden_size|^d_(ff|inner)$|hidden_dim$|^n_inner$", 48),
    (r"kv_heads|key_value_heads", 2),
    (r"heads$|^n_head$", 4),
    (r"layers$|^n_layer$|^depth$|^num_blocks$", LAYERS),
    (r"^rotary_dim$", 4),
    (r"head_dim$|^d_kv$|head_size$|^d_head$", 8),
    (r"_rank$", 16),
    (r"experts_per_tok|^top_k$|moe_topk|num_selected|moe_top_k|moe_k$", 2),
    (r"experts$|n_routed|moe_num_experts", 4),
    (r"n_shared|num_shared", 1),
    (r"^n_group$|topk_group|^n_groups$", 1),
    (r"max_position|n_positions|n_ctx|max_seq|seq_len|max_target|max_source", 128),
    (r"state_size|d_state|ssm_state", 8),
    (r"num_filters|self_attends_per_block", 2),
    (r"d_latents|image_size", 32),
    (r"patch_size", 16),
]

_ZAMBA = ["linear_attention", "hybrid", "linear_attention", "hybrid"]

# What some model types need beside small sizes; values of None drop a size that does not fit.
_EXTRAS: dict[str, dict[str, Any]] = {
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_parameters": {
            name: {"rope_type": "default", "rope_theta": 10000.0}
            for name in ("sliding_attention", "full_attention")
        },
    },
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "clip_qkv": 8.0}},
    "deepseek_v2": {"num_experts_per_tok": 2, "topk_method": "greedy"},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "encoder-decoder": {"decoder": {"is_decoder": True, "add_cross_attention": True}},
    "esm": {"vocab_size": V, "pad_token_id": 0, "mask_token_id": 3},
    "funnel": {"block_sizes": [1, 1]},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "layoutlmv3": {"visual_embed": False, "coordinate_size": 4, "shape_size": 8},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "lilt": {"hidden_size": 48},  # a multiple of six and of the heads
    "longcat_flash": {"qk_head_dim": 16},
    "mamba2": {"num_heads": 8},
    "ministral": {"head_dim": 8},
    "mistral4": {"qk_rope_head_dim": 4},
    "nemotron": {"head_dim": 8, "num_key_value_heads": 4},
    "neomme": {"head_dim": 16},
    "qwen3_5": {"text_config": {"layer_types": ["linear_attention", "full_attention"]}},
    "reformer": {"axial_pos_embds_dim": [16, 16], "axial_pos_shape": [4, 4]},
    "reformer/ReformerModelWithLMHead": {"is_decoder": True},
    "xmod": {"default_language": "en_XX", "languages": ["en_XX"]},
    "zamba": {"num_hidden_layers": len(_ZAMBA), "layer_types": _ZAMBA},
    "zamba2": {"num_hidden_layers": len(_ZAMBA), "layers_block_type": _ZAMBA},
}


@dataclass(frozen=True)
class ModelClass:
    """A class of an auto mapping, under a model type."""

    model_type: str
    name: str

    def __str__(self) -> str:
        return f"{self.model_type}/{self.name}"


def classes_of(*mappings: Mapping[Any, Any]) -> list[ModelClass]:
    """Every class of some of transformers' tables of model types, sorted."""
    pairs = set[tuple[str, str]]()
    for mapping in mappings:
        for model_type, names in mapping.items():
            pairs |= {(model_type, name) for name in ([names] if isinstance(names, str) else names)}
    return [ModelClass(*pair) for pair in sorted(pairs)]


def small_model(
    model_class: ModelClass, changes: Mapping[str, Any] | None = None, *, labels: int | None = None
) -> PreTrainedModel:
    """Build a class small, with every parameter drawn at random.

    Args:
        model_class: The class.
        changes: Settings of its text model that differ from the small defaults.
        labels: How many labels a classifier has; as transformers' default when None.

    Raises:
        Exception: Whatever the class raises where it cannot be built this small.
    """
    built = getattr(transformers, model_class.name)
    config_class = CONFIG_MAPPING[model_class.model_type]
    settings = _small(config_class().to_dict())
    for extras in (model_class.model_type, str(model_class)):
        settings = _merged(settings, _EXTRAS.get(extras, {}))
    config = config_class(**settings)
    text = _text_part(config)
    if text is not None and not isinstance(config, built.config_class):
        config, settings = getattr(config, text), settings[text]  # a text model of a larger one
        config, text = type(config)(**settings), None
    if changes:
        if text is None:
            settings = _merged(settings, changes)
        else:
            settings[text] = _merged(settings.get(text, {}), changes)
            if "tie_word_embeddings" in changes:  # either level may be the one that is read
                settings["tie_word_embeddings"] = changes["tie_word_embeddings"]
        config = type(config)(**settings)
    if labels is not None:
        config.num_labels = labels
    torch.manual_seed(0)
    model = built(config)
    for parameter in model.parameters():
        if parameter.is_floating_point():
            nn.init.normal_(parameter, std=0.3)
    return model.eval()


def _text_part(config: PreTrainedConfig) -> str | None:
    """Name of the part of a composite config that is its text model, None when it is one."""
    try:
        text = config.get_text_config(decoder=True)
    except ValueError:  # two of them
        text = getattr(config, "decoder", config)
    return next((name for name, part in vars(config).items() if part is text), None)


def _merged(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(settings)
    for name, value in changes.items():
        if isinstance(value, dict) and isinstance(inner := merged.get(name), dict):
            value = _merged(inner, value)
        merged[name] = value
    return merged


def _small(settings: Mapping[str, Any]) -> dict[str, Any]:
    small: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict) and value and ("config" in name or "model_type" in value):
            small[name] = _small(value)
            if "model_type" in value:
                small[name]["model_type"] = value["model_type"]
        elif isinstance(value, bool) or not isinstance(value, int):
            continue
        elif name.endswith(("token_id", "_index")):
            if value >= V:
                special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
                small[name] = special.get(name, V - 1)
        else:
            sizes = (size for pattern, size in _SIZES if re.search(pattern, name))
            if (size := min(value, next(sizes, value))) != value:
                small[name] = size
    heads, keys = settings.get("num_attention_heads"), settings.get("num_key_value_heads")
    if heads == keys or "kv_lora_rank" in settings:  # no grouped queries, or latent attention
        small.pop("num_key_value_heads", None)
        if isinstance(keys, int):
            small["num_key_value_heads"] = small.get("num_attention_heads", heads)
    return small


@contextlib.contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raise TimeoutError when the block takes longer; for the main thread."""

    def expire(*_: Any) -> None:
        raise TimeoutError(f"took more than {seconds} s")

    previous = signal.signal(signal.SIGALRM, expire)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
