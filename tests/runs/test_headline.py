"""The headline says what findings say, and claims nothing that is undecided."""

import re

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from dynamics.runs.arms import Arm
from dynamics.runs.compare import KEYS
from dynamics.runs.findings import findings
from dynamics.runs.headline import (
    HEADLINE_NORMS,
    HISTORY,
    headline,
    headline_importance,
    otherwise_under_rules,
)
from dynamics.runs.importance_selection import GIVEN
from dynamics.runs.run import Run
from tests.tracking.arms import trend_row, with_null
from tests.tracking.synthetic import STEPS, grow, make_counts, tracked

INPUT = "input_embedding_norm"
LATE = (30, 60, 90)
NULL = 0.1
FOUND = NULL + norm.ppf(0.8) * 0.05 / norm.ppf(0.975)
"""What rows with an interval of plus and minus .05 would show with probability .8."""


def rows(
    frequency,
    partial=None,
    history=None,
    *,
    steps=STEPS,
    importance="occlusion",
    measures=(INPUT,),
):
    """Correlations of norms with frequency at each step, and with importance at the last."""
    for measure in measures:
        for step, value in zip(steps, frequency, strict=True):
            yield with_null(trend_row(step, measure, "log_frequency", "spearman", value), NULL)
        last = (steps[-1], measure, importance)
        if partial is not None:
            yield trend_row(steps[-1], "log_frequency", importance, "spearman", 0.4)
            yield with_null(trend_row(*last, "spearman", partial), NULL)
            row = trend_row(*last, "partial_spearman", partial, given=GIVEN)
            yield with_null(row, NULL)
        if history is not None:
            row = trend_row(*last, "partial_spearman", history, given=f"{GIVEN}{HISTORY}")
            yield with_null(row, NULL)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of runs by their steps; what is planted replaces their trends."""
    folder = tmp_path_factory.mktemp("run")
    return {
        steps: tracked(folder / str(steps[0]), series=grow(make_counts(), steps=steps)).path
        for steps in (STEPS, LATE)
    }


@pytest.fixture
def planted(folders):
    """A function of rows that gives a run with these among its trends."""

    def with_rows(planted_rows, steps=STEPS):
        run = Run(folders[steps])
        table = pd.concat([run.trends, pd.DataFrame(list(planted_rows))], ignore_index=True)
        run.__dict__["trends"] = table.drop_duplicates(KEYS, keep="last")
        return run

    return with_rows


def arm_of(*runs):
    return Arm("arm", runs, tuple(map(str, range(len(runs)))), "")


def headline_of(*runs, embedding="input"):
    arm = arm_of(*runs)
    return headline(arm, HEADLINE_NORMS[embedding], headline_importance([arm]))


@pytest.mark.parametrize(
    ("values", "steps", "title", "finding"),
    [
        ((0, 0.02, 0.5, 0.6), STEPS, "follow frequency from step 8", "from step 8 on, not yet at "),
        ((0, -0.4, -0.5, -0.6), STEPS, "run against frequency from step 2", "from step 2 on, not"),
        ((0.5, 0.5, 0.05, 0.6), STEPS, "follow frequency from step 32", "from step 32 on, not yet"),
        ((0.5, 0.5, 0.5, 0.6), STEPS, "follow frequency from step 0", "the first of which is 0"),
        ((0.5, 0.6, 0.7), LATE, "follow frequency at or before step 30", "at or before st"),
        ((0.0, 0.6, 0.7), LATE, "follow frequency from step 60", "from step 60 on, not yet at ste"),
        ((0, 0.5, 0.5, 0.05), STEPS, "do not show frequency by step 32 (100 tokens, power .8 at "
         "rho ±.12)", "not by the end"),
    ],
    ids=["follows", "against", "late", "from 0", "at or before", "begins late", "does not"],
)  # fmt: skip
def test_the_title_dates_frequency_as_findings_do(planted, values, steps, title, finding):
    run = planted(rows(values, steps=steps), steps)
    assert headline_of(run) == f"Input norms {title}; importance was not measured."
    (order,) = [text for text in findings(run) if text.startswith("Frequency shows")]
    (said,) = re.findall(r"input embedding norms ([^(;]*)", order)
    assert finding in said


@pytest.mark.parametrize(
    ("partial", "history", "title", "finding"),
    [
        (0.3, None, "they follow importance (occlusion), rho +.30", "beyond its null band of ±0.1"),
        (0.3, 0.2, "they follow importance (occlusion), rho +.30 (given initial norm and distance "
         "too, +.20)", "and given both +0.200"),
        (0.3, 0.05, "they follow importance (occlusion), rho +.30 (given initial norm and distance "
         "undecided, +.05)", "and given both +0.050"),
        (0.3, -0.2, "they follow importance (occlusion), rho +.30 (given initial norm and distance "
         "the other way, -.20)", "and given both -0.200"),
        (-0.3, -0.2, "they run against importance (occlusion), rho -.30 (given initial norm and "
         "distance too, -.20)", "beyond its null band of ±0.100"),
        (0.05, 0.2, "importance (occlusion) is undecided: 100 tokens, power .8 at rho ±.12",
         "undecided (100 tokens show a rho of ±0.12 with probability 0.8)"),
        (-0.05, None, "importance (occlusion) is undecided: 100 tokens, power .8 at rho ±.12",
         "undecided (100 tokens show a rho of ±0.12 with probability 0.8)"),
    ],
)  # fmt: skip
def test_the_title_claims_of_importance_what_findings_do(planted, partial, history, title, finding):
    assert f"{FOUND:.2f}" == "0.12"
    of_distance = (STEPS[-1], "input_embedding_distance_from_first", "occlusion")
    distance = trend_row(*of_distance, "partial_spearman", 0.4, given=GIVEN)
    run = planted([*rows((0, 0, 0.5, 0.6), partial, history), distance])
    text = headline_of(run)
    assert text == f"Input norms follow frequency from step 8; given frequency, {title}."
    (about,) = [text for text in findings(run) if text.startswith("Occlusion at step")]
    assert finding in about
    decided = abs(partial) > NULL
    assert ("undecided (" in about) == (not decided)
    assert ("is undecided" in text) == (not decided)


def test_a_correlation_without_a_null_band_is_undecided(planted):
    run = planted(rows((0, 0, 0.5, 0.6), 0.9))
    table = run.trends
    table.loc[table["given"] == GIVEN, ["null_low", "null_high"]] = np.nan
    assert headline_of(run).endswith("importance (occlusion) is undecided: 100 tokens.")


def test_seeds_are_counted_and_the_latest_start_and_least_power_are_given(planted):
    alike = [planted(rows(values, 0.0)) for values in [(0, 0.4, 0.5, 0.6), (0, 0, 0, 0.6)]]
    assert headline_of(*alike) == (
        "Input norms follow frequency from step 32 at the latest in each of 2 seeds; given "
        "frequency, importance (occlusion) is undecided in each of 2 seeds: 100 tokens, power .8 "
        "at rho ±.12."
    )
    differing = [
        planted(rows((0, 0, 0, value), partial, 0.0))
        for value, partial in [(0.4, 0.3), (0.0, 0.3), (-0.4, 0.0)]
    ]
    assert headline_of(*differing) == (
        "Input norms follow frequency in 1 of 3 seeds, run against frequency in 1 of 3 seeds, do "
        "not show it in 1 of 3 seeds; given frequency, they follow importance (occlusion) in 2 of "
        "3 seeds, are undecided in 1 of 3 seeds."
    )
    explained = [planted(rows((0, 0, 0, 0.5), 0.3, history)) for history in [0.2, 0.0]]
    assert headline_of(*explained).endswith(
        "they follow importance (occlusion) in each of 2 seeds (given initial norm and distance in "
        "1 of 2)."
    )


@pytest.mark.parametrize(
    ("uniform", "unigram", "verdict"),
    [
        (0.5, 0.5, "Under both centrings frequent tokens have the longer output rows."),
        (-0.5, -0.5, "Under both centrings rare tokens have the longer output rows."),
        (0.5, -0.5, "The two centrings of the output embedding disagree, so its sign is not decid"
         "ed."),
        (0.5, 0.0, "A sign for the output embedding is not decided."),
    ],
)  # fmt: skip
def test_output_norms_are_of_both_centrings_and_their_sign_is_that_of_findings(
    planted, uniform, unigram, verdict
):
    both = [
        row
        for measure, value in zip(HEADLINE_NORMS["output"], (uniform, unigram), strict=True)
        for row in rows((0, 0, value, value), measures=[measure])
    ]
    run = planted(both)
    text = headline_of(run, embedding="output")
    assert "Output norms (uniform mean removed) follow" in text or uniform < 0
    assert "Output norms (unigram mean removed) " in text
    assert text.endswith(verdict)
    assert any(verdict[1:].rstrip(".") in finding for finding in findings(run))


def test_few_tokens_carry_no_headline(tmp_path):
    run = tracked(tmp_path, rule="top-30")
    text = headline(arm_of(run), (INPUT,), None)
    assert text == f"Too few tokens for a statement: {run.kept.sum()}, where 50 are needed."


def test_norm_matched_occlusion_comes_first_and_what_has_no_control_never(planted):
    def named(*names):
        run = planted(row for name in names for row in rows((0, 0, 0, 1), 0.3, importance=name))
        return headline_importance([arm_of(run)])

    assert named("surprisal", "occlusion", "occlusion_norm_matched") == "occlusion_norm_matched"
    assert named("surprisal", "occlusion") == "occlusion"
    assert named("surprisal", "attribution_gradient_norm") == "surprisal"
    raw = [trend_row(32, INPUT, "entropy_right", "spearman", 0.5)]
    assert headline_importance([arm_of(planted(raw))]) is None


def test_rules_that_date_frequency_otherwise_are_named_in_the_words_of_findings(planted):
    run = planted(rows((0, 0, 0, 0.0)))
    text = otherwise_under_rules(arm_of(run), (INPUT,))
    (order,) = [text for text in findings(run) if text.startswith("Frequency shows")]
    (said,) = re.findall(r"input embedding norms not by the end \(([^)]*)\)", order)
    assert text == f"arm, frequency beyond the null band under other rules: Input norms {said}."
    assert otherwise_under_rules(arm_of(run, run), (INPUT,)) == ""
