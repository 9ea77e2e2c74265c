"""Sources of bytes: files that are read by ranges, on disk or elsewhere."""

import io
import mmap
from pathlib import Path
from typing import Protocol

from dynamics.errors import CheckpointError

Bytes = bytes | bytearray | memoryview


class ByteSource(Protocol):
    """A file of known size that is read range by range, on disk or elsewhere."""

    @property
    def name(self) -> str:
        """Name of the file in messages."""
        ...

    @property
    def size(self) -> int:
        """Size in bytes."""
        ...

    def read(self, start: int, stop: int) -> Bytes:
        """Read exactly the bytes from `start` up to `stop`, as a copy or a view."""
        ...


class LocalFile:
    """A file on disk, memory-mapped: pages are read when they are accessed.

    The map is private and writable (copy-on-write), so a tensor may be a view of it and be changed
    without changing the file. It lives as long as its views.

    Args:
        path: The file.

    Raises:
        CheckpointError: The file does not exist, cannot be opened or is empty.
    """

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        try:
            with path.open("rb") as file:
                self.size = file.seek(0, io.SEEK_END)
                if not self.size:
                    raise CheckpointError(f"{path}: the file is empty")
                self._view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error

    def read(self, start: int, stop: int) -> memoryview:
        """Return the bytes from `start` up to `stop`, as a view of the map.

        Raises:
            CheckpointError: The range does not lie within the file.
        """
        check_range(self, start, stop)
        return self._view[start:stop]


class SourceStream(io.RawIOBase):
    """Adapter from a source to a seekable binary stream, for readers that need a file."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self._position = 0

    def readable(self) -> bool:  # noqa: D102
        return True

    def seekable(self) -> bool:  # noqa: D102
        return True

    def tell(self) -> int:  # noqa: D102
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:  # noqa: D102
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._source.size}
        position = origin[whence] + offset
        if position < 0:
            raise ValueError(f"negative position {position}")
        self._position = position
        return position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # noqa: D102
        stop = max(self._position, min(self._position + len(buffer), self._source.size))
        count = stop - self._position
        if count:
            buffer[:count] = self._source.read(self._position, stop)
        self._position = stop
        return count


def check_range(source: ByteSource, start: int, stop: int) -> None:
    """Refuse a range that does not lie within the source.

    Raises:
        CheckpointError: The range does not.
    """
    if not 0 <= start <= stop <= source.size:
        raise CheckpointError(
            f"{source.name}: truncated or damaged: bytes {start} to {stop} are expected, the file "
            f"has {source.size}; fetch or write it again"
        )
