"""How requests are made: how patiently, how many at once, and who counts them."""

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

CONNECTIONS = 8  # that share a large read, unless told otherwise


@dataclass(frozen=True)
class Patience:
    """How long to try before giving up.

    Attributes:
        tries: Requests made for one thing at most.
        first_wait: Seconds before the second try, doubled before each one after it.
        longest_wait: Seconds waited at most when a server says how long; hubs count requests in
            windows of five minutes.
        timeout: Seconds without a byte after which a connection counts as dead; as
            HF_HUB_DOWNLOAD_TIMEOUT says.
        slowest: Bytes per second below which a connection counts as stuck.
    """

    tries: int = 5
    first_wait: float = 0.5
    longest_wait: float = 330
    timeout: float = field(default_factory=lambda: constants.HF_HUB_DOWNLOAD_TIMEOUT)
    slowest: int = 20_000

    def deadline(self, count: int) -> float:
        """When, on the monotonic clock, a body of `count` bytes has to be there."""
        return time.monotonic() + self.timeout + count / self.slowest

    def wait_after(self, failures: int, error: httpx2.HTTPError) -> float:
        """Seconds to wait before the next try: as a server asks, else ever longer."""
        asked = _asked_to_wait(error)
        if asked is not None:
            return min(asked, self.longest_wait)
        return self.first_wait * 2 ** (failures - 1) * random.uniform(0.5, 1)


@dataclass(frozen=True)
class Transport:
    """How requests are made.

    Attributes:
        patience: How long to try.
        connections: Connections that share a large read.
        traffic: Counts requests and bytes.
        cache: Keeps on disk what was read, None to keep nothing.
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
        may_pass: Callable[[httpx2.HTTPError], bool] = lambda _: False,
    ) -> Result:
        """Make a request, and again when it fails for the moment.

        Args:
            action: Makes the request.
            name: What the message calls its object.
            stopped: Ends the waiting early when it is set.
            may_pass: Says which failures, beside the usual ones, are for the moment.

        Raises:
            UnreachableError: It failed for the moment as often as there are tries.
            httpx2.HTTPError: It failed for good.
        """
        failures = 0
        while True:
            self.traffic.count(requests=1)
            try:
                return action()
            except httpx2.HTTPError as error:
                if not (_may_pass(error) or may_pass(error)):
                    raise
                failures += 1
                if failures == self.patience.tries:
                    raise UnreachableError(
                        f"{name}: {reason(error)} ({failures} tries); {_advice(error)}"
                    ) from error
                (stopped or threading.Event()).wait(self.patience.wait_after(failures, error))


def status(error: httpx2.HTTPError) -> int | None:
    """The status an error comes from, None when there was no answer."""
    response = getattr(error, "response", None)
    return None if response is None else response.status_code


def reason(error: httpx2.HTTPError) -> str:
    """Why a request failed, in a few words."""
    try:
        request = getattr(error, "response", error).request
        host = request.url.netloc.decode()
    except RuntimeError:  # it was never sent
        host = "the server"
    match error:
        case httpx2.TimeoutException():
            return f"{host} is silent or far too slow"
        case httpx2.ConnectError():
            return f"{host} cannot be reached ({message_of(error)})"
    if (code := status(error)) is not None:
        return f"{host} answered {code} {httpx2.codes.get_reason_phrase(code)}".rstrip()
    return f"the exchange with {host} failed ({message_of(error)})"


def unless_absent(ask: Callable[[], Result]) -> Result | None:
    """What is asked for; None when the answer is that there is no such file.

    Raises:
        httpx2.HTTPError: It fails for another reason.
    """
    try:
        return ask()
    except httpx2.HTTPError as error:
        code = getattr(error, "response", httpx2.Response(0)).headers.get("X-Error-Code")
        if status(error) == 404 and code in (None, "EntryNotFound"):
            return None
        raise


def origin(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port of an address."""
    parsed = httpx2.URL(url)
    return parsed.scheme, parsed.host, parsed.port


def _may_pass(error: httpx2.HTTPError) -> bool:
    passing = isinstance(error, httpx2.TransportError) and not isinstance(error, _HOPELESS)
    return passing or status(error) in _TRANSIENT


def _advice(error: httpx2.HTTPError) -> str:
    if status(error) == 429:
        return "set HF_TOKEN, which raises the limit, or try again later"
    if isinstance(error, httpx2.ConnectError):
        return "check the network and HF_ENDPOINT"
    return "try again later"


def _asked_to_wait(error: httpx2.HTTPError) -> float | None:
    response = getattr(error, "response", None)
    if response is None:
        return None
    limit = parse_ratelimit_headers(response.headers)
    if response.status_code == 429 and limit is not None and limit.remaining == 0:
        return limit.reset_in_seconds + 1  # the hub rounds down
    after = response.headers.get("Retry-After", "").strip()
    return float(after) if after.isascii() and after.isdigit() else None
