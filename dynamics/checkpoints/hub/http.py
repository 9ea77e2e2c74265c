"""A file on a server, read by byte ranges: bad responses are refused, cut ones continued."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx2
from huggingface_hub.utils import get_session

from dynamics.checkpoints.formats.byte_sources import Bytes, check_range
from dynamics.checkpoints.hub.transport import Transport, reason, status
from dynamics.errors import UnreachableError

WINDOW = 1 << 16  # bytes fetched where fewer are requested: most headers fit in
_SMALLEST_PIECE = 1 << 20  # bytes below which another connection does not pay
_LARGEST_PIECE = 1 << 24
_EXPIRED = (401, 403, 410)  # statuses that storage returns for an expired signed address


@dataclass(frozen=True)
class RemoteFile:
    """Address and properties of a file on a server.

    Attributes:
        url: Address of its bytes; a signed one is valid for some time only.
        size: Size in bytes.
        sha256: SHA-256 of the whole file, None when unknown.
        commit: Hash of the commit it is in, None when unknown.
        headers: Headers to send with a request.
        signed: Whether a refusal may mean that the address has expired.
    """

    url: str
    size: int
    sha256: str | None = None
    commit: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    signed: bool = False


class HttpFile:
    """A file on a server, as a source of bytes.

    Small reads are kept in memory until the first large one, because indexes are read in small
    steps. Large reads are shared by several connections.

    Args:
        name: Name of the file in messages.
        remote_file: Its address and properties.
        locate: Requests an address that has not expired.
        transport: Means of making requests.
    """

    def __init__(
        self,
        name: str,
        remote_file: RemoteFile,
        locate: Callable[[], RemoteFile],
        transport: Transport,
    ) -> None:
        self.name = name
        self.remote_file = remote_file
        self.size = remote_file.size  # `relocate` refuses another one
        self._locate = locate
        self._transport = transport
        self._windows: list[tuple[int, bytes]] = []
        self._locating = threading.Lock()

    def read(self, start: int, stop: int) -> Bytes:
        """Read the bytes from `start` up to `stop`.

        Raises:
            CheckpointError: The range does not lie within the file, or the server cannot be
                reached, refuses, or sends something other than these bytes.
        """
        check_range(self, start, stop)
        if start == stop:
            return b""
        if stop - start > WINDOW:
            self._windows = []
            return self._read_cached(start, stop)
        for offset, content in self._windows:
            if offset <= start and stop <= offset + len(content):
                return content[start - offset : stop - offset]
        offset, end = self._window(start, stop)
        content = bytes(self._read_cached(offset, end))
        self._windows = [*self._windows, (offset, content)]
        return content[start - offset : stop - offset]

    def _window(self, start: int, stop: int) -> tuple[int, int]:
        """Return the range to fetch for a small read; larger where further reads are likely."""
        # Headers are read in steps from the start of a file, a zip directory at its end.
        if start == 0 or any(start == offset + len(content) for offset, content in self._windows):
            return start, min(start + WINDOW, self.size)
        if start >= self.size - WINDOW:
            return max(0, self.size - WINDOW), self.size
        return start, stop

    def _read_cached(self, start: int, stop: int) -> Bytes:
        """Read a range from the cache on disk, or else fetch it and store it there."""
        cache, sha256 = self._transport.cache, self.remote_file.sha256
        if cache is None or sha256 is None:
            return self._fetch(start, stop)
        key = f"{sha256}-{start}-{stop}"
        content = cache.get(key)
        if content is None:
            content = self._fetch(start, stop)
            cache.put(key, content)
        return content

    def _fetch(self, start: int, stop: int) -> bytearray:
        """Fetch a range by several connections at a time."""
        content = bytearray(stop - start)
        pieces = split(start, stop, self._transport.connections)
        stopped = threading.Event()
        buffer = memoryview(content)
        with ThreadPoolExecutor(self._transport.connections) as pool:
            try:
                ranges = [
                    _Range(
                        self, self._transport, buffer[begin - start : end - start], begin, stopped
                    )
                    for begin, end in pieces
                ]
                futures = [pool.submit(piece.fill) for piece in ranges]
                for future in as_completed(futures):
                    future.result()
            except BaseException:
                stopped.set()
                raise
        return content

    def relocate(self, expired: RemoteFile) -> None:
        """Request a new address, once for all the connections whose old address has expired.

        Raises:
            UnreachableError: The file has changed.
        """
        with self._locating:
            if self.remote_file is not expired:
                return
            located = self._locate()
            if (located.size, located.sha256) != (expired.size, expired.sha256):
                raise UnreachableError(f"{self.name}: changed while it was being read; read again")
            self.remote_file = located


@dataclass
class _Range:
    """Download of one range into its part of a buffer."""

    file: HttpFile
    transport: Transport
    target: memoryview
    start: int
    stopped: threading.Event
    done: int = 0

    def fill(self) -> None:
        """Fetch the missing bytes; after a cut, continue behind the last byte received."""
        try:
            self.transport.persist(
                self._fetch, self.file.name, stopped=self.stopped, is_temporary=self._is_expired
            )
        except httpx2.HTTPError as error:
            end = self.start + len(self.target)
            raise UnreachableError(
                f"{self.file.name}: {reason(error)} when bytes {self.start} to {end} were requested"
            ) from error

    def _fetch(self) -> None:
        """Make one attempt at the missing bytes."""
        if self.stopped.is_set():
            return
        remote_file = self.file.remote_file
        try:
            with self._response(remote_file) as response:
                self._receive(response)
        except httpx2.HTTPError as error:
            if self._is_expired(error):
                self.file.relocate(remote_file)
            raise

    @contextmanager
    def _response(self, remote_file: RemoteFile) -> Iterator[httpx2.Response]:
        """Yield the response to a request for the missing bytes; refuse any other than these.

        RFC 9110: section 14.2 (Range) lets a server ignore the request and send the whole file,
        section 14.4 (Content-Range) says which bytes it sends.
        """
        begin, end = self.start + self.done, self.start + len(self.target)
        headers = {**remote_file.headers, "Range": f"bytes={begin}-{end - 1}"}
        headers["Accept-Encoding"] = "identity"
        url, timeout = remote_file.url, self.transport.patience.timeout
        with get_session().stream("GET", url, headers=headers, timeout=timeout) as response:
            response.raise_for_status()
            expected = {
                "Content-Range": f"bytes {begin}-{end - 1}/{remote_file.size}",
                "Content-Length": str(end - begin),
                "Content-Encoding": "identity",
            }
            if response.status_code != 206:
                raise self._refusal(
                    f"ignores byte ranges (status {response.status_code} in place of 206), and "
                    "would send the whole file; use another HF_ENDPOINT, or download the file "
                    "into the hub cache with `hf download`"
                )
            for header, value in expected.items():
                received = response.headers.get(header, "" if header == "Content-Range" else value)
                if received.strip().lower() != value:
                    raise self._refusal(f"sent {header} {received!r}, where {value!r} was expected")
            yield response

    def _receive(self, response: httpx2.Response) -> None:
        """Write the body of a response into the buffer, as far as it comes."""
        deadline = self.transport.patience.deadline(len(self.target) - self.done)
        for chunk in response.iter_raw():
            self.transport.traffic.count(received=len(chunk))
            end = self.done + len(chunk)
            if end > len(self.target):
                raise self._refusal(f"sent more than the {len(self.target)} bytes requested")
            self.target[self.done : end] = chunk
            self.done = end
            if self.stopped.is_set():
                return
            if time.monotonic() > deadline:
                raise httpx2.ReadTimeout("too slow", request=response.request)
        if self.done < len(self.target):
            raise httpx2.RemoteProtocolError(
                f"cut after {self.done} of {len(self.target)} bytes", request=response.request
            )

    def _is_expired(self, error: httpx2.HTTPError) -> bool:
        """Return whether a refusal may mean that the signed address has expired."""
        return self.file.remote_file.signed and status(error) in _EXPIRED

    def _refusal(self, fault: str) -> UnreachableError:
        """Return the error for a response that is not what was requested."""
        host = httpx2.URL(self.file.remote_file.url).netloc.decode()
        return UnreachableError(f"{self.file.name}: {host} {fault}")


def split(start: int, stop: int, connections: int) -> list[tuple[int, int]]:
    """Split a range into pieces, equally many per connection and neither tiny nor huge.

    Example:
        >>> split(10, 20, 8)
        [(10, 20)]
        >>> [end - begin for begin, end in split(0, 5 << 20, 4)]
        [1310720, 1310720, 1310720, 1310720]
    """
    length = stop - start
    rounds = -(-length // (connections * _LARGEST_PIECE))
    count = max(1, min(connections * rounds, length // _SMALLEST_PIECE))
    size = -(-length // count)
    return [(begin, min(begin + size, stop)) for begin in range(start, stop, size)]
