"""A dask cluster as an executor; the same code runs on threads here."""

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager

from dynamics.errors import ConfigError


@contextmanager
def dask_executor(address: str) -> Iterator[Executor]:
    """The workers behind a dask scheduler, such as `tcp://host:8786`.

    Raises:
        ConfigError: dask is not installed, or no scheduler answers at the address.
    """
    try:
        from distributed import Client  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError("--dask needs dask; install dynamics[cluster]") from error
    try:
        client = Client(address)
    except (OSError, ValueError) as error:
        raise ConfigError(f"no dask scheduler answers at {address}: {error}") from error
    with client:
        yield client.get_executor()
