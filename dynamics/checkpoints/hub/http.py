"""A file on a server, read by ranges of bytes: wrong answers are refused, cut ones continued."""

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

WINDOW = 1 << 16  # bytes fetched where fewer are asked for: most headers fit in
_SMALLEST_PIECE = 1 << 20  # bytes below which another connection does not pay
_LARGEST_PIECE = 1 << 24
_EXPIRED = (401, 403, 410)  # what storage says of a signed address past its time


@dataclass(frozen=True)
class RemoteFile:
    """What a server says of a file.

    Attributes:
        url: Where its bytes are, perhaps signed and valid for some time only.
        size: Its bytes in all.
        sha256: Of the whole file, None when it is not told.
        commit: Hash of the commit it is in, None when it is not told.
        headers: What to send along.
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

    What small reads fetch is remembered until the first large one, because indexes are read in
    small steps. Large reads are shared by several connections.

    Args:
        name: What messages call the file.
        found: What the server said of it.
        locate: Asks the server again, for an address that has not expired.
        transport: How requests are made.
    """

    def __init__(
        self, name: str, found: RemoteFile, locate: Callable[[], RemoteFile], transport: Transport
    ) -> None:
        self.name = name
        self.found = found
        self._locate = locate
        self._transport = transport
        self._windows: list[tuple[int, bytes]] = []
        self._locating = threading.Lock()

    @property
    def size(self) -> int:
        """Its bytes in all."""
        return self.found.size

    def read(self, start: int, stop: int) -> Bytes:
        """The bytes from `start` up to `stop`.

        Raises:
            CheckpointError: The range does not lie within the file, or the server cannot be
                reached, refuses, or answers with something else than these bytes.
        """
        check_range(self, start, stop)
        if start == stop:
            return b""
        if stop - start > WINDOW:
            self._windows = []
            return self._recall(start, stop)
        for at, content in self._windows:
            if at <= start and stop <= at + len(content):
                return content[start - at : stop - at]
        at, end = self._window(start, stop)
        content = bytes(self._recall(at, end))
        self._windows = [*self._windows, (at, content)]
        return content[start - at : stop - at]

    def _window(self, start: int, stop: int) -> tuple[int, int]:
        """What to fetch for a small read: more than is asked for where more will be."""
        if start == 0 or any(start == at + len(content) for at, content in self._windows):
            return start, min(start + WINDOW, self.size)
        if start >= self.size - WINDOW:
            return max(0, self.size - WINDOW), self.size
        return start, stop

    def _recall(self, start: int, stop: int) -> Bytes:
        cache, sha256 = self._transport.cache, self.found.sha256
        if cache is None or sha256 is None:
            return self._fetch(start, stop)
        key = f"{sha256}-{start}-{stop}"
        content = cache.get(key)
        if content is None:
            content = self._fetch(start, stop)
            cache.put(key, content)
        return content

    def _fetch(self, start: int, stop: int) -> bytearray:
        content = bytearray(stop - start)
        pieces = split(start, stop, self._transport.connections)
        stopped = threading.Event()
        with ThreadPoolExecutor(self._transport.connections) as pool:
            try:
                places = [memoryview(content)[begin - start : end - start] for begin, end in pieces]
                running = [
                    pool.submit(_Range(self, self._transport, place, begin, stopped).fill)
                    for place, (begin, _) in zip(places, pieces, strict=True)
                ]
                for each in as_completed(running):
                    each.result()
            except BaseException:
                stopped.set()
                raise
        return content

    def relocate(self, expired: RemoteFile) -> None:
        """Ask for a new address, once for all the connections that find the old one expired.

        Raises:
            UnreachableError: The file is not the one it was.
        """
        with self._locating:
            if self.found is not expired:
                return
            found = self._locate()
            if (found.size, found.sha256) != (expired.size, expired.sha256):
                raise UnreachableError(f"{self.name}: changed while it was being read; read again")
            self.found = found


@dataclass
class _Range:
    """One range on its way into its place."""

    file: HttpFile
    transport: Transport
    target: memoryview
    start: int
    stopped: threading.Event
    done: int = 0

    def fill(self) -> None:
        """Fetch what is missing; after a cut, go on behind the last byte that came."""
        try:
            self.transport.persist(
                self._fetch, self.file.name, stopped=self.stopped, may_pass=self._is_expired
            )
        except httpx2.HTTPError as error:
            end = self.start + len(self.target)
            raise UnreachableError(
                f"{self.file.name}: {reason(error)} when asked for bytes {self.start} to {end}"
            ) from error

    def _fetch(self) -> None:
        if self.stopped.is_set():
            return
        found = self.file.found
        try:
            with self._response(found) as response:
                self._receive(response)
        except httpx2.HTTPError as error:
            if self._is_expired(error):
                self.file.relocate(found)
            raise

    @contextmanager
    def _response(self, found: RemoteFile) -> Iterator[httpx2.Response]:
        begin, end = self.start + self.done, self.start + len(self.target)
        headers = {**found.headers, "Range": f"bytes={begin}-{end - 1}"}
        headers["Accept-Encoding"] = "identity"
        timeout = self.transport.patience.timeout
        with get_session().stream("GET", found.url, headers=headers, timeout=timeout) as response:
            response.raise_for_status()
            expected = {
                "Content-Range": f"bytes {begin}-{end - 1}/{found.size}",
                "Content-Length": str(end - begin),
                "Content-Encoding": "identity",
            }
            if response.status_code != 206:
                raise self._refused(
                    f"ignores byte ranges (status {response.status_code} in place of 206), and "
                    "would send the whole file; use another HF_ENDPOINT, or download the file "
                    "into the hub cache with `hf download`"
                )
            for header, value in expected.items():
                given = response.headers.get(header, "" if header == "Content-Range" else value)
                if given.strip().lower() != value:
                    raise self._refused(f"sent {header} {given!r}, where {value!r} was expected")
            yield response

    def _receive(self, response: httpx2.Response) -> None:
        deadline = self.transport.patience.deadline(len(self.target) - self.done)
        for chunk in response.iter_raw():
            self.transport.traffic.count(received=len(chunk))
            end = self.done + len(chunk)
            if end > len(self.target):
                raise self._refused(f"sent more than the {len(self.target)} bytes asked for")
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
        return self.file.found.signed and status(error) in _EXPIRED

    def _refused(self, what: str) -> UnreachableError:
        host = httpx2.URL(self.file.found.url).netloc.decode()
        return UnreachableError(f"{self.file.name}: {host} {what}")


def split(start: int, stop: int, connections: int) -> list[tuple[int, int]]:
    """Pieces of a range for that many connections: as many for each, neither tiny nor huge.

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
