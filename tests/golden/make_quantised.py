"""Makes quantised.safetensors: one matrix as bitsandbytes, compressed-tensors and MLX store it.

Each library packs the matrix and gives the numbers back; both are written, and what config.json
would say is in the metadata. Nothing of `dynamics` is used here. Run it where bitsandbytes 0.50,
compressed-tensors 0.20 and mlx 0.32 are installed, which the tests do not need.
"""

import json
from pathlib import Path

import bitsandbytes.functional as bnb
import mlx.core as mx
import numpy as np
import torch
from bitsandbytes.backends.default.ops import _dequantize_4bit_compute
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.utils import calculate_qparams
from safetensors.torch import save_file

ROWS, WIDTH = 20, 96
KEY = "lm_head"
MATRIX = torch.from_numpy(
    (0.02 * np.random.default_rng(7).standard_normal((ROWS, WIDTH))).astype(np.float32)
)


def bitsandbytes_4bit(quant_type, nested):
    codes, state = bnb.quantize_4bit(MATRIX, quant_type=quant_type, compress_statistics=nested)
    beside = {f"{KEY}.weight.{k}": v for k, v in state.as_dict(packed=True).items()}
    absmax = state.absmax
    if nested:
        absmax = bnb.dequantize_blockwise(absmax, state.state2) + state.offset
    # The library's kernel for CPUs loses blocks that go on in the next row; this is its reference.
    restored = _dequantize_4bit_compute(
        codes.flatten(), absmax.float(), state.code, state.blocksize, state.shape, torch.float32
    )
    return {f"{KEY}.weight": codes} | beside, restored, {"quant_method": "bitsandbytes"}


def bitsandbytes_8bit():
    codes, row_magnitudes, _ = bnb.int8_vectorwise_quant(MATRIX.half())
    tensors = {
        f"{KEY}.weight": codes,
        f"{KEY}.SCB": row_magnitudes,
        f"{KEY}.weight_format": torch.tensor(0, dtype=torch.uint8),
    }
    restored = bnb.int8_vectorwise_dequant(codes, row_magnitudes)
    return tensors, restored, {"quant_method": "bitsandbytes"}


def compressed_tensors(format_name, **arguments):
    args = QuantizationArgs(**arguments)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    groups = MATRIX
    if args.strategy == "group":
        groups = MATRIX.view(ROWS, -1, args.group_size)
    elif args.strategy == "block":
        rows, columns = args.block_structure
        groups = MATRIX.view(ROWS // rows, rows, WIDTH // columns, columns).transpose(1, 2)
        groups = groups.flatten(2)
    elif args.strategy == "tensor":
        groups = MATRIX.flatten()
    scale, zero_point = calculate_qparams(groups.amin(-1), groups.amax(-1), args)
    if args.strategy == "channel":
        scale, zero_point = scale[:, None], zero_point[:, None]
    state = {"weight": MATRIX, "weight_scale": scale, "weight_zero_point": zero_point}
    compressor = BaseCompressor.get_value_from_registry(format_name)
    packed = compressor.compress(state, scheme)
    restored = compressor.decompress(packed, scheme)["weight"]
    config = {
        "quant_method": "compressed-tensors",
        "format": format_name,
        "config_groups": {"group_0": {"weights": args.model_dump(mode="json")}},
    }
    return {f"{KEY}.{name}": tensor for name, tensor in packed.items()}, restored, config


def mlx(bits):
    parts = mx.quantize(mx.array(MATRIX.numpy()), group_size=32, bits=bits)
    restored = torch.from_numpy(np.array(mx.dequantize(*parts, group_size=32, bits=bits)))
    names = ("weight", "scales", "biases")
    tensors = {
        f"{KEY}.{n}": torch.from_numpy(np.array(p)) for n, p in zip(names, parts, strict=True)
    }
    return tensors, restored, {"group_size": 32, "bits": bits}


CASES = {
    "bitsandbytes nf4": bitsandbytes_4bit("nf4", False),
    "bitsandbytes nf4 nested": bitsandbytes_4bit("nf4", True),
    "bitsandbytes fp4": bitsandbytes_4bit("fp4", False),
    "bitsandbytes fp4 nested": bitsandbytes_4bit("fp4", True),
    "bitsandbytes int8": bitsandbytes_8bit(),
    "compressed int4 group": compressed_tensors(
        "pack-quantized", num_bits=4, strategy="group", group_size=32
    ),
    "compressed int4 group asymmetric": compressed_tensors(
        "pack-quantized", num_bits=4, strategy="group", group_size=32, symmetric=False
    ),
    "compressed int8 packed": compressed_tensors("pack-quantized", num_bits=8, strategy="channel"),
    "compressed int3 channel": compressed_tensors("pack-quantized", num_bits=3, strategy="channel"),
    "compressed int8 channel asymmetric": compressed_tensors(
        "int-quantized", num_bits=8, strategy="channel", symmetric=False
    ),
    "compressed int8 tensor": compressed_tensors("int-quantized", num_bits=8, strategy="tensor"),
    "compressed float8 channel": compressed_tensors(
        "float-quantized", num_bits=8, type="float", strategy="channel"
    ),
    "compressed float8 block": compressed_tensors(
        "float-quantized", num_bits=8, type="float", strategy="block", block_structure=[4, 24]
    ),
    "compressed mxfp8": compressed_tensors(
        "mxfp8-quantized",
        num_bits=8,
        type="float",
        strategy="group",
        group_size=32,
        scale_dtype=torch.uint8,
    ),
    **{f"mlx {bits} bits": mlx(bits) for bits in (2, 3, 4, 5, 6, 8)},
}


def main():
    tensors = {"matrix": MATRIX}
    for case, (stored, restored, _) in CASES.items():
        tensors |= {f"{case}/{key}": tensor.contiguous() for key, tensor in stored.items()}
        tensors[f"{case}/restored"] = restored.float().contiguous()
    configs = {case: config for case, (_, _, config) in CASES.items()}
    path = Path(__file__).with_name("quantised.safetensors")
    save_file(tensors, path, {"configs": json.dumps(configs)})


if __name__ == "__main__":
    main()
