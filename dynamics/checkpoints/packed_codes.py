"""Weights stored as codes of 2 to 8 bits in larger integers, as several tools pack them."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace

import torch

from dynamics.checkpoints.coded_weight import CodedWeight, grid_of, with_scale_grid
from dynamics.checkpoints.formats.readable_tensor import ReadableTensor
from dynamics.checkpoints.formats.tensor_entries import contiguous_stride, dtype_name
from dynamics.checkpoints.packed_layouts import WORD, Lookup, PackedColumns, ScaledRows
from dynamics.checkpoints.quantised import QuantisedTensor, quantised_matrix
from dynamics.checkpoints.weights import LocatedTensor


def locate_pack_quantized(weight: CodedWeight) -> QuantisedTensor:
    """Locate `pack-quantized` codes: dense bits in int32, zero points packed along rows."""
    names = ("weight_packed", "weight_scale", "weight_shape")
    codes, scale, shape = (weight.require(name) for name in names)
    rows, width = (int(size) for size in shape.read().flatten().tolist()[:2])
    num_bits = {s.get("num_bits") for s in weight.weight_schemes if s.get("type") != "float"}
    bits = [
        count
        for count in num_bits
        if isinstance(count, int) and codes.shape == (rows, math.ceil(width * count / WORD))
    ]
    if codes.dtype != torch.int32 or "pack-quantized" not in weight.formats or len(bits) != 1:
        weight.refuse(
            f"are codes in {dtype_name(codes.dtype)} {codes.shape} for a matrix of shape "
            f"{(rows, width)}; config.json names the formats {weight.formats} and num_bits "
            f"{[*num_bits]}, and int32 in the format pack-quantized of compressed-tensors with "
            "num_bits is read"
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
    layout = with_scale_grid(layout, weight, (rows, width), scale)
    zero_point = weight.zero_point()
    expected = (math.ceil(rows * bits[0] / WORD), grid_of(scale)[1])
    if zero_point is not None and (zero_point.shape != expected or WORD % bits[0]):
        weight.refuse(f"have zero points of shape {zero_point.shape}, where {expected} is expected")
    parts = {"codes": codes, "scale": scale, "zero_point": zero_point}
    g_idx = weight.module("weight_g_idx")
    return quantised_matrix((rows, width), layout, **parts, g_idx=g_idx, read_whole=("zero_point",))


def locate_mlx(weight: CodedWeight, codes: ReadableTensor) -> QuantisedTensor:
    """Locate codes of MLX: dense bits in uint32, a scale and a bias per group of columns."""
    scales = weight.require("scales")
    biases = weight.module("biases") or weight.module("qbiases")
    general = weight.quantisation
    of_module = general.get(weight.module_name)
    settings = {**general, **of_module} if isinstance(of_module, Mapping) else general
    mode, bits, group = (settings.get(name) for name in ("mode", "bits", "group_size"))
    if biases is None or mode not in (None, "affine"):
        weight.refuse(f"are codes of MLX in the mode {mode}; affine is read, with biases")
    if not isinstance(bits, int) or not isinstance(group, int) or not 0 < bits <= 8:
        weight.refuse(
            "are codes of MLX, but config.json has no bits and group_size under quantization"
        )
    rows, width = codes.shape[0], scales.shape[1] * group
    hidden_size = weight.read_config().get("hidden_size", width)
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
    return quantised_matrix((rows, width), layout, codes=codes, scale=scales, bias=biases)


def locate_bitsandbytes_4bit(
    weight: CodedWeight, state: ReadableTensor, quant_type: str
) -> QuantisedTensor:
    """Locate 4-bit codes of bitsandbytes, stored under any type of number."""
    codes = weight.stored.get(weight.key)
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
    places = {name: f"{weight.key}.{name}" for name in names}
    parts = {name: weight.stored[key] for name, key in places.items() if key in weight.stored}
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
    return quantised_matrix(
        (rows, width), layout, codes=replace(codes, entry=entry), **parts, read_whole=tuple(names)
    )


def locate_packed_columns(weight: CodedWeight) -> QuantisedTensor:
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
    return quantised_matrix((rows, width), layout, **parts, g_idx=g_idx, read_whole=names)
