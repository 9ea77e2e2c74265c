"""Arrays on disk that are written whole; a damaged file counts as absent."""

import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from dynamics.errors import OutputError
from dynamics.files import whole_file

_ABSENT_OR_DAMAGED = (OSError, EOFError, KeyError, ValueError, BadZipFile, zlib.error)


def load_arrays(path: Path, *names: str) -> list[np.ndarray] | None:
    """Read arrays of an `.npz` by name; None if the file is missing or damaged."""
    try:
        with path.open("rb") as file, np.load(file) as content:
            return [content[name] for name in names]
    except _ABSENT_OR_DAMAGED:
        return None


def store_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays by name as a compressed `.npz`, whole or not at all.

    Raises:
        OutputError: The folder cannot be written to.
    """
    try:
        # Another process that writes the same file may finish it first.
        with suppress(FileNotFoundError), whole_file(path) as partial, partial.open("wb") as file:
            np.savez_compressed(file, **arrays)
    except OSError as error:
        raise OutputError(
            f"{path.parent}: cannot be written ({error.strerror}); free space, or give another "
            "folder in DYNAMICS_CACHE"
        ) from error
