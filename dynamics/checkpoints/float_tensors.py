"""Tensors of a checkpoint as floating-point numbers, including those that are stored as codes.

Quantised weights are codes (int8, float8, packed integers) with scales in further tensors. The
layouts that their tools document are decoded to float32; any other type of number is refused, since
norms of codes say nothing about weights.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from dynamics.checkpoints import byte_codes, packed_codes
from dynamics.checkpoints.coded_weight import WEIGHT, CodedWeight
from dynamics.checkpoints.formats.readable_tensor import ReadableTensor
from dynamics.checkpoints.formats.tensor_entries import dtype_name
from dynamics.checkpoints.quantised import FLOATS
from dynamics.checkpoints.weights import LocatedTensor
from dynamics.errors import CheckpointError

# Suffixes in place of `.weight` under which tools store codes.
_CODE_SUFFIXES = {
    ".weight_packed": "compressed-tensors",
    ".qweight": "GPTQ or AWQ",
    ".W_q": "HQQ",
    ".weight._data": "quanto",
    ".weight._packed": "quanto",
    "._weight_qdata": "torchao",
    ".codes": "AQLM",
    ".indices": "VPTQ",
}


class FloatTensors(Mapping[str, ReadableTensor]):
    """Tensors of a checkpoint by key, each as floating-point numbers.

    A matrix whose codes have another name has the key of the weight: `lm_head.weight` for
    `lm_head.weight_packed`. A tensor that cannot be decoded is refused when it is looked up.

    Args:
        name: Name of the checkpoint in messages.
        stored: Tensors as they are stored.
        config: Returns the contents of config.json, which only codes need.
    """

    def __init__(
        self,
        name: str,
        stored: Mapping[str, ReadableTensor],
        config: Callable[[], Mapping[str, Any]],
    ) -> None:
        self._name = name
        self._stored = stored
        self._config = config
        self._read: dict[str, ReadableTensor] = {}
        self._code_keys = {
            key.removesuffix(suffix) + WEIGHT: suffix
            for key in stored
            if key.endswith(tuple(_CODE_SUFFIXES))
            for suffix in _CODE_SUFFIXES
            if key.endswith(suffix)
        }

    def __getitem__(self, key: str) -> ReadableTensor:
        if key not in self._read:
            self._read[key] = self._locate(key)
        return self._read[key]

    def __contains__(self, key: object) -> bool:
        return key in self._stored or key in self._code_keys

    def __iter__(self) -> Iterator[str]:
        yield from self._stored
        yield from (key for key in self._code_keys if key not in self._stored)

    def __len__(self) -> int:
        return len({*self})

    def _locate(self, key: str) -> ReadableTensor:
        """Find out how the numbers of a key are stored; refuse a key that cannot be decoded."""
        weight = CodedWeight(self._name, key, self._stored, self._config)
        for quant_type in ("nf4", "fp4"):
            state = self._stored.get(f"{key}.quant_state.bitsandbytes__{quant_type}")
            if state is not None:
                return packed_codes.locate_bitsandbytes_4bit(weight, state, quant_type)
        if key not in self._stored:
            suffix = self._code_keys[key]
            if suffix == ".weight_packed":
                return packed_codes.locate_pack_quantized(weight)
            if suffix == ".qweight":
                return packed_codes.locate_packed_columns(weight)
            weight.refuse(f"are stored as codes of {_CODE_SUFFIXES[suffix]} ({suffix[1:]})")
        tensor = self._stored[key]
        if tensor.dtype in FLOATS:
            _check_size(self._name, key, tensor)
            return tensor
        if tensor.dtype in byte_codes.FLOAT8:
            return byte_codes.locate_float8(weight, tensor)
        if tensor.dtype == torch.int8:
            return byte_codes.locate_int8(weight, tensor)
        if tensor.dtype == torch.uint32 and weight.module("scales") is not None:
            return packed_codes.locate_mlx(weight, tensor)
        return weight.refuse(f"are of type {dtype_name(tensor.dtype)}, in no layout that is read")


def _check_size(name: str, key: str, tensor: ReadableTensor) -> None:
    """Refuse a tensor that repeats stored rows to more bytes than its file has."""
    repeats = isinstance(tensor, LocatedTensor) and 0 in tensor.entry.stride
    if repeats and tensor.nbytes > tensor.file_bytes:
        raise CheckpointError(
            f"{name}: {key!r} of shape {tensor.shape} repeats stored rows: it would take "
            f"{tensor.nbytes:,} bytes, its file has {tensor.file_bytes:,}; save a contiguous copy "
            "of it"
        )
