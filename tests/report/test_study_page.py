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
from dynamics.verdicts.claims import read_claims
from dynamics.verdicts.judgement import judge_study
from tests.tracking.arms import made_run, planted
from tests.tracking.synthetic import STEPS

INPUT = "input_embedding_norm"
CLAIMS = """
stated: 2027-01-02
source: A guess.
rule: count>=10
seen_seeds: [1]
claims:
  - name: Before training there is nothing.
    expected: nothing
    quantity: {measure: input_embedding_norm, against: log_frequency, at: first}
    above: -0.5
    below: 0.5
  - name: Twins shorten centred output rows, under both centrings.
    expected: "-.1"
    quantity:
      measure: output_embedding_norm_centered
      against: log_frequency
      statistic: twin_log_slope
    above: -0.3
    below: 0
    centrings: true
  - name: Occlusion goes with the norm.
    expected: "+.3"
    quantity: {measure: input_embedding_norm, against: occlusion, statistic: partial_spearman}
    above: 0.1
    below: 0.9
  - name: Nothing has this.
    expected: "0"
    quantity: {measure: norm, against: nothing}
    above: -0.5
    below: 0.5
"""


@pytest.fixture(scope="module")
def claims(tmp_path_factory):
    path = tmp_path_factory.mktemp("claims") / "own.yaml"
    path.write_text(CLAIMS)
    return read_claims(path)


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
def write(claims, tmp_path, monkeypatch):
    """Writes the page of some runs, judged by the claims of these tests, and returns it."""
    monkeypatch.setattr(study_page, "plot", lambda runs, folder, **settings: [])

    def write(runs, command="", **settings):
        judgement = judge_study(arms_of(runs), claims, **settings)
        write_page(tmp_path / "page.md", runs, title="toys", command=command, judgement=judgement)
        return (tmp_path / "page.md").read_text()

    return write


@pytest.fixture
def page(runs, write):
    return write(runs, "dynamics study toys.yaml")


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
    assert headings[:2] == ["What was run", "Claims stated before the runs"]
    assert len(headings) == len(set(headings)) == 11


def section(page, heading):
    return next(part for part in page.split("\n## ") if heading in part.splitlines()[0])


def test_few_seeds_are_called_descriptive_and_names_are_text(page):
    assert "descriptive: two\\|&lt;b>." in page
    verdicts = section(page, "Claims stated before the runs")
    assert re.search(r"\| two\\\|&lt;b> \| .* \| 2 \| descriptive† \|", verdicts)
    assert re.search(r"\| one \| .* \| 5 \| confirmed† \|", verdicts)
    assert "With fewer than 5 seeds numbers are descriptive and get no verdict." in verdicts


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


def test_a_single_run_has_no_interval_and_decides_nothing(runs, write):
    page = write(runs[:1])
    assert re.fullmatch(r"[+-]\d\.\d{3}", cells(page, "**At the last step**", "one")[1])
    assert "0 of them get a verdict on these runs. Of 0 claims 0 were confirmed" in page
    assert "| 1 | descriptive |" in page
    assert "False confirmations" not in page and "†" not in page  # seed 0 had not been seen
    assert "one: no sign of output norms is decided." in page
    assert "Made by" not in page


def test_claims_are_counted_with_their_file_its_date_and_its_digest(page, runs, claims):
    verdicts = judge_study(arms_of(runs), claims).verdicts
    decided = [found for found in verdicts if found.verdict != "descriptive"]
    assert [found.verdict for found in decided] == ["confirmed"] * 3  # the arm of five seeds
    assert len(verdicts) == 6
    assert (
        f"4 claims were stated on 2027-01-02 in own.yaml (SHA-256 {claims.sha256}). A guess. 3 of "
        "them get a verdict on these runs. Of 3 claims 3 were confirmed in every arm they are "
        "about, 0 in some of them and 0 in none; contradicted in at least one: 0."
    ) in page
    assert "no arm has the settings and the quantity: (1) Nothing has this." in page


def test_seeds_that_had_been_seen_are_no_test(page, runs, write):
    assert "Runs of the seeds 1 had been looked at when the claims were stated" in page
    unseen = write([runs[0], *runs[2:5]])
    assert "†" not in unseen


def test_changed_claims_stand_on_the_page_in_one_line(runs, write, claims, tmp_path):
    path = tmp_path / "earlier.yaml"
    path.write_text(CLAIMS.replace("above: 0.1", "above: 0.2"))
    earlier = judge_study(arms_of(runs), read_claims(path))
    line = next(
        line
        for line in write(runs, previous=earlier.record).splitlines()
        if line.startswith("The claims have changed since these runs were first judged: ")
    )
    assert earlier.file.sha256 in line.partition("; now")[0]
    assert claims.sha256 in line.partition("; now")[2]


def test_the_rate_of_false_confirmations_is_simulated_for_these_verdicts(page):
    (line,) = (line for line in page.splitlines() if line.startswith("False confirmations"))
    assert "simulated for the 3 verdicts" in line
    rate, independent, correlated = re.search(
        r"confirm it in (\d\.\d)% of .* in (\d+)% of .* independent, in (\d+)% where", line
    ).groups()
    assert float(rate) == pytest.approx(2.5, abs=0.3)
    assert float(independent) == pytest.approx(100 * (1 - 0.975**3), abs=1)
    assert float(correlated) <= float(independent)


def test_arms_that_count_once_are_named_with_the_reason(runs, tmp_path, write):
    alike = [
        made_run(tmp_path, "no-decay", seed, rows=planted(seed), training__weight_decay=0.0)
        for seed in range(5)
    ]
    page = write([*runs[:5], *alike])
    verdicts = section(page, "Claims stated before the runs")
    assert "Counted once with one, whose numbers stand for both: no-decay (the same seeds" in page
    assert "at most 0.000 of the width of its claimed range; the limit is 0.1" in page
    assert "| one, no-decay |" in verdicts and "\n| one |" not in verdicts
    declared = write([*runs[:5], *alike], counts_with={"no-decay": "one"})
    assert "stand for both: no-decay (declared by the study)." in declared


def test_arms_of_the_same_numbers_are_judged_once(runs, write):
    page = write([runs[0], runs[5]])
    first = next(line for line in page.splitlines() if "Before training" in line)
    assert "| one, two\\|&lt;b> |" in first


def test_a_claim_of_two_centrings_shows_both(page):
    row = next(line for line in page.splitlines() if "shorten centred output" in line)
    numbers = r"\| uniform -0\.\d+ \[.*\]; unigram -0\.\d+ \[.*\] \| 5 \| confirmed† \|"
    assert re.search(numbers, row)
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
    page = (tmp_path / "page.md").read_text()
    shown = re.findall(r"!\[.*\]\((page/\w+\.png)\)", page)
    pictures = set((tmp_path / "page").glob("*.png"))
    assert {tmp_path / name for name in shown} == set(figures) == pictures
    assert len(figures) == 9
    for figure in figures:
        caption = figure.with_suffix(".txt").read_text().strip()
        assert f"(page/{figure.name})\n\n{caption}" in page
    assert len([*(tmp_path / "page").iterdir()]) == 2 * len(figures)
    assert [line.split(":")[0] for line in left_out] == [
        "figure norm_against_importance is left out",
        "figure covariates is left out",
        "figure paths is left out",
        "figure headline shows frequency alone",
    ]
