"""Where the parts of a transformer block stand in each architecture: one record a family.

A record states paths of modules inside a block. Nothing is taken from it unchecked: the parts that
are captured at these paths must add up to what the live block gives, see `block_parts`.
"""

from dataclasses import dataclass
from typing import Literal

from transformers import PreTrainedModel

from dynamics.errors import ConfigError


@dataclass(frozen=True)
class Sublayer:
    """Attention or feed-forward network of a block, between two states of the residual stream.

    Attributes:
        output: Path of the linear map whose output is added to the residual stream.
        input_norm: Path of the norm of its input.
        output_norm: Path of the norm of its output, before that is added.
        sum_norm: Path of the norm of the sum with the residual stream.
    """

    output: str
    input_norm: str | None = None
    output_norm: str | None = None
    sum_norm: str | None = None

    @property
    def norms(self) -> tuple[str, ...]:
        """Paths of the norms that there are."""
        return tuple(filter(None, (self.input_norm, self.output_norm, self.sum_norm)))


ValueRows = Literal["all", "last_third", "third_of_each_head"]
"""Rows of a linear map that compute values: of one map for queries, keys and values not all."""


@dataclass(frozen=True)
class BlockLayout:
    """Parts of a block of one architecture.

    Attributes:
        name: Name of the architecture, for messages and documentation.
        attention: Self-attention.
        feed_forward: Feed-forward network.
        value: Path of the linear map that computes values.
        up: Path of the first linear map of the feed-forward network.
        gate: Path of the linear map whose activation multiplies that of `up`.
        value_rows: Rows of the map `value` that compute values.
    """

    name: str
    attention: Sublayer
    feed_forward: Sublayer
    value: str
    up: str
    gate: str | None = None
    value_rows: ValueRows = "all"

    @property
    def norms_residual(self) -> bool:
        """Return whether the residual stream itself is normed, as in BERT ("post-LN")."""
        return self.attention.sum_norm is not None

    @property
    def linear_maps(self) -> tuple[str, ...]:
        """Paths of the linear maps."""
        paths = (self.attention.output, self.feed_forward.output, self.value, self.up, self.gate)
        return tuple(filter(None, paths))


def _gated(name: str, attention: Sublayer, feed_forward: Sublayer) -> BlockLayout:
    """Layout with the names of modules that LLaMA has, and models that follow it."""
    return BlockLayout(
        name,
        attention,
        feed_forward,
        value="self_attn.v_proj",
        up="mlp.up_proj",
        gate="mlp.gate_proj",
    )


def _bert(name: str) -> BlockLayout:
    """Layout of BERT, which RoBERTa shares."""
    return BlockLayout(
        name,
        Sublayer("attention.output.dense", sum_norm="attention.output.LayerNorm"),
        Sublayer("output.dense", sum_norm="output.LayerNorm"),
        value="attention.self.value",
        up="intermediate.dense",
    )


LAYOUTS: dict[str, BlockLayout] = {
    "bert": _bert("BERT"),
    "roberta": _bert("RoBERTa"),
    "distilbert": BlockLayout(
        "DistilBERT",
        Sublayer("attention.out_lin", sum_norm="sa_layer_norm"),
        Sublayer("ffn.lin2", sum_norm="output_layer_norm"),
        value="attention.v_lin",
        up="ffn.lin1",
    ),
    "gpt2": BlockLayout(
        "GPT-2",
        Sublayer("attn.c_proj", input_norm="ln_1"),
        Sublayer("mlp.c_proj", input_norm="ln_2"),
        value="attn.c_attn",
        up="mlp.c_fc",
        value_rows="last_third",
    ),
    "gpt_neox": BlockLayout(
        "GPT-NeoX",
        Sublayer("attention.dense", input_norm="input_layernorm"),
        Sublayer("mlp.dense_4h_to_h", input_norm="post_attention_layernorm"),
        value="attention.query_key_value",
        up="mlp.dense_h_to_4h",
        value_rows="third_of_each_head",
    ),
    "llama": _gated(
        "LLaMA",
        Sublayer("self_attn.o_proj", input_norm="input_layernorm"),
        Sublayer("mlp.down_proj", input_norm="post_attention_layernorm"),
    ),
    "olmo2": _gated(
        "OLMo-2",
        Sublayer("self_attn.o_proj", output_norm="post_attention_layernorm"),
        Sublayer("mlp.down_proj", output_norm="post_feedforward_layernorm"),
    ),
    "gemma2": _gated(
        "Gemma-2",
        Sublayer("self_attn.o_proj", "input_layernorm", "post_attention_layernorm"),
        Sublayer("mlp.down_proj", "pre_feedforward_layernorm", "post_feedforward_layernorm"),
    ),
}
"""Layout of the blocks of each model type of transformers that can be decomposed."""


def layout_refusal(network: PreTrainedModel) -> str | None:
    """Return the reason why the blocks of a network cannot be decomposed, None when they can."""
    model_type = network.config.get_text_config().model_type
    if model_type in LAYOUTS:
        return None
    names = ", ".join(layout.name for layout in LAYOUTS.values())
    return f"no record describes the blocks of model type {model_type}; there is one for {names}"


def layout_of(network: PreTrainedModel) -> BlockLayout:
    """Return the layout of the blocks of a network.

    Raises:
        ConfigError: There is none.
    """
    if reason := layout_refusal(network):
        raise ConfigError(f"{type(network).__name__} cannot be decomposed: {reason}")
    return LAYOUTS[network.config.get_text_config().model_type]
