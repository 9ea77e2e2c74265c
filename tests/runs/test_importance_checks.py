"""Rows that qualify correlations with importance, against direct computation."""

import numpy as np
import pandas as pd
import pytest

from dynamics.runs.findings import findings
from dynamics.runs.importance_checks import importance_check_rows
from dynamics.runs.importance_trends import COVARIATES, GIVEN, importance_rows
from dynamics.runs.run import rows_where
from dynamics.runs.tracked_importance import Importance, read_importances
from dynamics.statistics.controlled import partial_spearman
from dynamics.statistics.correlation import spearman
from dynamics.statistics.vocabulary import VocabularyRule
from tests.tracking.measured import GAUGES, LIVE, make_importance, make_input
from tests.tracking.synthetic import make_counts, tracked

RULE = VocabularyRule(10)


@pytest.fixture(scope="module")
def measured():
    return make_input(np.random.default_rng(7), size=900)


@pytest.fixture(scope="module")
def importances(measured):
    rng = np.random.default_rng(9)
    last = measured.measures["input_embedding_norm"][-1]
    halves = [(last + rng.standard_normal(len(last)))[np.newaxis] for _ in range(2)]
    halves[0][0, ::7] = np.nan
    gain = np.nanmean(halves, axis=0)
    return {
        "information_gain_right": Importance(None, gain, (halves[0], halves[1])),
        "information_gain_right_all": Importance(None, gain, beyond_frequency=False),
        "occlusion": make_importance(rng, last, unknown=range(5, 40)),
    }


@pytest.fixture(scope="module")
def rows(measured, importances):
    return pd.DataFrame(importance_check_rows(measured, importances, RULE))


def covariates(measured, known):
    columns = {"log_frequency": "count", "merge_rank": "token_id"}
    return [measured.tokens[columns.get(name, name)].to_numpy()[known] for name in COVARIATES]


def test_every_correlation_under_another_rule_is_that_of_its_tokens(rows, measured, importances):
    swept = rows[rows["rule"] != str(RULE)]
    assert {"count>=100", "count>=1000", "count>=1"} <= set(swept["rule"])
    assert set(swept["step"]) == {512} == set(LIVE[-1:])
    for row in swept.itertuples():
        importance = importances[row.against]
        rule = VocabularyRule(top=int(row.rule[4:])) if row.rule.startswith("top") else None
        rule = rule or VocabularyRule(int(row.rule.removeprefix("count>=")))
        known = rule.mask(measured.tokens["count"].to_numpy(), measured.tokens["kind"].to_numpy())
        known &= np.isfinite(importance.values).all(axis=0)
        x = measured.tokens["count"] if row.measure == "log_frequency" else None
        x = measured.measures[row.measure][-1] if x is None else x.to_numpy()
        y = importance.values[-1]
        expected = (
            spearman(x[known], y[known])
            if row.statistic == "spearman"
            else partial_spearman(x[known], y[known], covariates(measured, known))
        )
        assert (row.value, row.n) == (pytest.approx(expected.statistic), known.sum())
        interval = expected.confidence_interval()
        assert (row.low, row.high) == (pytest.approx(interval.low), pytest.approx(interval.high))


def test_what_is_in_the_sweep(rows):
    swept = rows[rows["rule"] == "count>=1000"]
    for name, group in swept.groupby("against"):
        partial = set(group[group["statistic"] == "partial_spearman"]["measure"])
        assert partial == (set() if name == "information_gain_right_all" else set(GAUGES))
        assert set(group[group["statistic"] == "spearman"]["measure"]) == {"log_frequency", *GAUGES}


def test_partial_reliability_is_that_of_what_the_covariates_leave(rows, measured, importances):
    kept = RULE.mask(measured.tokens["count"].to_numpy(), measured.tokens["kind"].to_numpy())
    for name in ("information_gain_right", "occlusion"):
        found = rows_where(rows, measure=name, statistic="partial_reliability", given=GIVEN)
        halves = importances[name].halves
        known = kept & np.isfinite(halves).all(axis=(0, 1))
        at = -1
        first, second = (half[at][known] for half in halves)
        r = partial_spearman(first, second, covariates(measured, known)).statistic
        last = found[found["step"] == 512].iloc[0]
        assert (last["value"], last["n"]) == (pytest.approx(2 * r / (1 + r)), known.sum())
    assert rows_where(rows, measure="information_gain_right_all").empty


def test_the_reliability_of_an_importance_of_the_corpus_is_that_of_its_halves(
    measured, importances
):
    rows = pd.DataFrame(importance_rows(measured, importances, RULE))
    found = rows_where(rows, measure="information_gain_right", statistic="reliability")
    assert found["value"].nunique() == 1 and len(found) == len(measured.steps)
    kept = RULE.mask(measured.tokens["count"].to_numpy(), measured.tokens["kind"].to_numpy())
    halves = importances["information_gain_right"].halves
    known = kept & np.isfinite(halves).all(axis=(0, 1))
    r = spearman(*(half[0][known] for half in halves)).statistic
    assert found["value"].iloc[0] == pytest.approx(2 * r / (1 + r))
    raw, corrected = (
        rows_where(
            rows,
            measure="input_embedding_norm",
            against="information_gain_right",
            statistic=statistic,
        )["value"].to_numpy()
        for statistic in ("spearman", "spearman_disattenuated")
    )
    np.testing.assert_allclose(corrected, raw / np.sqrt(2 * r / (1 + r)))


def test_findings_say_by_how_much_error_attenuates_the_gain(tmp_path):
    counts, rng = make_counts(), np.random.default_rng(1)
    gain = rng.standard_normal(300)
    for half in (1, 2):
        counts.table[f"information_gain_right_half_{half}"] = gain + rng.standard_normal(300)
    counts.table["information_gain_right"] = gain
    run = tracked(tmp_path, counts=counts)
    (importance,) = read_importances(run.path, [], run.tokens).values()
    assert importance.halves is not None
    reliability = run.trend("information_gain_right", against="", statistic="reliability")["value"]
    partial = run.trend(
        "information_gain_right", against="", statistic="partial_reliability", given=GIVEN
    )["value"]
    (told,) = [text for text in findings(run) if text.startswith("Information gain right at")]
    assert (
        f"Its error attenuates rho to about {np.sqrt(reliability.iloc[-1]):.2f} of what it would "
        f"be, given frequency and spelling to about {np.sqrt(partial.iloc[-1]):.2f}."
    ) in told
