"""Tracking on a dask cluster: two processes on this machine, the bytes of no cluster."""

import json
import os

import pytest

from dynamics.__main__ import main
from dynamics.errors import ConfigError
from dynamics.tracking.executors import dask_executor, executor_for
from dynamics.tracking.track import track
from tests.tracking.synthetic import INPUT, files_of, grow, write_series

distributed = pytest.importorskip("distributed", reason="distributed is not installed")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def address():
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        dashboard_address=None,
    ) as cluster:
        yield cluster.scheduler_address


def test_same_bytes_as_without(address, series, counts, tmp_path):
    track(series, tmp_path / "here", counts=counts)
    with dask_executor(address) as (executor, threads):
        assert threads == 2
        assert executor.submit(os.getpid).result() != os.getpid()
        track(series, tmp_path / "there", counts=counts, executor=executor, ahead=threads)
    assert files_of(tmp_path / "there") == files_of(tmp_path / "here")


def test_as_many_are_under_way_as_the_cluster_has_threads(address):
    for workers, expected in ((1, 2), (5, 5)):
        with executor_for(workers, address) as (_, ahead):
            assert ahead == expected


def test_what_fails_there_is_told_here(address, counts, tmp_path):
    grown = grow(counts)
    grown[8][INPUT][3] = float("nan")
    series = write_series(tmp_path / "series", grown)
    with dask_executor(address) as (executor, threads):
        run = track(series, tmp_path / "run", executor=executor, ahead=threads)
    assert run.steps == [0, 2, 32]
    assert "hold NaN or infinity: 1 of 300 (token ids 3)" in run.info["series"]["left_out"]["8"]


def test_from_the_command_line(address, series, tmp_path, capsys):
    folder = series.checkpoints[0].path.parent
    output = tmp_path / "run"
    with pytest.raises(SystemExit) as end:
        main(["track", str(folder), "-o", str(output), f"dask={address}", "--json"])
    assert not end.value.code
    assert json.loads(capsys.readouterr().out) == {"run": str(output)}
    track(series, tmp_path / "here", command="")
    tables = {path: content for path, content in files_of(output).items() if "json" not in path}
    assert tables.items() <= files_of(tmp_path / "here").items()
    assert len(tables) == 11


def test_no_scheduler_is_told(monkeypatch):
    monkeypatch.setattr("dynamics.tracking.executors._TIMEOUT", 0.5)
    told = r"no dask scheduler answers at tcp://127.0.0.1:9: "
    with pytest.raises(ConfigError, match=told), dask_executor("tcp://127.0.0.1:9"):
        pass
