"""Matrices stored as codes are read as the numbers that the tools which wrote them give back.

`tests/golden/quantised.safetensors` was written by bitsandbytes, compressed-tensors and MLX; other
layouts are packed here in numpy, as their documentation says.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from dynamics.checkpoints.checkpoint import Checkpoint
from dynamics.checkpoints.formats.byte_sources import LocalFile
from dynamics.checkpoints.quantised import QuantisedTensor
from dynamics.errors import CheckpointError
from tests.checkpoints.writers import FORMATS, assert_same, write_checkpoint

GOLDEN = Path(__file__).parents[1] / "golden" / "quantised.safetensors"
V, D = 48, 32
# Largest error of a number, relative to the largest magnitude of the matrix.
ROUNDING = {"nf4": 0.12, "fp4": 0.14, "int8": 0.005, "float8": 0.04, "mxfp8": 0.04, "int4": 0.07}
ROUNDING |= {"int3": 0.15, "2 bits": 0.4, "3 bits": 0.18, "4 bits": 0.08, "5 bits": 0.05}
ROUNDING |= {"6 bits": 0.02, "8 bits": 0.006}
INPUT, OUTPUT, NORM = "model.embed_tokens", "lm_head", "model.norm.weight"


def golden():
    with safe_open(GOLDEN, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        return tensors, json.loads(file.metadata()["configs"])


TENSORS, CONFIGS = golden()


def checkpoint_of(folder, tensors, config=None, format_name="safetensors"):
    """A llama whose input embedding and norm are floats, and whose output embedding is given."""
    rows = TENSORS["matrix"] if f"{INPUT}.weight" not in tensors else None
    floats = {} if rows is None else {f"{INPUT}.weight": rows}
    floats[NORM] = torch.ones(4)
    config = {"model_type": "llama", "tie_word_embeddings": False} | (config or {})
    return Checkpoint(write_checkpoint(folder, floats | tensors, format_name, config), 0)


def stored_as(case):
    return {
        key.removeprefix(f"{case}/"): tensor
        for key, tensor in TENSORS.items()
        if key.startswith(f"{case}/") and not key.endswith("/restored")
    }


@pytest.fixture(scope="module")
def matrix():
    return torch.randn(V, D, generator=torch.Generator().manual_seed(3)) * 0.02


@pytest.mark.parametrize("case", CONFIGS)
def test_codes_are_read_as_their_library_restores_them(tmp_path, case):
    checkpoint = checkpoint_of(tmp_path, stored_as(case), {"quantization_config": CONFIGS[case]})
    read = checkpoint.tensor("output_embedding")
    restored, matrix = TENSORS[f"{case}/restored"], TENSORS["matrix"]
    assert read.dtype == torch.float32
    # bitsandbytes divides by 127 as a product with its reciprocal, which rounds differently.
    torch.testing.assert_close(read, restored, rtol=3e-7, atol=0)
    (bound,) = (error for name, error in ROUNDING.items() if name in case)
    assert 0.3 * bound < (read - matrix).abs().max() / matrix.abs().max() < bound
    assert not checkpoint.tied


@pytest.mark.parametrize("case", CONFIGS)
def test_rows_of_codes_are_rows_of_the_whole(tmp_path, case):
    checkpoint = checkpoint_of(tmp_path, stored_as(case), {"quantization_config": CONFIGS[case]})
    whole = checkpoint.tensor("output_embedding")
    for rows in (slice(3, 9), slice(None, 5), slice(17, None), slice(0, 0)):
        assert_same(checkpoint.tensor("output_embedding", rows), whole[rows])
    for ids in ([0], [19], [2, 3, 11], np.arange(20)):
        assert_same(checkpoint.tensor("output_embedding", ids), whole[np.asarray(ids)])
    with pytest.raises(CheckpointError, match=r"has no row 20 in a matrix of shape \(20, 96\)"):
        checkpoint.tensor("output_embedding", [3, 20])


def test_shape_and_bytes_are_those_of_the_matrix_and_of_its_codes(tmp_path):
    case = "compressed int4 group"
    checkpoint = checkpoint_of(tmp_path, stored_as(case), {"quantization_config": CONFIGS[case]})
    located = checkpoint.locate("output_embedding")
    assert (located.shape, located.dtype) == ((20, 96), torch.float32)
    assert checkpoint.bytes("output_embedding") == 20 * 96 // 2 + 20 * 3 * 4
    assert sum(located.part_bytes(np.arange(5))) == 5 * (48 + 12)
    assert located.file_bytes == (tmp_path / "model.safetensors").stat().st_size


def test_only_codes_and_scales_of_the_rows_are_read(tmp_path, monkeypatch):
    tensors = {
        f"{OUTPUT}.weight": torch.randint(-127, 127, (50_000, 64), dtype=torch.int8),
        f"{OUTPUT}.weight_scale": torch.rand(50_000, 1),
    }
    checkpoint = checkpoint_of(tmp_path, tensors)
    located = checkpoint.locate("output_embedding")
    touched = []
    read = LocalFile.read

    def counting(self, start, stop):
        touched.append(stop - start)
        return read(self, start, stop)

    monkeypatch.setattr(LocalFile, "read", counting)
    located.read(slice(100, 200))
    assert sum(touched) == 100 * (64 + 4)


@pytest.mark.parametrize("format_name", FORMATS)
def test_codes_and_scales_may_lie_in_any_file(tmp_path, matrix, format_name):
    codes, scale = rowwise(matrix, 127, torch.int8)
    tensors = {f"{OUTPUT}.weight": codes, f"{OUTPUT}.weight_scale": scale}
    checkpoint = checkpoint_of(tmp_path, tensors, format_name=format_name)
    assert_same(checkpoint.tensor("output_embedding"), codes.float() * scale)


def rowwise(matrix, largest, dtype):
    """Codes and a scale per row."""
    scale = matrix.abs().amax(1, keepdim=True) / largest
    codes = matrix / scale
    return (codes.round() if dtype == torch.int8 else codes).to(dtype), scale


FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz)


@pytest.mark.parametrize("dtype", FLOAT8, ids=str)
@pytest.mark.parametrize("name", ["weight_scale", "weight_scale_inv", "scale", "qscale_weight"])
def test_float8_is_multiplied_by_its_scale(tmp_path, matrix, dtype, name):
    codes, scale = rowwise(matrix, 64, dtype)
    for shape in ((V, 1), (V,)):
        tensors = {f"{OUTPUT}.weight": codes, f"{OUTPUT}.{name}": scale.reshape(shape)}
        checkpoint = checkpoint_of(tmp_path, tensors)
        # numpy has no float8: each code's number is looked up among all 256.
        numbers = torch.arange(256, dtype=torch.uint8).view(dtype).float().numpy()
        expected = numbers[codes.view(torch.uint8).numpy()] * scale.numpy()
        np.testing.assert_array_equal(checkpoint.tensor("output_embedding").numpy(), expected)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_one_scale_may_hold_for_a_whole_tensor(tmp_path, matrix, shape):
    codes = (matrix * 100).to(torch.float8_e4m3fn)
    tensors = {f"{OUTPUT}.weight": codes, f"{OUTPUT}.weight_scale": torch.full(shape, 0.01)}
    checkpoint = checkpoint_of(tmp_path, tensors)
    assert_same(checkpoint.tensor("output_embedding"), codes.float() * torch.tensor(0.01))


@pytest.mark.parametrize("stated", [True, False], ids=["block size stated", "default"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float8_e8m0fnu], ids=str)
def test_float8_in_blocks_of_128_that_the_last_ones_do_not_fill(tmp_path, stated, dtype):
    """600 rows in 5 blocks are blocks of 128, not of 120."""
    codes = torch.randn(600, 160).to(torch.float8_e4m3fn)
    scale = torch.exp2(torch.randint(-8, 2, (5, 2)).float()).to(dtype)
    config = {"quant_method": "fp8"} | ({"weight_block_size": [128, 128]} if stated else {})
    tensors = {f"{OUTPUT}.weight": codes, f"{OUTPUT}.weight_scale_inv": scale}
    checkpoint = checkpoint_of(tmp_path, tensors, {"quantization_config": config})
    rows, columns = np.arange(600) // 128, np.arange(160) // 128
    expected = codes.float() * scale.float()[rows][:, columns]
    assert_same(checkpoint.tensor("output_embedding"), expected)
    assert_same(checkpoint.tensor("output_embedding", [5, 300, 599]), expected[[5, 300, 599]])


def test_float8_without_scales_is_cast_where_nothing_says_it_is_quantised(tmp_path, matrix):
    tensors = {f"{OUTPUT}.weight": matrix.to(torch.float8_e5m2), NORM: torch.ones(4).half()}
    checkpoint = checkpoint_of(tmp_path, tensors)
    assert_same(checkpoint.tensor("output_embedding"), matrix.to(torch.float8_e5m2).float())
    quantised = {"quantization_config": {"quant_method": "fp8"}}
    checkpoint = checkpoint_of(tmp_path / "quantised", tensors, quantised)
    with pytest.raises(CheckpointError, match="float8_e5m2 codes without a scale") as error:
        checkpoint.tensor("output_embedding")
    assert "'lm_head.weight'" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_norm_in_float8_is_read_as_well(tmp_path, matrix):
    tensors = {f"{OUTPUT}.weight": matrix, NORM: torch.tensor([1.0, 2, 3]).to(torch.float8_e4m3fn)}
    assert checkpoint_of(tmp_path, tensors).final_norm_gain().tolist() == [1, 2, 3]


def pack(codes, bits, axis):
    """uint32 words of codes along an axis, the first one in the lowest bits, as int32."""
    codes = np.moveaxis(codes.astype(np.uint64), axis, -1)
    codes = codes.reshape(*codes.shape[:-1], -1, 32 // bits)
    shifts = np.arange(0, 32, bits, dtype=np.uint64)
    words = np.bitwise_or.reduce(codes << shifts, axis=-1).astype(np.uint32)
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(words, -1, axis)).view(np.int32))


def grouped(matrix, bits, group):
    """Codes, zero points and scales of groups of features, all of the transposed matrix."""
    transposed = matrix.numpy().T  # (D, V)
    groups = transposed.reshape(-1, group, transposed.shape[1])
    low, high = np.minimum(groups.min(1), 0), np.maximum(groups.max(1), 0)
    scales = ((high - low) / ((1 << bits) - 1)).astype(np.float16)
    zeros = np.clip(np.round(-low / scales), 1, (1 << bits) - 1)
    index = np.arange(len(transposed)) // group
    codes = np.round(transposed / scales[index] + zeros[index]).clip(0, (1 << bits) - 1)
    restored = ((codes - zeros[index]) * scales[index].astype(np.float32)).T
    return codes, zeros, scales, torch.from_numpy(restored.astype(np.float32))


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("version", ["gptq", "gptq_v2", None])
@pytest.mark.parametrize("ordered", [True, False], ids=["in order", "g_idx"])
def test_gptq(tmp_path, matrix, bits, version, ordered):
    codes, zeros, scales, restored = grouped(matrix, bits, 8)
    g_idx, features = np.arange(D) // 8, np.arange(D)
    if not ordered:  # groups of features that are no neighbours
        features = np.random.default_rng(1).permutation(D)
        codes, g_idx, restored = codes[features], g_idx[features], restored[:, features]
    tensors = {
        f"{OUTPUT}.qweight": pack(codes, bits, 0),
        f"{OUTPUT}.qzeros": pack(zeros - (version != "gptq_v2"), bits, 1),
        f"{OUTPUT}.scales": torch.from_numpy(scales),
        f"{OUTPUT}.g_idx": torch.from_numpy(g_idx.astype(np.int32)),
    }
    config = {"quant_method": "gptq", "bits": bits, "group_size": 8}
    config |= {"checkpoint_format": version} if version else {}
    checkpoint = checkpoint_of(tmp_path, tensors, {"quantization_config": config})
    read = checkpoint.tensor("output_embedding")
    assert_same(read, restored)
    step = torch.from_numpy(scales.astype(np.float32)).max()
    assert (read - matrix[:, features]).abs().max() < 1.01 * step
    assert_same(checkpoint.tensor("output_embedding", [1, 8, 39]), read[[1, 8, 39]])
    assert_same(checkpoint.tensor("output_embedding", slice(3, 20)), read[3:20])


def test_awq(tmp_path, matrix):
    codes, zeros, scales, restored = grouped(matrix, 4, 16)
    order = np.arange(V).reshape(-1, 8)[:, [0, 2, 4, 6, 1, 3, 5, 7]].ravel()
    tensors = {
        f"{OUTPUT}.qweight": pack(codes[:, order], 4, 1),
        f"{OUTPUT}.qzeros": pack(zeros[:, order], 4, 1),
        f"{OUTPUT}.scales": torch.from_numpy(scales),
    }
    config = {"quant_method": "awq", "bits": 4, "group_size": 16, "version": "gemm"}
    checkpoint = checkpoint_of(tmp_path, tensors, {"quantization_config": config})
    read = checkpoint.tensor("output_embedding")
    assert_same(read, restored)
    assert_same(checkpoint.tensor("output_embedding", [1, 8, 39]), read[[1, 8, 39]])


def test_an_input_embedding_in_codes_is_noted(tmp_path):
    case = "mlx 4 bits"
    tensors = {key.replace(OUTPUT, INPUT): tensor for key, tensor in stored_as(case).items()}
    config = {"quantization": CONFIGS[case], "hidden_size": 96, "tie_word_embeddings": True}
    checkpoint = checkpoint_of(tmp_path, tensors, config)
    assert_same(checkpoint.tensor("output_embedding"), TENSORS[f"{case}/restored"])
    assert checkpoint.tied
    assert checkpoint.vocab_size == 20
    (note,) = checkpoint.notes
    assert note.startswith(
        "the input embedding 'model.embed_tokens.weight' is stored as 4-bit codes (MLX)"
    )


def test_mlx_settings_of_a_module_come_before_those_of_the_model(tmp_path):
    case = "mlx 6 bits"
    config = {"quantization": {"group_size": 64, "bits": 4, OUTPUT: CONFIGS[case]}}
    checkpoint = checkpoint_of(tmp_path, stored_as(case), config)
    assert_same(checkpoint.tensor("output_embedding"), TENSORS[f"{case}/restored"])


def refusal(folder, tensors, config=None):
    with pytest.raises(CheckpointError) as error:
        checkpoint_of(folder, tensors, config).tensor("output_embedding")
    assert "\n" not in str(error.value)
    assert "'lm_head.weight'" in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "dtype",
    [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.bool, torch.complex64],
    ids=str,
)
def test_numbers_without_scales_are_refused_by_key_and_type(tmp_path, matrix, dtype):
    message = refusal(tmp_path, {f"{OUTPUT}.weight": (matrix * 1000).to(dtype)})
    assert str(dtype).removeprefix("torch.") in message
    assert "save the weights as float16, bfloat16 or float32" in message


# Case, changes to what stands beside the codes, config.json, and what the refusal says.
UNCLEAR = [
    ("mlx 4 bits", {"biases": None}, {}, "codes of MLX in the mode None"),
    ("mlx 4 bits", {}, {"quantization": {"mode": "mxfp4"}}, "in the mode mxfp4"),
    ("mlx 4 bits", {}, {"quantization": {}}, "has no bits and group_size"),
    ("mlx 4 bits", {}, {"quantization": {"bits": 3, "group_size": 32}}, "do not give"),
    ("mlx 4 bits", {}, {"hidden_size": 48}, "at hidden_size 48"),
    ("compressed int8 packed", {"weight_shape": None}, {}, "weight_shape is not beside"),
    ("compressed int8 packed", {"weight_scale": None}, {}, "weight_scale is not beside"),
    (
        "compressed int8 packed",
        {},
        {"quantization_config": {"quant_method": "compressed-tensors"}},
        "config.json names the formats [] and num_bits []",
    ),
    (
        "compressed int4 group asymmetric",
        {"weight_zero_point": None},
        {},
        "asymmetric codes, but weight_zero_point is not beside",
    ),
    (
        "compressed int8 channel asymmetric",
        {"weight_zero_point": None},
        {},
        "asymmetric codes, but weight_zero_point is not beside",
    ),
    (
        "compressed float8 block",
        {"weight_scale": lambda s: s[:3]},
        {},
        "scales of shape (3, 4)",
    ),
    ("bitsandbytes int8", {"SCB": None}, {}, "int8 codes without weight_scale or SCB"),
    ("bitsandbytes int8", {"SCB": lambda s: s[:3]}, {}, "but SCB beside them is (3,)"),
    ("bitsandbytes int8", {"weight_format": lambda f: f + 1}, {}, "another order than row"),
    ("bitsandbytes nf4", {"weight.absmax": None}, {}, "absmax, quant_map for 30 blocks"),
    (
        "bitsandbytes nf4",
        {"weight.quant_state.bitsandbytes__nf4": lambda s: s[:20]},
        {},
        "with a damaged state",
    ),
]


@pytest.mark.parametrize(
    ("case", "changes", "config", "expected"), UNCLEAR, ids=[case[-1] for case in UNCLEAR]
)
def test_what_is_missing_or_unclear_is_refused(tmp_path, case, changes, config, expected):
    where = "quantization" if case.startswith("mlx") else "quantization_config"
    tensors = stored_as(case)
    for name, change in changes.items():
        tensor = tensors.pop(f"{OUTPUT}.{name}")
        if change is not None:
            tensors[f"{OUTPUT}.{name}"] = change(tensor)
    assert expected in refusal(tmp_path, tensors, {where: CONFIGS[case]} | config)


@pytest.mark.parametrize(
    ("key", "config", "expected"),
    [
        ("lm_head.W_q", {"quant_method": "hqq"}, "codes of HQQ (W_q) (config.json: quant_method"),
        ("lm_head.weight._data", {"quant_method": "quanto"}, "codes of quanto (weight._data)"),
        ("lm_head._weight_qdata", {"quant_method": "torchao"}, "codes of torchao"),
        ("lm_head.codes", {"quant_method": "aqlm"}, "codes of AQLM"),
    ],
)
def test_an_output_embedding_in_a_foreign_layout_is_there_and_refused(
    tmp_path, key, config, expected
):
    tensors = {key: torch.zeros(20, 48, dtype=torch.uint8)}
    config = {"quantization_config": config, "tie_word_embeddings": True}
    assert expected in refusal(tmp_path, tensors, config)


@pytest.mark.parametrize(
    "config",
    [
        {"quant_method": "gptq", "bits": 3},
        {"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"},
        {"quant_method": "awq", "bits": 4, "version": "gemv"},
        {"quant_method": "auto-round", "bits": 4},
        {},
    ],
    ids=str,
)
def test_qweight_in_another_format_is_refused(tmp_path, config):
    tensors = {
        f"{OUTPUT}.qweight": torch.zeros(4, V, dtype=torch.int32),
        f"{OUTPUT}.qzeros": torch.zeros(1, V // 8, dtype=torch.int32),
        f"{OUTPUT}.scales": torch.ones(1, V),
    }
    assert "packed as qweight" in refusal(tmp_path, tensors, {"quantization_config": config})


def test_an_expanded_tensor_is_refused_before_it_fills_the_memory(tmp_path):
    rows = torch.zeros(1, 16).expand(10**9, 16)
    torch.save({"wte.weight": rows}, tmp_path / "pytorch_model.bin")
    with pytest.raises(
        CheckpointError, match="repeats its 64 bytes to 64000000000, more than the file has"
    ):
        Checkpoint(tmp_path, 0).tensor("input_embedding")


@pytest.mark.parametrize("shape", [(0, 8), (8, 0)])
def test_a_matrix_without_elements_is_refused(tmp_path, shape):
    save_file({"wte.weight": torch.zeros(shape)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="should be a matrix, but is of shape"):
        Checkpoint(tmp_path, 0).tensor("input_embedding")


def test_keys_are_printed_without_their_control_characters(tmp_path):
    save_file({"\x1b]0;gone\x07\x1b[31m": torch.zeros(3, 2)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError) as error:
        Checkpoint(tmp_path, 0).tensor("input_embedding")
    assert str(error.value).isprintable()


def test_a_quantised_matrix_twice_is_one_place(tmp_path):
    """What tells tied embeddings apart by their places needs equal places to be equal."""
    checkpoint = checkpoint_of(tmp_path, stored_as("bitsandbytes int8"))
    first = checkpoint.locate("output_embedding")
    again = Checkpoint(tmp_path, 0).locate("output_embedding")
    assert isinstance(first, QuantisedTensor)
    assert first == again
    assert hash(first) == hash(again)
