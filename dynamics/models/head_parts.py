"""The linear maps and norms that a head applies to one representation, in order.

D hidden size, C labels or tokens of the vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dynamics.errors import ConfigError, MeasureError
from dynamics.models.attention_calls import precise
from dynamics.models.block_parts import ModuleCall
from dynamics.models.frozen_maps import (
    FrozenNorm,
    LinearMap,
    distance,
    frozen_norm,
    is_linear,
    linear_map,
    tolerance,
)
from dynamics.models.live_model import LiveModel
from dynamics.models.recorded_blocks import module_calls


@dataclass(frozen=True, eq=False)
class HeadCalls:
    """A head, applied to one representation.

    Attributes:
        name: The model, for messages.
        limit: Largest distance of a copy of a norm from its output.
        state: The representation.
        calls: Calls of linear maps and norms, in order.
        logits: The logits that the head gives.
    """

    name: str
    limit: float
    state: Float[Tensor, " D"]
    calls: Sequence[ModuleCall]
    logits: Float[Tensor, " C"]

    def norm(self, call: ModuleCall) -> FrozenNorm:
        """Return the norm of a call with its true divisor.

        Raises:
            MeasureError: It is no norm that can be followed.
        """
        norm = frozen_norm(call.module, call.value[None], call.output[None], self.limit)
        if norm is None:
            raise MeasureError(
                f"{self.name}: a norm of its head ({type(call.module).__name__}) is not one that "
                "can be decomposed; use a method that needs predictions only, such as occlusion"
            )
        return norm


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
        if is_linear(module) or type(module).__name__.endswith("Norm")
    ]
    head = model.head  # it probes the model, before calls are recorded
    with module_calls(modules) as calls:
        logits = head(state[None])[0]
    flat = [
        ModuleCall(call.module, precise(call.value).flatten(), precise(call.output).flatten())
        for call in calls
    ]
    name = f"{model.name} ({type(model.network).__name__})"
    return HeadCalls(name, tolerance(state.dtype), precise(state), flat, precise(logits))


def linear_head(model: LiveModel, state: Float[Tensor, " D"]) -> LinearMap:
    """Return the map from a representation to logits, before a cap on these.

    Args:
        model: The model.
        state: As in `head_calls`.

    Raises:
        ConfigError: The head is not one linear map.
    """
    head = head_calls(model, state)
    if len(head.calls) == 1 and (matrix := linear_map(head.calls[0].module)) is not None:
        output = head.calls[0].output
        cap = getattr(model.network.config.get_text_config(), "final_logit_softcapping", None)
        # Heads over labels have no cap where those over the vocabulary have one.
        candidates = (output, cap * (output / cap).tanh()) if cap else (output,)
        is_whole_head = any(distance(logits, head.logits) <= head.limit for logits in candidates)
        if is_whole_head and distance(matrix(head.state) + matrix.bias, output) <= head.limit:
            return matrix
    names = ", ".join(type(call.module).__name__ for call in head.calls) or "none"
    raise ConfigError(
        f"{head.name}: its head is not one linear map behind which a cap alone may stand (it "
        f"applies {names}), so a logit is no sum over blocks; use decompx or cp_lrp"
    )
