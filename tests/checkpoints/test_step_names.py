"""Names as programs and series write them, and what of a place is one training."""

import json

import pytest
import torch
from safetensors.torch import save_file

from dynamics.checkpoints.series import open_series
from dynamics.checkpoints.step_names import PATTERNS, parse_step_name, select_names
from dynamics.errors import CheckpointError, StepError
from tests.checkpoints.catalog.test_public_series import QUOTED

NOT_STEPS = (
    *("best", "final", "main", "checkpoint-last", "checkpoint-best", "refs/pr/1"),
    *("10B", "1.4B", "7", "v1.0", "checkpoint-1.0", "step7B", "stepping-stone"),
    *("step_1_000", "checkpoint_1_500", "checkpoint-500-1000", "tokenizer", "stage1"),
)


@pytest.mark.parametrize(
    ("name", "step", "tokens", "variant"),
    [
        ("checkpoint-500", 500, None, ""),
        ("Checkpoint_0500", 500, None, ""),
        ("STEP-7", 7, None, ""),
        ("global_step1000", 1000, None, ""),
        ("iter_0001000", 1000, None, ""),
        ("ckpt_358", 358, None, ""),
        ("step1000-tokens4B", 1000, 4 * 10**9, ""),
        ("step2627139-tokens15T", 2627139, 15 * 10**12, ""),
        ("step10-tokens20971520", 10, 20_971_520, ""),
        ("step1000-unsharded", 1000, None, ""),
        ("stage1-step1000-tokens3B", 1000, 3 * 10**9, ""),
        ("stage2-ingredient1-step1000-tokens3B", 1000, 3 * 10**9, "stage2-ingredient1"),
        ("step-12000_tokens-50B-phase2", 12000, 50 * 10**9, "phase2"),
        ("step-50K-105b", 50_000, 105 * 10**9, ""),
        ("step-480k-token-1007B", 480_000, 1007 * 10**9, ""),
        ("step2.5k", 2500, None, ""),
        ("multiberts-seed_3-step_20k", 20_000, None, "multiberts-seed-3"),
        ("epoch=3-step=1000", 1000, None, ""),
        ("epoch=3-step=1000-val_loss=2.31", 1000, None, ""),
        ("1000steps", 1000, None, ""),
        ("checkpoint-500-ema", 500, None, "ema"),
        ("pythia-160m-step512", 512, None, "pythia-160m"),
    ],
)
def test_what_a_name_says(name, step, tokens, variant):
    said = parse_step_name(name)
    assert (said.name, said.step, said.tokens_seen) == (name, step, tokens)
    assert (said.variant, said.unit) == (variant, "step")
    assert said.tokens_rounded == (tokens is not None and tokens % 10**9 == 0)


@pytest.mark.parametrize("name", NOT_STEPS)
def test_names_that_tell_no_step(name):
    assert parse_step_name(name) is None


def test_names_of_the_public_series_tell_the_steps_of_the_catalog():
    for series, name, step, *_ in QUOTED:
        said = parse_step_name(name.rpartition("/")[2])
        assert said is not None, series
        assert said.step == step, series


def test_examples_of_the_patterns_are_of_one_training_each():
    examples = [name for pattern in PATTERNS for name in pattern.examples]
    assert len(examples) > 15
    for name in examples:
        assert select_names([name], place="here").names == (parse_step_name(name),)


def put(folder, *names):
    for name in names:
        (folder / name).mkdir(parents=True)
        save_file({"wte.weight": torch.zeros(3, 2)}, folder / name / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    "names",
    [
        ["step0", "step1000-tokens4B", "step2000-tokens8B", "step3000-tokens12B"],
        ["step0", "step1000-unsharded", "step2000-unsharded"],
        ["global_step0", "global_step1000"],
        ["iter_0000000", "iter_0001000"],
        ["stage1-step1000", "step0", "step500"],
        ["checkpoint-0", "step1000", "iter_0002000", "ckpt_003"],
        ["multiberts-seed_0-step_20k", "multiberts-seed_0-step_40k"],
    ],
)
def test_every_folder_that_tells_a_step_is_of_the_series(tmp_path, names):
    series = open_series(put(tmp_path / "series", *names))
    assert {checkpoint.name for checkpoint in series} == {*names}
    assert series.steps == sorted(parse_step_name(name).step for name in names)
    assert (series.unit, series.notes) == ("step", ())


