"""A pickled object as plain descriptions: nothing that a pickle names is imported or run.

The interpreter is the pure Python unpickler of the standard library. Every opcode that could look
up, call, change or hash an object is replaced, so that a pickle can build only dictionaries with
plain keys, lists, tuples, numbers and strings, and these classes:

    Global        a name; a few names have a function here that makes a StoredTensor, dict or tuple
    Placeholder   the result of any other global: a name, without arguments or state
    Record        an instance of a class whose fields the caller needs: a name and its state
    StoredTensor, Storage, torch.dtype
"""

import io
import pickle
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import IO, Any, NoReturn

import torch

from dynamics.checkpoints.formats.tensor_entries import span
from dynamics.errors import CheckpointError, message_of

_LARGEST_STRING = 1 << 26  # bytes; a damaged length must not read the tensors behind a pickle
_LARGEST_LINE = 1 << 16  # bytes of an argument that is terminated by a line break
_SHOWN = 200  # characters of a name or cause in a message
_MOST_AXES = 64  # more than torch allows
_PLAIN_KEYS = (str, int, float, bool, bytes, type(None))


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
    storage: Any, storage_offset: Any, shape: Any, stride: Any, dtype: Any
) -> "StoredTensor | Placeholder":
    """Describe a tensor; refuse one that reaches beyond its storage."""
    if isinstance(storage, Placeholder):
        return storage
    # No value of the pickle is shown in a message: a small pickle can describe one whose text
    # would fill the memory.
    if not (isinstance(storage, Storage) and isinstance(dtype, torch.dtype)):
        raise ValueError("a tensor without a storage")
    numbers = (storage_offset, *_axes(shape), *_axes(stride))
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError("a tensor whose sizes are no natural numbers")
    start = storage_offset * dtype.itemsize
    if start + span(shape, stride) * dtype.itemsize > storage.nbytes:
        raise ValueError(f"a tensor of shape {shape} reaches beyond its {storage.nbytes} bytes")
    return StoredTensor(storage, dtype, tuple(shape), tuple(stride), start)


def _axes(sizes: Any = ()) -> tuple[Any, ...]:
    """Return sizes, one per axis, as a tuple of at most as many as a tensor can have axes."""
    if not isinstance(sizes, tuple | list) or len(sizes) > _MOST_AXES:
        raise ValueError(f"the sizes of a tensor are no tuple of at most {_MOST_AXES}")
    return tuple(sizes)


def _rebuild_typed(storage: Storage, offset: int, shape: Any, stride: Any, *_: Any) -> Any:
    """Describe a view of a typed storage, as `torch._utils._rebuild_tensor_v2` gets it."""
    return _stored_tensor(storage, offset, shape, stride, getattr(storage, "dtype", None))


def _rebuild_untyped(storage: Storage, offset: int, shape: Any, stride: Any, *extra: Any) -> Any:
    """Describe a view of an untyped storage, as `torch._utils._rebuild_tensor_v3` gets it."""
    _, _, dtype, *_ = extra  # behind requires_grad and the backward hooks
    return _stored_tensor(storage, offset, shape, stride, dtype)


def _parameter(tensor: Any, *_: Any) -> Any:
    """Return the tensor of a parameter, without requires_grad and the rest."""
    return tensor


def _dictionary(pairs: Any = ()) -> dict[Any, Any]:
    """Build a dictionary from a list of pairs, the form in which Python 2 pickled OrderedDict."""
    dictionary: dict[Any, Any] = {}
    if pairs != ():
        if type(pairs) is not list:
            raise ValueError("a dictionary is made of something other than a list of pairs")
        _set_items(dictionary, [part for pair in pairs for part in _axes(pair)])
        pairs.clear()  # so that a small pickle cannot copy one long list many times
    return dictionary


def _set_items(target: Any, items: list[Any]) -> None:
    """Set keys and values, which alternate; a placeholder ignores them.

    Raises:
        ValueError: The target is no dictionary, or a key is neither plain nor a tuple of plain
            ones: the hash of tuples within tuples takes time that doubles with every level.
    """
    if isinstance(target, Placeholder):
        return
    if type(target) is not dict or len(items) % 2:
        raise ValueError("items are set on something other than a dictionary")
    for key, value in zip(items[::2], items[1::2], strict=True):
        parts = key if type(key) is tuple else (key,)
        if not all(type(part) in _PLAIN_KEYS or isinstance(part, _NAMED) for part in parts):
            raise ValueError(f"a {type(key).__name__} is the key of a dictionary")
        target[key] = value


