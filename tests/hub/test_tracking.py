"""Tracking a series on a hub: the numbers of a folder, each tensor sent once, whatever happens."""

import json
import random
import re
import shutil
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from dynamics.__main__ import main
from dynamics.checkpoints.hub.client import Hub
from dynamics.checkpoints.hub.http import WINDOW
from dynamics.checkpoints.hub.hub_series import open_hub_series
from dynamics.checkpoints.hub.transport import Patience, Transport
from dynamics.checkpoints.series import open_series
from dynamics.corpus.tokenizers.loading import load_tokenizer, tokenizer_sha256
from dynamics.errors import MismatchError, UnreachableError
from dynamics.runs.record import read_record
from dynamics.runs.run import measures_path
from dynamics.tracking.track import track
from tests.checkpoints.writers import write_checkpoint
from tests.fork_server import fork_server
from tests.hub.standin import Repository, StandIn
from tests.hub.test_remote_reading import CONFIG, SPARE, like_pythia
from tests.tracking.synthetic import WIDTH, files_of, grow, make_counts

REPO = "org/model"
ROWS = 5000
STEPS = (0, 1, 2, 512, 1000, 2000)
TENSOR = ROWS * WIDTH * 4
PATIENT = Patience(first_wait=0.01, timeout=10)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    words = Tokenizer(WordLevel({f"w{at}": at for at in range(ROWS)}, unk_token="w0"))
    words.pre_tokenizer = Whitespace()
    folder = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def counts(tokenizer):
    return make_counts(ROWS, tokenizer=tokenizer_sha256(load_tokenizer(tokenizer)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, counts, tokenizer):
    """A folder for each step, in which more than half of the bytes are not the embeddings'."""
    return write_steps(tmp_path_factory.mktemp("series"), counts, tokenizer)


def write_steps(folder, counts, tokenizer):
    for step, grown in grow(counts, steps=STEPS).items():
        torch.manual_seed(step)
        tensors = like_pythia(1, WIDTH, 2, context=1024)
        tensors |= {key: torch.tensor(value) for key, value in grown.items()}
        write_checkpoint(folder / f"step{step}", tensors, "safetensors", CONFIG)
        shutil.copytree(tokenizer, folder / f"step{step}", dirs_exist_ok=True)
    return folder


def serve(standin, folder, steps=STEPS):
    branches = {f"step{step}": folder / f"step{step}" for step in steps}
    branches["main"] = folder / f"step{STEPS[-1]}"
    standin.repositories[REPO] = Repository(branches)


@pytest.fixture(autouse=True)
def served(standin, folder, nowhere):
    serve(standin, folder)


def series_of(standin, patience=PATIENT):
    """Opened anew, as a new process would."""
    return open_hub_series(REPO, hub=Hub(standin.endpoint, transport=Transport(patience)))


@pytest.fixture(scope="module")
def undisturbed(folder, counts, tmp_path_factory):
    """Runs with and without counts that met no trouble."""
    found = {}
    with StandIn() as server:
        serve(server, folder)
        for name in ("counted", "alone"):
            run = tmp_path_factory.mktemp("undisturbed") / "run"
            track(series_of(server), run, counts=counts if name == "counted" else None)
            found[name] = files_of(run)
    return found


def ranges(standin):
    """Bytes of the ranges beyond headers that were asked for, by the branch they are of."""
    asked = {}
    for _, path, headers in standin.requests:
        found = re.search(r"/blob/.*/(step\d+)/model.safetensors", path)
        if found and (match := re.fullmatch(r"bytes=(\d+)-(\d+)", headers.get("Range", ""))):
            count = int(match[2]) - int(match[1]) + 1
            if count > WINDOW:
                asked.setdefault(int(found[1].removeprefix("step")), []).append(count)
    return asked


def measured(run):
    return read_record(run).steps


def test_same_numbers_as_from_a_folder(standin, folder, counts, tmp_path, undisturbed):
    remote = track(series_of(standin), tmp_path / "remote", counts=counts)
    local = track(open_series(folder), tmp_path / "local", counts=counts)
    assert files_of(tmp_path / "remote") == undisturbed["counted"]
    for step in STEPS:
        pd.testing.assert_frame_equal(remote.measures(step), local.measures(step))
    tables = {path for path in files_of(tmp_path / "local") if path.endswith(".parquet")}
    assert tables >= {"trends.parquet", "profile.parquet", "tokens.parquet"}
    assert len(tables) == 3 + 2 * len(STEPS)
    for path in tables:
        assert (tmp_path / "local" / path).read_bytes() == undisturbed["counted"][path]
    for here, there in zip(local.info["checkpoints"], remote.info["checkpoints"], strict=True):
        assert here["tensor_sha256"] == there["tensor_sha256"]
        assert here["commit"] is None
        assert len(there["commit"]) == 40


def test_counts_of_another_tokenizer_are_refused(standin, counts, tmp_path):
    other = replace(counts, info=replace(counts.info, tokenizer_sha256="b" * 64))
    with pytest.raises(MismatchError, match=f"tokenizer.*{REPO}"):
        track(series_of(standin), tmp_path / "other", counts=other)
    assert not (tmp_path / "other").exists()
    asked = {path.rpartition("/")[2] for _, path, _ in standin.requests if "/main/" in path}
    assert {"tokenizer.json", "tokenizer_config.json"} <= asked
    assert "config.json" not in asked  # the tokenizer's own says of which class it is
    assert ranges(standin) == {}


def pools():
    yield ThreadPoolExecutor(4)
    yield ProcessPoolExecutor(2, mp_context=fork_server())


def test_threads_and_processes_leave_the_same_run(standin, tmp_path, undisturbed):
    for at, pool in enumerate(pools()):
        with pool:
            track(series_of(standin), tmp_path / str(at), executor=pool, ahead=4)
        assert files_of(tmp_path / str(at)) == undisturbed["alone"]
        read = ranges(standin)
        processes = len(read.pop(0)) // 2  # each reads the first step for itself, once
        assert processes == 1 if isinstance(pool, ThreadPoolExecutor) else processes <= 2
        assert read == {step: [TENSOR, TENSOR] for step in STEPS[1:]}
        standin.reset()


@pytest.mark.parametrize("ahead", [1, 4])
def test_each_embedding_is_sent_once(standin, tmp_path, ahead):
    series = series_of(standin)
    with ThreadPoolExecutor(4) as pool:
        track(series, tmp_path / "run", executor=pool if ahead > 1 else None, ahead=ahead)
    assert ranges(standin) == {step: [TENSOR, TENSOR] for step in STEPS}
    for checkpoint in series:
        assert 2 * TENSOR <= checkpoint.traffic.received <= 2 * TENSOR + SPARE
    assert standin.sent <= len(STEPS) * (2 * TENSOR + SPARE)


def test_a_tied_matrix_is_sent_once(standin, tmp_path, counts):
    for step, tensors in grow(counts, steps=STEPS[:2]).items():
        kept = {key: torch.tensor(value) for key, value in tensors.items() if "_out" not in key}
        tied = CONFIG | {"tie_word_embeddings": True}
        write_checkpoint(tmp_path / f"step{step}", kept, "safetensors", tied)
    standin.repositories[REPO] = Repository({f"step{at}": tmp_path / f"step{at}" for at in (0, 1)})
    run = track(series_of(standin), tmp_path / "run")
    assert ranges(standin) == {0: [TENSOR], 1: [TENSOR]}
    assert "output_embedding_norm" in run.measures(1)


@pytest.mark.parametrize("kind", ["branches", "tags"])
@pytest.mark.parametrize("allow_flagged", [False, True])
def test_a_finished_run_reads_no_weights(standin, tmp_path, kind, allow_flagged):
    known = standin.repositories[REPO]
    standin.repositories[REPO] = Repository(**{kind: known.branches})
    track(series_of(standin), tmp_path / "run", allow_flagged=allow_flagged)
    first = files_of(tmp_path / "run")
    standin.reset()
    track(series_of(standin), tmp_path / "run", allow_flagged=allow_flagged)
    assert ranges(standin) == {}
    assert standin.sent <= len(STEPS) * SPARE
    assert files_of(tmp_path / "run") == first


def test_other_weights_under_the_same_names(standin, folder, tmp_path):
    track(series_of(standin), tmp_path / "run")
    standin.repositories[REPO].branches["step2"] = folder / "step1"
    standin.reset()
    with pytest.raises(MismatchError, match="other weights"):
        track(series_of(standin), tmp_path / "run", allow_flagged=True)
    assert ranges(standin) == {}


@pytest.mark.parametrize("done", [0, 1, 4])
@pytest.mark.parametrize("ahead", [1, 3])
def test_an_interrupted_run_goes_on(standin, tmp_path, undisturbed, done, ahead):
    def interrupt(at, total):
        if at == done:
            raise KeyboardInterrupt

    with ThreadPoolExecutor(ahead) as pool:
        settings = {"executor": pool if ahead > 1 else None, "ahead": ahead}
        with pytest.raises(KeyboardInterrupt):
            track(series_of(standin), tmp_path / "run", on_checkpoint=interrupt, **settings)
    assert len(measured(tmp_path / "run")) == done
    standin.reset()
    track(series_of(standin), tmp_path / "run")
    assert ranges(standin) == {step: [TENSOR, TENSOR] for step in {0, *STEPS[done:]}}
    assert files_of(tmp_path / "run") == undisturbed["alone"]


def test_rows_alone_are_sent(standin, folder, tmp_path):
    some = 2000 * WIDTH * 4
    remote = track(series_of(standin), tmp_path / "remote", rows="0:2000,4999")
    assert ranges(standin) == {step: [some, some] for step in STEPS}
    assert standin.sent <= len(STEPS) * (2 * some + SPARE)
    local = track(open_series(folder), tmp_path / "local", rows="0:2000,4999")
    for step in STEPS:
        pd.testing.assert_frame_equal(remote.measures(step), local.measures(step))
    standin.reset()
    before = files_of(tmp_path / "remote")
    track(series_of(standin), tmp_path / "remote", rows="0:2000,4999")
    assert ranges(standin) == {}
    assert files_of(tmp_path / "remote") == before


def track_in_child(endpoint, output, workers):
    torch.set_num_threads(1)
    transport = Transport(PATIENT)
    series = open_hub_series(REPO, hub=Hub(endpoint, token=False, transport=transport))
    with ThreadPoolExecutor(workers) as pool:
        track(series, output, executor=pool if workers > 1 else None, ahead=workers)


@pytest.mark.slow
def test_killed_at_any_moment_the_run_goes_on(standin, tmp_path, undisturbed):
    standin.latency, standin.mbit = 0.01, 100
    context = fork_server()
    seeded = random.Random(4)
    kills, takes, runs = 0, None, 0
    while takes is None or kills < 20:
        output, workers = tmp_path / f"run{runs}", 1 + 2 * (runs % 2)
        last = kills + 5  # then it may end: a start can take longer than the first run took
        while True:
            began = time.monotonic()
            child = context.Process(target=track_in_child, args=(standin.endpoint, output, workers))
            child.start()
            child.join(60 if takes is None or kills == last else seeded.uniform(0, takes))
            if not child.is_alive():
                break
            child.kill()
            child.join()
            kills += 1
        assert child.exitcode == 0
        takes = takes or time.monotonic() - began
        assert files_of(output) == undisturbed["alone"]
        runs += 1


def test_a_planted_repetition_is_left_out(standin, folder, tmp_path, undisturbed):
    planted = tmp_path / "planted"
    shutil.copytree(folder / f"step{STEPS[-1]}", planted)
    standin.repositories[REPO].branches["step2"] = planted
    said = []
    run = track(series_of(standin), tmp_path / "run", report=said.append)
    left_out = run.info["series"]["left_out"]
    assert list(left_out) == ["2"]
    assert left_out["2"].startswith("repeated: ")
    assert said == [f"step 2 is left out: {left_out['2']}; allow_flagged=true keeps it"]
    assert run.steps == [0, 1, 512, 1000, 2000]
    assert 2 not in ranges(standin)
    for step in run.steps:
        table = measures_path(tmp_path / "run", step)
        assert table.read_bytes() == undisturbed["alone"][f"measures/{table.name}"]
    kept = track(series_of(standin), tmp_path / "kept", allow_flagged=True)
    assert kept.info["series"]["left_out"] == {}
    assert kept.steps == list(STEPS)
    assert kept.measures(2).equals(kept.measures(2000))


@pytest.mark.parametrize("workers", [1, 4])
def test_trouble_on_the_way_changes_nothing(standin, tmp_path, undisturbed, workers):
    standin.fail(503, times=3)
    standin.fail(429, match="step512", times=1, headers={"Retry-After": "0"})
    standin.fail("cut", match="step1/", times=2, after=30_000)
    standin.fail("cut", match="step1000/", times=2, after=200_000)
    with ThreadPoolExecutor(4) as pool:
        executor = pool if workers > 1 else None
        track(series_of(standin), tmp_path / "run", executor=executor, ahead=workers)
    assert all(fault.times == 0 for fault in standin.faults)
    assert files_of(tmp_path / "run") == undisturbed["alone"]


def test_a_step_that_disappears(standin, tmp_path):
    series = series_of(standin)
    del standin.repositories[REPO].branches["step512"]
    for allow_flagged in (True, False):
        said = []
        output = tmp_path / f"run-{allow_flagged}"
        run = track(series, output, allow_flagged=allow_flagged, report=said.append)
        assert run.steps == [0, 1, 2, 1000, 2000]
        assert len(said) == 1
        assert said[0].startswith(f"step 512 is left out: {REPO}: has no revision 'step512'")


def test_a_step_that_disappears_on_the_way(standin, tmp_path):
    def remove(at, total):
        standin.repositories[REPO].branches.pop("step512", None)
        standin.expire()

    run = track(series_of(standin), tmp_path / "run", on_checkpoint=remove)
    assert run.steps == [0, 1, 2, 1000, 2000]
    assert list(run.info["series"]["left_out"]) == ["512"]


@pytest.mark.parametrize("allow_flagged", [True, False], ids=["on the way", "in the audit"])
def test_a_hub_out_of_reach_leaves_no_step_out_and_the_run_goes_on_later(
    standin, tmp_path, undisturbed, allow_flagged
):
    standin.fail(500, match="step512", times=10**6)
    output = tmp_path / "run"
    with pytest.raises(UnreachableError, match="step512"):
        track(series_of(standin), output, allow_flagged=allow_flagged)
    assert not output.exists() or measured(output) == [0, 1, 2]
    standin.faults.clear()
    run = track(series_of(standin), output)
    assert run.steps == list(STEPS)
    assert files_of(output) == undisturbed["alone"]


@pytest.fixture
def run_command(standin, capsys, set_endpoint):
    set_endpoint(standin.endpoint)

    def run_command(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main(["track", REPO, *map(str, arguments)])
        shown = capsys.readouterr()
        return end.value.code or 0, shown.out, shown.err

    return run_command


def test_the_cost_is_shown_before_anything_is_read(standin, tmp_path, run_command):
    output = tmp_path / "run"
    status, out, err = run_command("-o", output, "--dry-run", "--json")
    assert (status, err) == (0, "")
    cost = json.loads(out)
    assert cost["checkpoints"] == len(STEPS)
    assert cost["bytes_per_checkpoint"] == 2 * TENSOR
    size = (Path(standin.repositories[REPO].branches["step0"]) / "model.safetensors").stat().st_size
    assert cost["file_bytes_per_checkpoint"] == size
    assert ranges(standin) == {}
    assert standin.sent <= SPARE
    assert not output.exists()
    status, out, err = run_command("-o", output, "--dry-run")
    assert status == 0
    assert f"{REPO}: 6 checkpoints" in out


def test_rows_from_the_command_line(standin, tmp_path, run_command):
    output = tmp_path / "run"
    status, out, err = run_command("--rows", "5,17:19,4000", "--dry-run", "--json")
    assert (status, err) == (0, "")
    cost = json.loads(out)
    assert cost["rows"] == "5,17:19,4000"
    assert cost["bytes_per_checkpoint"] == 2 * (14 + 1) * WIDTH * 4
    status, out, err = run_command("--rows", "5,17:19,4000", "-o", output, "--counts", "none")
    assert status == 0, err
    assert "rows 5,17:19,4000 alone were read; left out, as they need every row: norm_cent" in out
    assert ranges(standin) == {}
    for rows in ("0:5001", "9:3", "x", ""):
        status, out, err = run_command("--rows", rows, "-o", tmp_path / "bad", "--counts", "none")
        assert (status, out) == (2, "")
        assert err.startswith("dynamics: ")
        assert err.count("\n") == 1
        assert not (tmp_path / "bad").exists()


def test_from_the_command_line(standin, tmp_path, run_command, undisturbed):
    output = tmp_path / "run"
    status, out, err = run_command("-o", output, "--counts", "none", "--workers", 4)
    assert status == 0, err
    assert f"run: {output}" in out
    tables = {path: content for path, content in files_of(output).items() if "json" not in path}
    assert tables.items() <= undisturbed["alone"].items()
    assert len(tables) == 3 + 2 * len(STEPS)
    del standin.repositories[REPO]
    status, out, err = run_command("-o", output, "--counts", "none")
    assert (status, out) == (2, "")
    assert err.startswith("dynamics: ")
    assert err.count("\n") == 1
