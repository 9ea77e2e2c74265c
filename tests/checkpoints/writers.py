"""Tensors written in every format a checkpoint can have, and a source that counts what is read."""

import io
import json
import zipfile

import torch
from safetensors.torch import save_file

from dynamics.checkpoints.formats.byte_sources import check_range


class Memory:
    """A source that holds its bytes and counts those handed out."""

    name = "memory"

    def __init__(self, content):
        self.content = content
        self.size = len(content)
        self.touched = 0

    def read(self, start, stop):
        check_range(self, start, stop)
        self.touched += stop - start
        return self.content[start:stop]


def write_safetensors(path, tensors):
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path)


def write_zip(path, tensors):
    torch.save(tensors, path)


def write_old_zip(path, tensors):
    """As torch < 2.7 wrote it: without the records that say where the storages are."""
    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    write_members(
        path,
        {
            name: content
            for name, content in members(buffer).items()
            if not name.endswith((".format_version", ".storage_alignment", "serialization_id"))
        },
    )


def write_legacy(path, tensors):
    torch.save(tensors, path, _use_new_zipfile_serialization=False)


def members(file):
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_members(path, contents, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)


def write_shards(folder, whole, tensors, write):
    """One tensor per shard, and the index that transformers writes."""
    stem, suffix = whole.split(".")
    shards = {
        key: f"{stem}-{at:05}-of-{len(tensors):05}.{suffix}" for at, key in enumerate(tensors, 1)
    }
    for key, shard in shards.items():
        write(folder / shard, {key: tensors[key]})
    index = {"metadata": {}, "weight_map": shards}
    (folder / f"{whole}.index.json").write_text(json.dumps(index))


# One file: what it is called and what writes it.
FILES = {
    "safetensors": ("model.safetensors", write_safetensors),
    "zip": ("pytorch_model.bin", write_zip),
    "old zip": ("pytorch_model.bin", write_old_zip),
    "legacy": ("pytorch_model.bin", write_legacy),
}

FORMATS = [*FILES, *(f"sharded {name}" for name in FILES)]


def write_checkpoint(folder, tensors, format_name="safetensors", config=None):
    folder.mkdir(parents=True, exist_ok=True)
    name, write = FILES[format_name.removeprefix("sharded ")]
    if format_name.startswith("sharded "):
        write_shards(folder, name, tensors, write)
    else:
        write(folder / name, tensors)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def file_bytes(tmp_path, format_name, tensors):
    name, write = FILES[format_name]
    write(tmp_path / name, tensors)
    return (tmp_path / name).read_bytes()


def neox(vocab_size=12, hidden_size=4, tied=False, dtype=torch.float32):
    """A state dict with the keys of GPT-NeoX and some other tensor before and after."""
    tensors = {
        "gpt_neox.embed_in.weight": torch.randn(vocab_size, hidden_size).to(dtype),
        "gpt_neox.layers.0.attention.dense.weight": torch.randn(5, 7).to(dtype),
        "gpt_neox.final_layer_norm.weight": torch.randn(hidden_size).to(dtype),
        "gpt_neox.final_layer_norm.bias": torch.randn(hidden_size).to(dtype),
    }
    if not tied:
        tensors["embed_out.weight"] = torch.randn(vocab_size, hidden_size).to(dtype)
    return tensors


def assert_same(read, expected):
    """Equal in dtype, shape and every bit."""
    assert (read.dtype, read.shape) == (expected.dtype, expected.shape)
    assert bits(read).equal(bits(expected))


def bits(tensor):
    return tensor.detach().contiguous().flatten().view(torch.uint8)
