"""The name under which a package index lists this program is the same wherever it is written."""

import importlib.metadata
import re
import tomllib
from pathlib import Path

import yaml

from dynamics.distribution import DISTRIBUTION, VERSION, install_command, versions

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
PAGES = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "dynamics").rglob("*.py")]


def test_the_name_is_that_of_the_project():
    assert PROJECT["name"] == DISTRIBUTION
    assert re.fullmatch(r"\d+\.\d+\.\d+", VERSION)
    assert PROJECT["scripts"] == {"dynamics": "dynamics.__main__:main"}


def test_the_citation_is_of_this_version_and_licence():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert (citation["version"], citation["license"]) == (VERSION, PROJECT["license"])
    (paper,) = citation["references"]
    assert paper["identifiers"][0]["value"] == "arXiv:2411.16252"
    assert [author["family-names"] for author in paper["authors"]] == [
        *("Abbasi", "Modarres", "Pilehvar")
    ]


def test_every_hint_to_install_an_extra_names_the_distribution_and_an_extra_there_is():
    extras, named = PROJECT["optional-dependencies"], set()
    for page in PAGES:
        text = page.read_text("utf-8")
        for name, extra in re.findall(r"([\w-]*dynamics)\[(\w+)\]", text):
            assert (name, extra in extras) == (DISTRIBUTION, True), page
        for extra in re.findall(r"install_command\(['\"](\w+)['\"]\)", text):
            assert extra in extras, page
            named.add(extra)
    assert named == set(extras) - {"dev"}, "an extra that no code asks for goes"
    assert install_command("cluster") == f"pip install '{DISTRIBUTION}[cluster]'"


def test_versions_are_recorded_under_the_name_of_the_import():
    numpy = importlib.metadata.version("numpy")
    assert versions("numpy") == {"dynamics": VERSION, "numpy": numpy}
