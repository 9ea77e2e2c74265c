import json
import shutil

import pytest

from dynamics.checkpoints.checkpoint import Checkpoint
from dynamics.checkpoints.hub.client import Hub
from dynamics.checkpoints.hub.hub_series import open_hub_series
from dynamics.errors import CheckpointError, StepError
from tests.checkpoints.writers import assert_same, neox, write_checkpoint
from tests.hub.standin import PAGE, Repository, commit_of


@pytest.fixture
def named(tmp_path, standin):
    """Publish one repository with these names, each with weights of its own."""

    def named(branches=(), tags=(), history=()):
        folders = {
            name: write_checkpoint(tmp_path / str(at), neox(), config={"of": name})
            for at, name in enumerate((*branches, *tags, *history))
        }
        standin.repositories["org/model"] = Repository(
            {name: folders[name] for name in branches},
            {name: folders[name] for name in tags},
            {"run": [(title, folders[title]) for title in history]} if history else {},
        )
        return folders

    return named


@pytest.mark.parametrize(
    ("branches", "tags", "steps", "tokens"),
    [
        (["main", "step0", "step512", "step1000", "step64"], [], [0, 64, 512, 1000], None),
        (["main"], ["global_step1000", "global_step100"], [100, 1000], None),
        (["main", "checkpoint-100"], ["step_7", "step-8"], [7, 8, 100], None),
        (["step1000-tokens4B", "step2000-tokens8B"], [], [1000, 2000], [4 * 10**9, 8 * 10**9]),
        (
            ["main", "stage1-step1000-tokens3B", "stage2-ingredient1-step1000-tokens3B"],
            [],
            [1000],
            [3 * 10**9],
        ),
        (["step2627139-tokens15T"], [], [2627139], [15 * 10**12]),
        (["step-0", "stepping-stone", "step5-seed-default", "last_step9"], [], [0], None),
    ],
)
def test_steps_come_from_names_that_exist(named, hub, branches, tags, steps, tokens):
    folders = named(branches, tags)
    series = open_hub_series("org/model", hub=hub)
    assert (series.name, series.steps) == ("org/model", steps)
    assert [each.tokens_seen for each in series] == (tokens or [None] * len(steps))
    for checkpoint in series:
        expected = Checkpoint(folders[checkpoint.name], 0).tensor("input_embedding")
        assert_same(checkpoint.tensor("input_embedding"), expected)
        assert checkpoint.commit == commit_of("org/model", folders[checkpoint.name])


def test_listing_takes_one_request_and_reads_nothing(named, hub, standin):
    named(["main", *(f"step{step}" for step in range(20))])
    assert len(open_hub_series("org/model", hub=hub)) == 20
    assert len(standin.requests) == hub.transport.traffic.requests == 1


def test_patterns_and_tokens_per_step(named, hub):
    named(["main", "ckpt_000", "ckpt_358", "step7"])
    series = open_hub_series(
        "org/model", [r"ckpt_(?P<step>\d+)"], tokens_per_step=3_495_886_848, hub=hub
    )
    assert series.steps == [0, 358]
    assert series.checkpoints[1].tokens_seen == 358 * 3_495_886_848
    with pytest.raises(CheckpointError, match=r"none of its 4 names fits x.*; they are main, ck"):
        open_hub_series("org/model", [r"x(?P<step>\d+)"], hub=hub)


def test_commits_of_a_branch(named, hub):
    titles = [f"Saving HF Model -- Step {step}" for step in range(2 * PAGE, -1, -1)]
    folders = named(["main"], history=[*titles[:70], "Evaluation Results", *titles[70:]])
    pattern = r"Saving HF Model -- Step (?P<step>\d+)"
    series = open_hub_series("org/model", [pattern], branch="run", hub=hub)
    assert series.steps == list(range(2 * PAGE + 1))
    checkpoint = series.checkpoints[40]
    folder = folders["Saving HF Model -- Step 40"]
    expected = Checkpoint(folder, 0).tensor("input_embedding")
    assert_same(checkpoint.tensor("input_embedding"), expected)
    assert checkpoint.revision == checkpoint.commit == commit_of("org/model", folder)
    with pytest.raises(CheckpointError, match=r"has no revision 'rum' among its 2 .* are run"):
        open_hub_series("org/model", [pattern], branch="rum", hub=hub)


def test_a_single_model(named, hub):
    folders = named(["main", "refs-of-others"])
    (checkpoint,) = open_hub_series("org/model", hub=hub)
    assert (checkpoint.name, checkpoint.step) == ("main", 0)
    assert checkpoint.commit == commit_of("org/model", folders["main"])
    named(["other"])
    with pytest.raises(CheckpointError, match=r"none of its 1 names has a step; they are other"):
        open_hub_series("org/model", hub=hub)


