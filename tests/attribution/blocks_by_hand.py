"""What a block computes, read off the weights of each architecture by hand.

Nothing here uses the package: attention weights are those that transformers returns under its
eager implementation, values are computed from the weights of each architecture, and hidden states
are transformers' own.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

FAMILIES = ("bert", "roberta", "distilbert", "gpt2", "gpt_neox", "llama", "olmo2", "gemma2")
POST_NORM = ("bert", "roberta", "distilbert")
TASKS = {name: "masked" if name in POST_NORM else "causal" for name in FAMILIES}


@dataclass
class Block:
    module: nn.Module
    x: Tensor  # input, P x D
    attention: Tensor  # H x P x P
    value: nn.Module  # map of the values, or of queries, keys and values
    rows: Tensor  # rows of its output that are values
    output: nn.Module
    input_norm: nn.Module | None = None
    output_norm: nn.Module | None = None
    sum_norm: nn.Module | None = None
    last_norm: nn.Module | None = None

    @property
    def normed_input(self):
        return self.input_norm(self.x) if self.input_norm else self.x

    @property
    def values(self):
        """H x P x W: key-value heads are repeated for the query heads of their group."""
        heads = len(self.attention)
        values = self.value(self.normed_input)[:, self.rows]
        width = self.weight.shape[1] // heads
        by_head = values.view(len(self.x), -1, width).transpose(0, 1)
        return by_head.repeat_interleave(heads // len(by_head), 0)

    @property
    def weight(self):
        """W_O, D x HW."""
        return self.output.weight.T if isinstance(self.output, Conv1D) else self.output.weight

    @property
    def bias(self):
        bias = self.output.bias
        return torch.zeros_like(self.x[0]) if bias is None else bias

    def mean_of_values(self):
        """What goes into W_O, P x HW."""
        mixed = [
            torch.cat([head[i] @ v for head, v in zip(self.attention, self.values, strict=True)])
            for i in range(len(self.x))
        ]
        return torch.stack(mixed)


def linear_norm(norm, whole, part):
    """A norm of a part of its input, divided as the whole input is; no bias."""
    if isinstance(norm, nn.LayerNorm):
        whole, part = whole - whole.mean(), part - part.mean()
    gain = norm.weight + 1 if "Gemma" in type(norm).__name__ else norm.weight
    eps = getattr(norm, "eps", getattr(norm, "variance_epsilon", None))
    return gain * part / (whole.pow(2).mean() + eps).sqrt()


def network_of(name, network):
    return getattr(network, network.base_model_prefix)


@torch.no_grad()
def blocks_by_hand(name, network, ids):
    """The blocks of a network for one row of ids, with what they compute."""
    implementation = network.config._attn_implementation
    network.set_attn_implementation("eager")
    try:
        given = network(ids, output_hidden_states=True, output_attentions=True)
    finally:
        network.set_attn_implementation(implementation)
    base = network_of(name, network)
    blocks = {"gpt2": "h", "bert": "encoder", "roberta": "encoder", "distilbert": "transformer"}
    modules = getattr(base, blocks.get(name, "layers"))
    modules = getattr(modules, "layer", modules)
    return [
        _block(name, module, given.hidden_states[index][0], given.attentions[index][0])
        for index, module in enumerate(modules)
    ]


def _block(name, module, x, attention):
    width, heads = x.shape[1], len(attention)
    if name in ("bert", "roberta"):
        part = module.attention
        return Block(
            module, x, attention, part.self.value, torch.arange(width), part.output.dense,
            sum_norm=part.output.LayerNorm, last_norm=module.output.LayerNorm,
        )  # fmt: skip
    if name == "distilbert":
        part = module.attention
        return Block(
            module, x, attention, part.v_lin, torch.arange(width), part.out_lin,
            sum_norm=module.sa_layer_norm, last_norm=module.output_layer_norm,
        )  # fmt: skip
    if name == "gpt2":
        rows = torch.arange(2 * width, 3 * width)
        return Block(
            module, x, attention, module.attn.c_attn, rows, module.attn.c_proj,
            input_norm=module.ln_1,
        )  # fmt: skip
    if name.startswith("gpt_neox"):
        size = width // heads
        rows = torch.cat([torch.arange(2 * size, 3 * size) + 3 * size * h for h in range(heads)])
        part = module.attention
        return Block(
            module, x, attention, part.query_key_value, rows, part.dense,
            input_norm=module.input_layernorm,
        )  # fmt: skip
    part = module.self_attn
    rows = torch.arange(part.v_proj.out_features)
    norms = {
        "llama": {"input_norm": "input_layernorm"},
        "olmo2": {"output_norm": "post_attention_layernorm"},
        "gemma2": {"input_norm": "input_layernorm", "output_norm": "post_attention_layernorm"},
    }[name]
    norms = {place: getattr(module, path) for place, path in norms.items()}
    return Block(module, x, attention, part.v_proj, rows, part.o_proj, **norms)
