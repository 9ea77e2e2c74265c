"""Tensors of a checkpoint as floating-point numbers, including those that are stored as codes.

Quantised weights are codes (int8, float8, packed integers) with scales in further tensors. The
layouts that their tools document are decoded to float32; any other type of number is refused, since
norms of codes say nothing about weights.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np
import torch

from dynamics.checkpoints.formats.tensor_entries import contiguous_stride
from dynamics.checkpoints.packed_layouts import (
    WORD,
    Layout,
    Lookup,
    PackedColumns,
    ScaledRows,
)
from dynamics.checkpoints.weights import LocatedTensor, ReadableTensor
from dynamics.errors import CheckpointError

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_FLOAT8 = (
    torch.float8_e4m3fn,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2,
    torch.float8_e5m2fnuz,
)
_FLOAT8_SCALES = ("weight_scale_inv", "weight_scale", "scale", "qscale_weight")
_BLOCK = 128  # rows and columns of a block of DeepSeek's float8, unless config.json has them
_ROWS = 1024  # rows decoded at a time, to bound the memory of decoding
_INT8_LARGEST = 127  # code that bitsandbytes gives to the largest magnitude of a row

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
_WEIGHT = ".weight"


@dataclass(frozen=True)
class Part:
    """A stored tensor that a quantised matrix is made of.

    Attributes:
        name: Name in its layout.
        tensor: The tensor.
        by_row: Whether it has one row per row of the matrix; otherwise it is read whole.
    """

    name: str
    tensor: ReadableTensor
    by_row: bool


@dataclass(frozen=True)
class QuantisedTensor:
    """A matrix stored as codes, read as float32.

    Attributes:
        parts: Its codes first, then scales and zero points.
        shape: V and D.
        layout: Arithmetic that decodes its rows from the parts.
    """

    parts: tuple[Part, ...]
    shape: tuple[int, ...]
    layout: Layout
    dtype: torch.dtype = torch.float32

    @property
    def filename(self) -> str:
        """File that holds the codes."""
        return self.parts[0].tensor.filename

    @property
    def file_bytes(self) -> int:
        """Size of that file."""
        return self.parts[0].tensor.file_bytes

    @property
    def nbytes(self) -> int:
        """Bytes of codes and scales in the files."""
        return sum(part.tensor.nbytes for part in self.parts)

    def read(self, rows: slice | Sequence[int] | np.ndarray | None = None) -> torch.Tensor:
        """Decode the matrix, or consecutive rows of it, or those of ascending ids, to float32.

        Raises:
            CheckpointError: There is no row of an id, or a file cannot be read.
        """
        count = self.shape[0]
        if rows is None or isinstance(rows, slice):
            ids = np.arange(count)[rows if rows is not None else slice(None)]
        else:
            ids = np.asarray(rows)
            if ids[-1] >= count:
                raise CheckpointError(
                    f"{self.filename}: has no row {ids[-1]} in a matrix of shape {self.shape}"
                )
        tensors = {
            part.name: part.tensor.read(rows if part.by_row else None) for part in self.parts
        }
        values = torch.empty(len(ids), *self.shape[1:])
        for start in range(0, len(ids), _ROWS):
            chunk = slice(start, start + _ROWS)
            chunk_parts = {
                part.name: tensors[part.name][chunk] if part.by_row else tensors[part.name]
                for part in self.parts
            }
            values[chunk] = self.layout.decode(chunk_parts, ids[chunk])
        return values

    def part_bytes(self, ids: np.ndarray) -> list[int]:
        """Return the bytes of each file range that is read for the rows of ascending ids."""
        sizes: list[int] = []
        for part in self.parts:
            sizes += part.tensor.part_bytes(ids) if part.by_row else [part.tensor.nbytes]
        return sizes


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
            key.removesuffix(suffix) + _WEIGHT: suffix
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
        weight = _StoredWeight(self._name, key, self._stored, self._config)
        for quant_type in ("nf4", "fp4"):
            if (state := weight.find(f"{key}.quant_state.bitsandbytes__{quant_type}")) is not None:
                return _bitsandbytes_4bit(weight, state, quant_type)
        if key not in self._stored:
            suffix = self._code_keys[key]
            if suffix == ".weight_packed":
                return _packed(weight)
            if suffix == ".qweight":
                return _packed_columns(weight)
            weight.refuse(f"are stored as codes of {_CODE_SUFFIXES[suffix]} ({suffix[1:]})")
        tensor = self._stored[key]
        if tensor.dtype in FLOATS:
            _check_size(self._name, key, tensor)
            return tensor
        if tensor.dtype in _FLOAT8:
            return _float8(weight, tensor)
        if tensor.dtype == torch.int8:
            return _int8(weight, tensor)
        if tensor.dtype == torch.uint32 and weight.module("scales") is not None:
            return _mlx(weight, tensor)
        return weight.refuse(f"are of type {_type(tensor)}, in no layout that is read")


@dataclass(frozen=True)
class _StoredWeight:
    """A key, with the related tensors in the files and settings in config.json."""

    name: str
    key: str
    stored: Mapping[str, ReadableTensor]
    read_config: Callable[[], Mapping[str, Any]]

    @property
    def config(self) -> Mapping[str, Any]:
        """Contents of config.json, empty when there is none."""
        return self.read_config()

    def find(self, key: str) -> ReadableTensor | None:
        """Return a stored tensor by its full key, None when there is none."""
        return self.stored.get(key)

    def module(self, name: str) -> ReadableTensor | None:
        """Return a stored tensor of the same module, None when there is none."""
        return self.find(f"{self.key.removesuffix(_WEIGHT)}.{name}")

    def require(self, name: str) -> ReadableTensor:
        """Return a stored tensor of the same module, or refuse the key without it."""
        if (tensor := self.module(name)) is None:
            self.refuse(
                f"are codes, but {self.key.removesuffix(_WEIGHT)}.{name} is not beside them"
            )
        return tensor

    @property
    def quantisation(self) -> Mapping[str, Any]:
        """Settings of quantisation in config.json, empty when there are none."""
        inner = self.config.get("text_config")
        for config in (self.config, inner if isinstance(inner, Mapping) else {}):
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


def _float8(weight: _StoredWeight, codes: ReadableTensor) -> QuantisedTensor:
    scales = [name for name in _FLOAT8_SCALES if weight.module(name) is not None]
    if len(scales) > 1 or weight.module("weight_scale_2") or weight.module("weight_global_scale"):
        weight.refuse(f"are {_type(codes)} with several scales beside them")
    if not scales and weight.quantisation:
        weight.refuse(
            f"are {_type(codes)} codes without a scale ({', '.join(_FLOAT8_SCALES)}) beside them, "
            "though config.json says they are quantised"
        )
    if not scales:
        layout = ScaledRows(f"{_type(codes)} without scales", codes.shape[-1])
        return QuantisedTensor((Part("codes", codes, by_row=True),), codes.shape, layout)
    return _scaled(weight, codes, scales[0], f"{_type(codes)} codes with {scales[0]}")


def _int8(weight: _StoredWeight, codes: ReadableTensor) -> QuantisedTensor:
    if (row_magnitudes := weight.module("SCB")) is not None:
        written_as = weight.module("weight_format")
        # Format 0 is row-major; the others are orders of tiles for single GPU generations.
        if written_as is not None and written_as.read().flatten().tolist() != [0]:
            weight.refuse("are int8 codes of bitsandbytes in another order than row by row")
        if row_magnitudes.shape != codes.shape[:1]:
            weight.refuse(f"are {codes.shape} codes, but SCB beside them is {row_magnitudes.shape}")
        # Row-wise absmax quantisation, Dettmers et al. 2022 (LLM.int8()): code * max|row| / 127.
        layout = ScaledRows(
            "int8 codes with SCB (bitsandbytes)", codes.shape[1], divisor=_INT8_LARGEST
        )
        return _matrix(codes.shape, layout, codes=codes, scale=row_magnitudes)
    if weight.module("weight_scale") is None:
        weight.refuse("are int8 codes without weight_scale or SCB beside them")
    return _scaled(weight, codes, "weight_scale", "int8 codes with weight_scale")


def _scaled(
    weight: _StoredWeight, codes: ReadableTensor, scale_name: str, description: str
) -> QuantisedTensor:
    """Locate codes of one byte each, with a scale per tensor, row, group of columns or block."""
    if len(codes.shape) != 2:
        weight.refuse(f"are {_type(codes)} codes of shape {codes.shape}, which is no matrix")
    scale = weight.require(scale_name)
    layout = _scale_grid(weight, codes.shape, scale, ScaledRows(description, codes.shape[1]))
    if scale.dtype == torch.uint8 and codes.dtype in _FLOAT8:
        layout = replace(layout, exponents=True)
    elif scale.dtype not in (*FLOATS, torch.float8_e8m0fnu):
        weight.refuse(f"are {_type(codes)} codes with scales of type {_type(scale)}")
    zero_point = weight.module("weight_zero_point")
    if zero_point is None and any(s.get("symmetric") is False for s in weight.weight_schemes):
        weight.refuse("are asymmetric codes, but weight_zero_point is not beside them")
    if zero_point is not None and _grid(zero_point) != _grid(scale):
        weight.refuse(f"have scales of shape {scale.shape}, zero points {zero_point.shape}")
    return _matrix(
        codes.shape,
        layout,
        codes=codes,
        scale=scale,
        zero_point=zero_point,
        g_idx=weight.module("weight_g_idx"),
    )


def _packed(weight: _StoredWeight) -> QuantisedTensor:
    """Locate `pack-quantized` codes: dense bits in int32, zero points packed along rows."""
    codes, scale, shape = (
        weight.require(name) for name in ("weight_packed", "weight_scale", "weight_shape")
    )
    schemes = weight.weight_schemes
    rows, width = (int(size) for size in shape.read().flatten().tolist()[:2])
    num_bits = {scheme.get("num_bits") for scheme in schemes if scheme.get("type") != "float"}
    bits = [
        count
        for count in num_bits
        if isinstance(count, int) and codes.shape == (rows, math.ceil(width * count / WORD))
    ]
    if codes.dtype != torch.int32 or "pack-quantized" not in weight.formats or len(bits) != 1:
        weight.refuse(
            f"are codes in {_type(codes)} {codes.shape} for a matrix of shape {(rows, width)}; "
            f"config.json names the formats {weight.formats} and num_bits {[*num_bits]}, and "
            "int32 in the format pack-quantized of compressed-tensors with num_bits is read"
        )
    if WORD % bits[0] and math.ceil(width / (WORD // bits[0])) == codes.shape[1]:
        # Before it packed densely, compressed-tensors left bits of a word unused.
        weight.refuse(f"are {bits[0]}-bit codes of {width} columns, packed with or without gaps")
    layout = ScaledRows(
        f"{bits[0]}-bit codes (compressed-tensors)",
        width,
        bits=bits[0],
        offset=1 << bits[0] - 1,
        packed_zero_points=True,
    )
    layout = _scale_grid(weight, (rows, width), scale, layout)
    zero_point = weight.module("weight_zero_point")
    if zero_point is None and any(scheme.get("symmetric") is False for scheme in schemes):
        weight.refuse("are asymmetric codes, but weight_zero_point is not beside them")
    expected = (math.ceil(rows * bits[0] / WORD), _grid(scale)[1])
    if zero_point is not None and (zero_point.shape != expected or WORD % bits[0]):
        weight.refuse(f"have zero points of shape {zero_point.shape}, where {expected} is expected")
    return _matrix(
        (rows, width),
        layout,
        codes=codes,
        scale=scale,
        zero_point=zero_point,
        g_idx=weight.module("weight_g_idx"),
        read_whole=("zero_point",),
    )


def _mlx(weight: _StoredWeight, codes: ReadableTensor) -> QuantisedTensor:
    """Locate codes of MLX: dense bits in uint32, a scale and a bias per group of columns."""
    scales = weight.require("scales")
    biases = weight.module("biases") or weight.module("qbiases")
    general = weight.quantisation
    of_module = general.get(weight.key.removesuffix(_WEIGHT))
    settings = {**general, **of_module} if isinstance(of_module, Mapping) else general
    mode, bits, group = (settings.get(name) for name in ("mode", "bits", "group_size"))
    if biases is None or mode not in (None, "affine"):
        weight.refuse(f"are codes of MLX in the mode {mode}; affine is read, with biases")
    if not isinstance(bits, int) or not isinstance(group, int) or not 0 < bits <= 8:
        weight.refuse(
            "are codes of MLX, but config.json has no bits and group_size under quantization"
        )
    rows, width = codes.shape[0], scales.shape[1] * group
    hidden_size = weight.config.get("hidden_size", width)
    if (
        scales.shape != biases.shape
        or scales.shape[0] != rows
        or codes.shape[1] * WORD != width * bits
        or width != hidden_size
    ):
        weight.refuse(
            f"are codes of MLX of shape {codes.shape} with scales {scales.shape}, which {bits} "
            f"bits in groups of {group} do not give at hidden_size {hidden_size}"
        )
    layout = ScaledRows(f"{bits}-bit codes (MLX)", width, bits=bits, block_columns=group)
    return _matrix((rows, width), layout, codes=codes, scale=scales, bias=biases)


def _bitsandbytes_4bit(
    weight: _StoredWeight, state: ReadableTensor, quant_type: str
) -> QuantisedTensor:
    """Locate 4-bit codes of bitsandbytes, stored under any type of number."""
    codes = weight.find(weight.key)
    try:
        settings = json.loads(bytes(state.read().flatten().tolist()))
        rows, width = settings["shape"]
        nested = "nested_blocksize" in settings
        layout = Lookup(
            f"{quant_type} codes (bitsandbytes)",
            int(width),
            int(settings["blocksize"]),
            int(settings["nested_blocksize"]) if nested else 0,
            float(settings["nested_offset"]) if nested else 0.0,
        )
    except (ValueError, LookupError, TypeError) as error:
        weight.refuse(f"are {quant_type} codes of bitsandbytes with a damaged state ({error})")
    names = ["absmax", "quant_map", *(["nested_absmax", "nested_quant_map"] if nested else [])]
    stored = {name: weight.find(f"{weight.key}.{name}") for name in names}
    parts = {name: tensor for name, tensor in stored.items() if tensor is not None}
    blocks = math.ceil(rows * width / layout.block)
    if (
        not isinstance(codes, LocatedTensor)
        or codes.nbytes * 2 != rows * width
        or width % 2
        or len(parts) < len(names)
        or math.prod(parts["absmax"].shape) != blocks
    ):
        weight.refuse(
            f"are {quant_type} codes of bitsandbytes for a matrix of shape {(rows, width)}, but "
            f"not {rows * width // 2} bytes with {', '.join(names)} for {blocks} blocks"
        )
    shape = (rows, width // 2)
    entry = replace(codes.entry, dtype=torch.uint8, shape=shape, stride=contiguous_stride(shape))
    return _matrix(
        (rows, width), layout, codes=replace(codes, entry=entry), **parts, read_whole=tuple(names)
    )


def _packed_columns(weight: _StoredWeight) -> QuantisedTensor:
    """Locate codes of GPTQ or AWQ: int32 words of the transposed matrix."""
    config = weight.quantisation
    method, bits = weight.method.lower(), config.get("bits", config.get("w_bit"))
    version = str(config.get("checkpoint_format", config.get("format", config.get("version", ""))))
    version = version.lower() or {"gptq": "gptq", "awq": "gemm"}.get(method, "")
    names = ("qweight", "qzeros", "scales")
    qweight, qzeros, scales = (weight.require(name) for name in names)
    if (method, version) not in {("gptq", "gptq"), ("gptq", "gptq_v2"), ("awq", "gemm")} or (
        bits not in ((4,) if method == "awq" else (2, 4, 8))
    ):
        weight.refuse(
            f"are packed as qweight in the format {version or 'not named'} with {bits} bits; gptq "
            "and gptq_v2 of 2, 4 or 8 bits and awq's gemm of 4 bits are read"
        )
    awq, per_word = method == "awq", WORD // bits
    width = qweight.shape[0] * (1 if awq else per_word)
    groups, rows = scales.shape
    if (
        qweight.shape[1] * (per_word if awq else 1) != rows
        or qzeros.shape != (groups, math.ceil(rows / per_word))
        or width % groups
    ):
        weight.refuse(
            f"are packed as {method} with qweight {qweight.shape}, qzeros {qzeros.shape} and "
            f"scales {scales.shape}, which do not fit each other"
        )
    layout = PackedColumns(
        f"{bits}-bit codes ({method.upper()})",
        width,
        bits,
        awq=awq,
        zero_point_offset=1 if version == "gptq" else 0,
    )
    parts = dict(zip(names, (qweight, qzeros, scales), strict=True))
    g_idx = None if awq else weight.module("g_idx")
    if g_idx is not None and g_idx.shape != (width,):
        weight.refuse(f"have g_idx of shape {g_idx.shape}, where {(width,)} is expected")
    return _matrix((rows, width), layout, **parts, g_idx=g_idx, read_whole=names)


def _matrix(
    shape: tuple[int, ...],
    layout: Layout,
    *,
    read_whole: tuple[str, ...] = (),
    **parts: ReadableTensor | None,
) -> QuantisedTensor:
    """Build a quantised matrix; parts of V rows are read by row, except `read_whole`."""
    read_whole = (*read_whole, "g_idx")
    return QuantisedTensor(
        tuple(
            Part(name, tensor, by_row=name not in read_whole and tensor.shape[:1] == shape[:1])
            for name, tensor in parts.items()
            if tensor is not None
        ),
        shape,
        layout,
    )


def _grid(scale: ReadableTensor) -> tuple[int, int]:
    """Return the rows and columns of a grid of scales; a missing axis counts as 1."""
    rows, columns, *_ = (*scale.shape, 1, 1)
    return rows, columns


def _scale_grid(
    weight: _StoredWeight, shape: tuple[int, ...], scale: ReadableTensor, layout: ScaledRows
) -> ScaledRows:
    """Add the rows and columns per scale to a layout, derived from shapes and config.json."""
    count_rows, count_columns = _grid(scale)
    block_shape = weight.quantisation.get("weight_block_size") or next(
        (s["block_structure"] for s in weight.weight_schemes if s.get("block_structure")), None
    )
    block_shape = block_shape if isinstance(block_shape, list) and len(block_shape) == 2 else None
    sizes = []
    for axis, count in enumerate((count_rows, count_columns)):
        size, block = shape[axis], block_shape[axis] if block_shape else _BLOCK
        if count in (1, size):
            sizes.append(size // count)
        elif math.ceil(size / block) == count and (axis == 0 or count_rows != shape[0]):
            sizes.append(block)
        elif axis == 1 and count_rows == shape[0] and size % count == 0:
            sizes.append(size // count)  # groups, which divide the columns
        else:
            weight.refuse(
                f"are codes of shape {shape} with scales of shape {scale.shape}, which are one per "
                f"tensor, row, group of columns or block of {block_shape or [_BLOCK, _BLOCK]}"
            )
    return replace(layout, block_rows=sizes[0], block_columns=sizes[1])


def _check_size(name: str, key: str, tensor: ReadableTensor) -> None:
    """Refuse a tensor that repeats stored rows to more bytes than its file has."""
    repeats = isinstance(tensor, LocatedTensor) and 0 in tensor.entry.stride
    if repeats and tensor.nbytes > tensor.file_bytes:
        raise CheckpointError(
            f"{name}: {key!r} of shape {tensor.shape} repeats stored rows: it would take "
            f"{tensor.nbytes:,} bytes, its file has {tensor.file_bytes:,}; save a contiguous copy "
            "of it"
        )


def _type(tensor: ReadableTensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
