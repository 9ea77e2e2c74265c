"""Cache on disk for ranges of remote files, of bounded size; off by default."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from dynamics.checkpoints.formats.byte_sources import Bytes, LocalFile
from dynamics.errors import CheckpointError, ConfigError, OutputError
from dynamics.files import whole_file

FOLDER = "DYNAMICS_CACHE"
LIMIT = "DYNAMICS_CACHE_BYTES"
_DEFAULT_LIMIT = 20_000_000_000
_SUFFIX = ".range"  # other files in the folder are never touched
_DIGEST = hashlib.sha256().digest_size


@dataclass(frozen=True)
class TensorCache:
    """Ranges of files by key, each stored behind its digest; the least recently used go first.

    Attributes:
        folder: Folder of the cache.
        limit: Largest size of all ranges together, in bytes.
    """

    folder: Path
    limit: int = _DEFAULT_LIMIT

    @classmethod
    def from_environment(cls) -> "TensorCache | None":
        """Return the cache of DYNAMICS_CACHE and DYNAMICS_CACHE_BYTES, None without the first.

        Raises:
            ConfigError: DYNAMICS_CACHE_BYTES is no number.
        """
        folder, limit = os.environ.get(FOLDER), os.environ.get(LIMIT) or str(_DEFAULT_LIMIT)
        if not limit.isdecimal():
            raise ConfigError(f"{LIMIT} is {limit!r}; a number of bytes is expected")
        return cls(Path(folder).expanduser(), int(limit)) if folder else None

    def get(self, key: str) -> memoryview | None:
        """Return the content stored under a key, None when it is absent or damaged."""
        path = self._path(key)
        try:
            file = LocalFile(path)
            os.utime(path)
            digest, content = file.read(0, _DIGEST), file.read(_DIGEST, file.size)
        except (CheckpointError, OSError):
            return None
        return content if hashlib.sha256(content).digest() == digest else None

    def put(self, key: str, content: Bytes) -> None:
        """Store content under a key, unless it is larger than the limit of the cache.

        Raises:
            OutputError: The folder cannot be written to.
        """
        if len(content) + _DIGEST > self.limit:
            return
        try:
            self._make_room(len(content) + _DIGEST)
            with whole_file(self._path(key)) as partial, partial.open("wb") as file:
                file.write(hashlib.sha256(content).digest())
                file.write(content)
        except FileNotFoundError:  # another process wrote or removed the same file
            return
        except OSError as error:
            raise OutputError(
                f"{self.folder}: the cache cannot be written ({error.strerror}); free space, give "
                f"another folder in {FOLDER}, or unset it"
            ) from error

    def _path(self, key: str) -> Path:
        """Return the file of a key."""
        return self.folder / (key + _SUFFIX)

    def _make_room(self, needed: int) -> None:
        """Remove the least recently used ranges until some bytes more are within the limit."""
        self.folder.mkdir(parents=True, exist_ok=True)
        files = [(path, path.stat()) for path in self.folder.glob(f"*{_SUFFIX}*")]
        total = sum(stat.st_size for _, stat in files)
        for path, stat in sorted(files, key=lambda file: file[1].st_mtime_ns):
            if total + needed <= self.limit:
                return
            path.unlink(missing_ok=True)
            total -= stat.st_size
