"""Trends of norm against importance: each number against a slow one, each rule of what enters."""

import weakref

import numpy as np
import pandas as pd
import pytest

from dynamics.runs import importance_trends as module
from dynamics.runs.importance_trends import COVARIATES, importance_rows
from dynamics.runs.tracked_importance import CORPUS, Importance
from dynamics.runs.trends import TREND_COLUMNS
from dynamics.statistics.vocabulary import VocabularyRule
from tests.tracking import independent
from tests.tracking.measured import GAUGES, LIVE, STEPS, make_importance, make_input

RULE = VocabularyRule(10)
GIVEN = "log_frequency+characters+word_start+ascii_alphabetic+merge_rank"


@pytest.fixture(scope="module")
def measured():
    return make_input(np.random.default_rng(7))


@pytest.fixture(scope="module")
def importances(measured):
    """What the last input norm follows; something at random; what the corpus tells."""
    rng = np.random.default_rng(9)
    last = measured.measures["input_embedding_norm"][-1]
    gain = np.log(measured.tokens["count"].to_numpy()) + rng.standard_normal(len(last))
    gain[::9] = np.nan
    return {
        "information_gain_right": Importance(None, gain[np.newaxis]),
        "information_gain_right_all": Importance(None, gain[np.newaxis], beyond_frequency=False),
        "occlusion": make_importance(rng, last, unknown=range(5, 40)),
        "surprisal": make_importance(rng, np.zeros(len(last)), error=1),
    }


@pytest.fixture(scope="module")
def rows(measured, importances):
    return pd.DataFrame(importance_rows(measured, importances, RULE))


def trend(rows, statistic, measure="input_embedding_norm", against="occlusion"):
    found = rows[
        (rows["statistic"] == statistic)
        & (rows["measure"] == measure)
        & (rows["against"] == against)
    ]
    return found.set_index("step")


def direct(row, measured, importances, step):
    """One number of the trends from the arrays, with scipy and the formulas."""
    importance = importances[row.against or row.measure]
    tokens = measured.tokens
    known = np.isfinite(importance.values).all(axis=0) & (tokens["count"].to_numpy() >= 10)
    at = 0 if importance.steps is None else importance.steps.index(step)
    frequency = tokens["count"].to_numpy()[known]
    y = importance.values[at, known]
    if row.measure in measured.measures:
        x = measured.measures[row.measure][STEPS.index(step), known]
    else:
        x = frequency
    if row.statistic in ("reliability", "spearman_disattenuated"):
        r = independent.spearman(*(half[at, known] for half in importance.halves))
        reliability = max(2 * r / (1 + r), 0)
        if row.statistic == "reliability":
            return reliability
        return independent.spearman(x, y) / np.sqrt(reliability) if reliability else np.nan
    if row.statistic == "spearman":
        return independent.spearman(x, y)
    if row.statistic == "partial_spearman":
        others = ["characters", "word_start", "ascii_alphabetic", "token_id"]
        controls = [frequency, *(tokens[name].to_numpy()[known] for name in others)]
        controls += history(row, measured, step, known)
        return independent.partial_spearman(x, y, controls)
    assert row.statistic == "within_bin_spearman"
    return independent.within_bin_spearman(x, y, frequency)


def history(row, measured, step, known):
    """What a row has gone through, as far as a partial correlation holds it fixed."""
    role = row.measure.split("_embedding")[0] + "_embedding"
    at = {"initial_norm": STEPS[0]}
    named = {
        "initial_norm": row.measure,
        "distance": {
            f"{role}_norm": f"{role}_distance_from_first",
            f"{role}_norm_centered": f"{role}_distance_from_first_centered",
        }.get(row.measure),
        "norm": f"{role}_norm",
        "norm_centered": f"{role}_norm_centered",
    }
    names = row.given.removeprefix(GIVEN).split("+")[1:]
    return [
        measured.measures[named[name]][STEPS.index(at.get(name, step)), known] for name in names
    ]


def test_one_selection_of_steps_and_tokens_is_held_at_a_time(
    rows, measured, importances, monkeypatch
):
    made, held = weakref.WeakSet(), []

    class Watched(module._Selection):
        def __init__(self, *about):
            held.append(len(made))
            made.add(self)
            super().__init__(*about)

    monkeypatch.setattr(module, "_Selection", Watched)
    names = ["occlusion", "information_gain_right", "surprisal", "information_gain_right_all"]
    shuffled = {name: importances[name] for name in names}
    again = pd.DataFrame(importance_rows(measured, shuffled, RULE))
    assert held == [0, 0, 0], "tokens of both information gains are the same"
    key = ["measure", "against", "statistic", "given", "step"]
    pd.testing.assert_frame_equal(
        again.sort_values(key, ignore_index=True), rows.sort_values(key, ignore_index=True)
    )


