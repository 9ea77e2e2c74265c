"""Rows followed over all steps: numbers, resumption, what has it redone, and what it refuses."""

import shutil

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file, save_file
from scipy.stats import spearmanr

from dynamics.config import TrackingSettings
from dynamics.errors import ConfigError, MismatchError
from dynamics.runs import run as runs
from dynamics.runs.findings import findings
from dynamics.runs.paths import read_paths
from dynamics.runs.run import Run, rows_where
from dynamics.tracking import paths as following
from dynamics.tracking.cost import track_cost
from dynamics.tracking.track import track
from tests.tracking.synthetic import (
    INPUT,
    OUTPUT,
    STEPS,
    WIDTH,
    files_of,
    grow,
    read_float64,
    tracked,
    write_series,
)

PATHS = TrackingSettings(paths=True)
KEYS = {"input_embedding": INPUT, "output_embedding": OUTPUT}


def wandering(counts, steps=STEPS):
    """A series whose rows wander, the more the more frequent; row 40 stays where it is."""
    series = grow(counts, steps=steps)
    rng = np.random.default_rng(4)
    for index, tensors in enumerate(series.values()):
        for key in KEYS.values():
            noise = rng.standard_normal(tensors[key].shape) * min(index, 1)
            tensors[key] += (0.3 * noise).astype(np.float32)
            tensors[key][40] = 1
    return series


@pytest.fixture
def series(tmp_path, counts):
    return write_series(tmp_path / "series", wandering(counts))


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(following, "PART_ELEMENTS", 128 * WIDTH)  # three parts of 300 rows


class Killed(BaseException):
    """What no handler of tracking knows, like a kill."""


def independent(folder, key):
    """Cosines to the last step and ray shares of the rows, in numpy."""
    points = np.stack([read_float64(folder, step)[key] for step in STEPS])
    norms = np.linalg.norm(points, axis=2)
    cosines = (points * points[-1]).sum(axis=2) / norms / norms[-1]
    line = points[-1] - points[0]
    centered = points - points.mean(axis=0)
    with np.errstate(invalid="ignore"):
        on_line = ((centered * line).sum(axis=2) ** 2).mean(axis=0) / (line**2).sum(axis=1)
        return cosines, on_line / (centered**2).sum(axis=2).mean(axis=0)


def test_numbers_are_those_computed_directly(series, counts, tmp_path):
    run = track(series, tmp_path / "run", counts=counts, settings=PATHS)
    paths = read_paths(run.path, run.record)
    assert list(paths) == list(KEYS)
    for role, key in KEYS.items():
        cosines, shares = independent(tmp_path / "series", key)
        kind = role.removesuffix("_embedding")
        np.testing.assert_allclose(paths[role].cosine_to_last, cosines, atol=1e-6)
        np.testing.assert_allclose(run.tokens[f"ray_share_{kind}"], shares, atol=1e-6)
        assert np.flatnonzero(run.tokens[f"ray_share_of_walk_{kind}"].isna()).tolist() == [40]
        assert np.isnan(run.tokens.loc[40, f"time_to_half_{kind}"])
        assert run.tokens[f"time_to_half_{kind}"].dropna().between(0, STEPS[-1]).all()


def test_trends_and_profile_are_of_the_tokens_that_have_a_value(series, counts, tmp_path):
    run = track(series, tmp_path / "run", counts=counts, settings=PATHS, rule="count>=1")
    times = run.tokens["time_to_half_input"]
    mask = run.kept & times.notna().to_numpy()
    assert mask.sum() == run.kept.sum() - 1
    (median,) = run.trend("input_embedding_time_to_half", against="", statistic="median")["value"]
    assert median == pytest.approx(times[mask].median(), rel=1e-6)
    trend = run.trend("input_embedding_time_to_half").iloc[0]
    expected = spearmanr(times[mask], run.tokens["count"][mask]).statistic
    assert trend["value"] == pytest.approx(expected, abs=1e-6)
    assert (trend["n"], trend["step"]) == (mask.sum(), STEPS[-1])
    profile = rows_where(run.profile, measure="input_embedding_time_to_half")
    bins = profile[profile["bin"] >= 0]
    assert bins["n"].sum() == mask.sum()
    top = bins.iloc[-1]
    in_bin = mask & run.tokens["count"].between(top["count_low"], top["count_high"])
    assert top["median"] == pytest.approx(times[in_bin].median(), rel=1e-6)
    assert top["median_low"] <= top["median"] <= top["median_high"]
    cosines = rows_where(run.profile, measure="output_embedding_cosine_to_last", step=8)
    assert len(cosines) == len(bins) + 1  # and the rows that never occur


