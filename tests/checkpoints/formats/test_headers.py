import collections
import io
import json
import os
import pickle
import struct
import zipfile

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_model

from dynamics.checkpoints.formats import unpickling
from dynamics.checkpoints.formats.byte_sources import LocalFile
from dynamics.checkpoints.formats.headers import index_tensors
from dynamics.checkpoints.formats.tensors import read_tensor
from dynamics.errors import CheckpointError
from tests.checkpoints.writers import (
    FILES,
    Memory,
    assert_same,
    file_bytes,
    members,
    neox,
    write_legacy,
    write_members,
    write_zip,
)

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.complex64,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.uint16,
    torch.bool,
]


def read_all(source):
    return {key: read_tensor(source, entry) for key, entry in index_tensors(source).items()}


@pytest.mark.parametrize("format_name", FILES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_format_and_dtype_gives_the_bits_that_were_saved(tmp_path, format_name, dtype):
    tensors = {
        "odd": torch.randn(3).mul(9).to(dtype),
        "matrix": torch.randn(5, 3).mul(9).to(dtype),
        "scalar": torch.tensor(1.0).to(dtype),
        "empty": torch.zeros(0, 4).to(dtype),
    }
    read = read_all(Memory(file_bytes(tmp_path, format_name, tensors)))
    assert sorted(read) == sorted(tensors)
    for key, tensor in tensors.items():
        assert_same(read[key], tensor)


@given(
    format_name=st.sampled_from(sorted(FILES)),
    shapes=st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(
            lambda key: key != "__metadata__"
        ),
        st.lists(st.integers(0, 4), max_size=3),
        min_size=1,
        max_size=5,
    ),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.int8]),
)
@settings(
    deadline=None,
    max_examples=60,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_what_is_written_is_read(tmp_path, format_name, shapes, dtype):
    tensors = {key: torch.randn(shape).to(dtype) for key, shape in shapes.items()}
    read = read_all(Memory(file_bytes(tmp_path, format_name, tensors)))
    assert sorted(read) == sorted(tensors)
    for key, tensor in tensors.items():
        assert_same(read[key], tensor)


@pytest.mark.parametrize("write", [write_zip, write_legacy])
def test_views_of_one_storage(tmp_path, write):
    base = torch.randn(6, 4)
    tensors = {
        "base": base,
        "transposed": base.T,
        "rows": base[2:4],
        "columns": base[:, 1:3],
        "expanded": base[:1].expand(5, 4),
        "every other": base[::2],
    }
    write(tmp_path / "views.bin", tensors)
    source = Memory((tmp_path / "views.bin").read_bytes())
    index = index_tensors(source)
    for key, tensor in tensors.items():
        assert_same(read_tensor(source, index[key]), tensor)
        assert_same(read_tensor(source, index[key], slice(1, 3)), tensor[1:3])
    assert index["base"].offset == index["transposed"].offset
    assert index["expanded"].nbytes == 80


def test_only_the_pickle_and_the_tensor_are_read(tmp_path):
    tensors = {f"layers.{at}": torch.randn(300, 200) for at in range(20)}
    for format_name in FILES:
        source = Memory(file_bytes(tmp_path, format_name, tensors))
        read_tensor(source, index_tensors(source)["layers.7"])
        assert 240_000 <= source.touched <= 240_000 + 70_000 < source.size / 10, format_name


def test_parameters_and_state_dict_metadata(tmp_path):
    module = torch.nn.Linear(3, 2)
    for write in (write_zip, write_legacy):
        write(tmp_path / "linear.bin", module.state_dict())
        source = LocalFile(tmp_path / "linear.bin")
        assert_same(read_tensor(source, index_tensors(source)["weight"]), module.weight)
        write(tmp_path / "parameters.bin", dict(module.named_parameters()))
        source = LocalFile(tmp_path / "parameters.bin")
        assert_same(read_tensor(source, index_tensors(source)["bias"]), module.bias)


def test_dropped_safetensors_key_is_its_twin(tmp_path):
    module = torch.nn.ModuleDict({"a": torch.nn.Linear(2, 2, bias=False)})
    module["b"] = module["a"]
    save_model(module, str(tmp_path / "tied.safetensors"))
    index = index_tensors(LocalFile(tmp_path / "tied.safetensors"))
    assert index["b.weight"] == index["a.weight"]


def test_zip64(tmp_path):
    """A file beyond 4 GiB, all of it holes but for what is looked at."""
    tensors = {"first": torch.arange(5.0), "last": torch.arange(7.0)}
    path = tmp_path / "large.bin"
    with torch.serialization.skip_data():
        torch.save({"hole": torch.empty(5 << 30, dtype=torch.uint8), **tensors}, path)
    source = LocalFile(path)
    index = index_tensors(source)
    assert index["last"].offset > 5 << 30
    expected = torch.load(path, map_location="meta", weights_only=True)
    for key, tensor in tensors.items():
        assert index[key].offset == expected[key].untyped_storage()._checkpoint_offset
        assert index[key].shape == tensor.shape


@pytest.mark.parametrize("format_name", FILES)
def test_truncation_is_always_an_error(tmp_path, format_name):
    whole = file_bytes(tmp_path, format_name, neox())
    for stop in range(len(whole)):
        with pytest.raises(CheckpointError):
            read_all(Memory(whole[:stop]))


@pytest.mark.parametrize("format_name", FILES)
def test_a_message_says_both_sizes(tmp_path, format_name):
    whole = file_bytes(tmp_path, format_name, neox())
    with pytest.raises(
        CheckpointError, match=rf"truncated or damaged.*{len(whole) - 9}\b"
    ) as error:
        read_all(Memory(whole[:-9]))
    assert "\n" not in str(error.value)
    if format_name != "zip" and format_name != "old zip":  # a zip does not say how long it is
        assert f"{len(whole)} bytes" in str(error.value)


@pytest.mark.parametrize("format_name", ["safetensors", "legacy"])
def test_trailing_bytes_are_refused(tmp_path, format_name):
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        read_all(Memory(file_bytes(tmp_path, format_name, neox()) + b"x"))


@pytest.mark.parametrize("format_name", FILES)
def test_damage_is_an_error_or_harmless(tmp_path, format_name):
    """Whatever byte is changed, nothing but a CheckpointError comes out."""
    whole = bytearray(file_bytes(tmp_path, format_name, neox()))
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 0x55
        try:
            read_all(Memory(damaged))
        except CheckpointError as error:
            assert str(error).startswith("memory: ")


def test_legacy_storage_of_another_length(tmp_path):
    whole = bytearray(file_bytes(tmp_path, "legacy", {"a": torch.zeros(3)}))
    whole[-20:-12] = struct.pack("<q", 4)
    index = index_tensors(Memory(whole))
    with pytest.raises(CheckpointError, match=r"3 elements are expected .* 4 found"):
        index["a"]


def test_zip_storage_of_another_length(tmp_path):
    write_zip(tmp_path / "a.bin", {"a": torch.zeros(3)})
    contents = members(tmp_path / "a.bin")
    write_members(tmp_path / "a.bin", contents | {"a/data/0": b"short"})
    index = index_tensors(LocalFile(tmp_path / "a.bin"))
    with pytest.raises(CheckpointError, match="12 bytes are expected in storage 0, 5 bytes found"):
        index["a"]


def test_compressed_zip_is_refused(tmp_path):
    write_zip(tmp_path / "a.bin", neox())
    write_members(tmp_path / "a.bin", members(tmp_path / "a.bin"), zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="compressed"):
        index_tensors(LocalFile(tmp_path / "a.bin"))


def test_encrypted_zip_is_refused(tmp_path):
    whole = bytearray(file_bytes(tmp_path, "zip", {"a": torch.zeros(3)}))
    at = -1
    while (at := whole.find(b"PK\x01\x02", at + 1)) >= 0:
        whole[at + 8] |= 1  # the flag of an encrypted member
    with pytest.raises(CheckpointError, match="encrypted"):
        index_tensors(Memory(whole))


def test_zip_member_that_is_not_where_the_directory_says(tmp_path):
    whole = file_bytes(tmp_path, "zip", {"a": torch.zeros(3)})
    moved = whole[:4] + whole[4:].replace(b"PK\3\4", b"PK\0\0")
    with pytest.raises(CheckpointError, match="not where it should be"):
        index_tensors(Memory(moved))


def test_big_endian_legacy_is_refused(tmp_path):
    whole = bytearray(file_bytes(tmp_path, "legacy", {"a": torch.zeros(3)}))
    at = whole.index(b"\x88", whole.index(b"little_endian"))  # True
    whole[at] = 0x89  # False
    with pytest.raises(CheckpointError, match="big-endian"):
        index_tensors(Memory(whole))


class Crafted(pickle.Pickler):
    """Writes persistent ids that torch.save would not."""

    def persistent_id(self, obj):
        return obj.pid if isinstance(obj, Persistent) else None


class Persistent:
    def __init__(self, *pid):
        self.pid = pid


@pytest.mark.parametrize(
    ("persistent", "message"),
    [
        ([Persistent("storage", torch.FloatStorage, "0", "cpu", 4, ("v", 1, 2))], "whole storage"),
        ([Persistent("storage", torch.FloatStorage, "0", "cpu", -4)], "whole storage"),
        ([Persistent("module", torch.Size, "source", "")], "whole storage"),
        (
            [Persistent("storage", torch.FloatStorage, "0", "cpu", size) for size in (4, 5)],
            "storage 0 is given two sizes",
        ),
    ],
)
def test_storages_that_cannot_be_read_right_are_refused(tmp_path, persistent, message):
    buffer = io.BytesIO()
    Crafted(buffer, 2).dump({"a": persistent})
    write_members(tmp_path / "a.bin", {"a/data.pkl": buffer.getvalue()})
    with pytest.raises(CheckpointError, match=message):
        index_tensors(LocalFile(tmp_path / "a.bin"))


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({"a/other": b""}, "not one that torch.save wrote"),
        ({"a/data.pkl": pickle.dumps({}, 2), "a/byteorder": b"big"}, "big-endian"),
        ({"a/data.pkl": pickle.dumps([1], 2)}, "no state dict, but a list"),
        ({"a/data.pkl": pickle.dumps({"model": {}}, 2)}, "no tensors at its top level.* model"),
    ],
)
def test_zip_that_is_no_state_dict(tmp_path, contents, message):
    write_members(tmp_path / "a.bin", contents)
    with pytest.raises(CheckpointError, match=message):
        index_tensors(LocalFile(tmp_path / "a.bin"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "git lfs pull"),
        (b"<html><body>404</body></html>", "begins with b'<html>"),
        (pickle.dumps({"a": 1}), "not one that torch.save wrote"),
    ],
)
def test_other_files(content, message):
    with pytest.raises(CheckpointError, match=message):
        index_tensors(Memory(content))


