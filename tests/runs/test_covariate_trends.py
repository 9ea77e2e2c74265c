"""Trends of covariates: each number against a slow one; what is planted is found, at its rate."""

import numpy as np
import pandas as pd
import pytest

from dynamics.runs.covariate_trends import covariate_path, covariate_rows
from dynamics.runs.tracked_importance import COVARIATE, Importance
from dynamics.runs.trends import TREND_COLUMNS, TrendInput
from dynamics.statistics.vocabulary import VocabularyRule
from tests.tracking import independent
from tests.tracking.measured import GAUGES, LIVE, STEPS, make_importance, make_input

RULE = VocabularyRule(10)
CONTROLS = ("log_frequency", "characters", "word_start", "ascii_alphabetic", "merge_rank")
GIVEN = "+".join(CONTROLS)


@pytest.fixture(scope="module")
def measured():
    """Norms and a measure that is compared with covariates alone."""
    base = make_input(np.random.default_rng(7))
    cosine = np.random.default_rng(8).standard_normal((len(STEPS), len(base.tokens)))
    return TrendInput(
        STEPS, base.tokens, {**base.measures, "input_embedding_cosine_to_first": cosine}, None
    )


@pytest.fixture(scope="module")
def covariates(measured):
    """Ratings that follow an input norm, known of some tokens; and noise, measured twice."""
    rng = np.random.default_rng(9)
    last = measured.measures["input_embedding_norm"][-1]
    ratings = last + rng.standard_normal(len(last))
    ratings[::7] = np.nan
    noise = rng.standard_normal((2, 1, len(last))) + rng.standard_normal(len(last))
    return {
        f"{COVARIATE}ratings": Importance(None, ratings[np.newaxis]),
        f"{COVARIATE}noise": Importance(None, noise.mean(axis=0), (noise[0], noise[1])),
    }


@pytest.fixture(scope="module")
def importances(measured):
    rng = np.random.default_rng(10)
    last = measured.measures["input_embedding_norm"][-1]
    gain = rng.standard_normal(len(last))
    gain[::11] = np.nan
    return {
        "information_gain_right": Importance(None, gain[np.newaxis]),
        "self_information": Importance(None, gain[np.newaxis] + 1, beyond_frequency=False),
        "occlusion": make_importance(rng, last, unknown=range(5, 40)),
    }


@pytest.fixture(scope="module")
def rows(measured, importances, covariates):
    return pd.DataFrame(covariate_rows(measured, importances, covariates, RULE))


def values_of(name, step, measured, importances, covariates):
    """A measure, an importance or a covariate at a step, or what is held fixed."""
    if name in measured.measures:
        return measured.measures[name][STEPS.index(step)]
    if name in importances:
        importance = importances[name]
        return importance.values[0 if importance.steps is None else LIVE.index(step)]
    if name in covariates:
        return covariates[name].values[0]
    columns = {"log_frequency": "count", "merge_rank": "token_id"}
    return measured.tokens[columns.get(name, name)].to_numpy()


def direct(row, measured, importances, covariates):
    """A number of the trends from the arrays, with scipy and the formulas."""
    arrays = (measured, importances, covariates)
    x, y = (values_of(name, row.step, *arrays) for name in (row.measure, row.against))
    known = np.isfinite(x) & np.isfinite(y)
    if row.measure in importances:
        known &= np.isfinite(importances[row.measure].values).all(axis=0)
    counts = measured.tokens["count"].to_numpy()
    known &= counts >= (
        10 if row.rule == "count>=10" else int(row.rule[7:]) if ">=" in row.rule else 0
    )
    if row.rule.startswith("top-"):
        order = np.argsort(-counts, kind="stable")[: int(row.rule[4:])]
        known &= np.isin(np.arange(len(counts)), order)
    x, y = x[known], y[known]
    if row.statistic == "spearman":
        return independent.spearman(x, y)
    if row.statistic == "within_bin_spearman":
        return independent.within_bin_spearman(x, y, counts[known])
    assert row.statistic == "partial_spearman"
    names = row.given.split("+")
    at = {"initial_norm": (row.measure, STEPS[0])}
    controls = [values_of(*at.get(name, (name, row.step)), *arrays)[known] for name in names]
    return independent.partial_spearman(x, y, controls)


def test_every_correlation_is_what_a_direct_computation_gives(
    rows, measured, importances, covariates
):
    compared = set()
    for row in rows.itertuples(index=False):
        plain = row.statistic in ("spearman", "partial_spearman", "within_bin_spearman")
        if not plain or not row.against or "distance" in row.given or "+norm" in row.given:
            continue
        expected = direct(row, measured, importances, covariates)
        assert row.value == pytest.approx(expected, abs=1e-10, nan_ok=True), row
        compared.add((row.measure, row.against, row.statistic))
    assert len(compared) == 2 * (3 * 4 + 3 * 3 - 2 + 1)


def test_every_measure_and_importance_has_intervals_bands_and_nulls(rows, measured):
    assert set(rows.columns) == set(TREND_COLUMNS)
    key = ["step", "measure", "against", "statistic", "given", "rule"]
    assert not rows.duplicated(key).any()
    main = rows[(rows["rule"] == "count>=10") & (rows["against"] == f"{COVARIATE}ratings")]
    for measure in (*measured.measures, "occlusion", "information_gain_right"):
        for statistic, given in [
            ("spearman", ""),
            ("partial_spearman", GIVEN),
            ("within_bin_spearman", "log_frequency"),
        ]:
            of = main[main["measure"] == measure]
            of = of[(of["statistic"] == statistic) & (of["given"] == given)]
            steps = {"occlusion": LIVE, "information_gain_right": STEPS[-1:]}.get(measure, STEPS)
            assert tuple(of["step"]) == tuple(steps)
            assert of[["low", "high", "band_low", "band_high", "null_high"]].notna().all(axis=None)
    of_frequency = main[main["measure"] == "self_information"]
    assert set(of_frequency["statistic"]) == {"spearman"}


