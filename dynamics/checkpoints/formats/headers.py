"""Index of the tensors in a checkpoint file of any supported format."""

from collections.abc import Mapping
from pathlib import PurePosixPath

from dynamics.checkpoints.formats.byte_sources import ByteSource
from dynamics.checkpoints.formats.safetensors_files import index_safetensors
from dynamics.checkpoints.formats.supported import find_format_of_bytes
from dynamics.checkpoints.formats.tensor_entries import TensorEntry
from dynamics.checkpoints.formats.torch_files import index_legacy, index_zip
from dynamics.errors import CheckpointError

_HEAD = 16  # bytes from which the format is recognised


def index_tensors(source: ByteSource) -> Mapping[str, TensorEntry]:
    """Index the tensors of a file by key; the first bytes decide the format, not the name.

    Only headers are read, and not a byte of the tensors.

    Raises:
        CheckpointError: The file is of no known format, damaged or unsafe; or, when a tensor is
            looked up, its position contradicts the file.
    """
    head = bytes(source.read(0, min(_HEAD, source.size)))
    if head[8:9] == b"{":  # first, because the length in front can equal any magic number
        return index_safetensors(source)
    if head.startswith(b"PK\x03\x04"):
        return index_zip(source)
    if head.startswith(b"\x80"):
        return index_legacy(source)
    if head.startswith(b"version https://"):
        raise CheckpointError(
            f"{source.name}: is a git-lfs pointer in place of the file; run `git lfs pull`"
        )
    if named := find_format_of_bytes(PurePosixPath(source.name).name, head):
        raise CheckpointError(f"{source.name}: is {named.name}; {named.remedy}")
    raise CheckpointError(
        f"{source.name}: neither safetensors nor written by torch.save; it begins with {head!r}"
    )
