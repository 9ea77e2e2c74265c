"""Executors that checkpoints are measured on: this thread, threads, or a dask cluster."""

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager

from dynamics.distribution import install_command
from dynamics.errors import ConfigError

_TIMEOUT = 10  # seconds to wait for a scheduler


@contextmanager
def executor_for(workers: int, dask: str | None) -> Iterator[tuple[Executor | None, int]]:
    """Yield an executor (None for this thread) and the number of checkpoints to measure at once.

    Raises:
        ConfigError: As for `dask_executor`.
    """
    if dask is not None:
        with dask_executor(dask) as (executor, threads):
            yield executor, max(workers, threads)
    elif workers > 1:
        pool = ThreadPoolExecutor(workers)
        try:
            yield pool, workers
        finally:
            pool.shutdown(cancel_futures=True)
    else:
        yield None, 1


@contextmanager
def dask_executor(address: str) -> Iterator[tuple[Executor, int]]:
    """Yield the executor of a dask scheduler, such as `tcp://host:8786`, and its total of threads.

    Raises:
        ConfigError: dask is not installed, or no scheduler answers at the address.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise ConfigError(f"the setting dask needs dask: {install_command('cluster')}") from error
    try:
        client = Client(address, timeout=_TIMEOUT)
    except (OSError, ValueError) as error:
        raise ConfigError(f"no dask scheduler answers at {address}: {error}") from error
    with client:
        threads = client.scheduler_info()["total_threads"]
        yield client.get_executor(), max(1, threads)
