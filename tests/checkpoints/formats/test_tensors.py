import hashlib

import pytest
import torch

from dynamics.checkpoints.formats.byte_sources import LocalFile, SourceStream
from dynamics.checkpoints.formats.headers import index_tensors
from dynamics.checkpoints.formats.tensor_entries import TensorEntry
from dynamics.checkpoints.formats.tensors import digest, read_tensor
from dynamics.errors import CheckpointError
from tests.checkpoints.writers import FILES, Memory, assert_same, file_bytes


@pytest.mark.parametrize("format_name", FILES)
@pytest.mark.parametrize(
    "rows",
    [slice(2, 5), slice(None, 3), slice(7, None), slice(-2, None), slice(4, 4), slice(8, 99)],
)
def test_rows(tmp_path, format_name, rows):
    tensor = torch.randn(10, 100).bfloat16()
    source = Memory(file_bytes(tmp_path, format_name, {"a": tensor, "b": torch.zeros(99)}))
    entry = index_tensors(source)["a"]
    source.touched = 0
    assert_same(read_tensor(source, entry, rows), tensor[rows])
    assert source.touched == len(tensor[rows]) * 200


@pytest.mark.parametrize("rows", [slice(0, 4, 2), slice(None, None, -1)])
def test_rows_are_consecutive(rows):
    entry = TensorEntry(torch.float32, (4, 2), (2, 1), 0)
    with pytest.raises(ValueError, match="consecutive"):
        read_tensor(Memory(bytes(32)), entry, rows)


def test_unaligned_elements(tmp_path):
    (tmp_path / "odd").write_bytes(b"x" + torch.arange(6.0).numpy().tobytes())
    entry = TensorEntry(torch.float32, (2, 3), (3, 1), 1)
    tensor = read_tensor(LocalFile(tmp_path / "odd"), entry)
    assert_same(tensor, torch.arange(6.0).view(2, 3))
    assert tensor.data_ptr() % 4 == 0


def test_writing_to_a_tensor_leaves_the_file_alone(tmp_path):
    before = file_bytes(tmp_path, "safetensors", {"a": torch.ones(3, 2)})
    path = tmp_path / "model.safetensors"
    source = LocalFile(path)
    tensor = read_tensor(source, index_tensors(source)["a"])
    del source  # the tensor keeps the map alive
    tensor.zero_()
    assert path.read_bytes() == before
    assert read_tensor(LocalFile(path), index_tensors(LocalFile(path))["a"]).eq(1).all()


def test_local_file_messages(tmp_path):
    with pytest.raises(CheckpointError, match="absent: cannot be read: No such file"):
        LocalFile(tmp_path / "absent")
    (tmp_path / "empty").touch()
    with pytest.raises(CheckpointError, match="empty: the file is empty"):
        LocalFile(tmp_path / "empty")
    (tmp_path / "short").write_bytes(b"12345")
    with pytest.raises(
        CheckpointError, match=r"short: .* bytes 3 to 9 are expected, the file has 5"
    ):
        LocalFile(tmp_path / "short").read(3, 9)


def test_stream_reads_like_a_file():
    stream = SourceStream(Memory(b"0123456789"))
    assert (stream.read(3), stream.tell(), stream.seek(-2, 2)) == (b"012", 3, 8)
    assert (stream.read(), stream.read(5), stream.seek(1, 1)) == (b"89", b"", 11)
    assert stream.read(1) == b""
    with pytest.raises(ValueError, match="negative"):
        stream.seek(-1)


def test_digest_is_of_dtype_shape_and_values():
    tensor = torch.arange(6, dtype=torch.int16).view(2, 3)
    content = b"int16 (2, 3)\n" + bytes([0, 0, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0])
    assert digest(tensor) == hashlib.sha256(content).hexdigest()
    assert digest(tensor.T.contiguous().T) == digest(tensor)
    different = [tensor, tensor.view(3, 2), tensor.int(), tensor.half(), tensor + 1, tensor.T]
    assert len({digest(each) for each in different}) == len(different)


def test_digest_takes_every_dtype_and_shape():
    tensors = [
        torch.tensor(1.0),
        torch.zeros(0, 3),
        torch.zeros(2).bfloat16(),
        torch.ones(2).bool(),
    ]
    assert len({digest(tensor) for tensor in tensors}) == len(tensors)
