"""The command line of what the running model is asked."""

import json

import pytest

from tests.tracking.live_series import write_live_training

FEW = ("probe_tokens_per_stratum=2", "contexts=3", "context_length=10", "--device", "cpu")


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    folder = tmp_path_factory.mktemp("live") / "training"
    write_live_training(folder, held_out=3)
    return folder


def test_importance_is_measured_and_added_to(dynamics, training, tmp_path):
    from dynamics.runs.run import Run

    output = ("-o", tmp_path / "run", "--steps", "0,8")
    asked = (
        "--importance",
        "surprisal",
        "--importance",
        "occlusion",
        "probe.tokens=[40, 41]",
        *FEW,
    )
    status, *_ = dynamics("track", training, *output)
    assert (status, Run(tmp_path / "run").live_steps) == (0, [])
    status, _, err = dynamics("track", training, *output, *asked, "live_steps=last")
    assert status == 0
    assert "running the model 1 of 1" in err
    run = Run(tmp_path / "run")
    assert run.live_steps == [8]
    assert run.importances == ["occlusion", "surprisal"]
    assert {40, 41} <= {*run.importance(8)["token_id"]}
    assert run.importance(8)["contexts"].max() == 3


def test_steps_that_are_not_run_are_told(dynamics, training, tmp_path):
    asked = ("--importance", "surprisal", "--surgery", "--agreement", *FEW)
    status, _, err = dynamics("track", training, "-o", tmp_path / "run", "--steps", "0,4", *asked)
    assert status == 0
    assert "1 of 2 steps hold embeddings only and are not run" in err


def test_the_cost_is_told_and_nothing_is_written(dynamics, training, tmp_path):
    asked = ("--importance", "all", "--surgery", "--agreement", "--dry-run", *FEW)
    status, out, _ = dynamics("track", training, *asked)
    assert status == 0
    assert (
        "360 forward passes over 60 contexts of 10 tokens and 2,048 over held-out rows, at most, "
        "for each of 4 models" in out
    )
    status, out, _ = dynamics("track", training, *asked, "--json")
    assert json.loads(out)["live"] == {
        "checkpoints": 4, "contexts": 60, "length": 10, "forwards": 360, "held_out_forwards": 2048,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--surgery", "probe.split=test"], "probe.split needs probe.text (--probe); give a text"),
        (["--surgery", "probe.dtype=uint8"], "probe.dtype needs probe.text (--probe); give a text"),
        (["--importance", "oclusion"], "there is no importance 'oclusion'; did you mean 'occlu"),
        (["--probe", "x.txt"], "need importance, surgery or agreement; give one"),
        (["--surgery", "probe.tokens=[a]"], "probe.tokens.0: input should be a valid integer (got"),
        (["--importance", "all", "contexts=1"], "contexts: input should be greater than 1 (got 1)"),
        (["--importance", "all", "live_steps=7"], "7"),
    ],
)
def test_what_makes_no_sense_is_told_in_one_line(fails, training, tmp_path, arguments, told):
    assert told in fails("track", training, "-o", tmp_path / "run", *arguments)
    assert not (tmp_path / "run").exists()