def test_findings_say_both_ends_and_how_many_rows_are_left_out(series, counts, tmp_path):
    run = track(series, tmp_path / "run", counts=counts, settings=PATHS, rule="count>=1")
    text = "\n".join(findings(run))
    rows = rows_where(run.profile, measure="output_embedding_time_to_half")
    rarest, top = rows[rows["bin"] == 0].iloc[0], rows.iloc[-1]
    assert (
        f"Output rows of the most frequent tokens ({top['count_low']:,} to {top['count_high']:,} "
        f"occurrences, n {top['n']}) have come half of the way from their direction at step 0 to "
        f"that at step 32 by step {top['median']:.0f} [{top['median_low']:.0f}, "
        f"{top['median_high']:.0f}], those of the rarest ("
    ) in text
    assert f"n {rarest['n']}) by step {rarest['median']:.0f} [" in text
    assert "; 1 of 268 output rows have no such time, as their last direction is" in text
    share = run.tokens["ray_share_input"][run.kept].median()
    assert f"by a median share of {share:.3f} [" in text
    plain = tracked(tmp_path / "plain", counts=counts)
    assert "half of the way" not in "\n".join(findings(plain))


def test_rows_that_hardly_turn_are_said_to(counts, tmp_path):
    still = grow(counts)
    for tensors in still.values():
        tensors[INPUT] = still[0][INPUT]
    run = tracked(tmp_path, counts=counts, series=still, settings=PATHS)
    text = "\n".join(findings(run))
    assert "Too few input rows turn from their direction at step 0 to that at step 32" in text
    assert f"{run.kept.sum()} of {run.kept.sum()} input rows have no such time" in text
    assert "Too few input rows move to say how straight their paths are." in text


def test_the_stage_can_be_added_and_is_not_repeated(series, counts, tmp_path, monkeypatch):
    at_once = track(series, tmp_path / "at-once", counts=counts, settings=PATHS, command="")
    added = track(series, tmp_path / "added", counts=counts, command="")
    plain = files_of(added.path)
    track(series, added.path, counts=counts, settings=PATHS, command="")
    assert files_of(added.path) == files_of(at_once.path)
    assert {name for name in files_of(added.path) if name.startswith("paths/")} == {
        f"paths/rows-{start:08d}.parquet" for start in (0, 128, 256)
    }
    for name in files_of(added.path):  # nothing else has changed
        if name.startswith(("measures/", "matrices/")):
            assert files_of(added.path)[name] == plain[name]
    monkeypatch.setattr(following, "RowPaths", None)  # would fail if it were called
    for settings in (PATHS, TrackingSettings()):
        track(series, added.path, counts=counts, settings=settings, command="")
        assert files_of(added.path) == files_of(at_once.path)
    assert [stage.name for stage in Run(added.path).record.stages] == ["weights", "paths"]


@pytest.mark.parametrize("files", range(4))
def test_a_stage_that_was_killed_at_any_file_goes_on_to_the_same_bytes(
    series, counts, tmp_path, monkeypatch, files
):
    whole = files_of(track(series, tmp_path / "whole", counts=counts, settings=PATHS).path)
    cut = track(series, tmp_path / "cut", counts=counts).path
    write, written = runs.write_table, []

    def dies(path, columns):
        if len(written) == files:
            path.parent.mkdir(exist_ok=True)
            path.with_name(f"{path.name}.partial").write_bytes(b"half a table")
            raise Killed
        written.append(path)
        return write(path, columns)

    with monkeypatch.context() as patched:
        patched.setattr(following, "write_table", dies)
        if files < 3:
            with pytest.raises(Killed):
                track(series, cut, counts=counts, settings=PATHS)
        else:
            track(series, cut, counts=counts, settings=PATHS)
    followed = []
    with monkeypatch.context() as patched:
        patched.setattr(
            following, "write_table", lambda *table: followed.append(table) or write(*table)
        )
        track(series, cut, counts=counts, settings=PATHS)
    assert len(followed) == 3 - files
    again = files_of(cut)
    assert {name: again[name] for name in whole} == whole


