"""Every number of a run, against plain numpy and scipy on the checkpoint files."""

import numpy as np
import pytest
from pandas.testing import assert_frame_equal
from scipy.stats import ortho_group

from dynamics.checkpoints.series import open_series
from dynamics.runs.measures import MEASURES
from dynamics.tracking.track import track
from tests.tracking import independent
from tests.tracking.synthetic import STEPS, grow, make_counts, write_series

EXACT = 1e-6


def expected_measures(checkpoints, step, run):
    tokens = run.tokens
    return independent.measures(
        checkpoints, step, run.steps[0], tokens["count"].to_numpy(), tokens["kind"].to_numpy()
    )


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_every_measure_of_both_embeddings(tmp_path, counts, dtype, tied):
    opened = write_series(tmp_path / "series", grow(counts, dtype=dtype), tied)
    run = track(opened, tmp_path / "run", counts=counts)
    assert run.info["series"]["tied"] is tied
    for step in run.steps:
        table = run.measures(step)
        expected = expected_measures(tmp_path / "series", step, run)
        assert list(table["token_id"]) == list(range(len(counts.table)))
        assert set(table.columns) == {"token_id", *expected}
        assert set(run.info["measures"]) == set(expected)
        absent = {suffix for suffix, measure in MEASURES.items() if measure.group == "spectrum"}
        absent |= {"cosine_to_input"} if tied else set()
        assert {name.split("_", 2)[2] for name in expected} == set(MEASURES) - absent
        for name, values in expected.items():
            np.testing.assert_allclose(table[name], values, EXACT, EXACT / 10, err_msg=name)


def of_measures(run):
    """The trends of measures; those of whole matrices have tests of their own."""
    return run.trends[run.trends["measure"].isin(run.info["measures"])]


@pytest.fixture(scope="module")
def expected_trends(trained):
    """A function of a row of `trends.parquet` that computes its value from the files."""
    training, run = trained
    tokens = run.tokens
    count, kind = tokens["count"].to_numpy(), tokens["kind"].to_numpy()
    surface = tokens["token"].str.strip()
    columns = {
        "characters": surface.map(len).to_numpy(),
        "word_start": kind == "word_start",
        "ascii_alphabetic": surface.map(lambda t: t.isascii() and t.isalpha()).to_numpy(),
        "log_frequency": np.log(np.maximum(count, 1) / count.sum()),
        "log_document_frequency": tokens["document_count"].to_numpy(float),
    }
    measured = {step: expected_measures(training / "checkpoints", step, run) for step in run.steps}
    exposed = {step: independent.exposure(training, step, len(count)) for step in run.steps}
    masks = {
        rule: independent.kept(rule, count, kind) for rule in of_measures(run)["rule"].unique()
    }

    def expected(row, step=None):
        step = row.step if step is None else step
        if row.statistic == "spearman_minus_first":
            plain = row._replace(statistic="spearman")
            return expected(plain, step) - expected(plain, run.steps[0])
        if row.statistic == "spearman_onset":
            change = row._replace(statistic="spearman_minus_first")
            final = run.trend(row.measure, against=row.against, statistic=change.statistic)
            low, high = final[["band_low", "band_high"]].iloc[-1]
            reached = [expected(change, s) / expected(change, STEPS[-1]) >= 0.5 for s in STEPS]
            lasting = [s for at, s in enumerate(STEPS) if all(reached[at:])]
            return lasting[0] if low > 0 or high < 0 else np.nan
        at = masks[row.rule]
        assert row.n == len(at) or row.statistic == "log_slope"
        role = "_".join(row.measure.split("_")[:2])
        x = measured[step][row.measure][at]
        if step == run.steps[0] and "_first" in row.measure:
            return np.nan  # distance 0 and cosine 1 for every token
        if row.statistic == "log_slope":
            used = (exposed[step][role] if row.against == "log_exposure" else count)[at]
            assert row.n == (used > 0).sum()
            return independent.log_slope(x[used > 0], used[used > 0])
        y = (exposed[step][role] if row.against == "log_exposure" else columns[row.against])[at]
        given = [columns[name][at] for name in row.given.split("+") if name]
        if row.statistic == "spearman":
            return independent.spearman(x, y)
        if row.statistic == "partial_spearman":
            return independent.partial_spearman(x, y, given)
        assert row.statistic == "within_bin_spearman"
        return independent.within_bin_spearman(x, y, given[0])

    return expected


def test_every_statistic_of_the_trends(trained, expected_trends):
    _, run = trained
    for row in of_measures(run).itertuples(index=False):
        assert row.value == pytest.approx(expected_trends(row), abs=EXACT, nan_ok=True), row


def test_the_trends_are_those_the_design_asks_for(trained):
    _, run = trained
    trends = of_measures(run)
    statistics = trends[["against", "statistic", "given"]].drop_duplicates()
    assert set(map(tuple, statistics.to_numpy())) == {
        ("log_frequency", "spearman", ""),
        ("log_frequency", "spearman_minus_first", ""),
        ("log_frequency", "spearman_onset", ""),
        ("log_frequency", "partial_spearman", "characters+word_start+ascii_alphabetic"),
        ("log_exposure", "spearman", ""),
        ("log_frequency", "log_slope", ""),
        ("log_exposure", "log_slope", ""),
        ("log_document_frequency", "partial_spearman", "log_frequency"),
        ("log_document_frequency", "within_bin_spearman", "log_frequency"),
    }
    assert set(trends["rule"]) == {
        *("count>=10", "count>=1", "count>=100", "count>=1000", "top-1000", "top-5000")
    }
    assert set(trends["measure"]) == set(run.info["measures"])
    key = ["step", "measure", "against", "statistic", "given", "rule"]
    assert not trends.duplicated(key).any()
    onsets = trends["statistic"] == "spearman_onset"
    assert {tuple(steps) for _, steps in trends[~onsets].groupby(key[1:])["step"]} == {STEPS}
    assert set(trends[onsets]["step"]) == {STEPS[-1]}
    assert trends.loc[trends["rule"] != "count>=10", "null_high"].isna().all()


