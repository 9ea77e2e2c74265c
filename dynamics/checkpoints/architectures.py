"""Which tensor plays which role, told from the keys in the files.

Keys differ from the attributes of the live model: GPT-NeoX has `embed_out.weight` on disk and
`lm_head` in memory. So the roles are looked up here, family by family, and every family is held
against transformers by a test.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Role = Literal[
    "input_embedding", "output_embedding", "output_bias", "final_norm_weight", "final_norm_bias"
]
Norm = Literal["layer", "rms"]


@dataclass(frozen=True)
class Family:
    """Where a family keeps its tensors; of several keys the first one present counts.

    A base model saved without its head has the same keys without the leading prefix.

    Attributes:
        norm: Type of the norm before the output embedding. Under `layer` the mean over the
            features of a row of the output embedding changes no prediction.
        input_embedding: Keys of the matrix looked up by token id.
        output_embedding: Keys of the matrix that gives the logits.
        final_norm: Keys, without `.weight` and `.bias`, of the norm whose output meets the output
            embedding (in masked language models the one inside the prediction head).
        output_bias: Keys of the bias added to the logits.
        head_shows: Whether a model that has a head is told by its final norm or output bias;
            otherwise an absent output embedding says nothing about the head.
    """

    norm: Norm
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
        norm="layer",
        input_embedding=("gpt_neox.embed_in.weight", "embed_in.weight"),
        output_embedding=("embed_out.weight", "lm_head.weight"),
        final_norm=("gpt_neox.final_layer_norm", "final_layer_norm"),
    ),
    "gpt2": Family(  # and GPT-J, nanoGPT
        norm="layer",
        input_embedding=("transformer.wte.weight", "wte.weight"),
        output_embedding=("lm_head.weight",),
        final_norm=("transformer.ln_f", "ln_f"),
        output_bias=("lm_head.bias",),
    ),
    "llama": Family(  # and Mistral, Qwen, Gemma, OLMo-1 to 3, SmolLM, StableLM, Phi, Cohere
        norm="rms",
        input_embedding=("model.embed_tokens.weight", "embed_tokens.weight"),
        output_embedding=("lm_head.weight",),
        final_norm=("model.norm", "norm", "model.final_layernorm", "final_layernorm"),
        output_bias=("lm_head.bias",),
    ),
    "hf-olmo": Family(
        norm="layer",
        input_embedding=("model.transformer.wte.weight",),
        output_embedding=("model.transformer.ff_out.weight",),
        final_norm=("model.transformer.ln_f",),
    ),
    "pico": Family(
        norm="rms",
        input_embedding=("pico_decoder.embedding_proj.weight", "embedding_proj.weight"),
        output_embedding=("pico_decoder.de_embedding_proj.weight", "de_embedding_proj.weight"),
        final_norm=("pico_decoder.output_norm", "output_norm"),
    ),
    "opt": Family(  # opt-350m: no final norm, decoder.project_out before the output embedding
        norm="layer",
        input_embedding=("model.decoder.embed_tokens.weight", "decoder.embed_tokens.weight"),
        output_embedding=("lm_head.weight",),
        final_norm=("model.decoder.final_layer_norm", "decoder.final_layer_norm"),
    ),
    "t5": Family(  # a tied T5 scales the final hidden state by hidden_size ** -0.5
        norm="rms",
        # One matrix, of which some tools keep one of three keys.
        input_embedding=("shared.weight", "encoder.embed_tokens.weight", _T5_OR_OPT),
        output_embedding=("lm_head.weight",),
        final_norm=("decoder.final_layer_norm",),
        head_shows=True,
    ),
    "bloom": Family(  # and Falcon; word_embeddings_layernorm comes after the input embedding
        norm="layer",
        input_embedding=("transformer.word_embeddings.weight", "word_embeddings.weight"),
        output_embedding=("lm_head.weight",),
        final_norm=("transformer.ln_f", "ln_f"),
    ),
    "meta": Family(  # and torchtitan
        norm="rms",
        input_embedding=("tok_embeddings.weight",),
        output_embedding=("output.weight",),
        final_norm=("norm",),
    ),
    "olmo-core": Family(
        norm="rms",
        input_embedding=("embeddings.weight",),
        output_embedding=("lm_head.w_out.weight",),
        final_norm=("lm_head.norm",),
        output_bias=("lm_head.w_out.bias",),
    ),
    "mamba": Family(
        norm="rms",
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
        norm="layer",
        input_embedding=("bert.embeddings.word_embeddings.weight",),
        output_embedding=("cls.predictions.decoder.weight",),
        final_norm=("cls.predictions.transform.LayerNorm",),
        output_bias=("cls.predictions.decoder.bias", "cls.predictions.bias"),
        head_shows=True,
    ),
    "deberta": Family(
        norm="layer",
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
        norm="layer",
        input_embedding=("roberta.embeddings.word_embeddings.weight",),
        output_embedding=("lm_head.decoder.weight",),
        final_norm=("lm_head.layer_norm",),
        output_bias=("lm_head.decoder.bias", "lm_head.bias"),
        head_shows=True,
    ),
    "distilbert": Family(
        norm="layer",
        input_embedding=("distilbert.embeddings.word_embeddings.weight",),
        output_embedding=("vocab_projector.weight",),
        final_norm=("vocab_layer_norm",),
        output_bias=("vocab_projector.bias",),
        head_shows=True,
    ),
    "electra": Family(  # rows may be narrower than the hidden size
        norm="layer",
        input_embedding=("electra.embeddings.word_embeddings.weight",),
        output_embedding=("generator_lm_head.weight",),
        final_norm=("generator_predictions.LayerNorm",),
        output_bias=("generator_lm_head.bias",),
        head_shows=True,
    ),
    "albert": Family(  # rows may be narrower than the hidden size
        norm="layer",
        input_embedding=("albert.embeddings.word_embeddings.weight",),
        output_embedding=("predictions.decoder.weight",),
        final_norm=("predictions.LayerNorm",),
        output_bias=("predictions.decoder.bias", "predictions.bias"),
        head_shows=True,
    ),
    "modernbert": Family(  # and its decoder (Ettin)
        norm="layer",
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
        norm="layer",
        input_embedding=("embeddings.word_embeddings.weight",),
        output_embedding=(),
        final_norm=(),
        head_shows=True,
    ),
}

# Norms that multiply by 1 + weight; what is stored is the weight.
_GAIN_IS_ONE_MORE = ("gemma", "gemma2", "gemma3", "gemma3_text", "nemotron")

# Families that share LLaMA's keys, but not its RMS norm. OLMo-1's norm has no parameters.
_LAYER_NORM_MODEL_TYPES = ("olmo", "hf_olmo", "cohere", "cohere2")


def find_family(keys: Collection[str]) -> str | None:
    """Name of the family one of whose input embeddings is among the keys, None when there is none.

    Of several that one counts of which most roles are there, of equals the first.

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
    """Name of the first family whose output embedding and final norm are among the keys.

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
    """The key that plays each role; a role that no key plays is left out.

    Args:
        family: The family the keys belong to.
        keys: The keys in the files.

    Example:
        >>> find_roles(FAMILIES["llama"], ["model.embed_tokens.weight", "model.norm.weight"])
        {'input_embedding': 'model.embed_tokens.weight', 'final_norm_weight': 'model.norm.weight'}
    """
    norms = family.final_norm
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


def norm_type(family: Family, roles: Mapping[Role, str], config: Mapping[str, Any]) -> Norm | None:
    """Type of the final norm: from config.json where the keys cannot tell, None when unknown.

    Args:
        family: The family.
        roles: The roles found in the files.
        config: Contents of config.json, empty when there is none.
    """
    if "layer_norm_type" in config:  # hf_olmo
        return "rms" if config["layer_norm_type"] == "rms" else "layer"
    if "final_norm_bias" in roles or config.get("model_type") in _LAYER_NORM_MODEL_TYPES:
        return "layer"
    if family is FAMILIES["gpt2"] and not config:
        return None  # nanoGPT's layer norm without bias and LitGPT's RMS norm have the same keys
    return family.norm if "final_norm_weight" in roles else None


def gain_offset(config: Mapping[str, Any]) -> float:
    """What a final norm adds to its stored weight before it multiplies by it: 1 in Gemma, else 0.

    Args:
        config: Contents of config.json, empty when there is none.
    """
    return 1.0 if config.get("model_type") in _GAIN_IS_ONE_MORE else 0.0
