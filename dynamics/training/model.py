"""Untrained transformers models from settings."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

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
    PreTrainedConfig,
    PreTrainedModel,
)

from dynamics.config import ModelSettings


@dataclass(frozen=True)
class Architecture:
    """A model class, and the names that its configuration has for what is set.

    Attributes:
        model: Class of the model.
        config: Class of its configuration.
        dropouts: Names of its dropout probabilities.
        intermediate_size: Name of the width of the feed-forward layers.
    """

    model: type[PreTrainedModel]
    config: Callable[..., PreTrainedConfig]
    dropouts: tuple[str, ...]
    intermediate_size: str = "intermediate_size"


ARCHITECTURES = {
    "gpt-neox": Architecture(
        GPTNeoXForCausalLM, GPTNeoXConfig, ("attention_dropout", "hidden_dropout")
    ),
    "gpt2": Architecture(
        GPT2LMHeadModel, GPT2Config, ("attn_pdrop", "embd_pdrop", "resid_pdrop"), "n_inner"
    ),
    "llama": Architecture(LlamaForCausalLM, LlamaConfig, ("attention_dropout",)),
    "bert": Architecture(
        BertForMaskedLM, BertConfig, ("attention_probs_dropout_prob", "hidden_dropout_prob")
    ),
}


def build_model(
    model: ModelSettings,
    *,
    vocab_size: int,
    positions: int,
    end_of_text: int,
    seed: int,
    copies: Mapping[int, Sequence[int]] | None = None,
) -> PreTrainedModel:
    """Build an untrained model in float32; equal arguments give equal weights.

    Args:
        model: Architecture and shape.
        vocab_size: Rows of the embeddings, placebo rows included.
        positions: Longest input.
        end_of_text: Token id that separates documents, also used for padding.
        seed: Seed of the initial weights; sets torch's generator.
        copies: Ids whose rows of both embeddings, and output bias, start as copies of those of
            another id; no other weight depends on them.
    """
    architecture = ARCHITECTURES[model.architecture]
    torch.manual_seed(seed)
    config = architecture.config(
        vocab_size=vocab_size,
        hidden_size=model.hidden_size,
        num_hidden_layers=model.num_layers,
        num_attention_heads=model.num_heads,
        max_position_embeddings=positions,
        tie_word_embeddings=model.tied,
        initializer_range=model.initializer_range,
        bos_token_id=end_of_text,
        eos_token_id=end_of_text,
        # No row is the padding row: torch would neither initialise nor train it like the others.
        pad_token_id=None,
        **{architecture.intermediate_size: model.intermediate_size or 4 * model.hidden_size},
        **dict.fromkeys(architecture.dropouts, model.dropout),
    )
    built = architecture.model(config)
    built.config.use_cache = False
    for original, ids in (copies or {}).items():
        _copy_rows(built, original, ids)
    return built


def _copy_rows(model: PreTrainedModel, original: int, ids: Sequence[int]) -> None:
    """Overwrite rows of both embeddings, and entries of the output bias, by those of an id."""
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        assert layer is not None
        for parameter in layer.parameters(recurse=False):  # most heads have no bias
            parameter.data[list(ids)] = parameter.data[original].clone()
