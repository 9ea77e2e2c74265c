"""A weight that is stored as codes: the tensors beside it, and its settings in config.json."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from dynamics.checkpoints.formats.readable_tensor import ReadableTensor
from dynamics.checkpoints.packed_layouts import ScaledRows
from dynamics.errors import CheckpointError

WEIGHT = ".weight"
_BLOCK = 128  # rows and columns of a block of DeepSeek's float8, unless config.json has them


@dataclass(frozen=True)
class CodedWeight:
    """A key, with the related tensors in the files and settings in config.json.

    Attributes:
        name: Name of the checkpoint in messages.
        key: Key of the weight.
        stored: Tensors of the checkpoint by key, as they are stored.
        read_config: Returns the contents of config.json, empty when there is none.
    """

    name: str
    key: str
    stored: Mapping[str, ReadableTensor]
    read_config: Callable[[], Mapping[str, Any]]

    @property
    def module_name(self) -> str:
        """Name of the module that the weight belongs to."""
        return self.key.removesuffix(WEIGHT)

    def module(self, name: str) -> ReadableTensor | None:
        """Return a stored tensor of the same module, None when there is none."""
        return self.stored.get(f"{self.module_name}.{name}")

    def require(self, name: str) -> ReadableTensor:
        """Return a stored tensor of the same module, or refuse the key without it."""
        if (tensor := self.module(name)) is None:
            self.refuse(f"are codes, but {self.module_name}.{name} is not beside them")
        return tensor

    def zero_point(self) -> ReadableTensor | None:
        """Return the zero points of compressed-tensors, None for symmetric codes.

        Raises:
            CheckpointError: A scheme is asymmetric, and there are none.
        """
        zero_point = self.module("weight_zero_point")
        if zero_point is None and any(s.get("symmetric") is False for s in self.weight_schemes):
            self.refuse("are asymmetric codes, but weight_zero_point is not beside them")
        return zero_point

    @property
    def quantisation(self) -> Mapping[str, Any]:
        """Settings of quantisation in config.json, empty when there are none."""
        model_config = self.read_config()
        inner = model_config.get("text_config")
        for config in (model_config, inner if isinstance(inner, Mapping) else {}):
            for field in ("quantization_config", "quantization", "compression_config"):
                if isinstance(settings := config.get(field), Mapping):
                    return settings
        return {}

    @property
    def method(self) -> str:
        """Tool that quantised the weights, as config.json names it."""
        return str(self.quantisation.get("quant_method", ""))

    @property
    def formats(self) -> list[str]:
        """Formats of compressed-tensors that config.json names, overall and group by group."""
        groups = [self.quantisation, *self._groups]
        return sorted({str(group["format"]) for group in groups if group.get("format")})

    @property
    def weight_schemes(self) -> list[Mapping[str, Any]]:
        """Schemes of compressed-tensors for weights, group by group."""
        schemes = (group.get("weights") for group in self._groups)
        return [scheme for scheme in schemes if isinstance(scheme, Mapping)]

    @property
    def _groups(self) -> list[Mapping[str, Any]]:
        """Groups of modules that compressed-tensors treats alike."""
        groups = self.quantisation.get("config_groups")
        groups = groups.values() if isinstance(groups, Mapping) else ()
        return [group for group in groups if isinstance(group, Mapping)]

    def refuse(self, reason: str) -> NoReturn:
        """Raise an error that the numbers of the key cannot be read, with a remedy."""
        method = f" (config.json: quant_method {self.method!r})" if self.method else ""
        raise CheckpointError(
            f"{self.name}: the numbers of {self.key!r} {reason}{method}; save the weights as "
            "float16, bfloat16 or float32 (transformers: model.dequantize(), then "
            "model.save_pretrained) and give that folder"
        )


def with_scale_grid(
    layout: ScaledRows, weight: CodedWeight, shape: tuple[int, ...], scale: ReadableTensor
) -> ScaledRows:
    """Add the rows and columns per scale to a layout, derived from shapes and config.json.

    Args:
        layout: Layout of the codes.
        weight: The weight.
        shape: V and D.
        scale: Its scales.
    """
    counts = grid_of(scale)
    block_shape = weight.quantisation.get("weight_block_size") or next(
        (s["block_structure"] for s in weight.weight_schemes if s.get("block_structure")), None
    )
    block_shape = block_shape if isinstance(block_shape, list) and len(block_shape) == 2 else None
    sizes = []
    for axis, count in enumerate(counts):
        size, block = shape[axis], block_shape[axis] if block_shape else _BLOCK
        grouped = axis == 1 and counts[0] == shape[0]  # each row has scales of its own
        if count in (1, size):
            sizes.append(size // count)
        elif math.ceil(size / block) == count and not grouped:
            sizes.append(block)
        elif grouped and size % count == 0:
            sizes.append(size // count)  # groups, which divide the columns
        else:
            weight.refuse(
                f"are codes of shape {shape} with scales of shape {scale.shape}, which are one per "
                f"tensor, row, group of columns or block of {block_shape or [_BLOCK, _BLOCK]}"
            )
    return replace(layout, block_rows=sizes[0], block_columns=sizes[1])


def grid_of(scale: ReadableTensor) -> tuple[int, int]:
    """Return the rows and columns of a grid of scales; a missing axis counts as 1."""
    rows, columns, *_ = (*scale.shape, 1, 1)
    return rows, columns
