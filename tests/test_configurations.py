"""Configurations that come with the program, by name."""

import re
from pathlib import Path

import pytest

from dynamics.config import load
from dynamics.configurations import configuration_file, shipped_configurations
from dynamics.errors import ConfigError
from dynamics.study.settings import load_study

CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_each_file_of_configs_has_a_name():
    shipped = shipped_configurations()
    assert {path.resolve() for path in shipped.values()} == set(CONFIGS.rglob("*.yaml"))
    assert list(shipped) == sorted(path.stem for path in CONFIGS.rglob("*.yaml"))
    assert {"demo", "tiny-neox", "tiny", "pythia"} <= set(shipped)


@pytest.mark.parametrize("name", ["demo", "tiny-neox-tied"])
def test_a_training_is_read_by_its_name_with_overrides(name):
    assert load(name, ["training.steps=700"]) == load(
        CONFIGS / f"{name}.yaml", ["training.steps=700"]
    )


@pytest.mark.parametrize("name", ["tiny", "pythia", "demo"])
def test_a_study_is_read_by_its_name(name):
    (path,) = CONFIGS.rglob(f"{name}.yaml")
    assert load_study(name) == load_study(path)


def test_a_file_of_that_name_comes_first_and_a_folder_does_not(tmp_path):
    (tmp_path / "demo").write_text("name: mine\ntraining: {steps: 3}\n", "utf-8")
    assert load("demo").name == load_study("demo").name == "mine"
    (tmp_path / "tiny-neox").mkdir()
    assert load("tiny-neox").name == "tiny-neox"


@pytest.mark.parametrize("name", ["dmeo", "demo.yaml", "configs/demo.yaml", "studies/tiny"])
def test_a_slip_lists_the_names(name):
    told = f"cannot read the configuration {name}: No such file or directory, nor the name of one "
    for read in (load, load_study, configuration_file):
        with pytest.raises(ConfigError, match=f"^{re.escape(told)}") as raised:
            read(name)
        assert str(raised.value).endswith(f"({', '.join(shipped_configurations())})")


def test_a_setting_in_place_of_a_configuration_is_told():
    told = "^training.steps=5 is a setting, but no configuration precedes it; .*: demo, pyth"
    with pytest.raises(ConfigError, match=told):
        load("training.steps=5")


def test_a_message_on_a_shipped_configuration_begins_with_its_name():
    with pytest.raises(ConfigError, match=r"^demo: unknown key 'training.stpes'; did you mean"):
        load("demo", ["training.stpes=5"])