def safetensors(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return Memory(struct.pack("<Q", len(text) if length is None else length) + text + data)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (safetensors({}, length=10**6), "header alone is 1000000 bytes, the file has 10"),
        (safetensors(b"{nonsense"), "header is damaged"),
        (safetensors(b"{" + b'"a":[' * 100_000), "header is damaged"),
        (safetensors({"a": {}}), "damaged at 'a'"),
        (safetensors({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}), "at 'a'"),
        (safetensors({"a": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}), "'F4'.*BF16"),
        (
            safetensors({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, b"1234"),
            "takes 8 bytes",
        ),
        (
            safetensors({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b"1234"),
            r"describes \d+ bytes, the file has \d+",
        ),
    ],
)
def test_damaged_safetensors_header(source, message):
    with pytest.raises(CheckpointError, match=message):
        index_tensors(source)


def test_header_length_that_looks_like_a_pickle():
    header = {"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}
    source = safetensors(json.dumps(header).encode().ljust(0x80), b"7")
    assert source.content.startswith(b"\x80")
    assert read_all(source)["a"].tolist() == [ord("7")]


class Touch:
    """Creates a file when a careless reader unpickles it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("format_name", ["zip", "old zip", "legacy"])
def test_forbidden_global_is_refused_and_not_run(tmp_path, format_name):
    trap = tmp_path / "created"
    whole = file_bytes(tmp_path, format_name, {"a": torch.zeros(2), "trap": Touch(trap)})
    with pytest.raises(
        CheckpointError, match=r"memory: refused: .* 'posix\.mkdir', .* nothing was executed"
    ):
        index_tensors(Memory(whole))
    assert not trap.exists()
    pickle.loads(pickle.dumps(Touch(trap)))  # noqa: S301
    assert trap.exists()  # the trap works


@pytest.mark.parametrize(
    "opcodes",
    [
        b"cos\nsystem\n.",
        b"ctorch\nload\n.",
        b"ctorch.serialization\nload\n.",
        b"ctorch._utils\n_rebuild_tensor_v2.__globals__\n.",
        b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.",
        b"(ios\nsystem\n.",
    ],
)
def test_no_way_around_the_list(tmp_path, opcodes):
    write_members(tmp_path / "a.bin", {"a/data.pkl": opcodes})
    with pytest.raises(CheckpointError, match="refused"):
        index_tensors(LocalFile(tmp_path / "a.bin"))


def test_a_pickle_cannot_change_the_reader(tmp_path):
    """Setting attributes on a stand-in does not outlive the pickle that does it."""
    attack = (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n"
        b"N}(X\x0c\x00\x00\x00__defaults__(K\x01tu\x86b."  # BUILD with a slot state
    )
    write_members(tmp_path / "a.bin", {"a/data.pkl": attack})
    with pytest.raises(CheckpointError, match="no state dict, but a function"):
        index_tensors(LocalFile(tmp_path / "a.bin"))
    assert unpickling._rebuild_typed.__defaults__ is None


def test_tensor_beyond_its_storage_is_refused(tmp_path):
    class Beyond:
        def __reduce__(self):
            storage = torch.zeros(4).untyped_storage()
            typed = torch.storage.TypedStorage(
                wrap_storage=storage, dtype=torch.float32, _internal=True
            )
            hooks = collections.OrderedDict()
            rebuild = torch._utils._rebuild_tensor_v2
            return rebuild, (typed, 2, (3,), (1,), False, hooks)

    buffer = io.BytesIO()
    torch.save({"a": Beyond()}, buffer)
    with pytest.raises(CheckpointError, match="reaches beyond its 16 bytes"):
        index_tensors(Memory(buffer.getvalue()))
