"""Where the files of one checkpoint are: a folder here, a revision on a model hub elsewhere."""

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
    """What was asked of a network and came back.

    Attributes:
        requests: Requests sent, repeated ones too.
        received: Bytes of the bodies that came back, useless ones too.
        whole: Where the same is counted for something larger.
    """

    requests: int = 0
    received: int = 0
    whole: "Traffic | None" = None

    def count(self, *, requests: int = 0, received: int = 0) -> None:
        """Add to the counts, from whichever thread."""
        with _COUNTING:
            self.requests += requests
            self.received += received
        if self.whole is not None:
            self.whole.count(requests=requests, received=received)


class FileStore(Protocol):
    """The files of one checkpoint, by name."""

    @property
    def name(self) -> str:
        """What messages call it."""
        ...

    @property
    def label(self) -> str:
        """What it is called among its like: a folder's name, a revision."""
        ...

    @property
    def revision(self) -> str | None:
        """Branch, tag or commit on a hub, as it was asked for; None for a folder."""
        ...

    @property
    def commit(self) -> str | None:
        """Hash of the commit, once it is known; None for a folder."""
        ...

    @property
    def traffic(self) -> Traffic:
        """What was transferred so far."""
        ...

    def open(self, filename: str) -> ByteSource | None:
        """A file to be read range by range, None when there is none of that name."""
        ...

    def read_bytes(self, filename: str) -> bytes | None:
        """The whole of a small file, None when there is none of that name."""
        ...

    def sha256(self, filename: str) -> str | None:
        """Hexadecimal SHA-256 of a whole file; None when a hub does not tell."""
        ...

    def folder(self, patterns: Collection[str]) -> Path:
        """A folder on this machine with at least the files whose names fit a pattern."""
        ...


@dataclass(frozen=True)
class LocalFolder:
    """A checkpoint on disk.

    Attributes:
        path: Its folder.
        weights_file: Name of the file that holds its weights, when others in the folder are of
            other checkpoints.
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
        """None at all."""
        return Traffic()

    def has(self, filename: str) -> bool:
        """Whether there is a file of that name.

        Raises:
            CheckpointError: The folder may not be read.
        """
        try:
            return (self.path / filename).is_file()
        except OSError as error:
            raise CheckpointError(f"{self.path}: cannot be read: {error.strerror}") from error

    def names(self) -> list[str]:
        """Names of the files in it."""
        return sorted(path.name for path in self.path.iterdir() if path.is_file())

    def open(self, filename: str) -> LocalFile | None:
        """A file, mapped anew; None when there is none of that name.

        Raises:
            CheckpointError: It cannot be opened, or is empty.
        """
        return LocalFile(self.path / filename) if self.has(filename) else None

    def read_bytes(self, filename: str) -> bytes | None:
        """The whole of a small file, None when there is none of that name.

        Raises:
            CheckpointError: It cannot be read.
        """
        path = self.path / filename
        try:
            return path.read_bytes() if self.has(filename) else None
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error

    def sha256(self, filename: str) -> str:
        """Hexadecimal SHA-256 of a file, all of which is read."""
        return sha256_file(self.path / filename)

    def folder(self, patterns: Collection[str]) -> Path:
        """The folder itself."""
        return self.path


def read_json(store: FileStore, filename: str) -> dict[str, Any] | None:
    """A JSON object that stands beside weights, None when there is no such file.

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
        found = type(content).__name__
        raise CheckpointError(f"{store.name}/{filename}: a JSON object is expected, not a {found}")
    return content