def test_a_folder_with_weights_and_no_step_is_named(tmp_path):
    names = ["checkpoint-0", "checkpoint-1000", "checkpoint-last", "best", "final", "epoch_3"]
    put(tmp_path, *names, "tmp-checkpoint-1000")
    (tmp_path / "logs").mkdir()
    (tmp_path / "sharded").mkdir()
    (tmp_path / "sharded/model-00001-of-00002.safetensors").touch()
    series = open_series(tmp_path)
    assert series.steps == [0, 1000]
    stepless, marked, epochs = series.notes
    assert "no step: best, checkpoint-last, final, sharded; rename or link them" in stepless
    assert "best, last or partial state: tmp-checkpoint-1000; '" in marked
    assert epochs == "skipped because other names give a step: epoch_3"
    assert series.select("0").notes == series.notes


@pytest.mark.parametrize("names", [["best", "last"], ["10B", "20B"], ["7", "8"]])
def test_nothing_but_names_without_steps_is_refused_by_name(tmp_path, names):
    with pytest.raises(CheckpointError, match=f"no checkpoint inside; .*{', '.join(names)}; rena"):
        open_series(put(tmp_path, *names))


@pytest.mark.parametrize(
    ("names", "steps", "unit"),
    [
        (["epoch_0", "epoch_1"], [0, 1], "epoch"),
        (["tokens-500M", "tokens-4B"], [500, 4000], "million tokens"),
        (["train_00220B", "train_00440B"], [220, 440], "step of baichuan2"),
    ],
)
def test_what_counts_something_else_is_a_series_where_nothing_tells_steps(
    tmp_path, names, steps, unit
):
    series = open_series(put(tmp_path, *names))
    assert (series.steps, series.unit) == (steps, unit)
    assert series.notes == (f"a step is one {unit} here: {names[0]} is step {steps[0]}",)


@pytest.mark.parametrize(
    ("names", "pattern", "steps"),
    [
        (["stage1-step10", "stage1-step20", "stage2-step10"], "stage1-step*", [10, 20]),
        (["phase1_step10", "phase2_step30"], "*", [10, 30]),
        (["step10", "step10-seed-small"], "step*[0-9]", [10]),
        (["seed_0-step_20k", "seed_1-step_20k"], "seed_1-*", [20_000]),
    ],
)
def test_several_stages_or_kinds_are_refused_and_a_pattern_chooses(tmp_path, names, pattern, steps):
    put(tmp_path, *names)
    with pytest.raises(
        StepError, match=r"holds names of 2 stages or kinds .*; choose one by a pat"
    ):
        open_series(tmp_path)
    assert open_series(tmp_path / pattern).steps == steps
    with pytest.raises(CheckpointError, match=r"no checkpoint inside whose name fits 'nope\*'"):
        open_series(tmp_path / "nope*")


def test_the_suggested_pattern_chooses(tmp_path):
    put(tmp_path, "stage1-step10", "stage1-step20", "stage2-step10")
    with pytest.raises(StepError) as raised:
        open_series(tmp_path)
    suggested = str(raised.value).partition("such as '")[2].partition("'")[0]
    assert open_series(suggested).steps == [10, 20]


def test_of_two_names_of_a_step_the_one_with_weights_counts(tmp_path):
    put(tmp_path, "step0", "step1000-unsharded")
    (tmp_path / "step1000").mkdir()
    series = open_series(tmp_path)
    assert [checkpoint.name for checkpoint in series] == ["step0", "step1000-unsharded"]
    assert series.notes == (
        "skipped because another name of that step holds the weights: step1000",
    )
    put(tmp_path, "step1000/unused")
    save_file({"wte.weight": torch.zeros(3, 2)}, tmp_path / "step1000/model.safetensors")
    with pytest.raises(StepError, match="step1000 and step1000-unsharded are both step 1000"):
        open_series(tmp_path)


def test_a_step_without_weights_is_of_the_series(tmp_path):
    put(tmp_path, "checkpoint-0", "checkpoint-20")
    (tmp_path / "checkpoint-10").mkdir()
    assert open_series(tmp_path).steps == [0, 10, 20]