def test_every_statistic_is_what_a_direct_computation_gives(rows, measured, importances):
    compared = 0
    for row in rows.itertuples(index=False):
        steps = importances[row.against or row.measure].steps or STEPS
        if row.statistic.endswith("_onset"):
            continue
        expected = direct(
            row._replace(statistic=row.statistic.removesuffix("_minus_first")),
            measured,
            importances,
            row.step,
        )
        if row.statistic.endswith("_minus_first"):
            first = row._replace(statistic=row.statistic.removesuffix("_minus_first"))
            expected -= direct(first, measured, importances, steps[0])
        assert row.value == pytest.approx(expected, abs=1e-10, nan_ok=True), row
        compared += 1
    assert compared > 200


def test_the_rows_are_those_that_are_documented(rows):
    assert set(rows.columns) == set(TREND_COLUMNS)
    assert "+".join(COVARIATES) == GIVEN
    raw = {("spearman", ""), ("spearman_minus_first", ""), ("spearman_onset", "")}
    controlled = {
        *((f"partial_spearman{end}", GIVEN) for end in ("", "_minus_first", "_onset")),
        ("within_bin_spearman", "log_frequency"),
    }
    for against, group in rows.groupby("against"):
        for measure in GAUGES:
            found = group[group["measure"] == measure][["statistic", "given"]]
            expected = raw if against == "information_gain_right_all" else raw | controlled
            if against in ("occlusion", "surprisal"):
                expected = expected | {("spearman_disattenuated", "")}
            assert set(map(tuple, found.to_numpy())) == (expected if against else set())
    alone = rows[rows["against"] == ""]
    assert set(alone["measure"]) == {"occlusion", "surprisal"}
    assert set(alone["statistic"]) == {"reliability"}
    frequency = rows[rows["measure"] == "log_frequency"].groupby("against")["statistic"]
    assert set(frequency.groups) == set(rows["against"]) - {""}
    for against, statistics in frequency:
        fixed = against.startswith("information_gain")
        expected = {"spearman"} if fixed else {statistic for statistic, _ in raw}
        if not fixed:
            expected.add("spearman_disattenuated")
        assert set(statistics) == expected
    key = ["step", "measure", "against", "statistic", "given", "rule"]
    assert not rows.duplicated(key).any()
    assert set(rows["rule"]) == {"count>=10"}


def test_steps_are_those_at_which_there_is_an_importance(rows):
    assert tuple(trend(rows, "spearman").index) == LIVE
    assert tuple(trend(rows, "spearman", against="information_gain_right").index) == STEPS


def test_tokens_are_those_that_the_rule_keeps_and_that_were_measured(rows, measured, importances):
    often = measured.tokens["count"] >= 10
    for name in ("occlusion", "information_gain_right"):
        known = often & np.isfinite(importances[name].values).all(axis=0)
        assert set(trend(rows, "spearman", against=name)["n"]) == {known.sum()}
        assert known.sum() < often.sum()


def test_what_is_planted_is_found_and_nothing_else(rows):
    for statistic in ("spearman", "partial_spearman", "within_bin_spearman"):
        found = trend(rows, statistic)
        assert (found["null_high"] > 0).all()
        assert found["value"][512] > found["null_high"][512]
        nothing = trend(rows, statistic, against="surprisal")
        assert (nothing["value"].abs() < nothing["null_high"]).all()


def test_a_controlled_estimate_is_free_of_frequency(rows):
    """Output norms and the corpus' importance have frequency in common and nothing else."""
    about = {"measure": "output_embedding_norm", "against": "information_gain_right"}
    raw = trend(rows, "spearman", **about).loc[512]
    assert raw["value"] > raw["null_high"]
    for statistic in ("partial_spearman", "within_bin_spearman"):
        left = trend(rows, statistic, **about).loc[512]
        assert abs(left["value"]) < left["null_high"]


def test_onset_of_what_grows_and_of_what_does_not(rows):
    (step,) = trend(rows, "spearman_onset")["value"]
    change = trend(rows, "spearman_minus_first")["value"]
    assert step in (8, 64)
    assert (change.loc[step:] >= change[512] / 2).all()
    assert trend(rows, "spearman_onset").index[0] == 512
    assert trend(rows, "spearman_onset", against="surprisal")["value"].isna().all()


