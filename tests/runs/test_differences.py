"""Differences of arms equal jackknives over tokens, and scipy's intervals over seeds."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from dynamics.runs.arms import Arm, Quantity
from dynamics.runs.differences import difference_curve
from dynamics.runs.importance_selection import GIVEN
from tests.tracking.arms import trend_row
from tests.tracking.synthetic import STEPS, grow, make_counts, tracked

INPUT = "input_embedding_norm"
WITH_FREQUENCY = Quantity(INPUT, "log_frequency", "spearman", "")


def arm_of(*runs, seeds=None):
    return Arm("arm", runs, seeds or tuple(map(str, range(len(runs)))), "")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs of which the second keeps other tokens, as its counts differ."""
    folder = tmp_path_factory.mktemp("runs")
    counts = make_counts()
    counts.table["count"] = np.where(counts.table["count"] < 14, 3, counts.table["count"])
    first = tracked(folder, name="first")
    series = grow(make_counts(), seed=3, steps=(2, 8, 20, 32), slope=0.02)
    return first, tracked(folder, name="second", series=series, counts=counts)


def jackknife_error(step, runs):
    """Standard error of the difference of two correlations, leaving out token after token."""
    columns = [
        (run.kept, run.measures(step)[INPUT].to_numpy(), run.tokens["count"].to_numpy())
        for run in runs
    ]

    def difference(left_out):
        rho = [
            stats.spearmanr(norm[kept & left_out], count[kept & left_out])[0]
            for kept, norm, count in columns
        ]
        return rho[0] - rho[1]

    tokens = np.flatnonzero(columns[0][0] | columns[1][0])
    everywhere = np.arange(len(columns[0][0]))
    values = np.array([difference(everywhere != token) for token in tokens])
    error = np.sqrt(((values - values.mean()) ** 2).sum() * (len(tokens) - 1) / len(tokens))
    return difference(everywhere >= 0), error


def test_two_runs_are_compared_over_their_tokens_as_a_jackknife_does(runs):
    assert runs[0].kept.sum() > runs[1].kept.sum()
    curve = difference_curve(arm_of(runs[0]), arm_of(runs[1]), WITH_FREQUENCY)
    assert list(curve["step"]) == [2, 8, 32]
    assert set(curve["over"]) == {"tokens"}
    expected = np.array([jackknife_error(step, runs) for step in (2, 8, 32)])
    np.testing.assert_allclose(curve["value"], expected[:, 0])
    reach = (curve["high"] - curve["low"]).to_numpy() / 2
    np.testing.assert_allclose((curve["high"] + curve["low"]) / 2, curve["value"])
    quantile = reach / expected[:, 1]  # one for all steps, above the pointwise 1.96
    np.testing.assert_allclose(quantile, quantile.mean(), rtol=0.04)
    assert 1.96 < quantile.mean() < stats.norm.ppf(1 - 0.05 / 6) * 1.04  # below Bonferroni's


def test_a_run_does_not_differ_from_itself(runs):
    curve = difference_curve(arm_of(runs[0]), arm_of(runs[0]), WITH_FREQUENCY)
    assert list(curve["step"]) == list(STEPS)
    assert not curve[["value", "low", "high"]].to_numpy().any()


def seeds_of(values, seeds):
    """An arm whose seeds have these correlations with importance, steps by seeds."""

    class Made(Arm):
        def rows(self, measure, against, statistic, given=None):
            return self.__dict__["made"]

    runs: Any = (None,) * len(seeds)  # their rows are made below
    arm = Made("made", runs, tuple(seeds), "")
    made = [
        trend_row(step, INPUT, "occlusion", "partial_spearman", value, given=GIVEN) | {"seed": seed}
        for step, row in values.items()
        for seed, value in zip(seeds, row, strict=True)
    ]
    arm.__dict__["made"] = pd.DataFrame(made)
    return arm


ABOUT = Quantity(INPUT, "occlusion", "partial_spearman", GIVEN)
ONE = {0: (0.1, 0.2, 0.3), 8: (0.2, 0.5, 0.4), 16: (0.5, 0.6, 0.8)}
OTHER = {8: (0.1, 0.3, -0.1), 16: (0.0, 0.2, 0.3), 32: (0.1, 0.1, 0.2)}


@pytest.mark.parametrize("paired", [True, False])
def test_arms_of_several_seeds_are_compared_over_seeds_as_scipy_does(paired):
    arm = seeds_of(ONE, "012")
    curve = difference_curve(arm, seeds_of(OTHER, "012" if paired else "345"), ABOUT)
    assert list(curve["step"]) == [8, 16]
    assert set(curve["over"]) == {"seeds"}
    for row in curve.to_dict("records"):
        step = row["step"]
        test = (
            stats.ttest_rel(ONE[step], OTHER[step])
            if paired
            else stats.ttest_ind(ONE[step], OTHER[step], equal_var=False)
        )
        np.testing.assert_allclose([row["low"], row["high"]], test.confidence_interval())
        assert row["value"] == pytest.approx(np.mean(ONE[step]) - np.mean(OTHER[step]))


def test_one_seed_against_several_has_no_interval():
    curve = difference_curve(seeds_of({8: (0.4,)}, "0"), seeds_of(OTHER, "012"), ABOUT)
    assert curve["value"].tolist() == [pytest.approx(0.3)]
    assert curve[["low", "high"]].isna().to_numpy().all()
    assert curve["over"].tolist() == [""]


def test_what_the_measures_do_not_give_again_has_no_interval(runs, tmp_path):
    run = tracked(tmp_path, name="first")
    run.trends.loc[run.trends["statistic"] == "spearman", "value"] += 0.01  # of another version
    curve = difference_curve(arm_of(run), arm_of(runs[1]), WITH_FREQUENCY)
    assert curve["value"].notna().all()
    assert curve["low"].isna().all()
    assert set(curve["over"]) == {""}


def test_without_a_common_step_there_is_nothing():
    assert difference_curve(seeds_of({0: (0.1,)}, "0"), seeds_of(OTHER, "012"), ABOUT).empty
