"""The calls of attention inside a network: recorded, and with the values of tokens set to zero.

Every architecture of `block_layouts` computes attention by one function of transformers, eager or
fused. That function is wrapped where the blocks look it up, so that queries, keys and values are
those which it gets, under any implementation: rotated, masked, and grouped.

B inputs, P positions, H query heads, G key-value heads, W width of a head.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.modeling_utils import AttentionInterface

from dynamics.models.patching import attribute_replaced


@dataclass(frozen=True, eq=False)
class AttentionCall:
    """One call of the attention function.

    Attributes:
        module: Attention module that called it.
        query: Queries.
        key: Keys.
        value: Values that took part, with their biases, after any were set to zero.
        mask: Additive or boolean mask; None where the function masks by itself, or nothing.
        is_causal: The function masks later positions by itself.
        scaling: Factor of the dot products of queries and keys; None for 1 / sqrt(W).
        softcap: Bound of the scaled dot products; None without.
        output: Output of the function.
    """

    module: nn.Module
    query: Float[Tensor, "B H P W"]
    key: Float[Tensor, "B G P W"]
    value: Float[Tensor, "B G P W"]
    mask: Tensor | None
    is_causal: bool
    scaling: float | None
    softcap: float | None
    output: Float[Tensor, "B P H W"]

    def weights(self) -> Float[Tensor, "B H P P"]:
        """Return the attention weights: computed here, because fused functions return none."""
        query, key = precise(self.query), precise(self.key_of_heads)
        scaling = query.shape[-1] ** -0.5 if self.scaling is None else self.scaling
        products = query @ key.transpose(-1, -2) * scaling
        if self.softcap is not None:
            products = self.softcap * (products / self.softcap).tanh()
        if self.is_causal:
            above = torch.ones(products.shape[-2:], dtype=torch.bool, device=products.device)
            products = products.masked_fill(above.triu(1), -torch.inf)
        elif self.mask is not None and self.mask.dtype == torch.bool:
            products = products.masked_fill(~self.mask, -torch.inf)
        elif self.mask is not None:
            products = products + precise(self.mask)
        return products.softmax(-1)

    @property
    def key_of_heads(self) -> Float[Tensor, "B H P W"]:
        """Key of each query head."""
        return _of_heads(self.key, self.query.shape[1])

    @property
    def value_of_heads(self) -> Float[Tensor, "B H P W"]:
        """Value of each query head: those of a group share one."""
        return _of_heads(self.value, self.query.shape[1])


def precise(tensor: Tensor) -> Tensor:
    """Convert to float64, or to float32 on a device that has no wider type."""
    return tensor.to(torch.float32 if tensor.device.type == "mps" else torch.float64)


@contextmanager
def attention_calls(
    zeroed: Int[Tensor, " B"] | None = None,
) -> Iterator[list[AttentionCall]]:
    """Record the calls of attention inside the block.

    Args:
        zeroed: For each input of the batch the position whose value is set to zero in all heads, -1
            for none; None to change nothing.

    Yields:
        The calls, in order; none of an architecture that computes attention in another way.
    """
    calls: list[AttentionCall] = []
    look_up = AttentionInterface.get_interface

    def recording(interface: Any, name: Any, default: Callable[..., Any]) -> Callable[..., Any]:
        function = look_up(interface, name, default)

        def attention(
            module: nn.Module,
            query: Tensor,
            key: Tensor,
            value: Tensor,
            mask: Tensor | None,
            *args: Any,
            **kwargs: Any,
        ) -> Any:
            if zeroed is not None:
                value = _without(value, zeroed)
            result = function(module, query, key, value, mask, *args, **kwargs)
            # As fused functions do: without a mask they mask later positions of causal modules.
            is_causal = kwargs.get("is_causal")
            is_causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
            calls.append(
                AttentionCall(
                    module,
                    query,
                    key,
                    value,
                    mask,
                    bool(is_causal) and mask is None and name != "eager",
                    kwargs.get("scaling"),
                    kwargs.get("softcap"),
                    result[0],
                )
            )
            return result

        return attention

    with attribute_replaced(AttentionInterface, "get_interface", recording):
        yield calls


def _without(value: Tensor, zeroed: Int[Tensor, " B"]) -> Tensor:
    """Return values with the one at a position of each input set to zero, -1 for none."""
    positions = torch.arange(value.shape[2], device=value.device)
    return value.masked_fill((positions == zeroed[:, None])[:, None, :, None], 0)


def _of_heads(tensor: Float[Tensor, "B G P W"], heads: int) -> Float[Tensor, "B H P W"]:
    """Repeat key-value heads for the query heads of their group."""
    return tensor.repeat_interleave(heads // tensor.shape[1], dim=1)
