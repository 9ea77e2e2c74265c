"""Norms and linear maps of a live model, applied to the parts of their input.

A norm is linear in the parts of its input once its divisor is that of the whole input. Each map is
compared with the output that the live module gave, and refused where it does not give the same.

P positions, R selected positions, K parts, D features, E features of an output.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from dynamics.models.attention_calls import precise

Parts = Float[Tensor, "R K D"]


def tolerance(dtype: torch.dtype) -> float:
    """Return the rounding allowed between a part of a network and its copy in float64.

    Relative to the largest number: 1e-6 in float64 (norms of LLaMA-like models round to float32
    there), 1e-5 in float32, eight units in half precision.
    """
    eps = torch.finfo(dtype).eps
    return max(1e-6, min(1e-5, 128 * eps), 8 * eps)


def distance(computed: Tensor, expected: Tensor) -> float:
    """Return the largest difference relative to the largest number expected; infinite for NaN."""
    difference = (computed - expected).abs().max() / expected.abs().max().clamp_min(1e-30)
    return float(difference.nan_to_num(torch.inf))


@dataclass(frozen=True, eq=False)
class LinearMap:
    """A linear map with bias.

    Attributes:
        weight: Matrix.
        bias: Vector that is added; zeros without.
    """

    weight: Float[Tensor, "E D"]
    bias: Float[Tensor, " E"]

    def __call__(self, parts: Float[Tensor, "... D"]) -> Float[Tensor, "... E"]:
        """Return the image of each part, without the bias."""
        return parts @ self.weight.T


def is_linear(module: nn.Module) -> bool:
    """Return whether a module is a linear layer of torch or transformers."""
    return isinstance(module, nn.Linear | Conv1D)


def linear_map(module: nn.Module) -> LinearMap | None:
    """Return the map of a module in wide numbers, None where it is no linear layer."""
    if not isinstance(module, nn.Linear | Conv1D):
        return None
    weight = precise(module.weight.detach())
    weight = weight.T if isinstance(module, Conv1D) else weight
    bias = weight.new_zeros(len(weight)) if module.bias is None else precise(module.bias.detach())
    return LinearMap(weight, bias)


@dataclass(frozen=True, eq=False)
class FrozenNorm:
    """A norm whose divisors are those that its whole input had.

    Attributes:
        gain: Factor of each feature.
        bias: Vector that is added; zeros without.
        scale: One over the divisor at each position.
        centers: The mean over features is subtracted first (LayerNorm, not RMSNorm).
    """

    gain: Float[Tensor, " D"]
    bias: Float[Tensor, " D"]
    scale: Float[Tensor, " P"]
    centers: bool

    def __call__(self, parts: Parts, rows: slice | list[int] = slice(None)) -> Parts:
        """Return the normed parts at some positions, without the bias."""
        if self.centers:
            parts = parts - parts.mean(-1, keepdim=True)
        return parts * self.gain * self.scale[rows][:, None, None]


def frozen_norm(
    module: nn.Module, value: Float[Tensor, "P D"], output: Float[Tensor, "P D"], limit: float
) -> FrozenNorm | None:
    """Return a norm with the divisors that it had for its input, read from its output.

    Args:
        module: The norm.
        value: Its input.
        output: Its output.
        limit: Largest distance of the copy from the output, see `distance`.

    Returns:
        The norm; None where gain, bias and a divisor do not give the output.
    """
    ones, zeros = torch.ones_like(value[0]), torch.zeros_like(value[0])
    weight, offset = getattr(module, "weight", None), getattr(module, "bias", None)
    gain = ones if weight is None else precise(weight.detach())
    bias = zeros if offset is None else precise(offset.detach())
    centers = isinstance(module, nn.LayerNorm)
    for candidate in (gain, 1 + gain):  # Gemma stores the gain minus 1
        if candidate.shape != ones.shape:
            break
        unscaled = candidate * (value - value.mean(-1, keepdim=True) if centers else value)
        # Least squares of output - bias = scale * unscaled, at each position.
        scale = (unscaled * (output - bias)).sum(-1) / unscaled.square().sum(-1).clamp_min(1e-300)
        if distance(unscaled * scale[:, None] + bias, output) <= limit:
            return FrozenNorm(candidate, bias, scale, centers)
    return None
