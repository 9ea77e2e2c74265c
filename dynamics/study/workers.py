"""Jobs in worker processes, each with its share of the threads.

Not `concurrent.futures`: there a killed process breaks the whole pool, and Ctrl-C must reach each
job exactly once, so that it can save its state.
"""

import contextlib
import multiprocessing
import os
import signal
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

from dynamics.errors import DynamicsError
from dynamics.progress import Report

Job = Callable[[Report], None]
"""A job; it receives a function that reports a line. It must pickle."""

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")


def run_jobs(
    jobs: Mapping[str, Job],
    *,
    workers: int,
    report: Report,
) -> dict[str, str]:
    """Run jobs, `workers` at once; a failed job is reported and does not affect the others.

    With one worker the jobs run in this process. On Ctrl-C every running job is interrupted once
    and waited for; a second Ctrl-C ends them immediately.

    Args:
        jobs: The jobs by name, started in this order.
        workers: Number of processes.
        report: Receives the lines that jobs report, prefixed with their name.

    Returns:
        The reason of each failed job, by name.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed.
    """
    if workers == 1:
        failed = {}
        for name, job in jobs.items():
            reason = _attempt(job, _named(name, report))
            if reason is not None:
                failed[name] = reason
                _named(name, report)(f"failed: {reason}")
        return failed
    with _threads_shared_by(workers):
        return _Pool(jobs, min(workers, len(jobs)), report).run()


@dataclass
class _Worker:
    process: BaseProcess
    connection: Any  # an end of a pipe, whose type differs between systems
    job: str | None = None


@dataclass
class _Pool:
    jobs: Mapping[str, Job]
    size: int
    report: Report
    failed: dict[str, str] = field(default_factory=dict)
    workers: list[_Worker] = field(default_factory=list)

    def run(self) -> dict[str, str]:
        waiting = deque(self.jobs)
        try:
            while waiting or self._busy:
                while waiting and len(self._busy) < self.size:
                    self._begin(waiting.popleft())
                self._receive()
        except KeyboardInterrupt:
            self._interrupt()
            raise
        finally:
            for worker in self.workers:
                worker.connection.close()  # ends an idle process
                if worker.job is not None:
                    worker.process.terminate()
            for worker in self.workers:
                worker.process.join()
        return self.failed

    @property
    def _busy(self) -> list[_Worker]:
        return [worker for worker in self.workers if worker.job is not None]

    def _begin(self, name: str) -> None:
        idle = next((worker for worker in self.workers if worker.job is None), None)
        if idle is None:
            idle = _start()
            self.workers.append(idle)
        idle.job = name
        idle.connection.send(self.jobs[name])

    def _receive(self) -> None:
        """Wait for messages of running jobs, and handle them."""
        for connection in wait([worker.connection for worker in self._busy]):
            (worker,) = (w for w in self.workers if w.connection is connection)
            assert worker.job is not None
            try:
                kind, content = worker.connection.recv()
            except EOFError:
                worker.process.join()
                kind, content = (
                    "failed",
                    f"its process ended ({_exit_reason(worker.process.exitcode)})",
                )
                self.workers.remove(worker)
            if kind == "line":
                _named(worker.job, self.report)(content)
                continue
            if kind == "stopped":
                _named(worker.job, self.report)("interrupted")
            if kind == "failed":
                self.failed[worker.job] = content
                _named(worker.job, self.report)(f"failed: {content}")
            worker.job = None

    def _interrupt(self) -> None:
        for worker in self._busy:
            assert worker.process.pid is not None
            os.kill(worker.process.pid, signal.SIGINT)
        while self._busy:
            self._receive()


def _start() -> _Worker:
    context = multiprocessing.get_context("spawn")
    parent_end, child_end = context.Pipe()
    process = context.Process(target=_work, args=(child_end,), daemon=True)
    process.start()
    child_end.close()
    return _Worker(process, parent_end)


def _work(connection: Any) -> None:
    """Run the jobs that come over a connection until it is closed."""
    os.setpgrp()  # the terminal sends Ctrl-C to the parent only, which signals the workers
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            reason = _attempt(job, lambda line: connection.send(("line", line)))
            outcome = ("done", "") if reason is None else ("failed", reason)
        except KeyboardInterrupt:
            outcome = ("stopped", "")
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        connection.send(outcome)


def _attempt(job: Job, report: Report) -> str | None:
    """Run a job, and return why it failed; None when it did not."""
    try:
        job(report)
    except (DynamicsError, OSError) as error:
        return str(error)
    except Exception as error:  # of any kind: the other jobs go on; report the traceback
        for line in traceback.format_exc().splitlines():
            report(line)
        return f"{type(error).__name__}: {error}"
    return None


def _named(name: str, report: Report) -> Report:
    return lambda line: report(f"{name}: {line}")


def _exit_reason(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        return f"killed by {signal.Signals(-exit_code).name}"
    return f"exit status {exit_code}"


@contextlib.contextmanager
def _threads_shared_by(workers: int) -> Iterator[None]:
    """Give each process started in the block its share of the processors as threads."""
    share = str(max(1, _processors() // workers))
    previous = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, share))
    try:
        yield
    finally:
        for name, value in previous.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))  # the processors this process may use
    return os.cpu_count() or 1
