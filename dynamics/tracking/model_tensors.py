"""A model in memory, read by role as a checkpoint is: what would be in its files, without files."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn

from dynamics.checkpoints.architectures import (
    FAMILIES,
    Norm,
    Role,
    find_family,
    find_roles,
    gain_offset,
    norm_type,
)
from dynamics.errors import ConfigError


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
            return getattr(self._network.get_output_embeddings(), name, None)
        return self._named.get(self._roles.get(role, ""))

    @cached_property
    def _config(self) -> dict[str, Any]:
        config = getattr(self._network, "config", None)
        return {} if config is None else config.to_dict()

    @cached_property
    def _named(self) -> dict[str, Tensor]:
        """Every tensor by its name; one that is shared by each of its names."""
        return dict(self._network.named_parameters(remove_duplicate=False))

    @cached_property
    def _roles(self) -> dict[Role, str]:
        family = find_family(self._named)
        return {} if family is None else find_roles(FAMILIES[family], self._named)

    def has(self, role: Role) -> bool:
        """Whether the model has a tensor in this role."""
        return isinstance(self._weight(role), Tensor)

    def tensor(self, role: Role) -> Tensor:
        """The tensor on the CPU, in the dtype it is trained in; a view where it is there."""
        return self._weight(role).detach().cpu()

    @property
    def vocab_size(self) -> int:
        """Rows of the input embedding."""
        return len(self._weight("input_embedding"))

    @property
    def tied(self) -> bool:
        """Whether the output embedding is the input embedding."""
        return self._weight("output_embedding") is self._weight("input_embedding")

    @property
    def final_norm(self) -> Norm | None:
        """Type of the norm before the output embedding, None when there is none or unknown."""
        family = find_family(self._named)
        return None if family is None else norm_type(FAMILIES[family], self._roles, self._config)

    def final_norm_gain(self) -> Tensor | None:
        """What the final norm multiplies each of the D features by; None without a weight for it.

        This is the weight, except in models that multiply by 1 + weight.
        """
        if "final_norm_weight" not in self._roles:
            return None
        weight = self._named[self._roles["final_norm_weight"]]
        return weight.detach().cpu().float() + gain_offset(self._config)


def _check_whole(weight: Tensor, name: str) -> None:
    """Refuse a part: to read the rest, every process would have to wait for every other."""
    if weight.dim() != 2 or not weight.numel() or hasattr(weight, "full_tensor"):
        raise ConfigError(
            f"{name} is sharded: no process holds its embeddings whole; norms are measured during "
            "training in one process or with data parallelism, and of sharded models with "
            "`dynamics track` on their checkpoints"
        )
