"""Runs grouped as seeds of arms: what belongs together, and the lines that say what does not."""

import json
import shutil

import numpy as np
import pytest

from dynamics.checkpoints.series import open_series
from dynamics.errors import MismatchError, OutputError
from dynamics.runs.compare import arms_of, compare
from dynamics.runs.grouping import grouping_lines
from dynamics.runs.run import Run
from dynamics.tracking.track import track
from tests.tracking.arms import made_run, planted
from tests.tracking.synthetic import (
    WIDTH,
    directions,
    grow,
    make_counts,
    tracked,
    write_series,
)


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    """Two public series of one model, which differ in their seed alone."""
    folder = tmp_path_factory.mktemp("seeds")
    return [
        tracked(folder / str(seed), name=f"model-seed{seed}", series=grow(make_counts(), seed=seed))
        for seed in (1, 2)
    ]


def changed(run, folder, **facts):
    """A copy of a run with other facts in its record."""
    shutil.copytree(run.path, folder)
    info = json.loads((folder / "run.json").read_text())
    for key, value in facts.items():
        info["settings" if key == "rule" else "series"][key] = value
    (folder / "run.json").write_text(json.dumps(info))
    return Run(folder)


def test_the_shape_of_a_model_is_recorded(seeds):
    series = seeds[0].info["series"]
    assert series["shapes"] == {"input_embedding": [300, 16], "output_embedding": [300, 16]}
    assert series["architecture"] == {"model_type": "gpt_neox"}


def test_seeds_of_one_model_are_one_arm(seeds):
    (arm,) = arms_of(seeds)
    assert (arm.name, arm.seeds) == ("model", ("1", "2"))
    paths = ", ".join(str(run.path) for run in seeds)
    assert grouping_lines([arm]) == [f"arm model: seeds 1, 2 ({paths})"]
    assert grouping_lines(arms_of(seeds[:1])) == []


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({"rule": "count>=100"}, "vocabulary rule count>=100 and count>=10"),
        ({"vocab_size": 400}, "rows of the embedding 400 and 300"),
        ({"tied": True}, "tied True and False"),
        ({"final_norm": None}, "final norm none and layer"),
        (
            {"shapes": {"input_embedding": [300, 32], "output_embedding": [300, 16]}},
            "shape of the input embedding 300 x 32 and 300 x 16",
        ),
        ({"architecture": {"model_type": "gpt2"}}, "model_type gpt2 and gpt_neox"),
    ],
)
def test_other_rules_and_models_are_other_arms_and_cannot_be_set_to_be_one(
    seeds, tmp_path, facts, told
):
    other = changed(seeds[1], tmp_path / "run", **facts)
    arms = arms_of([seeds[0], other])
    assert [arm.runs for arm in arms] == [(seeds[0],), (other,)]
    assert grouping_lines(arms)[-1] == f"model-seed2 is not of the arm model-seed1: {told}"
    with pytest.raises(MismatchError, match="cannot be seeds of one arm 'mine'") as raised:
        arms_of([seeds[0], other], {"mine": [other, seeds[0]]})
    assert f": {told}; put them in arms of their own" in str(raised.value)


def test_another_width_under_a_like_name_is_another_arm(seeds, tmp_path):
    tensors, rng = grow(make_counts(), seed=2), np.random.default_rng(0)
    for step in tensors.values():
        for key, tensor in step.items():
            wider = np.ones(2 * WIDTH) if tensor.ndim == 1 else directions(300, rng, 2 * WIDTH)
            step[key] = wider.astype(np.float32)
    wide = track(
        write_series(tmp_path / "model-seed2", tensors), tmp_path / "run", counts=make_counts()
    )
    arms = arms_of([seeds[0], wide])
    assert len(arms) == 2
    assert "shape of the input embedding 300 x 32 and 300 x 16" in grouping_lines(arms)[-1]


def test_another_depth_under_a_like_name_is_another_arm(seeds, tmp_path):
    runs = []
    for seed, depth in ((1, 2), (2, 6)):
        folder = tmp_path / str(depth) / f"model-seed{seed}"
        shutil.copytree(seeds[seed - 1].path.parent / folder.name, folder)
        for path in folder.rglob("config.json"):
            config = json.loads(path.read_text()) | {"num_hidden_layers": depth}
            path.write_text(json.dumps(config))
        runs.append(track(open_series(folder), folder.parent / "run", counts=make_counts()))
    assert grouping_lines(arms_of(runs))[-1] == (
        "model-seed2 is not of the arm model-seed1: num_hidden_layers 6 and 2"
    )


def test_another_last_step_is_another_arm(seeds, tmp_path):
    """A seed that ends earlier would be averaged with the ends of the others."""
    series = grow(make_counts(), seed=2, steps=(0, 2, 8))
    short = tracked(tmp_path, name="model-seed2", series=series)
    assert grouping_lines(arms_of([seeds[0], short]))[-1] == (
        "model-seed2 is not of the arm model-seed1: last step 8 and 32"
    )
    assert set(compare([seeds[0], short])["n_seeds"]) <= {0, 1}


def test_what_an_older_run_does_not_record_keeps_nothing_apart(seeds, tmp_path):
    older = changed(seeds[1], tmp_path / "run", shapes=None, architecture=None)
    assert len(arms_of([seeds[0], older])) == 1


def test_trainings_of_another_corpus_are_other_arms(tmp_path):
    runs = [made_run(tmp_path, "one", seed, rows=planted(seed)) for seed in (0, 1)]
    assert len(arms_of(runs)) == 1
    info = json.loads((runs[1].path / "run.json").read_text())
    info["counts"]["corpus_digest"] = "d" * 64
    (runs[1].path / "run.json").write_text(json.dumps(info))
    arms = arms_of([runs[0], Run(runs[1].path)])
    assert len(arms) == 2
    assert "corpus dddd" in grouping_lines(arms)[-1]


def test_arms_can_be_set_by_run_folder_or_series(seeds, tmp_path):
    other = changed(seeds[0], tmp_path / "run", name="another")
    runs = [*seeds, other]
    for refs in (runs, [run.path for run in runs], [str(run.path) for run in runs]):
        (arm,) = arms_of(runs, {"all": refs})
        assert (arm.name, arm.runs) == ("all", tuple(runs))
    (arm,) = arms_of(runs, {"all": ["model-seed1", "model-seed2", "another"]})
    assert len(set(arm.seeds)) == 3
    assert "series" in arm.varies  # their names do not say that they are seeds of one
    first, rest = arms_of(runs, {"pair": ["model-seed2", "another"]})
    assert (first.name, rest.name) == ("model-seed1", "pair")
    assert set(compare(runs, arms={"all": runs})["arm"]) == {"all"}


@pytest.mark.parametrize(
    ("arms", "told"),
    [
        ({"a": ["gone"]}, r"arm 'a' names 'gone', which is no run of: model-seed1 \("),
        ({"a": ["model-seed1"], "b": ["model-seed1"]}, "is named twice in the arms; name it once"),
    ],
)
def test_arms_that_name_no_run_or_one_twice_are_refused(seeds, arms, told):
    with pytest.raises(OutputError, match=told):
        arms_of(seeds, arms)


def test_the_comparison_prints_the_grouping(seeds):
    lines = []
    compare(seeds, report=lines.append)
    assert lines == grouping_lines(arms_of(seeds))


def test_arms_are_their_own_grouping(seeds):
    arms = arms_of(seeds)
    assert arms_of(arms) == arms
