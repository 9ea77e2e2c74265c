"""What a checkpoint file holds, whatever its format."""

from collections.abc import Mapping
from pathlib import PurePosixPath

from dynamics.checkpoints.formats.byte_sources import ByteSource
from dynamics.checkpoints.formats.entries import TensorEntry
from dynamics.checkpoints.formats.safetensors_files import index_safetensors
from dynamics.checkpoints.formats.supported import find_format_of_bytes
from dynamics.checkpoints.formats.torch_files import index_legacy, index_zip
from dynamics.errors import CheckpointError

_HEAD = 16


def index_container(source: ByteSource) -> Mapping[str, TensorEntry]:
    """The tensors of a file, by key; the format is told from its first bytes, not from its name.

    Only headers are read: of the tensors not a byte.

    Raises:
        CheckpointError: The file is of no known format, damaged or unsafe; or, when a tensor is
            asked for, where it should lie contradicts the file.
    """
    head = bytes(source.read(0, min(_HEAD, source.size)))
    if head[8:9] == b"{":  # first: the length in front of it may look like any magic number
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
