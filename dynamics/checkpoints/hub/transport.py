"""Requests to a hub: retries and waits, parallel connections, and the count of traffic."""

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import httpx2
from huggingface_hub import constants
from huggingface_hub.utils import parse_ratelimit_headers

from dynamics.checkpoints.hub.cache import TensorCache
from dynamics.checkpoints.stores import Traffic
from dynamics.errors import UnreachableError, message_of

Result = TypeVar("Result")

_TRANSIENT = (408, 429, 500, 502, 503, 504)
_HOPELESS = (httpx2.UnsupportedProtocol, httpx2.LocalProtocolError)

CONNECTIONS = 8  # connections that share a large read by default


@dataclass(frozen=True)
class Patience:
    """Limits on retries and waits.

    Attributes:
        tries: Most attempts at one request.
        first_wait: Seconds before the second attempt, doubled before each further one.
        longest_wait: Longest wait in seconds that a server may demand; hubs count requests in
            windows of five minutes.
        timeout: Seconds without a byte after which a connection counts as dead; set by
            HF_HUB_DOWNLOAD_TIMEOUT.
        slowest: Bytes per second below which a connection counts as stuck.
    """

    tries: int = 5
    first_wait: float = 0.5
    longest_wait: float = 330
    timeout: float = field(default_factory=lambda: constants.HF_HUB_DOWNLOAD_TIMEOUT)
    slowest: int = 20_000

    def deadline(self, count: int) -> float:
        """Return the time, on the monotonic clock, by which a body of `count` bytes must arrive."""
        return time.monotonic() + self.timeout + count / self.slowest

    def wait_after(self, failures: int, error: httpx2.HTTPError) -> float:
        """Return the seconds until the next attempt: as the server demands, else doubling."""
        seconds = _requested_wait(error)
        if seconds is not None:
            return min(seconds, self.longest_wait)
        # Exponential, and random so that parallel connections do not retry in the same moment.
        return self.first_wait * 2 ** (failures - 1) * random.uniform(0.5, 1)


@dataclass(frozen=True)
class Transport:
    """Means of making requests.

    Attributes:
        patience: Limits on retries and waits.
        connections: Number of connections that share a large read.
        traffic: Count of requests and bytes.
        cache: Cache on disk for the ranges that were read, None for no cache.
    """

    patience: Patience = field(default_factory=Patience)
    connections: int = CONNECTIONS
    traffic: Traffic = field(default_factory=Traffic)
    cache: TensorCache | None = None

    def persist(
        self,
        action: Callable[[], Result],
        name: str,
        *,
        stopped: threading.Event | None = None,
        is_temporary: Callable[[httpx2.HTTPError], bool] = lambda _: False,
    ) -> Result:
        """Make a request, and repeat it after a temporary failure.

        Args:
            action: Makes the request.
            name: Name of the requested object in messages.
            stopped: Ends the waiting early when it is set.
            is_temporary: Recognises temporary failures beyond the usual ones.

        Raises:
            UnreachableError: All tries failed.
            httpx2.HTTPError: A failure is permanent.
        """
        failures = 0
        while True:
            self.traffic.count(requests=1)
            try:
                return action()
            except httpx2.HTTPError as error:
                if not (_is_temporary(error) or is_temporary(error)):
                    raise
                failures += 1
                if failures == self.patience.tries:
                    raise UnreachableError(
                        f"{name}: {reason(error)} ({failures} tries); {_advice(error)}"
                    ) from error
                (stopped or threading.Event()).wait(self.patience.wait_after(failures, error))


def status(error: httpx2.HTTPError) -> int | None:
    """Return the HTTP status behind an error, None when there was no response."""
    response = getattr(error, "response", None)
    return None if response is None else response.status_code


def reason(error: httpx2.HTTPError) -> str:
    """Describe in a few words why a request failed."""
    try:
        request = getattr(error, "response", error).request
        host = request.url.netloc.decode()
    except RuntimeError:  # the request was never sent
        host = "the server"
    match error:
        case httpx2.TimeoutException():
            return f"{host} is silent or far too slow"
        case httpx2.ConnectError():
            return f"{host} cannot be reached ({message_of(error)})"
    if (code := status(error)) is not None:
        return f"{host} answered {code} {httpx2.codes.get_reason_phrase(code)}".rstrip()
    return f"the exchange with {host} failed ({message_of(error)})"


def unless_absent(request: Callable[[], Result]) -> Result | None:
    """Return the result of a request; None when the server says that there is no such file.

    Raises:
        httpx2.HTTPError: The request fails for another reason.
    """
    try:
        return request()
    except httpx2.HTTPError as error:
        code = getattr(error, "response", httpx2.Response(0)).headers.get("X-Error-Code")
        if status(error) == 404 and code in (None, "EntryNotFound"):
            return None
        raise


def origin(url: str) -> tuple[str, str, int | None]:
    """Return the scheme, host and port of an address."""
    parsed = httpx2.URL(url)
    return parsed.scheme, parsed.host, parsed.port


def _is_temporary(error: httpx2.HTTPError) -> bool:
    """Return whether another attempt may succeed: a lost connection, or a status such as 503."""
    lost = isinstance(error, httpx2.TransportError) and not isinstance(error, _HOPELESS)
    return lost or status(error) in _TRANSIENT


def _advice(error: httpx2.HTTPError) -> str:
    """Return what to do about a failure that lasts, as the end of a message."""
    if status(error) == 429:
        return "set HF_TOKEN, which raises the limit, or try again later"
    if isinstance(error, httpx2.ConnectError):
        return "check the network and HF_ENDPOINT"
    return "try again later"


def _requested_wait(error: httpx2.HTTPError) -> float | None:
    """Return the seconds that a server asks to wait, None when it does not.

    Draft RFC "RateLimit header fields for HTTP" gives them with status 429, RFC 9110 section
    10.2.3 (Retry-After) with any; its form as a date is ignored.
    """
    response = getattr(error, "response", None)
    if response is None:
        return None
    limit = parse_ratelimit_headers(response.headers)
    if response.status_code == 429 and limit is not None and limit.remaining == 0:
        return limit.reset_in_seconds + 1  # the hub rounds down
    retry_after = response.headers.get("Retry-After", "").strip()
    return float(retry_after) if retry_after.isascii() and retry_after.isdigit() else None
