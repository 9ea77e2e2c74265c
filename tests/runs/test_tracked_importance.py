"""What importances a run has: those of its counts, and those that running its models wrote."""

import numpy as np
import pandas as pd
import pytest

from dynamics.checkpoints.series import open_series
from dynamics.errors import OutputError
from dynamics.importance.importances import IMPORTANCES
from dynamics.runs.changed_tokens import changed_tokens
from dynamics.runs.findings import findings
from dynamics.runs.importance_trends import GAUGES
from dynamics.runs.record import LiveCheckpointRecord
from dynamics.runs.run import IMPORTANCE, step_path
from dynamics.runs.tracked_importance import factors_of, read_importances
from dynamics.tracking.track import track
from tests.probe_settings import probe_settings
from tests.tracking import independent
from tests.tracking.live_series import (
    EMBEDDINGS_ONLY,
    LENGTH,
    ROWS,
    STEPS,
    counts_of,
    write_live_training,
)

NAMES = ("occlusion", "attribution_normxlogit")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of models that were asked for importances, over a counted one."""
    folder = tmp_path_factory.mktemp("importances")
    write_live_training(folder / "training")
    counts = counts_of()
    gain = np.random.default_rng(2).standard_normal(len(counts.table))
    stream = np.random.default_rng(1).integers(0, len(counts.table), (ROWS, LENGTH + 1))
    stream.astype("<u2").tofile(folder / "training" / "tokens.bin")  # so that many can be probed
    counts = type(counts)(counts.table.assign(information_gain_right=gain), counts.info)
    settings = probe_settings(
        importance=NAMES, strata=4, tokens_per_stratum=8, contexts=4, length=12
    )
    return track(open_series(folder / "training"), folder / "run", counts=counts, live=settings)


def test_importances_are_those_in_the_tables(run):
    found = read_importances(run.path, run.record.live_checkpoints, run.tokens)
    assert list(found) == ["information_gain_right", *run.importances]
    for name in run.importances:
        assert list(found[name].steps) == list(STEPS)
        np.testing.assert_array_equal(found[name].values, run.importance_array(name))
        for half, values in enumerate(found[name].halves, 1):
            np.testing.assert_array_equal(values, run.importance_array(f"{name}_half_{half}"))
    assert found["information_gain_right"].steps is None
    gain = run.tokens["information_gain_right"].to_numpy()
    np.testing.assert_array_equal(found["information_gain_right"].values, [gain])


def test_a_damaged_table_is_told(run):
    path = step_path(run.path, IMPORTANCE, STEPS[1])
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(OutputError, match=r"importance/step-00000002.parquet is damaged; run the"):
        read_importances(run.path, run.record.live_checkpoints, run.tokens)
    path.write_bytes(whole)


def test_tracking_writes_their_trends(run):
    values = run.importance_array("occlusion")
    kept = run.kept & np.isfinite(values).all(axis=0)
    for gauge in GAUGES:
        rows = run.trend(gauge, against="occlusion")
        assert list(rows["step"]) == list(STEPS)
        assert set(rows["n"]) == {kept.sum()}
        last = run.measures(STEPS[-1])[gauge].to_numpy(np.float64)
        expected = independent.spearman(last[kept], values[-1, kept])
        assert rows["value"].iloc[-1] == pytest.approx(expected)
        assert len(run.trend(gauge, against="information_gain_right")) == len(run.steps)
    assert EMBEDDINGS_ONLY in run.steps
    shares = run.trends[run.trends["statistic"] == "share_of_change"]
    assert set(shares["against"]) == {"attribution_normxlogit"}
    assert shares.groupby("step")["value"].sum()[STEPS[-1]] == pytest.approx(1)


def test_findings_and_tokens_know_them(run):
    told = " ".join(findings(run))
    assert "Information gain right at step 8" in told
    assert "Occlusion at step 8" in told
    assert "The trends also hold attribution_normxlogit." in told
    found = changed_tokens(run, gained="importance", between=(0, 8), top=None)
    change = np.diff(run.importance_array("occlusion")[[0, -1]], axis=0)[0]
    assert dict(zip(found["token_id"], found["change"], strict=True)) == pytest.approx(
        {token: change[token] for token in np.flatnonzero(run.kept & np.isfinite(change))}
    )


def test_a_run_without_any_has_none(run):
    tokens = run.tokens[["token_id", "count"]]
    assert read_importances(run.path, [], tokens) == {}
    nothing = tokens.assign(entropy_right=np.nan)
    assert read_importances(run.path, [], nothing) == {}
    without = LiveCheckpointRecord(step=0, tables={"live": "a"})
    assert read_importances(run.path, [without], tokens) == {}


def test_importances_of_some_rows_only(run):
    some = run.tokens.iloc[[3, 40, 41]]
    found = read_importances(run.path, run.record.live_checkpoints, some)
    np.testing.assert_array_equal(
        found["occlusion"].values, run.importance_array("occlusion")[:, [3, 40, 41]]
    )


def test_columns_of_counts_may_be_missing_values(run):
    missing = pd.array([None] * 5 + [1.5] * (len(run.tokens) - 5), "Float64")
    tokens = run.tokens[["token_id"]].assign(self_information=missing)
    found = read_importances(run.path, [], tokens)["self_information"]
    assert np.isnan(found.values[0, :5]).all()
    assert (found.values[0, 5:] == 1.5).all()


def test_the_only_product_with_factors_is_normxlogit():
    products = factors_of(list(IMPORTANCES))
    names = ("attribution_normxlogit_norm", "attribution_normxlogit_logit")
    assert products == {"attribution_normxlogit": names}
