"""A series by whatever names it: the catalog, a repository, a folder."""

import pytest

from dynamics.checkpoints.catalog.public_series import find
from dynamics.checkpoints.opening import open_any, open_public_series
from dynamics.checkpoints.series_description import hub_facts
from dynamics.errors import CheckpointError
from tests.checkpoints.writers import assert_same, write_checkpoint
from tests.hub.test_remote_reading import CONFIG, like_pythia


@pytest.fixture
def pythia(tmp_path, publish):
    """A few steps of pythia-14m, far smaller, under the names that it has."""
    tensors = {}
    for step in (0, 1, 512, 143000):
        tensors[step] = like_pythia(64, 8, 1)
        folder = write_checkpoint(tmp_path / f"step{step}", tensors[step], "safetensors", CONFIG)
        publish(folder, f"step{step}", "EleutherAI/pythia-14m")
    publish(folder, "main", "EleutherAI/pythia-14m")
    return tensors


@pytest.mark.parametrize("name", ["pythia-14m", "EleutherAI/pythia-14m"])
def test_a_name_of_the_catalog_opens_its_repository(pythia, hub, name):
    series = open_any(name, hub)
    assert series.name == "EleutherAI/pythia-14m"
    assert series.steps == list(pythia)
    assert [each.tokens_seen for each in series] == [step * 2_097_152 for step in pythia]
    key = "gpt_neox.embed_in.weight"
    assert_same(series.checkpoints[2].tensor("input_embedding"), pythia[512][key])


def test_a_repository_for_each_checkpoint(tmp_path, publish, hub):
    for thousand in (20, 40, 2000):
        folder = write_checkpoint(tmp_path / str(thousand), like_pythia(64, 8, 1), "zip", CONFIG)
        publish(folder, repo=f"google/multiberts-seed_0-step_{thousand}k")
    publish(folder, repo="google/multiberts-seed_1-step_20k")
    series = open_any("multiberts-seed_0", hub)
    assert series.name == "multiberts-seed_0"
    assert series.steps == [20_000, 40_000, 2_000_000]
    assert series.checkpoints[0].has("input_embedding")


def test_names_that_are_no_steps_are_told(tmp_path, publish, hub):
    folder = write_checkpoint(tmp_path / "main", like_pythia(64, 8, 1), "safetensors", CONFIG)
    publish(folder, "other", "allenai/OLMo-2-0425-1B")
    with pytest.raises(CheckpointError, match="none of the 1 names in its repository is a step"):
        open_any("allenai/OLMo-2-0425-1B", hub)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("./gone", r"gone: does not exist; a folder"),
        ("pythia-161m", r"did you mean 'pythia-160m'\?"),
        ("neo_7b_intermediate", r"neo_7b_intermediate cannot be read: "),
    ],
)
def test_what_cannot_be_opened_is_told_on_one_line(hub, name, told):
    with pytest.raises(CheckpointError, match=told) as error:
        open_any(name, hub)
    assert "\n" not in str(error.value)


def test_hub_facts_are_those_of_the_files_and_read_no_weights(pythia, standin, hub):
    known = find("pythia-14m")
    series = open_public_series(known, hub)
    standin.reset()
    facts = hub_facts(series, known)
    assert facts["bytes_per_checkpoint"] == sum(
        pythia[512][key].nbytes for key in ("gpt_neox.embed_in.weight", "embed_out.weight")
    )
    assert (facts["checkpoints"], facts["rows"], facts["tied"]) == (4, 64, False)
    assert facts["missing"][:3] == [2, 4, 8]
    assert len(facts["missing"]) == 150
    assert facts["requests_to_index_one"] <= 4
