"""The parts of a block for one input: attention weights, values, norms, and the residual stream.

A block whose parts do not add up to its own output is refused: no number is computed from it.

P positions, R selected positions, D hidden size, H heads, W width of a head, N copies of an input.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dynamics.errors import MeasureError
from dynamics.models.attention_calls import AttentionCall, attention_calls, precise
from dynamics.models.block_layouts import BlockLayout, Sublayer
from dynamics.models.frozen_maps import (
    FrozenNorm,
    LinearMap,
    distance,
    frozen_norm,
    linear_map,
    tolerance,
)

States = Float[Tensor, "P D"]


@dataclass(frozen=True, eq=False)
class ModuleCall:
    """One call of a module: its first argument and its output, in the order of the calls."""

    module: nn.Module
    value: Tensor
    output: Tensor


@dataclass(frozen=True, eq=False)
class BlockParts:
    """A block with what it computed for one input.

    Attributes:
        name: The model and the block, for messages.
        layout: Where its parts stand.
        block: The module.
        arguments: Arguments that it was called with, by position and by name.
        call: Its call of attention.
        calls: Calls of its norms and linear maps, by path.
        output: Its output.

    Raises:
        MeasureError: The parts do not add up to the states of the residual stream.
    """

    name: str
    layout: BlockLayout
    block: nn.Module
    arguments: tuple[tuple[Any, ...], Mapping[str, Any]]
    call: AttentionCall
    calls: Mapping[str, ModuleCall]
    output: States

    def __post_init__(self) -> None:
        attention, feed_forward = self.layout.attention, self.layout.feed_forward
        heads = precise(self.call.output)[0].flatten(1)
        self._check("attention weights times values", self._attended_heads, heads)
        self._check("input of the attention output", self.input_of(attention.output), heads)
        self._check_chain(attention, self.input, self.layout.value)
        before = self.input if self.is_parallel else self.mixed
        self._check_chain(feed_forward, before, self.layout.up)
        if attention.sum_norm:
            summed = self.input + self.attended
            self._check("sum of input and attention", self.input_of(attention.sum_norm), summed)
        # In a parallel block this is input + attention + feed-forward network all the same.
        summed = self.mixed + self.fed_forward
        if feed_forward.sum_norm:
            self._check("sum before its last norm", self.input_of(feed_forward.sum_norm), summed)
            summed = self.output_of(feed_forward.sum_norm)
        self._check("output", self.output, summed)

    @property
    def limit(self) -> float:
        """Largest distance of a sum of parts from the live model's own number."""
        return tolerance(self.call.output.dtype)

    @property
    def input(self) -> States:
        """Input of the block: the residual stream before it."""
        return precise(_first(self.arguments))[0]

    @cached_property
    def weights(self) -> Float[Tensor, "H P P"]:
        """Attention weights; rows sum to 1."""
        return self.call.weights()[0]

    @property
    def values(self) -> Float[Tensor, "H P W"]:
        """Value of each position in each head, with its bias."""
        return precise(self.call.value_of_heads)[0]

    @property
    def heads_width(self) -> int:
        """Width HW of all heads side by side."""
        return self.call.output.shape[-2] * self.call.output.shape[-1]

    @property
    def _attended_heads(self) -> Float[Tensor, "P HW"]:
        """Mean value of each head and position, by its attention weights."""
        return (self.weights @ self.values).transpose(0, 1).flatten(1)

    @property
    def attended(self) -> States:
        """What attention adds to the residual stream."""
        return self._added(self.layout.attention)

    @property
    def fed_forward(self) -> States:
        """What the feed-forward network adds to the residual stream."""
        return self._added(self.layout.feed_forward)

    @property
    def mixed(self) -> States:
        """State after attention: the sum of input and attention, normed where the block does."""
        norm = self.layout.attention.sum_norm
        return self.output_of(norm) if norm else self.input + self.attended

    @property
    def is_parallel(self) -> bool:
        """Return whether the feed-forward network reads the input of the block (GPT-NeoX)."""
        norm = self.layout.feed_forward.input_norm
        return norm is not None and distance(self.input_of(norm), self.mixed) > self.limit

    def attention_shares(self, rows: slice | list[int] = slice(None)) -> Float[Tensor, "R P D"]:
        """Share of the value of each position in what attention adds at some positions.

        With `attention_bias` they sum to `attended`.
        """
        # sum over heads of A_ij W_O v_j: the heads stand side by side in the input of W_O.
        heads = torch.einsum("hrp,hpw->rphw", self.weights[:, rows], self.values).flatten(2)
        shares = self.map(self.layout.attention.output)(heads)
        norm = self.norm(self.layout.attention.output_norm)
        return norm(shares, rows) if norm else shares

    @property
    def attention_bias(self) -> States:
        """Share of the bias of the attention output, and of its norm, in `attended`."""
        bias = self.map(self.layout.attention.output).bias.expand_as(self.input)
        norm = self.norm(self.layout.attention.output_norm)
        return norm(bias[:, None])[:, 0] + norm.bias if norm else bias

    def mixing_terms(self, rows: slice | list[int] = slice(None)) -> Float[Tensor, "R P D"]:
        """Transformed vector of each position in `mixed`, without biases of norms and output.

        The value of a position under the attention weights, and the residual of the same position;
        through the norm of the sum where the block has one (Kobayashi et al. 2021).
        """
        positions = torch.arange(len(self.input), device=self.input.device)
        # T_i(x_j) = sum_h A_ij W_O v_j + [i = j] x_i, Ferrando et al. 2022 (arXiv 2203.04212)
        terms = self.attention_shares(rows)
        own = positions[rows]
        terms[torch.arange(len(own), device=own.device), own] += self.input[rows]
        norm = self.norm(self.layout.attention.sum_norm)
        return norm(terms, rows) if norm else terms

    def value_map(self) -> LinearMap:
        """Return the map from the normed input to the values of all key-value heads."""
        path, kind = self.layout.value, self.layout.value_rows
        whole = self.map(path)
        rows = torch.arange(len(whole.weight), device=whole.weight.device)
        if kind == "last_third":
            rows = rows.view(3, -1)[2]
        elif kind == "third_of_each_head":
            rows = rows.view(len(self.weights), 3, -1)[:, 2].flatten()
        values = precise(self.call.value)[0].transpose(0, 1).flatten(1)
        self._check("values", self.output_of(path)[:, rows], values)
        return LinearMap(whole.weight[rows], whole.bias[rows])

    def of_heads(self, values: Float[Tensor, "... GW"]) -> Float[Tensor, "... HW"]:
        """Repeat the values of key-value heads, side by side, for the query heads of each."""
        groups = self.call.value.shape[1]
        by_head = values.unflatten(-1, (groups, -1))
        return by_head.repeat_interleave(len(self.weights) // groups, dim=-2).flatten(-2)

    def attend(self, values: Float[Tensor, "P K GW"]) -> Float[Tensor, "P K HW"]:
        """Mix parts of the values by the attention weights of each head."""
        by_head = self.of_heads(values).unflatten(-1, (len(self.weights), -1))
        return torch.einsum("hpq,qkhw->pkhw", self.weights, by_head).flatten(-2)

    def map(self, path: str) -> LinearMap:
        """Return a linear map of the block, compared with what the live module gave."""
        recorded = linear_map(self.block.get_submodule(path)) or self._refuse(path, torch.inf)
        self._check(path, recorded(self.input_of(path)) + recorded.bias, self.output_of(path))
        return recorded

    def norm(self, path: str | None) -> FrozenNorm | None:
        """Return a norm of the block with its true divisors; None for no path."""
        if path is None:
            return None
        module = self.block.get_submodule(path)
        norm = frozen_norm(module, self.input_of(path), self.output_of(path), self.limit)
        return norm or self._refuse(path, torch.inf)

    @torch.no_grad()
    def with_values_zeroed(self, positions: Int[Tensor, " N"]) -> Float[Tensor, "N P D"]:
        """Run the block again on its own input, each time without the value of one position.

        Args:
            positions: Position whose value is zero in all heads, in each copy; -1 for none.

        Raises:
            MeasureError: The attention of a copy is not that of the values that were left.
        """
        args, kwargs = self.arguments
        states = _first(self.arguments).expand(len(positions), -1, -1)
        if args:
            args = (states, *args[1:])
        else:
            kwargs = {**kwargs, "hidden_states": states}
        with attention_calls(positions) as calls:
            output = self.block(*args, **kwargs)
        # The values changed, and the attention of all copies follows from them.
        (call,) = calls
        heads = (call.weights() @ precise(call.value_of_heads)).transpose(1, 2)
        self._check("attention without one value", heads, precise(call.output))
        rows = positions.clamp_min(0)[:, None, None, None]
        zeroed = call.value.gather(2, rows.expand(-1, call.value.shape[1], 1, call.value.shape[3]))
        if (zeroed[positions >= 0] != 0).any():
            self._refuse("value set to zero", torch.inf)
        return precise(output if isinstance(output, Tensor) else output[0])

    def _added(self, sublayer: Sublayer) -> States:
        """Return what a sublayer adds to the residual stream."""
        return self.output_of(sublayer.output_norm or sublayer.output)

    def input_of(self, path: str) -> Tensor:
        """Return the input that a norm or linear map got."""
        return precise(self.calls[path].value)[0]

    def output_of(self, path: str) -> Tensor:
        """Return the output that a norm or linear map gave."""
        return precise(self.calls[path].output)[0]

    def _check_chain(self, sublayer: Sublayer, before: States, first_map: str) -> None:
        """Refuse a sublayer whose norms and maps do not follow each other as the layout says."""
        if sublayer.input_norm:
            self._check("input of a norm", self.input_of(sublayer.input_norm), before)
            before = self.output_of(sublayer.input_norm)
        self._check(f"input of {first_map}", self.input_of(first_map), before)
        if sublayer.output_norm:
            added = self.output_of(sublayer.output)
            self._check("input of a norm", self.input_of(sublayer.output_norm), added)

    def _check(self, part: str, computed: Tensor, expected: Tensor) -> None:
        """Refuse a part of the block that is not computed as the record of its layout says."""
        error = distance(computed, expected) if computed.shape == expected.shape else torch.inf
        if error > self.limit:
            self._refuse(part, error)

    def _refuse(self, part: str, error: float) -> Any:
        """Refuse the block, with the part that is not what its layout says.

        Raises:
            MeasureError: Always.
        """
        raise MeasureError(
            f"{self.name} is not built as {self.layout.name}: {part} differs from that of the "
            f"live model by {error:.2g} of its largest number (at most {self.limit:.2g} is "
            "rounding), so it is not decomposed; use a method that decomposes nothing, such as "
            "occlusion"
        )


def _first(arguments: tuple[tuple[Any, ...], Mapping[str, Any]]) -> Float[Tensor, "N P D"]:
    """Return the first argument of a block: the residual stream."""
    args, kwargs = arguments
    return args[0] if args else kwargs["hidden_states"]
