"""Folders with planted defects, and the command."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dynamics.__main__ import main
from dynamics.audit.series_audit import audit_series
from dynamics.checkpoints.series import open_series
from dynamics.errors import CheckpointError, StepError
from dynamics.training.train import train
from tests.tracking.trajectories import STEPS, embeddings, trainer_state, write
from tests.training.small import small, write_corpus

INPUT = "gpt_neox.embed_in.weight"


@pytest.fixture
def tensors():
    return embeddings(np.random.default_rng(5))


def audit_of(folder, weights, **settings):
    return audit_series(open_series(write(folder, weights)), **settings)


def kinds(audit):
    return {finding.kind for finding in audit.wrong}


@pytest.mark.parametrize("level", ["none", "rows", "all"])
def test_clean(tmp_path, tensors, level):
    audit = audit_of(tmp_path, tensors, tensors=level)
    assert audit.wrong == []
    assert audit.flagged_steps == {}
    assert audit.steps == tuple(STEPS)


def test_every_planted_defect_is_caught(tmp_path, tensors):
    tensors[5000] = tensors[9000]  # a repeated payload
    late = {key: value * 1.001 for key, value in tensors[13000].items()}
    tensors[64] = late  # a late step under an early name, not byte for byte
    tensors[3000] = tensors[3000] | {INPUT: torch.randn(41, 8).half()}
    tensors[128] = tensors[256] = tensors[13000]
    del tensors[8000]
    every = ",".join(map(str, STEPS))
    for level in ("rows", "all"):
        shutil.rmtree(tmp_path / level, ignore_errors=True)
        audit = audit_of(tmp_path / level, tensors, steps=every, tensors=level)
        assert set(audit.flagged_steps) == {64, 128, 256, 3000, 5000}
        assert kinds(audit) == {"missing", "repeated", "changed", "jump"}
        (missing,) = [each for each in audit.wrong if each.kind == "missing"]
        assert missing.steps == (8000,)
        assert "step 9000 is kept" in audit.flagged_steps[5000]
        assert "step 13000 is kept" in audit.flagged_steps[128]
        assert audit.flagged_steps[64].startswith("jump: off the course")
        assert audit.flagged_steps[3000] == (
            "changed: input embedding: the shape is 41x8, at most steps 40x8"
        )


def test_equal_first_steps(tmp_path, tensors):
    tensors[1] = tensors[0]
    audit = audit_of(tmp_path, tensors)
    assert set(audit.flagged_steps) == {0, 1}  # both are as near to step 2
    trainer_state(tmp_path / f"step{STEPS[-1]}", 1e-6)
    audit = audit_series(open_series(tmp_path))
    assert audit.wrong == []
    assert "trainer_state.json" in audit.findings[0].message


def test_what_is_not_finite_is_named_and_repeats_nothing(tmp_path, tensors):
    tensors[64] = tensors[64] | {INPUT: tensors[64][INPUT].clone()}
    tensors[64][INPUT][5, 2] = torch.inf
    for step in (4000, 13000):
        tensors[step] = {key: value * torch.nan for key, value in tensors[step].items()}
    write(tmp_path, tensors)
    for level in ("rows", "all"):
        audit = audit_series(open_series(tmp_path), tensors=level)
        assert kinds(audit) == {"not finite"}
        assert list(audit.flagged_steps) == [64, 4000, 13000]
        told = "not finite: input embedding: 1 of 40 rows read hold NaN or infinity (5)"
        assert audit.flagged_steps[64] == told
        assert audit.wrong[0].rows == (5,)
        assert audit.flagged_steps[4000] == (
            "not finite: 40 of 40 rows read hold NaN or infinity (0, 1, 2, 3, 4, ...)"
        )


def test_rows_that_are_equal_at_the_last_step_are_noted_in_groups(tmp_path, tensors):
    last = {key: value.clone() for key, value in tensors[STEPS[-1]].items()}
    last[INPUT][[4, 9, 30]] = last[INPUT][4].clone()
    last[INPUT][[7, 8]] = last[INPUT][7].clone()
    tensors[STEPS[-1]] = last
    write(tmp_path, tensors)
    for level in ("rows", "all"):
        audit = audit_series(open_series(tmp_path), tensors=level)
        (found,) = [finding for finding in audit.findings if finding.kind == "identical rows"]
        assert (found.severity, found.steps, found.rows) == ("note", (STEPS[-1],), (4, 9, 30))
        assert found.message == (
            "5 of 40 rows of the input embedding read equal another bit by bit, in 2 groups; the "
            "largest has 3 (4, 9, 30)"
        )
    unread = audit_series(open_series(tmp_path), tensors="none")
    assert not [finding for finding in unread.findings if finding.kind == "identical rows"]


def test_rows_outside_of_the_block_are_said_not_to_be_read(tmp_path):
    for step in (0, 1):
        matrix = torch.full((3000, 400), float(step + 1))
        matrix[[5, 2999]] = torch.nan
        write(tmp_path, {step: {INPUT: matrix, "embed_out.weight": matrix[10:50].clone()}})
    audit = audit_series(open_series(tmp_path), tensors="rows")
    assert audit.rows_read == (
        "of each embedding rows 375 to 1,398 of 3,000 alone and smaller ones whole"
    )
    assert audit.wrong == []
    audit = audit_series(open_series(tmp_path), tensors="all")
    assert audit.rows_read == "every row of each embedding"
    assert [(each.steps, each.rows) for each in audit.wrong] == [
        ((0,), (5, 2999)),
        ((1,), (5, 2999)),
    ]


def test_one_of_many_formats(tmp_path, tensors):
    write(tmp_path, {step: tensors[step] for step in STEPS if step < 100}, "old zip")
    write(tmp_path, {step: tensors[step] for step in STEPS if step >= 100}, "sharded safetensors")
    shutil.copy(tmp_path / "step16/pytorch_model.bin", tmp_path / "step64/pytorch_model.bin")
    assert set(audit_series(open_series(tmp_path)).flagged_steps) == {64}


def test_damaged_files_are_told_and_the_rest_is_looked_at(tmp_path, tensors):
    write(tmp_path, tensors)
    (tmp_path / "step8/model.safetensors").write_bytes(b"x" * 50)
    audit = audit_series(open_series(tmp_path))
    assert list(audit.flagged_steps) == [8]
    assert "neither safetensors nor written by torch.save" in audit.flagged_steps[8]
    for step in STEPS:
        (tmp_path / f"step{step}/model.safetensors").write_bytes(b"x" * 50)
    with pytest.raises(CheckpointError, match=r"no checkpoint can be read: .*neither safetensors"):
        audit_series(open_series(tmp_path))


def test_notes_on_files_are_findings_once_for_all_their_steps(tmp_path, tensors):
    write(tmp_path, {step: tensors[step] for step in STEPS[:3]})
    for folder in tmp_path.iterdir():
        stored = load_file(folder / "model.safetensors")
        scale = torch.ones(len(stored[INPUT]), 1)
        stored |= {INPUT: stored[INPUT].to(torch.float8_e5m2), f"{INPUT}_scale": scale}
        save_file(stored, folder / "model.safetensors")
    audit = audit_series(open_series(tmp_path))
    (note,) = [finding for finding in audit.findings if finding.kind == "files"]
    assert (note.severity, note.steps) == ("note", tuple(STEPS[:3]))
    assert "stored as float8_e5m2 codes with weight_scale" in note.message


def test_codes_that_cannot_be_read_are_a_finding(tmp_path, tensors):
    write(tmp_path, {step: tensors[step] for step in STEPS[:3]})
    folder = sorted(tmp_path.iterdir())[0]
    stored = load_file(folder / "model.safetensors")
    save_file(stored | {INPUT: stored[INPUT].to(torch.int8)}, folder / "model.safetensors")
    audit = audit_series(open_series(tmp_path))
    (problem,) = audit.wrong
    assert problem.kind == "unreadable"
    assert "are int8 codes without weight_scale or SCB" in problem.message
    assert set(audit.flagged_steps) == {problem.steps[0]}


def test_steps_that_do_not_exist(tmp_path, tensors):
    series = open_series(write(tmp_path, tensors))
    audit = audit_series(series, steps="0,3,last")
    assert [finding.steps for finding in audit.wrong] == [(3,)]
    assert audit.steps == (0, 13000)
    with pytest.raises(StepError, match="cannot read 'x'"):
        audit_series(series, steps="x")


@pytest.mark.parametrize("architecture", ["gpt-neox", "gpt2"])
def test_a_training_of_ours_is_clean(tmp_path, architecture):
    corpus = write_corpus(tmp_path / "corpus")
    settings = small(
        corpus,
        model={"architecture": architecture},
        training={"steps": 40, "warmup_steps": 0},
        checkpoints={"steps": "log2(16)+every(4)"},
    )
    train(settings, tmp_path / "run")
    series = open_series(tmp_path / "run")
    assert audit_series(series).wrong == []
    shutil.rmtree(series.checkpoints[5].path)
    missing = series.checkpoints[5].step
    assert [each.steps for each in audit_series(open_series(tmp_path / "run")).wrong] == [
        (missing,)
    ]


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as end:
        main(["audit", *map(str, arguments)])
    return end.value.code, capsys.readouterr()


def test_command(tmp_path, tensors, capsys):
    code, shown = run(capsys, write(tmp_path / "clean", tensors))
    assert code == 0
    assert shown.out.splitlines()[-1] == (
        "clean: 24 checkpoints, every row of each embedding read: nothing is wrong"
    )
    tensors[5000] = tensors[9000]
    code, shown = run(capsys, write(tmp_path / "defect", tensors))
    lines = shown.out.splitlines()
    assert code == 1
    assert lines[0].split() == ["kind", "steps", "tensor", "what"]
    assert lines[1].split()[:4] == ["wrong", "repeated", "5000", "2"]
    assert lines[-1].endswith("1 finding is wrong, 1 step should be left out")
    code, shown = run(capsys, tmp_path / "defect", "--json")
    result = json.loads(shown.out)
    assert code == 1
    assert list(result["flagged_steps"]) == ["5000"]
    assert result["findings"][0]["severity"] == "wrong"


def test_mistakes_are_one_line_and_exit_status_2(tmp_path, capsys):
    code, shown = run(capsys, tmp_path / "nothing")
    assert code == 2
    assert len(shown.err.splitlines()) == 1
