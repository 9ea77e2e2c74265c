"""Untrained transformers models from settings."""

from collections.abc import Callable
from typing import Any

import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from dynamics.config import ModelSettings


def _gpt_neox(model: ModelSettings, shape: dict[str, Any], positions: int) -> PreTrainedModel:
    return GPTNeoXForCausalLM(
        GPTNeoXConfig(
            **shape,
            max_position_embeddings=positions,
            attention_dropout=model.dropout,
            hidden_dropout=model.dropout,
        )
    )


def _gpt2(model: ModelSettings, shape: dict[str, Any], positions: int) -> PreTrainedModel:
    shape["n_inner"] = shape.pop("intermediate_size")
    return GPT2LMHeadModel(
        GPT2Config(
            **shape,
            n_positions=positions,
            attn_pdrop=model.dropout,
            embd_pdrop=model.dropout,
            resid_pdrop=model.dropout,
        )
    )


def _llama(model: ModelSettings, shape: dict[str, Any], positions: int) -> PreTrainedModel:
    return LlamaForCausalLM(
        LlamaConfig(**shape, max_position_embeddings=positions, attention_dropout=model.dropout)
    )


def _bert(model: ModelSettings, shape: dict[str, Any], positions: int) -> PreTrainedModel:
    return BertForMaskedLM(
        BertConfig(
            **shape,
            max_position_embeddings=positions,
            attention_probs_dropout_prob=model.dropout,
            hidden_dropout_prob=model.dropout,
        )
    )


ARCHITECTURES: dict[str, Callable[[ModelSettings, dict[str, Any], int], PreTrainedModel]] = {
    "gpt-neox": _gpt_neox,
    "gpt2": _gpt2,
    "llama": _llama,
    "bert": _bert,
}


def build_model(
    model: ModelSettings, *, vocab_size: int, positions: int, end_of_text: int, seed: int
) -> PreTrainedModel:
    """Build an untrained model in float32; equal arguments give equal weights.

    Args:
        model: Architecture and shape.
        vocab_size: Rows of the embeddings, placebo rows included.
        positions: Longest input.
        end_of_text: Token id that separates documents, also used for padding.
        seed: Seed of the initial weights; sets torch's generator.
    """
    torch.manual_seed(seed)
    shape = {
        "vocab_size": vocab_size,
        "hidden_size": model.hidden_size,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_heads,
        "intermediate_size": model.intermediate_size or 4 * model.hidden_size,
        "tie_word_embeddings": model.tied,
        "initializer_range": model.initializer_range,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        # No row is the padding row: torch would neither initialise nor train it like the others.
        "pad_token_id": None,
    }
    built = ARCHITECTURES[model.architecture](model, shape, positions)
    built.config.use_cache = False
    return built