def test_two_names_of_one_step(named, hub, standin):
    named(["step7"], ["step-7"])
    with pytest.raises(
        StepError, match=r"org/model: step-7 and step7 are both step 7; give `patterns` to open_hub"
    ):
        open_hub_series("org/model", hub=hub)
    folders = named(["step7"])
    standin.repositories["org/model"].tags["step7"] = folders["step7"]
    assert open_hub_series("org/model", hub=hub).steps == [7]


def cache(root, repo, revision, folder, filenames, blobs=True):
    """Put files into a hub cache, as hf_hub_download leaves them."""
    commit = commit_of(repo, folder)
    base = root / f"models--{repo.replace('/', '--')}"
    (base / "refs").mkdir(parents=True, exist_ok=True)
    (base / "refs" / revision).write_text(commit)
    (base / "snapshots" / commit).mkdir(parents=True, exist_ok=True)
    for name in filenames:
        shutil.copy(folder / name, base / "snapshots" / commit / name)
    return base


@pytest.mark.parametrize("kind", ["branches", "tags"])
def test_a_cached_file_is_read_from_the_cache(tmp_path, named, hub, standin, kind):
    folders = named(**{kind: ["step1", "step2"]})
    cache(tmp_path / "hub cache", "org/model", "step1", folders["step1"], ["model.safetensors"])
    first, second = open_hub_series("org/model", hub=hub)
    local = Checkpoint(folders["step1"], 0)
    assert_same(first.tensor("output_embedding"), local.tensor("output_embedding"))
    assert first.file_sha256("input_embedding") == local.file_sha256("input_embedding")
    assert not [path for _, path, _ in standin.requests if path.startswith("/blob")]
    expected = Checkpoint(folders["step2"], 0).tensor("input_embedding")
    assert_same(second.tensor("input_embedding"), expected)
    assert [path for _, path, _ in standin.requests if path.startswith("/blob")]


def test_a_cached_branch_that_has_moved_is_fetched(tmp_path, named, hub, standin):
    folders = named(["step1", "step2"])
    cache(tmp_path / "hub cache", "org/model", "step1", folders["step1"], ["model.safetensors"])
    standin.repositories["org/model"].branches["step1"] = folders["step2"]
    del standin.repositories["org/model"].branches["step2"]
    (checkpoint,) = open_hub_series("org/model", hub=hub)
    expected = Checkpoint(folders["step2"], 0).tensor("input_embedding")
    assert_same(checkpoint.tensor("input_embedding"), expected)


def test_offline(tmp_path, named, standin, hub, monkeypatch):
    folders = named(["step1", "step2"])
    offline = Hub(standin.endpoint, folder=tmp_path / "cached", transport=hub.transport)
    files = ["model.safetensors", "config.json"]
    cache(tmp_path / "cached", "org/model", "step1", folders["step1"], files)
    cache(tmp_path / "cached", "org/model", "step2", folders["step2"], files[1:])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    first, second = open_hub_series("org/model", hub=offline)
    expected = Checkpoint(folders["step1"], 0).tensor("output_embedding")
    assert_same(first.tensor("output_embedding"), expected)
    with pytest.raises(
        CheckpointError, match=r"step2 in the hub cache \(HF_HUB_OFFLINE is set\): h"
    ):
        second.tensor("input_embedding")
    with pytest.raises(CheckpointError, match=r"org/other: is not in the hub cache .*unset HF_HUB"):
        open_hub_series("org/other", hub=offline)
    next((tmp_path / "cached").rglob("config.json")).unlink()
    next((tmp_path / "cached").rglob("config.json")).unlink()
    (first, _) = open_hub_series("org/model", hub=offline)
    with pytest.raises(CheckpointError, match=r"config.json is missing.*hf download"):
        first.tensor("output_embedding")
    assert standin.requests == []


def test_the_endpoint_of_the_environment(named, standin, monkeypatch):
    named(["step1"])
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", standin.endpoint + "/")
    assert open_hub_series("org/model").steps == [1]


def test_an_unknown_shard_index_is_not_followed_elsewhere(tmp_path, named, hub):
    folder = named(["step1"])["step1"]
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"wte.weight": "../../other/resolve/main/secret.bin"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (checkpoint,) = open_hub_series("org/model", hub=hub)
    with pytest.raises(CheckpointError, match="is not the file name of a shard in the same folder"):
        checkpoint.tensor("input_embedding")
