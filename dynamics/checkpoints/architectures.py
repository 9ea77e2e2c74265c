"""Families of models by the keys of their tensors, and the key in each role.

Keys differ from the attributes of the model in memory: GPT-NeoX has `embed_out.weight` on disk and
`lm_head` in memory. The families here are recognised by their keys alone and include the keys of
older programs; `model_types` has the keys of every class of transformers, and further facts.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

Role = Literal[
    "input_embedding", "output_embedding", "output_bias", "final_norm_weight", "final_norm_bias"
]
Norm = Literal["layer", "rms"]

LAST_LAYER = "{last}"
"""Placeholder in a key for the index of the last layer."""


ROLES: tuple[Role, ...] = ("input_embedding", "output_embedding")


@dataclass(frozen=True)
class Family:
    """Keys of the tensors of a family; of several keys the first one present counts.

    A base model saved without its head has the same keys without the leading prefix.

    Attributes:
        input_embedding: Keys of the matrix looked up by token id.
        output_embedding: Keys of the matrix that gives the logits.
        final_norm: Keys, without `.weight` and `.bias`, of the norm whose output is multiplied by
            the output embedding (in masked language models the one inside the prediction head).
            `{last}` stands for the index of the last layer.
        output_bias: Keys of the bias added to the logits.
        head_shows: Whether a model with a head is recognised by its final norm or output bias;
            otherwise an absent output embedding says nothing about the head.
    """

    input_embedding: tuple[str, ...]
    output_embedding: tuple[str, ...]
    final_norm: tuple[str, ...]
    output_bias: tuple[str, ...] = ()
    head_shows: bool = False


_T5_OR_OPT = "decoder.embed_tokens.weight"
_T5_BLOCKS = "decoder.block."

# Order matters where the keys of one family include those of another.
FAMILIES: dict[str, Family] = {
    "gpt-neox": Family(
        input_embedding=("gpt_neox.embed_in.weight", "embed_in.weight"),
        output_embedding=("embed_out.weight", "lm_head.weight"),
        final_norm=("gpt_neox.final_layer_norm", "final_layer_norm"),
    ),
    "gpt2": Family(  # and GPT-J, nanoGPT
        input_embedding=("transformer.wte.weight", "wte.weight"),
        output_embedding=("lm_head.weight",),
        final_norm=("transformer.ln_f", "ln_f"),
        output_bias=("lm_head.bias",),
    ),
    "llama": Family(  # and Mistral, Qwen, Gemma, OLMo-1 to 3, SmolLM, StableLM, Phi, Cohere
        input_embedding=("model.embed_tokens.weight", "embed_tokens.weight"),
        output_embedding=("lm_head.weight",),
        final_norm=("model.norm", "norm", "model.final_layernorm", "final_layernorm"),
        output_bias=("lm_head.bias",),
    ),
    "hf-olmo": Family(
        input_embedding=("model.transformer.wte.weight",),
        output_embedding=("model.transformer.ff_out.weight",),
        final_norm=("model.transformer.ln_f",),
    ),
    "pico": Family(
        input_embedding=("pico_decoder.embedding_proj.weight", "embedding_proj.weight"),
        output_embedding=("pico_decoder.de_embedding_proj.weight", "de_embedding_proj.weight"),
        final_norm=("pico_decoder.output_norm", "output_norm"),
    ),
    "opt": Family(  # opt-350m: no final norm, decoder.project_out before the output embedding
        input_embedding=("model.decoder.embed_tokens.weight", "decoder.embed_tokens.weight"),
        output_embedding=("lm_head.weight",),
        final_norm=("model.decoder.final_layer_norm", "decoder.final_layer_norm"),
    ),
    "t5": Family(  # a tied T5 scales the final hidden state by hidden_size ** -0.5
        # One matrix; some tools save it under one of these three keys.
        input_embedding=("shared.weight", "encoder.embed_tokens.weight", _T5_OR_OPT),
        output_embedding=("lm_head.weight",),
        final_norm=("decoder.final_layer_norm",),
        head_shows=True,
    ),
    "bloom": Family(  # and Falcon; word_embeddings_layernorm comes after the input embedding
        input_embedding=("transformer.word_embeddings.weight", "word_embeddings.weight"),
        output_embedding=("lm_head.weight",),
        final_norm=("transformer.ln_f", "ln_f"),
    ),
    "meta": Family(  # and torchtitan
        input_embedding=("tok_embeddings.weight",),
        output_embedding=("output.weight",),
        final_norm=("norm",),
    ),
    "olmo-core": Family(
        input_embedding=("embeddings.weight",),
        output_embedding=("lm_head.w_out.weight",),
        final_norm=("lm_head.norm",),
        output_bias=("lm_head.w_out.bias",),
    ),
    "mamba": Family(
        input_embedding=(
            "backbone.embeddings.weight",
            "backbone.embedding.weight",
            "embeddings.weight",
            "embedding.weight",
        ),
        output_embedding=("lm_head.weight",),
        final_norm=("backbone.norm_f", "norm_f"),
    ),
    "bert": Family(
        input_embedding=("bert.embeddings.word_embeddings.weight",),
        output_embedding=("cls.predictions.decoder.weight",),
        final_norm=("cls.predictions.transform.LayerNorm",),
        output_bias=("cls.predictions.decoder.bias", "cls.predictions.bias"),
        head_shows=True,
    ),
    "deberta": Family(
        input_embedding=("deberta.embeddings.word_embeddings.weight",),
        output_embedding=("cls.predictions.decoder.weight",),
        final_norm=("cls.predictions.transform.LayerNorm", "lm_predictions.lm_head.LayerNorm"),
        output_bias=(
            "cls.predictions.decoder.bias",
            "cls.predictions.bias",
            "lm_predictions.lm_head.bias",
        ),
        head_shows=True,
    ),
    "roberta": Family(
        input_embedding=("roberta.embeddings.word_embeddings.weight",),
        output_embedding=("lm_head.decoder.weight",),
        final_norm=("lm_head.layer_norm",),
        output_bias=("lm_head.decoder.bias", "lm_head.bias"),
        head_shows=True,
    ),
    "distilbert": Family(
        input_embedding=("distilbert.embeddings.word_embeddings.weight",),
        output_embedding=("vocab_projector.weight",),
        final_norm=("vocab_layer_norm",),
        output_bias=("vocab_projector.bias",),
        head_shows=True,
    ),
    "electra": Family(  # rows may be narrower than the hidden size
        input_embedding=("electra.embeddings.word_embeddings.weight",),
        output_embedding=("generator_lm_head.weight",),
        final_norm=("generator_predictions.LayerNorm",),
        output_bias=("generator_lm_head.bias",),
        head_shows=True,
    ),
    "albert": Family(  # rows may be narrower than the hidden size
        input_embedding=("albert.embeddings.word_embeddings.weight",),
        output_embedding=("predictions.decoder.weight",),
        final_norm=("predictions.LayerNorm",),
        output_bias=("predictions.decoder.bias", "predictions.bias"),
        head_shows=True,
    ),
    "modernbert": Family(  # and its decoder (Ettin)
        input_embedding=(
            "model.embeddings.tok_embeddings.weight",
            "embeddings.tok_embeddings.weight",
        ),
        output_embedding=("decoder.weight",),
        final_norm=("head.norm", "lm_head.norm"),
        output_bias=("decoder.bias",),
        head_shows=True,
    ),
    "encoder": Family(  # BERT and its kin, saved without a head
        input_embedding=("embeddings.word_embeddings.weight",),
        output_embedding=(),
        final_norm=(),
        head_shows=True,
    ),
}


def find_family(keys: Collection[str]) -> str | None:
    """Find the family that has an input embedding among the keys, None when there is none.

    Of several families, the one with most roles among the keys; on a tie the first.

    Example:
        >>> find_family(["gpt_neox.embed_in.weight", "embed_out.weight"])
        'gpt-neox'
    """
    if _T5_OR_OPT in keys and any(key.startswith(_T5_BLOCKS) for key in keys):
        return "t5"
    names = [
        name
        for name, family in FAMILIES.items()
        if any(key in keys for key in family.input_embedding)
    ]
    return max(names, key=lambda name: len(find_roles(FAMILIES[name], keys)), default=None)


def find_headed_family(keys: Collection[str]) -> str | None:
    """Find the first family whose output embedding and final norm are among the keys.

    Example:
        >>> find_headed_family(["lm_head.weight", "transformer.ln_f.weight"])
        'gpt2'
    """
    if any(key.startswith(_T5_BLOCKS) for key in keys):
        return "t5" if find_roles(FAMILIES["t5"], keys).get("output_embedding") else None
    for name, family in FAMILIES.items():
        roles = find_roles(family, keys)
        if "output_embedding" in roles and "final_norm_weight" in roles:
            return name
    return None


def find_roles(family: Family, keys: Collection[str]) -> dict[Role, str]:
    """Find the key in each role; roles without a key are left out.

    Args:
        family: The family the keys belong to.
        keys: The keys in the files.

    Example:
        >>> find_roles(FAMILIES["llama"], ["model.embed_tokens.weight", "model.norm.weight"])
        {'input_embedding': 'model.embed_tokens.weight', 'final_norm_weight': 'model.norm.weight'}
    """
    norms = [_fill_last_layer(name, keys) for name in family.final_norm]
    candidates: dict[Role, list[str]] = {
        "input_embedding": [*family.input_embedding],
        "output_embedding": [*family.output_embedding],
        "output_bias": [*family.output_bias],
        # BERT files converted from TensorFlow call the two gamma and beta.
        "final_norm_weight": [norm + end for norm in norms for end in (".weight", ".gamma")],
        "final_norm_bias": [norm + end for norm in norms for end in (".bias", ".beta")],
    }
    roles: dict[Role, str] = {}
    for role, names in candidates.items():
        if present := [name for name in names if name in keys]:
            roles[role] = present[0]
    return roles


def _fill_last_layer(name: str, keys: Collection[str]) -> str:
    """Replace `{last}` in a name by the largest index that the keys have there."""
    if LAST_LAYER not in name:
        return name
    pattern = re.compile(re.escape(name.partition(LAST_LAYER)[0]) + r"(\d+)\.")
    layers = [int(match[1]) for key in keys if (match := pattern.match(key))]
    return name.replace(LAST_LAYER, str(max(layers, default=0)))
