"""The weights file of a checkpoint, or the name of the format that its files have instead."""

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path

from dynamics.checkpoints.formats.dcp_files import METADATA
from dynamics.checkpoints.formats.supported import find_named_format
from dynamics.checkpoints.stores import FileStore, LocalFolder
from dynamics.errors import CheckpointError

SHARD_INDEX = ".index.json"
EMBEDDINGS_FILE = "embeddings.safetensors"
"""File of `dynamics train`: the tensors with a role and no others, without a config.json."""

# In the order in which they are tried.
WEIGHTS_FILES = (
    "model.safetensors",
    "model.safetensors" + SHARD_INDEX,
    "pytorch_model.bin",
    "pytorch_model.bin" + SHARD_INDEX,
    EMBEDDINGS_FILE,
)

_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")

# Files with these suffixes that hold other state of a training, or parts of weights.
_NO_WEIGHTS = (
    *("*optim*", "*scheduler*", "*scaler*", "*rng*", "random_states*", "training_args*"),
    *("train*_state*", "*dataloader*", "sampler*", "tokenizer*", "common.pt", "meta*.pt"),
    # Parts of weights.
    *("adapter_*", "*-of-*", "mp_rank_0[1-9]_*", "layer_*model_states.pt", "*zero_pp_rank_*"),
)
_MOST_ENTRIES = 2000  # most entries of a folder that are listed
_SHOWN = 4  # files listed in a message

# The last number in a file name behind a word for steps.
_STEP_IN_NAME = re.compile(
    r"(?:.*[-_=.])?(?:(?:checkpoint|ckpt|global[-_]?step|step|iter|iteration)[-_=]?(\d+)"
    r"|model[-_](\d{5,}))(?:[-_](?:ckpt|checkpoint))?"
)


def step_in_name(path: Path) -> int | None:
    """Return the step in the name of a weights file, None when it has none.

    Example:
        >>> step_in_name(Path("epoch=3-step=40.ckpt")), step_in_name(Path("last.ckpt"))
        (40, None)
    """
    match = _STEP_IN_NAME.fullmatch(path.stem)
    return int(match[1] or match[2]) if match else None


def refuse_parts(path: Path) -> None:
    """Refuse a file that is only a part of a checkpoint, or of an unsupported format.

    Raises:
        CheckpointError: The file is one of these.
    """
    if "-of-" in path.stem or path.suffix == ".distcp":
        raise CheckpointError(
            f"{path}: is one of several files that hold a checkpoint together; give their folder, "
            f"{path.parent}"
        )
    if match := find_named_format([path.name]):
        raise CheckpointError(f"{path}: is {match[0].name}; {match[0].remedy}")


def standard_files(store: FileStore) -> tuple[str, ...]:
    """List the names of weights files to try first, in this order."""
    if isinstance(store, LocalFolder) and store.weights_file is not None:
        return (store.weights_file,)
    return WEIGHTS_FILES


def other_weights_file(store: FileStore) -> str | None:
    """Return the file from which the weights of a folder without a standard one are read.

    Returns:
        The path of the `.metadata` of its distributed checkpoint, or the only file that holds
        weights; None when there is no such file or several, and for a hub, which is not listed.
    """
    if not isinstance(store, LocalFolder):
        return None
    names = _metadata_files(store.path) or [path.name for path in other_weights_files(store.path)]
    return names[0] if len(names) == 1 else None


def has_standard_file(folder: Path) -> bool:
    """Return whether a folder has a weights file of a standard name."""
    return any(map(LocalFolder(folder).has, WEIGHTS_FILES))


def has_weights(place: Path) -> bool:
    """Return whether a folder or file is one checkpoint with weights."""
    return (
        place.is_file()
        or has_standard_file(place)
        or other_weights_file(LocalFolder(place)) is not None
    )


def other_weights_files(folder: Path) -> list[Path]:
    """List the files of a folder that hold weights and have none of the names in WEIGHTS_FILES.

    A file counts by its suffix and its first bytes, unless its name is that of other state of a
    training. None counts where the files of the folder are parts of a named format.
    """
    match = find_named_format(_filenames(folder))
    if match and match[0].holds_parts:
        return []
    return sorted(
        path
        for path in islice(folder.iterdir(), _MOST_ENTRIES)
        if path.suffix in _SUFFIXES
        and path.name not in WEIGHTS_FILES
        and not any(fnmatchcase(path.name, pattern) for pattern in _NO_WEIGHTS)
        and path.is_file()
        and _is_container(path)
    )


def no_weights(store: FileStore) -> str:
    """Return the message for a checkpoint without readable weights: its content and a remedy."""
    if isinstance(store, LocalFolder) and (named := unsupported_format(store.path)):
        return named
    if not isinstance(store, LocalFolder) and store.open("adapter_config.json") is not None:
        named, filename = find_named_format(["adapter_config.json"]) or (None, "")
        assert named is not None, "the table has adapters"
        return f"{store.name}: holds {named.name} ({filename}); {named.remedy}"
    return f"{store.name}: holds no weights; looked for {', '.join(WEIGHTS_FILES)}"


def unsupported_format(folder: Path) -> str | None:
    """Return the message for a folder of an unsupported format: its name and a remedy.

    Returns:
        The message; None when no format is recognised.
    """
    if len(metadata := _metadata_files(folder)) > 1:
        return (
            f"{folder}: holds several distributed checkpoints ({_listed(metadata)}); give the "
            f"folder of one of them, such as {(folder / metadata[0]).parent}"
        )
    if match := find_named_format(_filenames(folder)):
        named, filename = match
        return f"{folder}: holds {named.name} ({filename}); {named.remedy}"
    if len(files := other_weights_files(folder)) > 1:
        return (
            f"{folder}: holds several files of weights ({_listed([path.name for path in files])}); "
            f"give one of them, such as {files[0]}"
        )
    return None


def _metadata_files(folder: Path) -> list[str]:
    """List the `.metadata` files of distributed checkpoints, except those of optimizers."""
    if (folder / METADATA).is_file():
        return [METADATA]
    return sorted(
        f"{child.name}/{METADATA}"
        for child in islice(folder.iterdir(), _MOST_ENTRIES)
        if not child.name.startswith("optim")
        and (child / METADATA).is_file()
        and any(child.glob("*.distcp"))
    )


def _filenames(folder: Path) -> list[str]:
    """List the names in a folder and its direct subfolders, `_MOST_ENTRIES` at most.

    The `.distcp` chunks beside a `.metadata` are left out.
    """
    return list(islice(_walk(folder), _MOST_ENTRIES))


def _walk(folder: Path) -> Iterator[str]:
    """Yield the names that `_filenames` lists."""
    children = sorted(islice(folder.iterdir(), _MOST_ENTRIES))
    for parent in (folder, *(child for child in children if child.is_dir())):
        has_metadata = (parent / METADATA).is_file()
        for path in sorted(islice(parent.iterdir(), _MOST_ENTRIES)):
            if not (has_metadata and path.suffix == ".distcp"):
                yield path.relative_to(folder).as_posix()


def _is_container(path: Path) -> bool:
    """Return whether a file begins like a file of weights; nanoGPT's train.bin holds tokens."""
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    return head.startswith((b"PK\x03\x04", b"\x80")) or head[8:9] == b"{"


def _listed(names: list[str]) -> str:
    """List the first names for a message, and how many more there are."""
    more = f", {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
