"""Stores of the files of one checkpoint: a folder on disk, or a revision on a model hub."""

import json
import threading
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from dynamics.checkpoints.formats.byte_sources import ByteSource, LocalFile
from dynamics.errors import CheckpointError
from dynamics.files import sha256_file

_COUNTING = threading.Lock()


@dataclass
class Traffic:
    """Count of requests and bytes received.

    Attributes:
        requests: Requests sent, including repeated ones.
        received: Bytes of the bodies received, including those that were discarded.
        total: Count for a larger unit (a hub, a series) to which these numbers are added as well.
    """

    requests: int = 0
    received: int = 0
    total: "Traffic | None" = None

    def count(self, *, requests: int = 0, received: int = 0) -> None:
        """Add to the counts; safe to call from any thread."""
        with _COUNTING:
            self.requests += requests
            self.received += received
        if self.total is not None:
            self.total.count(requests=requests, received=received)


class FileStore(Protocol):
    """The files of one checkpoint, by name."""

    @property
    def name(self) -> str:
        """Name in messages."""
        ...

    @property
    def label(self) -> str:
        """Short name among the checkpoints of a series: a folder's name, a revision."""
        ...

    @property
    def revision(self) -> str | None:
        """Branch, tag or commit on a hub, as the caller gave it; None for a folder."""
        ...

    @property
    def commit(self) -> str | None:
        """Hash of the commit, once it is known; None for a folder."""
        ...

    @property
    def traffic(self) -> Traffic:
        """Requests and bytes transferred so far."""
        ...

    def open(self, filename: str) -> ByteSource | None:
        """Open a file that is read range by range, None when there is none of that name."""
        ...

    def read_bytes(self, filename: str) -> bytes | None:
        """Read a small file whole, None when there is none of that name."""
        ...

    def sha256(self, filename: str) -> str | None:
        """Return the hexadecimal SHA-256 of a whole file; None when a hub does not provide it."""
        ...

    def folder(self, patterns: Collection[str]) -> Path:
        """Return a folder on this machine with at least the files whose names fit a pattern."""
        ...


@dataclass(frozen=True)
class LocalFolder:
    """A checkpoint on disk.

    Attributes:
        path: Its folder.
        weights_file: Name of the file that holds its weights, when the folder has files of several
            checkpoints.
    """

    path: Path
    weights_file: str | None = None
    revision: None = None
    commit: None = None

    @property
    def name(self) -> str:
        """Its path."""
        return str(self.path / (self.weights_file or ""))

    @property
    def label(self) -> str:
        """Name of the folder, or of the file without its suffix."""
        return Path(self.weights_file).stem if self.weights_file else self.path.name

    @property
    def traffic(self) -> Traffic:
        """Traffic of zero."""
        return Traffic()

    def has(self, filename: str) -> bool:
        """Return whether there is a file of that name.

        Raises:
            CheckpointError: The folder may not be read.
        """
        try:
            return (self.path / filename).is_file()
        except OSError as error:
            raise CheckpointError(f"{self.path}: cannot be read: {error.strerror}") from error

    def names(self) -> list[str]:
        """List the names of the files in the folder."""
        return sorted(path.name for path in self.path.iterdir() if path.is_file())

    def open(self, filename: str) -> LocalFile | None:
        """Open and map a file; None when there is none of that name.

        Raises:
            CheckpointError: The file cannot be opened, or is empty.
        """
        return LocalFile(self.path / filename) if self.has(filename) else None

    def read_bytes(self, filename: str) -> bytes | None:
        """Read a small file whole, None when there is none of that name.

        Raises:
            CheckpointError: The file cannot be read.
        """
        path = self.path / filename
        try:
            return path.read_bytes() if self.has(filename) else None
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error

    def sha256(self, filename: str) -> str:
        """Compute the hexadecimal SHA-256 of a file by reading all of it."""
        return sha256_file(self.path / filename)

    def folder(self, patterns: Collection[str]) -> Path:
        """Return the folder itself."""
        return self.path


def read_json(store: FileStore, filename: str) -> dict[str, Any] | None:
    """Read a JSON object from a file beside the weights, None when there is no such file.

    Raises:
        CheckpointError: The file is no JSON object.
    """
    text = store.read_bytes(filename)
    if text is None:
        return None
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{store.name}/{filename}: is damaged: {error}") from error
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise CheckpointError(f"{store.name}/{filename}: a JSON object is expected, not a {kind}")
    return content
