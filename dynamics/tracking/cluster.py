"""A dask cluster as an executor; the same code runs on threads here."""

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager

from dynamics.errors import ConfigError

_TIMEOUT = 10  # seconds to wait for a scheduler


@contextmanager
def dask_executor(address: str) -> Iterator[tuple[Executor, int]]:
    """The workers behind a dask scheduler, such as `tcp://host:8786`, and their threads in all.

    Raises:
        ConfigError: dask is not installed, or no scheduler answers at the address.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise ConfigError("--dask needs dask; install dynamics[cluster]") from error
    try:
        client = Client(address, timeout=_TIMEOUT)
    except (OSError, ValueError) as error:
        raise ConfigError(f"no dask scheduler answers at {address}: {error}") from error
    with client:
        threads = client.scheduler_info()["total_threads"]
        yield client.get_executor(), max(1, threads)
