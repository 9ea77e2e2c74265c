"""Make a model linear at the values it is called with, by rules for functions of torch.

The rules do not depend on the architecture. A function that they do not cover shows: the result is
then not the sum of the shares of the inputs and of the additive terms.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

from dynamics.models.patching import forward_replaced

# Attention weights and norms' divisors are constants in CP-LRP (Ali et al. 2022, arXiv 2202.07304).
_CONSTANT = {"softmax", "rsqrt", "sqrt", "var", "std", "norm", "rdiv", "reciprocal"}
_ACTIVATIONS = {
    *("gelu", "silu", "relu", "tanh", "sigmoid", "square", "relu6", "leaky_relu", "elu", "selu"),
    *("mish", "softplus", "hardtanh", "hardswish", "hardsigmoid", "erf"),
}
_PRODUCTS = {"mul", "rmul", "imul", "multiply", "matmul", "rmatmul", "bmm"}
_QUOTIENTS = {"div", "truediv", "true_divide", "divide", "itruediv"}
_ACTIVATION_MODULE = re.compile("gelu|swish|silu|mish|relu", re.IGNORECASE)


@contextmanager
def linearized(network: PreTrainedModel) -> Iterator[list[Tensor]]:
    """Let a model be linear in its input rows and in its additive terms, values unchanged.

    Additive terms are biases and the rows that embeddings look up: positions, segments, and tokens
    without an input row. The forward-mode tangent of a result (`torch.autograd.forward_ad`) is
    their share in it, for each number of the result at once. Gradients are those of input rows.

    Softmax, norms' divisors and negative powers are constants; an activation is a slope
    act(z)/z, constant, times z; a product of two tensors gives half of its gradient to each. Other
    functions stay what they are, linear or not. The values of a result change by rounding only.

    Yields:
        The additive terms, as leaves of the graph; more are added while the model runs.
    """
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    named_tensors = (*network.named_parameters(), *network.named_buffers())
    with ExitStack() as stack:
        for parameter in parameters:
            stack.callback(parameter.requires_grad_, True)
            parameter.requires_grad_(False)
        stack.enter_context(forward_ad.dual_level())
        for module in network.modules():
            if _is_activation(module):
                stack.enter_context(forward_replaced(module, _with_slope(module.forward)))
        rules = _Rules(
            tensor
            for name, tensor in named_tensors
            if name.endswith("bias") and tensor.is_floating_point()
        )
        stack.enter_context(rules)
        yield rules.terms


class _Rules(TorchFunctionMode):
    """Rewrites functions while they are called; additive terms are their own tangents."""

    def __init__(self, biases: Iterable[Tensor]) -> None:
        super().__init__()
        self.terms: list[Tensor] = []
        self.biases = {id(bias): self._additive(bias) for bias in biases}

    def _additive(self, tensor: Tensor) -> Tensor:
        """Return a tensor as a new additive term: a leaf of the graph that is its own tangent."""
        self.terms.append(tensor.detach().requires_grad_())
        return forward_ad.make_dual(self.terms[-1], tensor.detach())

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        args = tuple(self.biases.get(id(value), value) for value in args)
        kwargs = {key: self.biases.get(id(value), value) for key, value in (kwargs or {}).items()}
        name = func.__name__.strip("_")
        if name in _REWRITTEN:
            return _REWRITTEN[name](*args, **kwargs)
        # The uniform rule of AttnLRP for products (Achtibat et al. 2024, arXiv 2402.05602).
        if name in _PRODUCTS and all(map(_depends, args[:2])):
            args = (*map(_half, args[:2]), *args[2:])
        if name in _QUOTIENTS and any(map(_depends, args[1:2])):
            args = (args[0], args[1].detach(), *args[2:])
        result = func(*args, **kwargs)
        inputs = (*args, *kwargs.values())
        if name in _CONSTANT or (name == "pow" and not _is_positive(inputs[1])):
            return result.detach()
        if name in _ACTIVATIONS or name == "pow":
            return _as_slope(inputs[0], result)
        return self._additive(result) if name == "embedding" else result


def _is_positive(power: Any) -> bool:
    """Return whether an exponent is a positive number; a negative one divides, as norms do."""
    return not isinstance(power, Tensor) and power > 0


def _is_activation(module: nn.Module) -> bool:
    """Return whether a module is an activation: of transformers, or without parts and named so."""
    kind = type(module)
    return kind.__module__ == "transformers.activations" or bool(
        _ACTIVATION_MODULE.search(kind.__name__) and not [*module.children()]
    )


def _with_slope(activation: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Apply the slope rule to an activation as a whole, not to the functions it is made of."""
    return lambda value: _as_slope(value, activation(value.detach()))


def _depends(value: Any) -> bool:
    """Return whether a value is a tensor that depends on the input rows or additive terms."""
    return isinstance(value, Tensor) and value.requires_grad


def _half(factor: Tensor) -> Tensor:
    """Return the factor with half of its gradient: a product then gives half to each factor."""
    return factor / 2 + (factor / 2).detach()


def _as_slope(value: Tensor, result: Tensor) -> Tensor:
    """Return act(z) as a constant slope act(z)/z times z; the slope is 0 where z is."""
    # The slope act(z)/z of DecompX (Modarressi et al. 2023, arXiv 2306.02873).
    constant, result = value.detach(), result.detach()
    slope = torch.where(constant == 0, 0.0, result / constant)
    return value * slope + (result - constant * slope)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    *args: Any,
    **kwargs: Any,
) -> Tensor:
    """Attention whose weights are constant: only the values have gradients and tangents."""
    mask = None if attn_mask is None else attn_mask.detach()
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no forward-mode derivative
        return nn.functional.scaled_dot_product_attention(
            query.detach(), key.detach(), value, mask, *args, **kwargs
        )


def _layer_norm(
    value: Tensor,
    shape: list[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """LayerNorm with a constant divisor, in float32 or wider: the RMS norm of centred features."""
    wide = _wide(value)
    centered = wide - wide.mean(_last_axes(shape), keepdim=True)
    scaled = _rms_norm(centered, shape, weight, eps)
    return (scaled if bias is None else scaled + bias).to(value.dtype)


def _rms_norm(
    value: Tensor, shape: list[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    """RMSNorm with a constant divisor, in float32 or wider."""
    wide = _wide(value)
    eps = torch.finfo(value.dtype).eps if eps is None else eps
    scale = (wide.detach().pow(2).mean(_last_axes(shape), keepdim=True) + eps).rsqrt()
    return (wide * scale if weight is None else wide * scale * weight).to(value.dtype)


def _last_axes(shape: list[int]) -> tuple[int, ...]:
    """Return the axes that a norm of this shape reduces, counted from the last."""
    return tuple(range(-len(shape), 0))


def _wide(value: Tensor) -> Tensor:
    """Return a tensor in float32, or in float64 if it was."""
    return value.to(torch.promote_types(value.dtype, torch.float32))


_REWRITTEN = {
    "scaled_dot_product_attention": _attention,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
}
