"""What is public can be imported, is light to import, is explained and documented."""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import dynamics
from dynamics import errors
from dynamics.__main__ import main
from dynamics.cli.app import app
from dynamics.distribution import DISTRIBUTION, VERSION
from dynamics.errors import DynamicsError, did_you_mean

HEAVY = ("torch", "transformers", "pandas", "matplotlib", "numpy", "scipy", "pyarrow")
ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


@pytest.mark.parametrize("name", dynamics.__all__)
def test_what_is_public_can_be_had_and_explains_itself(name):
    thing = getattr(dynamics, name)
    assert thing.__name__ == name
    assert inspect.getdoc(thing)


def test_the_list_of_what_is_public_is_kept_once():
    assert sorted(dynamics.__all__) == dynamics.__all__ == sorted(dynamics._MODULES)


def test_dir_lists_exactly_what_is_public():
    assert dir(dynamics) == dynamics.__all__
    assert dynamics.__version__ == VERSION


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


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            "train demo training.stpes=5",
            "demo: unknown key 'training.stpes'; did you mean 'steps'?",
        ),
        (
            "study demo training.stpes=5",
            "demo: unknown key 'training.stpes'; did you mean 'steps'?",
        ),
        ("study tiny model.tide=1", "arm untied-adamw: unknown key 'model.tide'; did you mean 'ti"),
        ("study pythia stpes=5", "pythia: unknown key 'stpes'; did you mean 'steps'?"),
        ("track x contxts=5", "settings: unknown key 'contxts'; did you mean 'contexts'?"),
        (
            "track x --settings mine.yaml",
            "mine.yaml: unknown key 'name'; known are: agree",
        ),
        ("train mine.yaml", "mine.yaml: unknown key 'training.stpes'; did you mean 'steps'?"),
        ("study mine.yaml", "mine.yaml: unknown key 'training.stpes'; did you mean 'steps'?"),
        ("train mien.yaml", "cannot read the configuration mien.yaml: No such file"),
        ("train training.steps=5", "training.steps=5 is a setting, but no configuration precedes"),
        ("train tiny", "tiny is a study of several runs, not one training; `dynamics study tiny` "),
    ],
)
def test_a_slip_in_settings_is_refused_at_once(tmp_path, arguments, told):
    (tmp_path / "mine.yaml").write_text("name: x\ntraining: {steps: 5, stpes: 5}\n", "utf-8")
    program = (
        "import sys, dynamics.__main__ as program\n"
        f"try: program.main({arguments.split()!r})\n"
        "except SystemExit as end:\n"
        f"    print(end.code, [name for name in {HEAVY!r} if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [ROOT, *sys.path]))}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.stderr.startswith(f"dynamics: {told}")
    assert done.stderr.count("\n") == 1
    assert done.stdout == "2 []\n"


def test_the_version_is_printed_with_the_name(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"{DISTRIBUTION} {VERSION}\n"


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


@pytest.mark.parametrize("name", ["attribute", "count_corpus", "load_model"])
def test_a_misspelt_keyword_is_refused(name):
    arguments = {"attribute": (None, "the cat")}.get(name, ("nowhere",))
    with pytest.raises(TypeError, match="unexpected keyword argument 'bach_size'"):
        getattr(dynamics, name)(*arguments, bach_size=2)
