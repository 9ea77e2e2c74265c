"""One bad step never blocks the others: which are left out, which refused, and when they come back.

Numbers are compared with those of a series that never had the bad steps.
"""

import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dynamics.__main__ import main
from dynamics.audit.series_audit import audit_series
from dynamics.checkpoints.series import open_series
from dynamics.errors import CheckpointError, ConfigError, MismatchError
from dynamics.runs.run import Run
from dynamics.tracking import walk
from dynamics.tracking.cost import track_cost
from dynamics.tracking.exposed import Exposed
from dynamics.tracking.track import track
from tests.tracking.synthetic import GAIN, INPUT, OUTPUT, STEPS, files_of, grow, write_series

BIAS = "gpt_neox.final_layer_norm.bias"


def changed(folder, change):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def spoil(key, rows, value):
    def change(tensors):
        tensors[key][rows] = value

    return change


def half(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def killed_while_saving(folder):
    (folder / "model.safetensors").unlink()
    (folder / "optimizer.pt").write_bytes(b"x")


def in_shards_of_which_one_is_missing(folder):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    del tensors[OUTPUT]
    save_file(tensors, folder / "model-1.safetensors")
    shards = {INPUT: "model-1.safetensors", GAIN: "model-1.safetensors", OUTPUT: "model-2.bin"}
    index = {"weight_map": shards}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def cut(tensors):
    for key in (INPUT, OUTPUT):
        tensors[key] = tensors[key][:-1]


FAULTS = {
    "no weights": (killed_while_saving, r"step-8: holds no weights"),
    "nothing": (lambda folder: shutil.rmtree(folder) or folder.mkdir(), "step-8: holds no weights"),
    "truncated": (half, r"model\.safetensors: truncated or damaged"),
    "empty": (lambda folder: (folder / "model.safetensors").write_bytes(b""), "the file is empty"),
    "config": (
        lambda folder: (folder / "config.json").write_text("{"),
        r"config\.json: is damaged",
    ),
    "model type": (
        lambda folder: (folder / "config.json").write_text('{"model_type": "llama"}'),
        "config.json calls the architecture 'llama', at most steps 'gpt_neox'",
    ),
    "shard": (in_shards_of_which_one_is_missing, r"model-2\.bin: cannot be read: there is no such"),
    "shape": (lambda folder: changed(folder, cut), "the shape is 299x16, at most steps 300x16"),
    "head gone": (
        lambda folder: changed(folder, lambda tensors: tensors.pop(OUTPUT)),
        "output embedding: there is none, at most steps there is one of shape 300x16",
    ),
    "norm gone": (
        lambda folder: changed(folder, lambda tensors: tensors.pop(GAIN)),
        "final norm weight: there is none, at most steps there is one of shape 16",
    ),
    "NaN rows": (
        lambda folder: changed(folder, spoil(INPUT, [3, 7, 11, 200, 201, 299], np.nan)),
        r"input embedding .* infinity: 6 of 300 \(token ids 3, 7, 11, 200, 201, \.\.\.\)",
    ),
    "infinity": (
        lambda folder: changed(folder, spoil(OUTPUT, 5, np.inf)),
        r"output embedding .* hold NaN or infinity: 1 of 300 \(token ids 5\)",
    ),
    "all NaN": (
        lambda folder: changed(folder, spoil(INPUT, slice(None), np.nan)),
        r"hold NaN or infinity: 300 of 300 \(token ids 0, 1, 2, 3, 4, \.\.\.\)",
    ),
    "too long": (
        lambda folder: changed(folder, spoil(INPUT, 5, 3e38)),
        r"holds values up to 3e\+38, and sums of their squares overflow float32",
    ),
    "gain": (
        lambda folder: changed(folder, spoil(GAIN, 2, np.nan)),
        "the final norm weight at step 8 holds NaN or infinity",
    ),
    "bias": (
        lambda folder: changed(folder, spoil(BIAS, 2, np.inf)),
        "the final norm bias at step 8 holds NaN or infinity",
    ),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory, counts):
    return write_series(tmp_path_factory.mktemp("sound") / "series", grow(counts)), counts


@pytest.fixture(scope="module")
def without(sound, tmp_path_factory):
    """The run over the steps that stay, of a series that had nothing else."""
    series, counts = sound
    return track(series, tmp_path_factory.mktemp("without") / "run", counts=counts, steps="0,2,32")


@pytest.fixture
def folder(sound, tmp_path):
    shutil.copytree(sound[0].checkpoints[0].path.parent, tmp_path / "series")
    return tmp_path / "series"


def tables(run):
    return {name: content for name, content in files_of(run.path).items() if "json" not in name}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_step_is_left_out_and_the_others_are_as_without_it(
    folder, counts, without, tmp_path, fault
):
    spoil_step, reason = FAULTS[fault]
    spoil_step(folder / "step-8")
    lines = []
    run = track(open_series(folder), tmp_path / "run", counts=counts, report=lines.append)
    assert run.steps == run.info["series"]["steps"] == [0, 2, 32]
    assert tables(run) == tables(without)
    (line,) = lines
    assert line.startswith("step 8 is left out: ")
    assert line.endswith("; the same command adds it once it can be measured")
    assert run.info["series"]["left_out"] == {
        "8": line.removeprefix("step 8 is left out: ").rpartition(";")[0]
    }
    assert re.search(reason, line)


@pytest.mark.parametrize("fault", FAULTS)
def test_an_audit_finds_it_and_goes_on(folder, fault):
    if fault == "too long":
        pytest.skip("every number is finite")
    FAULTS[fault][0](folder / "step-8")
    for level in ("rows", "all"):
        audit = audit_series(open_series(folder), tensors=level)
        assert list(audit.flagged_steps) == [8]
        assert {finding.kind for finding in audit.wrong} <= {"unreadable", "changed", "not finite"}
        assert audit.steps == STEPS


def test_a_step_that_is_asked_for_by_number_is_refused(folder, counts, tmp_path):
    killed_while_saving(folder / "step-8")
    changed(folder / "step-2", spoil(INPUT, 5, np.nan))
    for steps, bad in (("0,8", 8), ("0,2,32", 2)):
        with pytest.raises(
            CheckpointError, match=f"step {bad} cannot be .* out of --steps {steps}"
        ):
            track(open_series(folder), tmp_path / f"run-{bad}", counts=counts, steps=steps)
    run = track(open_series(folder), tmp_path / "run", counts=counts, steps="0,32")
    assert (run.steps, run.info["series"]["left_out"]) == ([0, 32], {})


@pytest.mark.parametrize("fault", ["no weights", "all NaN", "shape", "model type"])
@pytest.mark.parametrize("workers", [1, 3])
def test_distances_are_to_the_first_step_that_can_be_measured(
    folder, counts, tmp_path, fault, workers
):
    FAULTS[fault][0](folder / "step-0")
    lines = []
    with ThreadPoolExecutor(3) as pool:
        executor = pool if workers > 1 else None
        run = track(
            open_series(folder),
            tmp_path / "run",
            counts=counts,
            executor=executor,
            ahead=workers,
            report=lines.append,
        )
    assert run.steps == [2, 8, 32]
    assert lines[-1] == "distances are to step 2, the first that can be measured"
    assert (run.measures(2)["input_embedding_distance_from_first"] == 0).all()
    fresh = track(open_series(folder), tmp_path / "fresh", counts=counts, steps="2,8,32")
    assert tables(run) == tables(fresh)


def test_a_step_that_comes_to_be_readable_is_added_to_a_finished_run(
    folder, sound, counts, tmp_path
):
    killed_while_saving(folder / "step-8")
    changed(folder / "step-0", spoil(INPUT, 5, np.nan))
    output = tmp_path / "run"
    assert track(open_series(folder), output, counts=counts).steps == [2, 32]
    sources = {checkpoint.step: checkpoint.path for checkpoint in sound[0]}
    shutil.copy(sources[8] / "model.safetensors", folder / "step-8")
    assert track(open_series(folder), output, counts=counts).steps == [2, 8, 32]
    shutil.copy(sources[0] / "model.safetensors", folder / "step-0")
    run = track(open_series(folder), output, counts=counts)
    whole = track(open_series(folder), tmp_path / "whole", counts=counts)
    assert files_of(run.path) == files_of(whole.path)


def test_a_step_that_was_measured_and_is_gone_is_not_dropped(folder, counts, tmp_path):
    before = files_of(track(open_series(folder), tmp_path / "run", counts=counts).path)
    killed_while_saving(folder / "step-8")
    with pytest.raises(MismatchError, match="holds step 8, which cannot be measured now"):
        track(open_series(folder), tmp_path / "run", counts=counts)
    assert files_of(tmp_path / "run") == before


def test_the_steps_that_are_left_may_be_named(folder, counts, tmp_path):
    killed_while_saving(folder / "step-8")
    run = track(open_series(folder), tmp_path / "run", counts=counts)
    before = tables(run)
    again = track(open_series(folder), tmp_path / "run", counts=counts, steps="0,2,32")
    assert tables(again) == before
    with pytest.raises(MismatchError, match="steps is 0,2,32 in the folder, 0,32 now"):
        track(open_series(folder), tmp_path / "run", counts=counts, steps="0,32")


@pytest.mark.parametrize("fault", ["empty", "all NaN"])
def test_nothing_left_is_refused(folder, counts, tmp_path, fault):
    for step in STEPS:
        FAULTS[fault][0](folder / f"step-{step}")
    with pytest.raises(
        CheckpointError, match="none of 4 steps of series can be used; the last, st"
    ):
        track(open_series(folder), tmp_path / "run", counts=counts)
    with pytest.raises(CheckpointError, match="step 8 of step-8 cannot be used: "):
        track(open_series(folder / "step-8"), tmp_path / "single", counts=counts)


def test_the_cost_counts_the_steps_that_can_be_read(folder):
    killed_while_saving(folder / "step-32")
    cost = track_cost(open_series(folder))
    assert cost.checkpoints == 3
    assert list(cost.left_out) == [32]
    assert "step 32 is left out: " in cost.describe()
    with pytest.raises(CheckpointError, match="step 32 cannot be measured"):
        track_cost(open_series(folder), "0,32")


def test_from_the_command_line(folder, tmp_path, capsys):
    killed_while_saving(folder / "step-8")
    shutil.copytree(folder / "step-0", folder / "checkpoint-last")
    for arguments in (["--dry-run"], ["--counts", "none", "-o", str(tmp_path / "run"), "--json"]):
        with pytest.raises(SystemExit) as end:
            main(["track", str(folder), *arguments])
        shown = capsys.readouterr()
        assert not end.value.code
        told = shown.out + shown.err
        assert "step 8 is left out: " in told
        assert "skipped because the name has no step: checkpoint-last" in told
    assert list(json.loads(shown.out)["left_out"]) == ["8"]
    assert Run(tmp_path / "run").steps == [0, 2, 32]


def test_epochs_are_no_steps_to_count_exposure_with(folder, counts, tmp_path):
    for step in STEPS:
        (folder / f"step-{step}").rename(folder / f"epoch_{step}")
    series = open_series(folder)
    assert track(series, tmp_path / "run", counts=counts).steps == list(STEPS)
    with pytest.raises(
        ConfigError, match=r"those of series are numbered by epoch; leave stream.file out"
    ):
        track(series, tmp_path / "other", counts=counts, exposed=Exposed(None, 1))


def test_a_damaged_table_of_the_reference_alone_is_measured_again(
    folder, counts, tmp_path, monkeypatch
):
    run = track(open_series(folder), tmp_path / "run", counts=counts)
    before = files_of(run.path)
    (run.path / "measures/step-00000000.parquet").unlink()
    measured = []
    measure = walk.measure_checkpoint
    monkeypatch.setattr(
        walk,
        "measure_checkpoint",
        lambda checkpoint, *rest: measured.append(checkpoint.step) or measure(checkpoint, *rest),
    )
    track(open_series(folder), run.path, counts=counts)
    assert measured == [0]
    assert files_of(run.path) == before