def test_a_damaged_part_alone_is_redone(series, counts, tmp_path, monkeypatch):
    run = track(series, tmp_path / "run", counts=counts, settings=PATHS)
    before = files_of(run.path)
    (run.path / "paths/rows-00000128.parquet").write_bytes(b"PAR1")
    starts = []
    columns = following._Pass.columns
    monkeypatch.setattr(
        following._Pass,
        "columns",
        lambda *arguments: starts.append(arguments[1]) or columns(*arguments),
    )
    track(series, run.path, counts=counts, settings=PATHS)
    assert starts == [128]
    assert files_of(run.path) == before


@pytest.mark.parametrize("settings", [PATHS, TrackingSettings()])
def test_another_last_step_has_it_redone_or_left_out_and_said(counts, tmp_path, settings):
    whole = wandering(counts)
    broken = whole | {32: whole[32] | {INPUT: whole[32][INPUT] * np.nan}}
    folder = tmp_path / "series"
    run = track(write_series(folder, broken), tmp_path / "run", counts=counts, settings=PATHS)
    assert run.steps == [0, 2, 8]
    shutil.rmtree(folder)
    mended = write_series(folder, whole)
    said = []
    run = track(mended, run.path, counts=counts, settings=settings, report=said.append)
    expected = files_of(track(mended, tmp_path / "new", counts=counts, settings=settings).path)
    assert {name: files_of(run.path)[name] for name in expected} == expected
    assert said == [
        "reading 4 steps again, to follow each row over them"
        if settings.paths
        else "the paths of rows are not of all rows and steps, and left out; --paths redoes them"
    ]


def test_an_unfinished_stage_is_left_out_where_it_is_not_wanted(
    series, counts, tmp_path, monkeypatch
):
    def dies(path, columns):
        raise Killed

    plain = files_of(track(series, tmp_path / "plain", counts=counts).path)
    with monkeypatch.context() as patched:
        patched.setattr(following, "write_table", dies)
        with pytest.raises(Killed):
            track(series, tmp_path / "run", counts=counts, settings=PATHS)
    track(series, tmp_path / "run", counts=counts)
    assert files_of(tmp_path / "run") == plain


def test_a_tied_matrix_has_paths_once(counts, tmp_path):
    run = tracked(tmp_path, tied=True, counts=counts, settings=PATHS)
    assert list(read_paths(run.path, run.record)) == ["input_embedding"]
    assert "ray_share_input" in run.tokens
    assert "ray_share_output" not in run.tokens
    assert "Output rows of the most" not in "\n".join(findings(run))


@pytest.mark.parametrize("rows", ["10:200", "2,40:200,299"])
def test_some_rows_have_the_paths_they_have_among_all(series, counts, tmp_path, rows):
    whole = track(series, tmp_path / "whole", counts=counts, settings=PATHS)
    part = track(series, tmp_path / "part", counts=counts, settings=PATHS, rows=rows)
    ids = part.tokens["token_id"].to_numpy()
    expected = whole.tokens.iloc[ids].reset_index(drop=True)
    pd.testing.assert_frame_equal(part.tokens, expected)


def test_without_counts_tokens_have_their_paths(series, tmp_path):
    run = track(series, tmp_path / "run", settings=PATHS)
    assert list(run.tokens.columns[-6:-3]) == [
        *("time_to_half_input", "ray_share_input", "ray_share_of_walk_input")
    ]
    assert run.trends.empty or not run.trends["measure"].str.contains("ray_share").any()


def test_too_few_steps_are_refused_before_anything_is_read(series, tmp_path):
    told = r"paths need 3 steps, and there are 2; measure more \(--steps, or checkpoints.steps"
    with pytest.raises(ConfigError, match=told):
        track(series, tmp_path / "run", steps="0,32", settings=PATHS)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("value", [5.0, np.nan])
def test_weights_that_change_between_the_passes_are_refused(series, tmp_path, value, monkeypatch):
    def meddling(*arguments):
        path = tmp_path / "series/step-8/model.safetensors"
        tensors = load_file(path)
        tensors[OUTPUT][7] *= value
        save_file(tensors, path)
        return follow(*arguments)

    follow = following.run_paths
    monkeypatch.setattr("dynamics.tracking.track.run_paths", meddling)
    told = r"step 8 has another output embedding than was measured \(1 of 128 rows have another"
    with pytest.raises(MismatchError, match=told):
        track(series, tmp_path / "run", settings=PATHS)


def test_the_cost_names_the_second_pass(series):
    assert track_cost(series, paths=True).passes == 2
    assert "read twice, to follow rows: 0.0" in track_cost(series, paths=True).describe()
    assert "read twice" not in track_cost(series).describe()