def test_states_of_an_optimizer_in_a_model_are_no_series(tmp_path):
    put(tmp_path, "checkpoint-500")
    (tmp_path / "checkpoint-500/global_step500").mkdir()
    (tmp_path / "checkpoint-500/.git").mkdir()
    (checkpoint,) = open_series(tmp_path / "checkpoint-500")
    assert (checkpoint.path, checkpoint.step) == (tmp_path / "checkpoint-500", 500)


def test_a_model_beside_its_checkpoints_is_noted(tmp_path):
    put(tmp_path, "out", "out/checkpoint-5")
    series = open_series(tmp_path / "out")
    assert series.steps == [5]
    assert series.notes[0].startswith("skipped: the model in ")


def test_checkpoints_one_folder_deeper_are_pointed_at(tmp_path):
    put(tmp_path, "a/step4", "a/step5", "b/step4")
    with pytest.raises(CheckpointError, match=f"inside, but in a, b; give {tmp_path}/a$"):
        open_series(tmp_path)


def cached(root, repo, **revisions):
    """A repository in a hub's cache: a revision's commit, weights in every snapshot."""
    folder = root / f"models--{repo.replace('/', '--')}"
    for revision, commit in revisions.items():
        path = folder / "refs" / revision.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(commit)
        if not (folder / "snapshots" / commit).exists():
            put(folder / "snapshots", commit)
    return folder


def test_a_cached_repository_is_a_series_named_by_its_revisions(tmp_path):
    folder = cached(tmp_path, "org/tiny", step10="b" * 40, step0="a" * 40, main="b" * 40)
    put(folder / "snapshots", "d" * 40)
    (folder / "refs/refs/pr").mkdir(parents=True)
    (folder / "refs/refs/pr/1").write_text("e" * 40)
    (tmp_path / "datasets--org--text").mkdir()
    for place in (folder, folder / "snapshots", tmp_path):
        series = open_series(place)
        assert (series.name, series.steps) == ("org/tiny", [0, 10])
        assert [checkpoint.name for checkpoint in series] == ["step0", "step10"]
        assert [checkpoint.path.name[0] for checkpoint in series] == ["a", "b"]
        assert series.notes == (
            "skipped because they are not in the cache: refs/pr/1",
            f"skipped because no revision names these snapshots: {'d' * 40}",
        )
    (single,) = open_series(folder / "snapshots" / ("b" * 40))
    assert single.step == 10


def test_main_that_is_none_of_the_cached_steps_is_named(tmp_path):
    folder = cached(tmp_path, "org/tiny", step0="a" * 40, main="b" * 40)
    assert open_series(folder).notes == ("skipped because the name has no step: main",)


def test_a_cached_repository_without_steps_is_a_single_model(tmp_path):
    folder = cached(tmp_path, "org/tiny", main="a" * 40)
    (checkpoint,) = series = open_series(folder)
    assert (series.name, checkpoint.step, checkpoint.name) == ("org/tiny", 0, "main")
    (folder / "snapshots" / ("a" * 40) / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no checkpoint inside; no snapshot .*holds weights"):
        open_series(folder)


def test_a_cache_of_several_models_is_refused_and_of_one_training_is_a_series(tmp_path):
    for step in (20, 40):
        cached(tmp_path / "hub", f"google/multiberts-seed_0-step_{step}k", main=str(step) * 20)
    for place in (tmp_path / "hub", tmp_path):
        series = open_series(place)
        assert series.steps == [20_000, 40_000]
        assert series.checkpoints[1].path.name == "40" * 20
    cached(tmp_path / "hub", "org/tiny", main="a" * 40)
    with pytest.raises(CheckpointError, match=r"is a cache of 3 models .*; give one of them, such"):
        open_series(tmp_path / "hub")


def test_tokens_in_a_name_are_the_tokens_of_a_folder(tmp_path):
    put(tmp_path, "step0", "step1000-tokens4B")
    assert [checkpoint.tokens_seen for checkpoint in open_series(tmp_path)] == [None, 4 * 10**9]
    (tmp_path / "step0/trainer_state.json").write_text(json.dumps({"num_input_tokens_seen": 7}))
    assert open_series(tmp_path).checkpoints[0].tokens_seen == 7
