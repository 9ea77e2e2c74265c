"""The linear maps and norms that a head applies to one representation, in order.

D hidden size, C labels or tokens of the vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dynamics.errors import ConfigError
from dynamics.models.attention_calls import precise
from dynamics.models.block_parts import ModuleCall
from dynamics.models.frozen_maps import LinearMap, distance, linear_map, tolerance
from dynamics.models.live_model import LiveModel
from dynamics.models.recorded_blocks import module_calls


@dataclass(frozen=True, eq=False)
class HeadCalls:
    """A head, applied to one representation.

    Attributes:
        state: The representation.
        calls: Calls of linear maps and norms, in order.
        logits: The logits that the head gives.
    """

    state: Float[Tensor, " D"]
    calls: Sequence[ModuleCall]
    logits: Float[Tensor, " C"]


@torch.no_grad()
def head_calls(model: LiveModel, state: Float[Tensor, " D"]) -> HeadCalls:
    """Apply the head of a model to one representation, and record its linear maps and norms.

    Args:
        model: The model.
        state: Output of the base model at a position, after its final norm.
    """
    modules = [
        module
        for module in model.network.modules()
        if linear_map(module) is not None or type(module).__name__.endswith("Norm")
    ]
    head = model.head  # it probes the model, before calls are recorded
    with module_calls(modules) as calls:
        logits = head(state[None])[0]
    flat = [
        ModuleCall(call.module, precise(call.value).flatten(), precise(call.output).flatten())
        for call in calls
    ]
    return HeadCalls(precise(state), flat, precise(logits))


def linear_head(model: LiveModel, state: Float[Tensor, " D"]) -> LinearMap:
    """Return the map from a representation to logits, before these are scaled or capped.

    Args:
        model: The model.
        state: As in `head_calls`.

    Raises:
        ConfigError: The head is not one linear map.
    """
    head = head_calls(model, state)
    if len(head.calls) == 1 and (matrix := linear_map(head.calls[0].module)) is not None:
        output = head.calls[0].output
        if distance(matrix(head.state) + matrix.bias, output) <= tolerance(state.dtype):
            return matrix
    names = ", ".join(type(call.module).__name__ for call in head.calls) or "none"
    raise ConfigError(
        f"{model.name} ({type(model.network).__name__}): its head is not one linear map (it "
        f"applies {names}), so a logit is no sum over blocks; use decompx or cp_lrp"
    )
