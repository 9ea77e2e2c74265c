"""Jobs in processes: done, failed, killed, interrupted."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from dynamics.errors import ConfigError
from dynamics.study.workers import THREADS, run_jobs


@dataclass(frozen=True)
class Job:
    """What a test wants done; defined here so that another process finds it."""

    folder: Path
    name: str
    kind: str = "write"

    def __call__(self, report):
        if self.kind == "refuse":
            raise ConfigError("there is no such thing")
        if self.kind == "crash":
            raise ZeroDivisionError("what was not foreseen")
        if self.kind == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        report(f"threads {os.environ.get(THREADS[0])}")
        (self.folder / self.name).write_text(str(os.getpid()))
        if self.kind == "wait":
            try:
                report("waiting")
                time.sleep(60)
            except KeyboardInterrupt:
                (self.folder / f"{self.name} saved").touch()
                raise


def done(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("workers", [1, 2])
def test_every_job_is_done_and_what_it_reports_bears_its_name(tmp_path, workers):
    lines = []
    jobs = {name: Job(tmp_path, name) for name in "abcd"}
    assert run_jobs(jobs, workers=workers, report=lines.append) == {}
    assert done(tmp_path) == list("abcd")
    assert sorted(line[:10] for line in lines) == [f"{name}: threads" for name in "abcd"]
    processes = {path.read_text() for path in tmp_path.iterdir()}
    assert (str(os.getpid()) in processes) == (workers == 1)
    assert len(processes) <= workers  # processes are kept for the next job


def test_processes_share_the_threads_and_the_environment_is_as_before(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(7), raising=False)
    monkeypatch.setenv(THREADS[0], "5")
    monkeypatch.delenv(THREADS[1], raising=False)
    lines = []
    run_jobs({name: Job(tmp_path, name) for name in "ab"}, workers=2, report=lines.append)
    assert sorted(lines) == ["a: threads 3", "b: threads 3"]
    assert os.environ[THREADS[0]] == "5"
    assert THREADS[1] not in os.environ


@pytest.mark.parametrize("workers", [1, 2])
def test_a_job_that_fails_is_told_and_leaves_the_others_alone(tmp_path, workers):
    lines = []
    jobs = {
        "a": Job(tmp_path, "a", "refuse"),
        "b": Job(tmp_path, "b"),
        "c": Job(tmp_path, "c", "crash"),
        "d": Job(tmp_path, "d"),
    }
    failed = run_jobs(jobs, workers=workers, report=lines.append)
    assert failed == {
        "a": "there is no such thing",
        "c": "ZeroDivisionError: what was not foreseen",
    }
    assert done(tmp_path) == ["b", "d"]
    assert "a: failed: there is no such thing" in lines
    assert any(line.startswith("c:   File ") for line in lines)  # where it happened


def test_a_process_that_is_killed_fails_its_job_alone(tmp_path):
    jobs = {"a": Job(tmp_path, "a", "die")} | {name: Job(tmp_path, name) for name in "bcd"}
    failed = run_jobs(jobs, workers=2, report=lambda line: None)
    assert failed == {"a": "its process ended (killed by SIGKILL)"}
    assert done(tmp_path) == ["b", "c", "d"]


def test_an_interruption_reaches_each_job_once_and_nothing_else_begins(tmp_path):
    program = f"""
import sys
from pathlib import Path
from tests.study.test_workers import Job
from dynamics.study.workers import run_jobs
folder = Path({str(tmp_path)!r})
if __name__ == "__main__":
    try:
        run_jobs({{name: Job(folder, name, "wait") for name in "abcd"}}, workers=2,
                 report=lambda line: print(line, flush=True))
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        sys.exit(130)
"""
    script = tmp_path / "program.py"
    script.write_text(program)
    waiting, lines = 0, []
    with subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.strip())
            waiting += line.endswith(": waiting\n")
            if waiting == 2 and "waiting" in line:
                process.send_signal(signal.SIGINT)
    assert process.returncode == 130
    assert lines[-1] == "interrupted"
    assert done(tmp_path) == ["a", "a saved", "b", "b saved", "program.py"]
    assert {"a: interrupted", "b: interrupted"} <= set(lines)
