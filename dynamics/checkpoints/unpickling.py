"""A pickled state dict as plain descriptions: no code named in the pickle is ever run.

Every global a pickle may ask for is on a list and resolved to a stand-in of ours; any other is
refused before it is looked up.
"""

import collections
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

import torch

from dynamics.checkpoints.entries import span
from dynamics.errors import CheckpointError


@dataclass(frozen=True)
class Storage:
    """A block of elements in the file; several tensors may be views of it.

    Attributes:
        key: Name of the block within the file.
        dtype: Type of the elements, uint8 for an untyped storage.
        numel: Number of elements.
    """

    key: str
    dtype: torch.dtype
    numel: int

    @property
    def nbytes(self) -> int:
        """Bytes of the block."""
        return self.numel * self.dtype.itemsize


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as a pickle describes it: a strided view of a storage, `start` in bytes."""

    storage: Storage
    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    start: int


_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
}


def _stored_tensor(
    storage: Storage,
    storage_offset: int,
    shape: tuple[int, ...],
    stride: tuple[int, ...],
    dtype: torch.dtype,
) -> StoredTensor:
    numbers = (storage_offset, *shape, *stride)
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError(f"a tensor of shape {shape}, stride {stride}, offset {storage_offset}")
    start = storage_offset * dtype.itemsize
    if start + span(shape, stride) * dtype.itemsize > storage.nbytes:
        raise ValueError(f"a tensor of shape {shape} reaches beyond its {storage.nbytes} bytes")
    return StoredTensor(storage, dtype, tuple(shape), tuple(stride), start)


def _rebuild_typed(storage: Storage, offset: int, shape: Any, stride: Any, *_: Any) -> StoredTensor:
    return _stored_tensor(storage, offset, shape, stride, storage.dtype)


def _rebuild_untyped(
    storage: Storage,
    offset: int,
    shape: Any,
    stride: Any,
    _grad: Any,
    _hooks: Any,
    dtype: Any,
    *_: Any,
) -> StoredTensor:
    return _stored_tensor(storage, offset, shape, stride, dtype)


def _parameter(tensor: StoredTensor, *_: Any) -> StoredTensor:
    return tensor


_STAND_INS: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch", "Size"): tuple,
    ("torch._utils", "_rebuild_tensor"): _rebuild_typed,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_typed,
    ("torch._utils", "_rebuild_tensor_v3"): _rebuild_untyped,
    ("torch._utils", "_rebuild_parameter"): _parameter,
}


class _InertUnpickler(pickle.Unpickler):  # noqa: S301 - that it is safe is its purpose
    def __init__(self, stream: IO[bytes], name: str) -> None:
        super().__init__(stream)
        self.name = name
        self.storages: dict[str, Storage] = {}

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if global_name in _STORAGES and module_name in ("torch", "torch.storage", "torch.cuda"):
            return _STORAGES[global_name]
        named_in_torch = getattr(torch, global_name, None) if module_name == "torch" else None
        if isinstance(named_in_torch, torch.dtype):
            return named_in_torch
        stand_in = _STAND_INS.get((module_name, global_name))
        if stand_in is None:
            wanted = f"{module_name}.{global_name}"
            raise CheckpointError(
                f"{self.name}: refused: the pickle asks for {wanted!r}, which a plain state dict "
                "never needs; nothing was executed. If you trust the file, convert it to "
                "safetensors"
            )
        # A new function each time: a pickle can set attributes on what it is given.
        return lambda *arguments: stand_in(*arguments)

    def persistent_load(self, pid: Any, /) -> Storage:
        match pid:
            case ("storage", torch.dtype() as dtype, key, _, int(numel), *view) if (
                numel >= 0 and view in ([], [None])
            ):
                storage = Storage(str(key), dtype, numel)
            case _:
                raise ValueError("something other than a whole storage is asked for")
        if self.storages.setdefault(storage.key, storage).nbytes != storage.nbytes:
            raise ValueError(f"storage {storage.key} is given two sizes")
        return storage


def unpickle(stream: IO[bytes], name: str) -> tuple[Any, dict[str, Storage]]:
    """Read one pickle from a stream, which is left just behind it.

    Args:
        stream: The stream.
        name: What messages call the file.

    Returns:
        The object, with a StoredTensor in place of every tensor, and the storages it refers to.

    Raises:
        CheckpointError: The pickle is damaged, or asks for a global that is not on the list.
    """
    unpickler = _InertUnpickler(stream, name)
    try:
        return unpickler.load(), unpickler.storages
    except CheckpointError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        reason = str(error) or type(error).__name__
        raise CheckpointError(
            f"{name}: truncated or damaged: the pickle cannot be read ({reason})"
        ) from error
