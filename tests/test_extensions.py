"""An extension is a function and a record: it is then counted, measured, drawn and shown by itself.

Extensions of measures have a test of their own, `tests/runs/test_measures.py`.
"""

import subprocess
import sys

import pytest
from matplotlib.figure import Figure

from dynamics.attribution.methods import METHODS
from dynamics.importance.importances import IMPORTANCES
from dynamics.report.figures import FIGURES
from dynamics.report.study_page import write_page
from tests.tracking.arms import made_run, planted

METHOD = """
from dynamics.attribution.gradients import gradient_norm
from dynamics.attribution.methods import METHODS, Method

METHODS["twice"] = Method(gradient_norm, "everything", needs="{needs}")

import dynamics
from dynamics.importance.importances import forwards_per_context
from tests.models import tiny

(found,) = dynamics.attribute(tiny.live("gpt2"), "the cat sat", method="twice")
names = ["occlusion", "attribution_twice"]
print(found.method, forwards_per_context(names, 8) - forwards_per_context(names[:1], 8))
"""


@pytest.mark.parametrize(("needs", "passes"), [("prediction", 2), ("head", 1)])
def test_a_method_is_an_importance_whose_passes_are_counted(needs, passes):
    """The passes that `dynamics track --dry-run` states; of its own where it needs predictions."""
    printed = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", METHOD.format(needs=needs)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert printed.split() == ["twice", str(passes)]


def test_every_method_is_an_importance():
    assert {name.removeprefix("attribution_") for name in IMPORTANCES} >= {*METHODS}


def test_a_figure_stands_on_the_page_of_a_study(tmp_path, monkeypatch):
    drawn = []

    def one_axis(runs):
        drawn.append(len(runs))
        figure = Figure()
        figure.subplots()
        return figure

    monkeypatch.setitem(FIGURES, "one_axis", one_axis)
    runs = [made_run(tmp_path, "one", seed, rows=planted(seed)) for seed in range(2)]
    figures = write_page(tmp_path / "page.md", runs, title="toys")
    page = (tmp_path / "page.md").read_text()
    assert drawn == [1], "the page gives its arms: two seeds are one"
    assert tmp_path / "page" / "one_axis.png" in figures
    assert page.rstrip().endswith("![one_axis](page/one_axis.png)")
    for figure in figures:
        assert page.count(f"](page/{figure.name})") == 1