def test_tokens_are_those_of_which_both_are_known(rows, measured, importances, covariates):
    often = measured.tokens["count"].to_numpy() >= 10
    rated = often & np.isfinite(covariates[f"{COVARIATE}ratings"].values[0])
    both = rated & np.isfinite(importances["occlusion"].values).all(axis=0)
    main = rows[(rows["rule"] == "count>=10") & (rows["against"] == f"{COVARIATE}ratings")]
    assert set(main[main["measure"] == "input_embedding_norm"]["n"]) == {rated.sum()}
    assert set(main[main["measure"] == "occlusion"]["n"]) == {both.sum()}


def test_halves_give_a_reliability_and_correct_for_it(rows, covariates):
    name = f"{COVARIATE}noise"
    of = rows[(rows["measure"] == name) & (rows["statistic"] == "reliability")]
    r = independent.spearman(*(half[0] for half in covariates[name].halves))
    assert of["value"].between(0.5, 0.8).all()
    assert len(of) == len(STEPS)
    assert abs(of["value"].iloc[0] - 2 * r / (1 + r)) < 0.05  # all tokens there, here the kept ones
    corrected = rows[(rows["against"] == name) & (rows["statistic"] == "spearman_disattenuated")]
    assert {"occlusion", "input_embedding_norm"} <= set(corrected["measure"])
    assert not (rows["measure"] == f"{COVARIATE}ratings").any()


def test_what_is_planted_is_found_beyond_frequency_and_noise_is_not(rows):
    last = rows[(rows["step"] == 512) & (rows["given"] == GIVEN) & (rows["rule"] == "count>=10")]
    last = last[last["statistic"] == "partial_spearman"].set_index(["against", "measure"])
    planted = last.loc[f"{COVARIATE}ratings", "input_embedding_norm"]
    assert planted["value"] > planted["null_high"]
    for measure in GAUGES:
        nothing = last.loc[f"{COVARIATE}noise", measure]
        assert abs(nothing["value"]) < nothing["null_high"]


def simulated(rng, effect, size=300):
    """A norm and a covariate that both bend with frequency, and share `effect` beyond it."""
    counts = (1e5 / np.arange(1, size + 1) ** 1.1).astype(int) + 10
    frequency = (np.log(counts) - np.log(counts).mean()) / np.log(counts).std()
    own = rng.standard_normal(size)
    norm = 2 * (frequency - 0.5) ** 2 + own
    covariate = 3 * np.tanh(frequency) + 2 * (frequency - 0.5) ** 2
    covariate = covariate + effect * own + np.sqrt(1 - effect**2) * rng.standard_normal(size)
    tokens = pd.DataFrame(
        {"token_id": rng.permutation(size), "count": counts, "kind": "word_start"}
    )
    measured = TrendInput((0,), tokens, {"input_embedding_norm": norm[np.newaxis]}, None)
    named = {f"{COVARIATE}x": Importance(None, covariate[np.newaxis])}
    rows = pd.DataFrame(covariate_rows(measured, {}, named, RULE, ("log_frequency",)))
    rows = rows[(rows["rule"] == "count>=10") & (rows["measure"] == "input_embedding_norm")]
    return rows.set_index("statistic").loc[["spearman", "partial_spearman"]]


def test_a_planted_effect_is_recovered_under_confounding_and_its_null_is_at_five_percent():
    """Spearman's rho of a normal pair of correlation r is 6 / pi asin(r / 2).

    Ranks of variables that bend with frequency are no longer quite normal given it.
    """
    rng = np.random.default_rng(11)
    null = [simulated(rng, 0) for _ in range(150)]
    raw, partial = (np.array([rows["value"].iloc[at] for rows in null]) for at in (0, 1))
    reach = np.array([rows["null_high"].iloc[1] for rows in null])
    assert (raw > 0.15).all(), "frequency alone makes them correlate"
    assert abs(partial.mean()) < 0.02
    assert 0.01 <= (np.abs(partial) > reach).mean() <= 0.1  # binomial, 150 of .05: .013 to .1
    found = [simulated(rng, 0.4).loc["partial_spearman"] for _ in range(50)]
    truth = 6 / np.pi * np.arcsin(0.4 / 2)
    assert np.mean([row["value"] for row in found]) == pytest.approx(truth, abs=0.05)
    assert np.mean([row["low"] <= truth <= row["high"] for row in found]) >= 0.8
    assert np.mean([row["value"] > row["null_high"] for row in found]) > 0.95


def test_the_file_of_a_covariate_has_a_name_of_its_own_whatever_the_column_is_called(tmp_path):
    names = ["aoa", "a/b", "a_b", "..", "x" * 300, "年齢", "日齢", "A", "a"]
    paths = [covariate_path(tmp_path, name) for name in names]
    assert len({str(path).lower() for path in paths}) == len(names)
    for path in paths:
        assert path.parent == tmp_path / "covariates"
        assert len(path.name) < 80
        assert path.name.isascii()
