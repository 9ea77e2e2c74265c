"""What is public can be imported, is light to import, is explained and documented."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import dynamics
from dynamics import errors
from dynamics.cli.app import app
from dynamics.errors import DynamicsError, did_you_mean

HEAVY = ("torch", "transformers", "pandas", "matplotlib", "numpy", "scipy", "pyarrow")
DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize("name", dynamics.__all__)
def test_what_is_public_can_be_had_and_explains_itself(name):
    thing = getattr(dynamics, name)
    assert thing.__name__ == name
    assert inspect.getdoc(thing)


def test_the_list_of_what_is_public_is_kept_once():
    assert sorted(dynamics.__all__) == dynamics.__all__ == sorted(dynamics._MODULES)


def test_what_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'dynamics' has no attribute 'tracks'"):
        _ = dynamics.tracks


@pytest.mark.parametrize(
    "program",
    [
        "import dynamics",
        "import dynamics.__main__ as m\ntry: m.main(['--help'])\nexcept SystemExit: pass",
        "import dynamics.__main__ as m\ntry: m.main(['track', '--help'])\nexcept SystemExit: pass",
    ],
    ids=["import", "help", "help of a command"],
)
def test_nothing_heavy_is_imported_before_it_is_used(program):
    checked = f"{program}\nimport sys\nprint('HEAVY', [n for n in {HEAVY!r} if n in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", checked], capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines()[-1] == "HEAVY []"


def command_names():
    commands = [command.name or command.callback.__name__ for command in app.registered_commands]
    return [*commands, *(group.name for group in app.registered_groups)]


@pytest.mark.parametrize("name", command_names())
def test_every_command_is_documented(name):
    page = DOCS / "commands" / f"{name}.md"
    assert page.is_file(), f"write {page}"
    assert f"dynamics {name}" in page.read_text("utf-8")


@pytest.mark.parametrize("page", sorted(DOCS.glob("commands/*.md")), ids=lambda page: page.stem)
def test_every_page_of_a_command_is_of_one_there_is(page):
    assert page.stem in {*command_names(), "README", "index"}


def test_every_error_is_one_of_ours_and_in_the_tree_on_top():
    kinds = [
        kind
        for kind in vars(errors).values()
        if inspect.isclass(kind) and issubclass(kind, Exception)
    ]
    assert len(kinds) > 5
    for kind in kinds:
        assert issubclass(kind, DynamicsError)
        assert re.search(rf"\b{kind.__name__}\b", errors.__doc__)


@pytest.mark.parametrize(
    ("name", "known", "said"),
    [
        ("stepz", ["steps", "seed"], "did you mean 'steps'?"),
        ("qqq", ["steps", "seed"], "known are: seed, steps"),
        ("", ["b", "a"], "known are: a, b"),
        ("a", (name for name in "ab"), "did you mean 'a'?"),
    ],
)
def test_a_slip_is_answered_with_the_nearest_name_or_all_of_them(name, known, said):
    assert did_you_mean(name, known) == said
