"""Weights stored as codes of one byte: float8, and int8 of compressed-tensors and bitsandbytes."""

from dataclasses import replace

import torch

from dynamics.checkpoints.coded_weight import CodedWeight, grid_of, with_scale_grid
from dynamics.checkpoints.formats.readable_tensor import ReadableTensor
from dynamics.checkpoints.formats.tensor_entries import dtype_name
from dynamics.checkpoints.packed_layouts import ScaledRows
from dynamics.checkpoints.quantised import FLOATS, QuantisedTensor, quantised_matrix

FLOAT8 = (torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz)
# Names under which tools store the scale beside float8 codes.
_FLOAT8_SCALES = ("weight_scale_inv", "weight_scale", "scale", "qscale_weight")
_INT8_LARGEST = 127  # code that bitsandbytes gives to the largest magnitude of a row


def locate_float8(weight: CodedWeight, codes: ReadableTensor) -> QuantisedTensor:
    """Locate float8 codes with the scale beside them, or those that are the numbers themselves."""
    code_type = dtype_name(codes.dtype)
    scales = [name for name in _FLOAT8_SCALES if weight.module(name) is not None]
    if len(scales) > 1 or weight.module("weight_scale_2") or weight.module("weight_global_scale"):
        weight.refuse(f"are {code_type} with several scales beside them")
    if scales:
        return _locate_scaled(weight, codes, scales[0], f"{code_type} codes with {scales[0]}")
    if weight.quantisation:
        weight.refuse(
            f"are {code_type} codes without a scale ({', '.join(_FLOAT8_SCALES)}) beside them, "
            "though config.json says they are quantised"
        )
    layout = ScaledRows(f"{code_type} without scales", codes.shape[-1])
    return quantised_matrix(codes.shape, layout, codes=codes)


def locate_int8(weight: CodedWeight, codes: ReadableTensor) -> QuantisedTensor:
    """Locate int8 codes of bitsandbytes, recognised by `SCB`, or of compressed-tensors."""
    if (row_magnitudes := weight.module("SCB")) is None:
        if weight.module("weight_scale") is None:
            weight.refuse("are int8 codes without weight_scale or SCB beside them")
        return _locate_scaled(weight, codes, "weight_scale", "int8 codes with weight_scale")
    written_as = weight.module("weight_format")
    # Format 0 is row-major; the others are orders of tiles for single GPU generations.
    if written_as is not None and written_as.read().flatten().tolist() != [0]:
        weight.refuse("are int8 codes of bitsandbytes in another order than row by row")
    if row_magnitudes.shape != codes.shape[:1]:
        weight.refuse(f"are {codes.shape} codes, but SCB beside them is {row_magnitudes.shape}")
    # Row-wise absmax quantisation, Dettmers et al. 2022 (LLM.int8()): code * max|row| / 127.
    layout = ScaledRows("int8 codes with SCB (bitsandbytes)", codes.shape[1], divisor=_INT8_LARGEST)
    return quantised_matrix(codes.shape, layout, codes=codes, scale=row_magnitudes)


def _locate_scaled(
    weight: CodedWeight, codes: ReadableTensor, scale_name: str, description: str
) -> QuantisedTensor:
    """Locate codes with a scale per tensor, row, group of columns or block, and zero points."""
    code_type = dtype_name(codes.dtype)
    if len(codes.shape) != 2:
        weight.refuse(f"are {code_type} codes of shape {codes.shape}, which is no matrix")
    scale = weight.require(scale_name)
    layout = with_scale_grid(ScaledRows(description, codes.shape[1]), weight, codes.shape, scale)
    if scale.dtype == torch.uint8 and codes.dtype in FLOAT8:
        layout = replace(layout, exponents=True)
    elif scale.dtype not in (*FLOATS, torch.float8_e8m0fnu):
        weight.refuse(f"are {code_type} codes with scales of type {dtype_name(scale.dtype)}")
    zero_point = weight.zero_point()
    if zero_point is not None and grid_of(zero_point) != grid_of(scale):
        weight.refuse(f"have scales of shape {scale.shape}, zero points {zero_point.shape}")
    parts = {"codes": codes, "scale": scale, "zero_point": zero_point}
    return quantised_matrix(codes.shape, layout, **parts, g_idx=weight.module("weight_g_idx"))
