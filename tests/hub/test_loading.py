"""Models from a hub: which revision a name means, and what is fetched of it."""

import json
import shutil

import pytest
import torch
from huggingface_hub import constants

from dynamics.checkpoints.hub.hub_series import open_hub_series
from dynamics.errors import CheckpointError
from dynamics.models.load import find_checkpoint, load_model
from tests.hub.standin import commit_of
from tests.models.tiny import write

PYTHIA = "EleutherAI/pythia-14m"
STEPS = (0, 512, 143000)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Models whose configuration tells their step."""
    root = tmp_path_factory.mktemp("models")
    for step in STEPS:
        write(root / f"step{step}", "gpt_neox", step=step)
    return root


def step_of(model):
    return model.network.config.step


@pytest.fixture
def pythia(folders, publish):
    for step in STEPS:
        publish(folders / f"step{step}", f"step{step}", PYTHIA)
    publish(folders / "step512", "other", PYTHIA)
    return folders


@pytest.mark.parametrize(
    ("place", "step", "revision"),
    [
        (PYTHIA, 143000, "step143000"),
        ("pythia-14m", 143000, "step143000"),
        ("pythia-14m@step512", 512, "step512"),
        (f"{PYTHIA}@step0", 0, "step0"),
        (f"{PYTHIA}@other", 512, "other"),
    ],
)
def test_a_name_is_its_last_checkpoint_and_a_revision_itself(pythia, hub, place, step, revision):
    model = load_model(place, hub=hub)
    assert (step_of(model), model.name, model.revision) == (step, PYTHIA, revision)
    assert model.output.linear
    assert len(model.tokenizer("the cat")["input_ids"]) == 2


def test_a_commit(pythia, hub):
    commit = commit_of(PYTHIA, pythia / "step512")
    assert step_of(load_model(f"{PYTHIA}@{commit}", hub=hub)) == 512


def test_a_checkpoint_of_a_series_is_what_it_was_when_the_series_was_opened(pythia, hub, standin):
    first = open_hub_series(PYTHIA, hub=hub).checkpoints[0]
    branches = standin.repositories[PYTHIA].branches
    branches |= {"step0": pythia / "step512", "kept": pythia / "step0"}
    model = load_model(first)
    assert (step_of(model), model.name, model.revision) == (0, PYTHIA, "step0")


def test_a_repository_that_is_no_series_is_its_main_branch(folders, publish, hub):
    model = load_model(publish(folders / "step512"), hub=hub)
    assert (step_of(model), model.name, model.revision) == (512, "org/model", "main")


def test_a_repository_of_one_checkpoint_is_not_the_last_of_its_series(folders, publish, hub):
    one, last = (f"google/multiberts-seed_0-step_{thousand}k" for thousand in (20, 2000))
    publish(folders / "step0", repo=one)
    publish(folders / "step143000", repo=last)
    model = load_model(one, hub=hub)
    assert (step_of(model), model.name, model.revision) == (0, one, "main")
    assert load_model("multiberts-seed_0", hub=hub).name == last
    with pytest.raises(CheckpointError, match=r"each checkpoint of multiberts-seed_0 has a repo"):
        find_checkpoint("multiberts-seed_0@step_20k", hub)


def fetched(standin):
    return {path.rpartition("/")[2] for _, path, _ in standin.requests if "/blob/" in path}


def test_only_what_loading_needs_is_fetched_and_only_once(folders, tmp_path, publish, hub, standin):
    folder = tmp_path / "many files"
    shutil.copytree(folders / "step512", folder)
    for unused in ("pytorch_model.bin", "model.fp16.safetensors", "optimizer.pt"):
        (folder / unused).write_bytes(b"unused")
    publish(folder)
    load_model("org/model", hub=hub)
    assert fetched(standin) == {"model.safetensors"}
    asked = [path for _, path, _ in standin.requests]
    assert not [path for path in asked if "resolve" in path and "optimizer" in path]
    standin.reset()
    load_model("org/model", hub=hub)
    assert standin.requests  # a branch may have moved on
    assert not fetched(standin)


@pytest.mark.parametrize("kind", ["old", "sharded", "old sharded"])
def test_other_files(tmp_path, publish, hub, kind):
    network = write(tmp_path, "gpt2")
    (tmp_path / "model.safetensors").unlink()
    if kind == "old":
        torch.save(network.state_dict(), tmp_path / "pytorch_model.bin")
    elif kind == "sharded":
        network.save_pretrained(tmp_path, max_shard_size="8kB")
        assert len([*tmp_path.glob("model-*-of-*.safetensors")]) > 1
    else:
        tensors = network.state_dict()
        names = {key: f"pytorch_model-{at:05}-of-{len(tensors):05}.bin"
                 for at, key in enumerate(tensors, 1)}  # fmt: skip
        for key, name in names.items():
            torch.save({key: tensors[key]}, tmp_path / name)
        index = json.dumps({"metadata": {}, "weight_map": names})
        (tmp_path / "pytorch_model.bin.index.json").write_text(index)
    publish(tmp_path)
    loaded = load_model("org/model", hub=hub).network.state_dict()
    assert loaded.keys() == network.state_dict().keys()
    for key, value in network.state_dict().items():
        assert loaded[key].equal(value)


def test_without_a_network_what_was_fetched_is_loaded(pythia, hub, standin, monkeypatch):
    load_model("pythia-14m@step512", hub=hub)
    standin.reset()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for place in ("pythia-14m@step512", "pythia-14m"):
        assert step_of(load_model(place, hub=hub)) == 512
    with pytest.raises(CheckpointError, match="unset HF_HUB_OFFLINE"):
        load_model("pythia-14m@step0", hub=hub)
    assert not standin.requests


def test_weights_are_known_by_their_files_wherever_they_are(pythia, hub):
    here = find_checkpoint(pythia / "step512").identity()
    assert here.startswith("sha256:")
    assert find_checkpoint("pythia-14m@step512", hub).identity() == here
    assert load_model("pythia-14m@step512", hub=hub).weights == here


def test_the_hub_of_the_environment(pythia, standin, monkeypatch):
    files = standin.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", standin.endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
    assert step_of(load_model("pythia-14m@step512")) == 512


@pytest.mark.parametrize(
    ("place", "told"),
    [
        (f"{PYTHIA}@step51", r"has no revision 'step51' among its 4 .*; the nearest are step5"),
        ("org/none", r"org/none: .* has no such repository"),
        ("org/none@main", r"org/none: .* has no such repository"),
        ("pythia-15m@step1", r"'pythia-15m' is no public series; did you mean"),
    ],
)
def test_what_is_not_on_the_hub_is_told_on_one_line(pythia, hub, place, told):
    with pytest.raises(CheckpointError, match=told) as error:
        load_model(place, hub=hub)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("missing", "told"),
    [
        ("tokenizer.json", r"org/model@main: has no tokenizer \(tokenizer"),
        ("model.safetensors", r"org/model@main: holds no weights; looked for"),
        ("config.json", r"org/model@main: has no config\.json"),
    ],
)
def test_files_that_are_missing_on_the_hub_are_named(
    folders, tmp_path, publish, hub, missing, told
):
    shutil.copytree(folders / "step0", tmp_path / "part")
    (tmp_path / "part" / missing).unlink()
    publish(tmp_path / "part")
    with pytest.raises(CheckpointError, match=told):
        load_model("org/model", hub=hub)


def test_a_hub_that_goes_away_while_it_is_fetched_from(pythia, hub, standin):
    standin.fail(503, r"GET .*resolve.*tokenizer\.json")
    with pytest.raises(CheckpointError, match=r"pythia-14m@[0-9a-f]{40}: ") as error:
        load_model(f"{PYTHIA}@step0", hub=hub)
    assert "\n" not in str(error.value)
