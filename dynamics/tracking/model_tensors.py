"""The tensors of a model in memory by role, as a checkpoint gives those of its files."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn

from dynamics.checkpoints.architectures import ROLES, Norm, Role
from dynamics.checkpoints.model_types import (
    FinalNorm,
    find_final_norm,
    find_layout,
    find_logit_softcap,
    refusal_of,
    shaping_entries,
)
from dynamics.errors import ConfigError
from dynamics.models.norm_response import norm_response


@dataclass(frozen=True, eq=False)
class ModelTensors:
    """A model of transformers at one step of its training.

    Args:
        model: The model, perhaps inside wrappers that hold it whole (data parallel, compiled).
        step: Training steps taken.

    Raises:
        ConfigError: It has no input embedding, or no process holds its embeddings whole.
    """

    model: nn.Module
    step: int

    def __post_init__(self) -> None:
        if not callable(getattr(self._network, "get_input_embeddings", None)):
            raise ConfigError(
                f"{type(self._network).__name__} has no get_input_embeddings; norms are measured "
                "of models of transformers"
            )
        for role in ("input_embedding", "output_embedding"):
            if self.has(role):
                _check_whole(self._weight(role), type(self._network).__name__)

    @cached_property
    def _network(self) -> Any:
        return extract_model_from_parallel(self.model, keep_torch_compile=False)

    def _weight(self, role: Role) -> Any:
        if role == "input_embedding":
            return getattr(self._network.get_input_embeddings(), "weight", None)
        if role in ("output_embedding", "output_bias"):
            name = role.removeprefix("output_").replace("embedding", "weight")
            return None if self._head_note else getattr(self._head, name, None)
        return self._named.get(self._roles.get(role, ""))

    @property
    def _head(self) -> Any:
        return self._network.get_output_embeddings()

    @cached_property
    def _head_note(self) -> str | None:
        """Reason to ignore the result of `get_output_embeddings`; None when there is none."""
        name = type(self._network).__name__
        reason = refusal_of(self._config, name)
        return reason and f"{name} is measured without an output embedding: {reason}"

    @cached_property
    def _config(self) -> dict[str, Any]:
        config = getattr(self._network, "config", None)
        if config is None:
            return {}
        return config.to_dict() | {"architectures": [type(self._network).__name__]}

    @cached_property
    def _named(self) -> dict[str, Tensor]:
        """Every parameter by name; a shared one under each of its names."""
        return dict(self._network.named_parameters(remove_duplicate=False))

    @cached_property
    def _roles(self) -> dict[Role, str]:
        layout = find_layout(self._named, self._config)
        return {} if layout is None else layout[1]

    @cached_property
    def _final_norm(self) -> FinalNorm:
        """The final norm known for the model type, if the module in memory behaves like it."""
        if self._head_note:
            return FinalNorm()
        norm = find_final_norm(self._named, self._roles, self._config)
        key = self._roles.get("final_norm_weight")
        if norm.gain_offset is None or key is None:
            return norm
        weight = self._named[key].detach().cpu().float()
        expected = (weight + norm.gain_offset).double()
        if not expected.isfinite().all() or not expected.any():
            return norm  # the output would not tell one norm from another
        response = norm_response(self._network.get_submodule(key.rpartition(".")[0]), len(weight))
        if response is None or response.type != norm.type or not response.multiplies_by(expected):
            return FinalNorm(
                note=f"the final norm of {type(self._network).__name__} does not do what that of "
                f"model type {self._config.get('model_type')} is known to do; norms with its gain "
                "are left out"
            )
        return norm

    def has(self, role: Role) -> bool:
        """Return whether the model has a tensor in this role."""
        return isinstance(self._weight(role), Tensor)

    def tensor(self, role: Role) -> Tensor:
        """Return the tensor on the CPU in its own dtype; no copy if it is there already."""
        return self._weight(role).detach().cpu()

    @property
    def vocab_size(self) -> int:
        """Rows of the input embedding."""
        return len(self._weight("input_embedding"))

    @property
    def tied(self) -> bool:
        """True if the output embedding is the input embedding."""
        return self._weight("output_embedding") is self._weight("input_embedding")

    @property
    def architecture(self) -> dict[str, Any]:
        """Entries of its configuration that give it its shape; empty where there is none."""
        return shaping_entries(self._config)

    @property
    def shapes(self) -> dict[str, list[int]]:
        """Rows and columns of each embedding, by role."""
        return {role: list(self._weight(role).shape) for role in ROLES if self.has(role)}

    @property
    def final_norm(self) -> Norm | None:
        """Type of the norm before the output embedding, None when there is none or unknown."""
        return self._final_norm.type

    @property
    def logit_softcap(self) -> float | None:
        """Number that no logit exceeds, 0 without such a cap; None where it is not known."""
        return find_logit_softcap(self._config)

    @property
    def final_norm_note(self) -> str | None:
        """One line on why output embedding or final norm are not known, None when they are."""
        return self._head_note or (self._final_norm.note if self.has("output_embedding") else None)

    def final_norm_gain(self) -> Tensor | None:
        """Return the factor of each of the D features in the norm before the output embedding.

        This is the weight or 1 + weight, depending on the model class. None where the norm has no
        weight or is not known.
        """
        offset, key = self._final_norm.gain_offset, self._roles.get("final_norm_weight")
        if offset is None or key is None:
            return None
        return self._named[key].detach().cpu().float() + offset


def _check_whole(weight: Tensor, name: str) -> None:
    """Refuse a shard of a matrix: to gather the rest, all processes would have to wait."""
    if weight.dim() != 2 or not weight.numel() or hasattr(weight, "full_tensor"):
        raise ConfigError(
            f"{name} is sharded: no process holds its embeddings whole; norms are measured during "
            "training in one process or with data parallelism, and of sharded models with "
            "`dynamics track` on their checkpoints"
        )
