"""Estimates made again from measures are those of the trends, and give intervals over tokens."""

import numpy as np
import pytest
from scipy import stats

from dynamics.runs import crossed as module
from dynamics.runs.arms import Quantity
from dynamics.runs.compare import arms_of, compare
from dynamics.runs.crossed import CROSSED, crossed
from dynamics.runs.run import rows_where
from dynamics.statistics.seeds import seed_mean
from dynamics.tracking.track import track
from tests.runs.test_slope_trends import planted as planted_twins
from tests.runs.test_slope_trends import twinned_counts
from tests.tracking.measured import write_importances
from tests.tracking.synthetic import grow, log_count, make_counts, tracked, write_series

INPUT = "input_embedding_norm"


def with_importance(folder, seed):
    """A run with an importance of its model and one of its corpus, the latter of some tokens."""
    counts, rng = make_counts(), np.random.default_rng(seed)
    gain = np.random.default_rng(5).standard_normal(300)
    gain[::7] = np.nan
    counts.table["information_gain_right"] = gain
    series = grow(counts, seed=seed)
    run = tracked(folder / f"seed-{seed}", name=f"made-seed{seed}", counts=counts, series=series)
    worth = log_count(counts) + rng.standard_normal(300)

    def columns(step):
        halves = {f"occlusion_half_{half}": worth + rng.standard_normal(300) for half in (1, 2)}
        return {
            "token_id": np.arange(300),
            "contexts": np.full(300, 8),
            "occlusion": worth,
        } | halves

    return write_importances(run, columns, (0, 32))


def with_twins(folder, seed):
    counts = twinned_counts()
    tensors = planted_twins(counts)
    rng = np.random.default_rng(seed)
    for step in tensors.values():
        for key in list(step):
            if step[key].ndim == 2:
                noise = np.exp(0.02 * rng.standard_normal((len(step[key]), 1)))
                step[key] = (step[key] * noise).astype(np.float32)
    series = write_series(folder / f"twins-seed{seed}", tensors)
    return track(series, folder / f"run-{seed}", counts=counts)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crossed")
    return [with_importance(folder, seed) for seed in (1, 2, 3)]


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    folder = tmp_path_factory.mktemp("twins")
    return [with_twins(folder, seed) for seed in (1, 2, 3)]


@pytest.mark.parametrize("kind", ["runs", "twins"])
def test_every_value_and_interval_of_the_trends_is_made_again(kind, request):
    run = request.getfixturevalue(kind)[0]
    rows = rows_where(run.trends, step=run.steps[-1], rule=str(run.rule))
    rows = rows[rows["statistic"].isin(CROSSED) & rows["value"].notna()]
    expected = {"spearman", "partial_spearman", "within_bin_spearman"}
    assert set(rows["statistic"]) >= ({*CROSSED} - {*expected} if kind == "twins" else expected)
    if kind == "runs":
        assert {"occlusion", "information_gain_right"} <= set(rows["against"])
        assert any("initial_norm+distance" in given for given in rows["given"])
    for row in rows.itertuples():
        quantity = Quantity(row.measure, row.against, row.statistic, row.given)
        value, contributions = module._step(run, row.step).estimate(quantity)
        assert value == pytest.approx(row.value, abs=1e-9), quantity
        error = np.linalg.norm(contributions)
        if row.statistic in module.CORRELATIONS:  # the interval is symmetric on Fisher's scale
            error /= 1 - value**2
            half = (np.arctanh(row.high) - np.arctanh(row.low)) / 2
        else:
            half = (row.high - row.low) / 2
        quantile = 1.96 if "spearman" in row.statistic else stats.t.ppf(0.975, row.n - 1)
        assert half / error == pytest.approx(quantile, rel=0.01), quantity


def test_an_arm_has_an_interval_that_covers_other_tokens(runs):
    (arm,) = arms_of(runs)
    quantity = Quantity(INPUT, "occlusion", "partial_spearman")
    found, alone = crossed(arm, quantity), seed_mean(arm.values(quantity), fisher=True)
    assert found is not None
    assert float(found.value) == pytest.approx(float(alone.value))
    assert found.n == 3
    widths = [(row["high"] - row["low"]) / 2 for _, row in arm.rows_by_seed(quantity).iterrows()]
    # no narrower than the interval over tokens that the mean of three seeds could have at best
    assert (found.high - found.low) / 2 > min(widths) / np.sqrt(3)


def test_other_statistics_other_versions_and_single_runs_have_none(runs, tmp_path):
    (arm,) = arms_of(runs)
    assert crossed(arm, Quantity("occlusion", statistic="reliability")) is None
    assert crossed(arm, Quantity("nothing")) is None
    (alone,) = arms_of(runs[:1])
    assert crossed(alone, Quantity(INPUT, "log_frequency")) is None
    other = arm.trends.copy()
    arm.__dict__["trends"] = other.assign(value=other["value"] + 1e-3)
    arm.__dict__.pop("_indexed", None)
    assert crossed(arm, Quantity(INPUT, "log_frequency")) is None


def test_the_comparison_has_rows_of_both_units_and_says_which(runs, twins):
    table = compare(runs, crossed=True)
    assert set(table["over"]) == {"seeds", "seeds and steps between", "seeds and tokens"}
    rows = rows_where(table, step=32, measure=INPUT, against="log_frequency", statistic="spearman")
    rows = rows[rows["rule"] == "count>=10"].set_index("over")
    assert rows.index.tolist() == ["seeds", "seeds and tokens"]
    assert rows["value"].nunique() == 1 or np.ptp(rows["value"]) < 1e-9
    assert set(compare(runs)["over"]) == {"seeds", "seeds and steps between"}
    of_twins = compare(twins, crossed=True)
    over = of_twins[of_twins["statistic"] == "twin_minus_curve"]["over"]
    assert set(over) == {"seeds", "seeds and tokens with a twin"}