@dataclass(frozen=True, eq=False, slots=True)
class Global:
    """A global that a pickle names.

    Attributes:
        name: Module and name.
        function: Function called in its place; None for a global that is not on the list.
    """

    name: str
    function: Callable[..., Any] | None = None


class Placeholder:
    """Stand-in for the result of a global that is not on the list; operations on it are ignored.

    Args:
        name: Module and name of the global.
    """

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def append(self, item: Any) -> None:
        """Ignore an item of a list."""

    add = extend = append


class Record:
    """An instance of a class whose fields are read.

    Args:
        name: Name of the class.
        arguments: Arguments of its constructor.
    """

    __slots__ = ("arguments", "name", "state")

    def __init__(self, name: str, *arguments: Any) -> None:
        self.name = name
        self.arguments = arguments
        self.state: Any = None

    def field(self, name: str) -> Any:
        """Return a field of its state, None when there is none of that name."""
        return self.state.get(name) if isinstance(self.state, dict) else None


_NAMED = (Global, Placeholder, Record)  # hashed by identity

_DTYPES = {name: value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}

_FUNCTIONS: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): _dictionary,
    ("torch", "Size"): _axes,
    ("torch._utils", "_rebuild_tensor"): _rebuild_typed,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_typed,
    ("torch._utils", "_rebuild_tensor_v3"): _rebuild_untyped,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
}


_Interpreter: Any = pickle._Unpickler  # its methods and stack are missing in the type stubs


class _InertUnpickler(_Interpreter):
    """Interpreter of pickles; `dispatch` has a method for each opcode."""

    def __init__(self, stream: IO[bytes], records: Collection[str]) -> None:
        super().__init__(_Bounded(stream))
        self.records = records
        self.storages: dict[str, Storage] = {}

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """Return what a global stands for, by its name alone: nothing is imported."""
        if global_name in _STORAGES and module_name in ("torch", "torch.storage", "torch.cuda"):
            return _STORAGES[global_name]
        if module_name == "torch" and global_name in _DTYPES:
            return _DTYPES[global_name]
        name = f"{module_name}.{global_name}"
        if global_name in self.records:
            return Global(name, lambda *arguments: Record(global_name, *arguments))
        return Global(name, _FUNCTIONS.get((module_name, global_name)))

    def persistent_load(self, pid: Any, /) -> Storage:
        """Return the storage that torch.save refers to by a persistent id.

        The id is ("storage", class, key, device, number of elements), before 1.6 with a sixth part
        for a view, which torch leaves None.

        Raises:
            ValueError: The id is of another form, or gives a storage another size than before.
        """
        match pid:
            case (
                "storage",
                torch.dtype() as dtype,
                str() | int() as key,
                _,
                int(numel),
                *view,
            ) if numel >= 0 and view in ([], [None]):
                storage = Storage(str(key), dtype, numel)
            case _:
                raise ValueError("something other than a whole storage is requested")
        if self.storages.setdefault(storage.key, storage).nbytes != storage.nbytes:
            raise ValueError(f"storage {storage.key} is given two sizes")
        return storage

    def _call(self, callee: Any, arguments: Any) -> Any:
        """Return what the function in place of a global makes of the arguments."""
        if isinstance(callee, Placeholder):
            return callee
        if not isinstance(callee, Global) or not isinstance(arguments, tuple):
            raise ValueError("something that is no global is called")
        if callee.function is None:
            return Placeholder(callee.name)
        return callee.function(*arguments)

    def _instantiate(self, klass: Any, args: list[Any]) -> None:
        """Construct an instance for the opcodes INST and OBJ."""
        self.stack.append(self._call(klass, tuple(args)))

    def load_call(self) -> None:
        """REDUCE, NEWOBJ."""
        arguments = self.stack.pop()
        self.stack[-1] = self._call(self.stack[-1], arguments)

    def load_call_with_names(self) -> None:
        """NEWOBJ_EX; no function on the list takes arguments by name."""
        self.stack.pop()
        self.load_call()

    def load_build(self) -> None:
        """BUILD: only a record has a state."""
        state = self.stack.pop()
        if isinstance(self.stack[-1], Record):
            self.stack[-1].state = state

    def load_dict(self) -> None:
        """DICT."""
        items = self.pop_mark()
        self.stack.append({})
        _set_items(self.stack[-1], items)

    def load_item(self) -> None:
        """SETITEM."""
        items = self.stack[-2:]
        del self.stack[-2:]
        _set_items(self.stack[-1], items)

    def load_items(self) -> None:
        """SETITEMS."""
        items = self.pop_mark()
        _set_items(self.stack[-1], items)

    def load_set(self) -> None:
        """EMPTY_SET: its items would be hashed."""
        self.stack.append(Placeholder("builtins.set"))

    def load_frozen_set(self) -> None:
        """FROZENSET."""
        self.pop_mark()
        self.stack.append(Placeholder("builtins.frozenset"))

    def load_extension(self) -> None:
        """EXT1, EXT2, EXT4: numbers of a registry of this process."""
        raise ValueError("a registry of this process is requested")

    def load_byte_array(self) -> None:
        """BYTEARRAY8, read before memory is set aside for it."""
        self.stack.append(self.read(int.from_bytes(self.read(8), "little")))

    dispatch = _Interpreter.dispatch | {
        **dict.fromkeys((pickle.EXT1[0], pickle.EXT2[0], pickle.EXT4[0]), load_extension),
        pickle.REDUCE[0]: load_call,
        pickle.NEWOBJ[0]: load_call,
        pickle.NEWOBJ_EX[0]: load_call_with_names,
        pickle.BUILD[0]: load_build,
        pickle.DICT[0]: load_dict,
        pickle.SETITEM[0]: load_item,
        pickle.SETITEMS[0]: load_items,
        pickle.EMPTY_SET[0]: load_set,
        pickle.FROZENSET[0]: load_frozen_set,
        pickle.BYTEARRAY8[0]: load_byte_array,
    }