def test_exposure_in_the_measures_is_that_of_a_slow_walk_through_the_stream(trained):
    training, run = trained
    for step in run.steps:
        table, expected = run.measures(step), independent.exposure(training, step, 300)
        assert list(table["exposure_as_input"]) == list(expected["input_embedding"])
        assert list(table["exposure_as_target"]) == list(expected["output_embedding"])


def test_intervals_hold_their_values_and_bands_are_wider(trained):
    _, run = trained
    trends = run.trends.dropna(subset=["value", "low"])
    assert (trends["low"] <= trends["value"]).all()
    assert (trends["value"] <= trends["high"]).all()
    banded = trends.dropna(subset=["band_low"])
    assert (banded["band_low"] <= banded["low"] + 1e-12).all()
    assert (banded["high"] <= banded["band_high"] + 1e-12).all()
    null = trends.dropna(subset=["null_high"])
    assert len(null)
    assert (null["null_low"] == -null["null_high"]).all()


def test_the_profile_is_mean_and_median_of_each_bin(trained):
    training, run = trained
    tokens, profile = run.tokens, run.profile
    count, kind = tokens["count"].to_numpy(), tokens["kind"].to_numpy()
    kept = independent.kept("count>=10", count, kind)
    for step in run.steps:
        measured = expected_measures(training / "checkpoints", step, run)
        for row in profile[profile["step"] == step].itertuples():
            if row.bin < 0:
                members = [at for at in range(len(count)) if count[at] == 0]
            else:
                members = [at for at in kept if row.count_low <= count[at] <= row.count_high]
            values = measured[row.measure][members]
            assert row.n == len(values)
            assert row.n >= 50 or row.bin < 0
            assert row.mean == pytest.approx(values.mean(), rel=EXACT)
            assert row.median == pytest.approx(np.median(values), rel=EXACT)
            assert row.count_median == np.median(count[members])
    ordinary = profile[(profile["bin"] >= 0) & (profile["step"] == 0)]
    assert (ordinary.groupby("measure")["n"].sum() == len(kept)).all()


def test_rows_that_only_pad_change_no_trend_and_no_profile_of_seen_tokens(tmp_path, counts):
    plain = grow(counts, dtype=np.float64)
    padded = {
        step: {
            key: np.vstack([value, np.full((20, value.shape[1]), 9, value.dtype)])
            if value.ndim == 2
            else value
            for key, value in tensors.items()
        }
        for step, tensors in plain.items()
    }
    without = track(write_series(tmp_path / "plain", plain), tmp_path / "a", counts=counts)
    opened = write_series(tmp_path / "padded", padded)
    for name, given in [("short", counts), ("long", with_padding(counts))]:
        run = track(opened, tmp_path / name, counts=given)
        assert_frame_equal(used(run.trends), used(without.trends), rtol=EXACT)
        seen, expected = (used(each[each["bin"] >= 0]) for each in (run.profile, without.profile))
        assert_frame_equal(seen, expected, rtol=EXACT)
        assert list(run.tokens["kind"][300:]) == ["padding"] * 20
        assert not run.kept[300:].any()


def used(rows):
    """Those of measures in which rows that only pad have no part."""
    return rows[~rows["measure"].str.contains("_unused")].reset_index(drop=True)


def with_padding(counts):
    padded = make_counts(padding=20)
    padded.table.loc[: len(counts.table) - 1, "token"] = counts.table["token"]
    padded.table.loc[: len(counts.table) - 1, "document_count"] = counts.table["document_count"]
    assert padded.info.tokens_counted == counts.info.tokens_counted
    return padded


def test_a_rotation_of_the_embeddings_changes_no_trend(tmp_path, counts):
    plain = grow(counts, dtype=np.float64)
    turn = ortho_group(plain[0]["embed_out.weight"].shape[1], seed=1).rvs()
    turned = {
        step: {key: value @ turn if value.ndim == 2 else value for key, value in tensors.items()}
        for step, tensors in plain.items()
    }
    runs = [
        track(write_series(tmp_path / name, each), tmp_path / f"run-{name}", counts=counts)
        for name, each in [("plain", plain), ("turned", turned)]
    ]
    free = ~runs[0].trends["measure"].str.contains("folded|features")  # features have an own basis
    values = [run.trends.loc[free, ["value", "low", "high"]] for run in runs]
    np.testing.assert_allclose(*values, atol=1e-5)


def test_planted_correlations_are_found_at_the_steps_where_they_were_planted(run):
    trend = run.trend("input_embedding_norm").set_index("step")
    assert abs(trend["value"][0]) < trend["null_high"][0]
    assert trend["value"].is_monotonic_increasing
    assert trend["value"][32] > 0.95


def test_a_series_of_other_layout_gives_the_same_run_numbers(tmp_path, counts, trained):
    """The training folder and its folder of checkpoints differ in what is known, not in numbers."""
    training, run = trained
    copied = tmp_path / "elsewhere"
    copied.mkdir()
    for checkpoint in (training / "checkpoints").iterdir():
        (copied / checkpoint.name).symlink_to(checkpoint)
    bare = track(open_series(copied), tmp_path / "run", counts=counts)
    assert set(bare.trends["against"]) == {"log_frequency", "log_document_frequency", ""}
    shared = run.trends[run.trends["against"] != "log_exposure"].reset_index(drop=True)
    assert bare.trends.equals(shared)