def test_bands_are_around_intervals_around_values(rows):
    inner = rows[~rows["statistic"].str.endswith("_onset")].dropna(subset=["value", "low"])
    assert len(inner) > 200
    for below, above in [("band_low", "low"), ("low", "value"), ("value", "high")]:
        assert (inner[below] <= inner[above] + 1e-9).all()
    assert (inner["high"] <= inner["band_high"] + 1e-9).all()


def test_reliability_falls_with_the_error(measured):
    rng = np.random.default_rng(1)
    follows = rng.standard_normal(len(measured.tokens))
    reliable = {
        error: trend(
            pd.DataFrame(
                importance_rows(
                    measured, {"occlusion": make_importance(rng, follows, error=error)}, RULE
                )
            ),
            "reliability",
            measure="occlusion",
            against="",
        )
        for error in (0.1, 1, 20)
    }
    assert (reliable[0.1]["low"] > 0.95).all()
    assert reliable[1]["value"].between(0.25, 0.75).all()
    assert (reliable[20]["low"] <= 0.05).all()
    assert (reliable[20]["value"] >= 0).all()


def test_what_is_known_of_too_few_tokens_gives_no_rows(measured):
    few = np.full((1, len(measured.tokens)), np.nan)
    few[0, :9] = 1
    assert not list(importance_rows(measured, {"occlusion": Importance([0], few)}, RULE))
    assert not list(importance_rows(measured, {}, RULE))


def test_an_importance_that_is_the_same_for_all_tokens_has_no_correlation(measured):
    same = Importance(None, np.ones((1, len(measured.tokens))))
    rows = pd.DataFrame(importance_rows(measured, {"occlusion": same}, RULE))
    assert rows["value"].isna().all()
    assert not rows["statistic"].str.endswith("_minus_first").any()


@pytest.fixture
def product(measured):
    """An attribution whose norm factor makes three quarters of its change, the logit the rest."""
    rng = np.random.default_rng(5)
    size = len(measured.tokens)
    grown = np.linspace(0, 1, len(LIVE))[:, np.newaxis]
    norm, logit = np.sqrt([[[3]], [[1]]]) * grown * rng.standard_normal((2, 1, size))
    norm += rng.standard_normal(size)
    values = {"": norm + logit, "_norm": norm, "_logit": logit}
    return {
        f"attribution_normxlogit{end}": Importance(list(LIVE), np.exp(logs))
        for end, logs in values.items()
    }


def test_shares_of_a_change_are_those_planted_and_sum_to_1(measured, product):
    rows = pd.DataFrame(importance_rows(measured, product, RULE))
    about = {"against": "attribution_normxlogit"}
    norm, logit, rest = (
        trend(rows, "share_of_change", f"attribution_normxlogit_{part}", **about)
        for part in ("norm", "logit", "interaction")
    )
    assert np.isnan(norm["value"][0])
    np.testing.assert_allclose(norm["value"][1:], 0.75, atol=0.08)
    np.testing.assert_allclose(rest["value"][1:], 0, atol=1e-12)
    np.testing.assert_allclose((norm + logit + rest)["value"][1:], 1, atol=1e-12)
    assert (norm["low"][1:] < 0.75).all()
    assert (norm["high"][1:] > 0.75).all()
    kept = measured.tokens["count"] >= 10
    whole, part = (
        np.log(product[f"attribution_normxlogit{end}"].values[:, kept]) for end in ("", "_norm")
    )
    covariance = np.cov(part[-1] - part[0], whole[-1] - whole[0])
    assert norm["value"][512] == pytest.approx(covariance[0, 1] / covariance[1, 1])


def test_factors_are_held_against_no_norm(measured, product):
    rows = pd.DataFrame(importance_rows(measured, product, RULE))
    assert set(rows["against"]) == {"attribution_normxlogit"}


def test_tokens_whose_attribution_is_0_somewhere_have_no_share(measured, product):
    values = product["attribution_normxlogit_logit"].values.copy()
    values[1, :200] = 0
    product["attribution_normxlogit_logit"] = Importance(list(LIVE), values)
    rows = pd.DataFrame(importance_rows(measured, product, RULE))
    (n,) = set(rows[rows["statistic"] == "share_of_change"]["n"])
    assert n == (measured.tokens["count"][200:] >= 10).sum()
    values[1, :-5] = 0
    rows = pd.DataFrame(importance_rows(measured, product, RULE))
    assert not (rows["statistic"] == "share_of_change").any()


def test_what_is_computed_from_counts_without_correction_is_not_controlled():
    assert {name for name, controlled in CORPUS.items() if controlled} == {
        "information_gain_right",
        "information_gain_left",
        "information_gain_symmetric_shuffle_corrected",
    }