class _Bounded:
    """A stream that refuses reads larger than any piece of a pickle of tensors."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def read(self, count: int) -> bytes:
        """Read some bytes; refuse a length that only a damaged pickle asks for."""
        if count > _LARGEST_STRING and not isinstance(self._stream, io.BytesIO):
            raise pickle.UnpicklingError(f"a piece of {count} bytes")
        return self._stream.read(count)

    def readline(self) -> bytes:
        """Read an argument up to its line break, cut at the largest length."""
        return self._stream.readline(_LARGEST_LINE)


def unpickle(
    stream: IO[bytes], name: str, records: Collection[str] = ()
) -> tuple[Any, dict[str, Storage]]:
    """Read one pickle from a stream, and leave the stream just behind it.

    Args:
        stream: The stream.
        name: Name of the file in messages.
        records: Names of the classes whose instances become records, whatever their module.

    Returns:
        The object, with a StoredTensor in place of every tensor and a Placeholder in place of
        every result of a global that is not on the list; and the storages it refers to.

    Raises:
        CheckpointError: The pickle is damaged.
    """
    unpickler = _InertUnpickler(stream, records)
    try:
        return unpickler.load(), unpickler.storages
    except Exception as error:  # a damaged pickle can raise anything
        reason = message_of(error, _SHOWN)
        raise CheckpointError(
            f"{name}: truncated or damaged: the pickle cannot be read ({reason})"
        ) from error


def is_unlisted(value: Any) -> bool:
    """Return whether a value is a global that is not on the list, or a stand-in for its result."""
    return isinstance(value, Placeholder) or (isinstance(value, Global) and value.function is None)


def refuse(name: str, unlisted: Any) -> NoReturn:
    """Refuse an object of a global that is not on the list where tensors belong.

    Args:
        name: Name of the file in messages.
        unlisted: The global, or the stand-in for its result.

    Raises:
        CheckpointError: Always.
    """
    raise CheckpointError(
        f"{name}: refused: the pickle refers to {unlisted.name[:_SHOWN]!r}, which a plain "
        "state dict never needs; nothing was executed. Save model.state_dict() or, if you trust "
        "the file, convert it to safetensors"
    )
