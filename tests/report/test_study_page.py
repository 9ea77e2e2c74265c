"""The page of a study says what the tables of its runs say."""

import re

import numpy as np
import pytest
from scipy import stats

from dynamics.config import TrainingSettings
from dynamics.report import study_page
from dynamics.report.study_page import write_page
from dynamics.runs.compare import arms_of
from dynamics.training.rates import unused_row_factor
from dynamics.verdicts.claims import CLAIMS
from dynamics.verdicts.judge import judge
from tests.tracking.arms import made_run, planted
from tests.tracking.synthetic import STEPS

INPUT = "input_embedding_norm"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("arms")
    return [
        made_run(folder, arm, seed, rows=planted(seed))
        if arm == "one"
        else made_run(folder, arm, seed, rows=planted(seed), training__optimizer="sgd")
        for arm, seeds in (("one", 5), ("two|<b>", 2))
        for seed in range(seeds)
    ]


@pytest.fixture
def page(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(study_page, "plot", lambda runs, folder, **settings: [])
    write_page(tmp_path / "page.md", runs, title="toys", command="dynamics study toys.yaml")
    return (tmp_path / "page.md").read_text()


def cells(page, heading, first):
    """The cells of the first row that begins with a name, below a heading."""
    below = page.partition(heading)[2]
    line = next(line for line in below.splitlines() if line.startswith(f"| {first} |"))
    return [cell.strip() for cell in line.strip("|").split(" | ")]


def test_a_cell_is_the_mean_over_seeds_with_its_interval(page, runs):
    rho = [run.trend(INPUT)["value"].iloc[-1] for run in runs[:5]]
    z = np.arctanh(rho)
    ends = stats.ttest_1samp(z, 0).confidence_interval()
    mean, low, high = np.tanh([z.mean(), *ends])
    found = cells(page, "**At the last step**", "one")[1]
    assert found == f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"


def test_twins_stand_beside_what_they_are_beyond_the_curve(page, runs):
    each = [run.trend(INPUT, statistic="twin_minus_curve")["value"].iloc[-1] for run in runs[:5]]
    ends = stats.ttest_1samp(each, 0).confidence_interval()
    found = cells(page, "## Does frequency itself move norms?", "one")[2]
    assert found == f"{np.mean(each):+.3f} [{ends.low:+.3f}, {ends.high:+.3f}]"


def test_every_question_is_asked_and_answered(page):
    assert "Not measured" not in page.replace(section(page, "information gain beyond"), "")
    headings = re.findall(r"^## (.*)$", page, re.MULTILINE)
    assert headings[:2] == ["What was run", "Against the pilots"]
    assert len(headings) == len(set(headings)) == 11


def section(page, heading):
    return next(part for part in page.split("\n## ") if heading in part.splitlines()[0])


def test_few_seeds_are_called_descriptive_and_names_are_text(page):
    assert "descriptive: two\\|&lt;b>." in page
    verdicts = section(page, "Against the pilots")
    assert re.search(r"\| two\\\|&lt;b> \| .* \| 2 \| \w+\* \|", verdicts)
    assert re.search(r"\| one \| .* \| 5 \| \w+ \|", verdicts)


def test_each_importance_has_its_reliability_beside_it(page, runs):
    row = next(
        line
        for line in section(page, "come to encode importance").splitlines()
        if line.startswith("| surprisal | one |")
    )
    reliability = [
        run.trend("surprisal", against="", statistic="reliability")["value"].iloc[-1]
        for run in runs[:5]
    ]
    assert f"| {np.mean(reliability):.2f} [" in row


def test_the_sign_of_output_norms_is_decided_by_both_centrings(runs, page):
    sentence = next(line for line in page.splitlines() if line.startswith("one: "))
    assert "both centrings" in sentence or "no sign" in sentence or "opposite" in sentence


def test_a_single_run_has_no_interval_and_decides_nothing(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(study_page, "plot", lambda runs, folder, **settings: [])
    write_page(tmp_path / "page.md", runs[:1], title="toys")
    page = (tmp_path / "page.md").read_text()
    assert re.fullmatch(r"[+-]\d\.\d{3}", cells(page, "**At the last step**", "one")[1])
    assert re.search(
        r"Of (\d+) claims 0 were confirmed in every arm .* \1 in none; .* at least one: 0\.", page
    )
    assert "With one seed there is no interval, so that nothing is decided." in page
    assert "one in twenty" not in page
    assert "one: no sign of output norms is decided." in page
    assert "Made by" not in page


def test_claims_are_counted_and_not_their_cells(page, runs):
    verdicts = list(judge(arms_of(runs)))
    by_claim = {}
    for each in verdicts:
        by_claim.setdefault(each.claim.name, []).append(each.verdict)
    every = sum(all(verdict == "confirmed" for verdict in of) for of in by_claim.values())
    some = sum("confirmed" in of for of in by_claim.values()) - every
    contradicted = sum("contradicted" in of for of in by_claim.values())
    n = len(by_claim)
    assert (
        f"{len(CLAIMS)} claims were stated before, from pilots of one training each; {n} can be "
        f"judged on these runs. Of {n} claims {every} were confirmed in every arm they are "
        f"about, {some} in some of them and {n - every - some} in none; contradicted in at "
        f"least one: {contradicted}."
    ) in page
    assert f"by chance one in twenty misses the true value, of {n} true claims about" in page
    assert "With one seed" not in page


def test_arms_of_the_same_numbers_are_judged_once(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(study_page, "plot", lambda runs, folder, **settings: [])
    write_page(tmp_path / "page.md", [runs[0], runs[5]], title="toys")
    page = (tmp_path / "page.md").read_text()
    first = next(line for line in page.splitlines() if "correlate with frequency before" in line)
    assert "| one, two\\|&lt;b> |" in first


def test_a_claim_of_two_centrings_shows_both(page):
    row = next(line for line in page.splitlines() if "frequency shortens centred output" in line)
    assert re.search(r"\| uniform -0\.\d+ \[.*\]; unigram -0\.\d+ \[.*\] \| 5 \| confirmed \|", row)
    slopes = section(page, "Does frequency itself move norms?")
    assert "one, two\\|&lt;b>: frequency shortens them under both centrings." in slopes


def test_onsets_of_importance_are_shown_and_told_where_there_are_none(page):
    importance = "## Do norms come to encode importance?"
    middle, before = STEPS[len(STEPS) // 2], STEPS[len(STEPS) // 2 - 1]
    row = cells(page, importance, "occlusion | one")
    assert row[7] == f"{middle} [{before}, {middle}]" and row[8] == "–"
    assert cells(page, importance, "surprisal | one")[7] == "0 of 5 seeds have one"


def test_the_page_says_how_weak_weight_decay_was(page, runs):
    training = TrainingSettings.model_validate(runs[0].info["series"]["training"]["training"])
    factor = unused_row_factor(training, STEPS[-1])
    assert f"of the norm of a row without a gradient: one {factor:.3f}. The nearer" in page


def test_figures_lie_beside_the_page_and_are_shown_in_it(runs, tmp_path):
    left_out = []
    figures = write_page(tmp_path / "page.md", runs[:1], title="toys", report=left_out.append)
    shown = re.findall(r"!\[.*\]\((page/\w+\.png)\)", (tmp_path / "page.md").read_text())
    assert {tmp_path / name for name in shown} == set(figures) == set((tmp_path / "page").iterdir())
    assert len(figures) == 8
    (line,) = left_out
    assert line.startswith("figure norm_against_importance is left out: no run has importances")
