"""Covariates are a stage of a run: added at once or later, to the same bytes, never replaced."""

import json

import numpy as np
import pandas as pd
import pytest

from dynamics.config import TrackingSettings
from dynamics.errors import ConfigError, MismatchError, OutputError
from dynamics.runs import finish as finishing
from dynamics.runs.findings import findings
from dynamics.tracking import covariates as adding
from dynamics.tracking.track import track
from tests.tracking.synthetic import files_of

NORM = "input_embedding_norm"


@pytest.fixture
def ratings(tmp_path, counts):
    """Two files: ratings measured twice by id; ages of half of the tokens, by spelling."""
    rng = np.random.default_rng(3)
    table = counts.table
    follows = np.log(table["count"] + 1) + rng.standard_normal(len(table))
    halves = {f"rating_half_{half}": follows + rng.standard_normal(len(table)) for half in (1, 2)}
    pd.DataFrame({"token_id": table["token_id"], **halves}).to_csv(
        tmp_path / "rating.csv", index=False
    )
    ages = pd.DataFrame({"token_id": table["token_id"], "age": rng.random(len(table))})
    ages[::2].to_parquet(tmp_path / "age.parquet")
    return [str(tmp_path / name) for name in ("rating.csv", "age.parquet")]


def run_with(series, output, counts, covariates=(), **settings):
    lines = []
    run = track(
        series, output, counts=counts, command="", report=lines.append,
        settings=TrackingSettings(covariates=list(covariates), **settings),
    )  # fmt: skip
    return run, lines


def test_covariates_added_later_one_by_one_give_the_same_files(series, counts, tmp_path, ratings):
    at_once, lines = run_with(series, tmp_path / "once", counts, ratings)
    assert len(lines) == 2
    assert lines[0] == f"{ratings[0]}: 300 of 300 rows are a token of series"
    bare, _ = run_with(series, tmp_path / "grown", counts)
    before = files_of(tmp_path / "grown")
    old = bare.trends
    for file in ratings:
        run_with(series, tmp_path / "grown", counts, [file])
    again, _ = run_with(series, tmp_path / "grown", counts)
    assert files_of(tmp_path / "grown") == files_of(tmp_path / "once")
    changed = {
        name
        for name, content in files_of(tmp_path / "grown").items()
        if before.get(name) != content
    }
    assert {name for name in changed if name in before} == {"run.json", "trends.parquet"}
    of_covariates = again.trends["against"].str.startswith("covariate:") | again.trends[
        "measure"
    ].str.startswith("covariate:")
    pd.testing.assert_frame_equal(
        again.trends[~of_covariates].reset_index(drop=True), old.reset_index(drop=True)
    )
    assert of_covariates.any()
    stage = at_once.record.stages[-1]
    assert stage.name == "covariates"
    assert stage.settings == {"rating": "rating.csv", "age": "age.parquet"}
    assert set(stage.digests) == {"rating", "age"}


@pytest.mark.parametrize("moment", [0, 1, 3])
def test_a_run_killed_while_covariates_are_added_resumes(
    series, counts, tmp_path, ratings, monkeypatch, moment
):
    class Killed(BaseException):
        pass

    run_with(series, tmp_path / "once", counts, ratings)
    run_with(series, tmp_path / "grown", counts)
    calls = []

    def dying(module):
        write = module.write_table

        def write_or_die(path, columns):
            calls.append(path)
            if len(calls) == moment + 1:
                raise Killed
            return write(path, columns)

        return write_or_die

    with monkeypatch.context() as patched:
        for module in (adding, finishing):
            patched.setattr(module, "write_table", dying(module))
        with pytest.raises(Killed):
            run_with(series, tmp_path / "grown", counts, ratings)
    run_with(series, tmp_path / "grown", counts, ratings)
    assert files_of(tmp_path / "grown") == files_of(tmp_path / "once")


def test_other_values_under_the_same_name_are_refused_and_nothing_is_changed(
    series, counts, tmp_path, ratings
):
    run_with(series, tmp_path / "run", counts, ratings)
    before = files_of(tmp_path / "run")
    frame = pd.read_parquet(ratings[1])
    frame["age"] += 1
    frame.to_csv(tmp_path / "other.csv", index=False)
    with pytest.raises(MismatchError) as error:
        run_with(series, tmp_path / "run", counts, [str(tmp_path / "other.csv")])
    assert str(error.value) == (
        f"{tmp_path / 'run'} already holds a covariate 'age' with other values than the column of "
        f"{tmp_path / 'other.csv'}; rename the column, or give another output folder"
    )
    assert files_of(tmp_path / "run") == before


def test_a_damaged_table_is_named_and_written_again_by_the_same_command(
    series, counts, tmp_path, ratings
):
    run_with(series, tmp_path / "run", counts, ratings)
    before = files_of(tmp_path / "run")
    damaged = next((tmp_path / "run" / "covariates").iterdir())
    damaged.write_bytes(b"")
    with pytest.raises(OutputError, match=f"{damaged} is damaged; run the same"):
        run_with(series, tmp_path / "run", counts)
    run_with(series, tmp_path / "run", counts, ratings)
    assert files_of(tmp_path / "run") == before


def test_without_counts_or_with_too_few_tokens_nothing_is_measured(
    series, counts, tmp_path, ratings
):
    with pytest.raises(ConfigError) as error:
        run_with(series, tmp_path / "run", None, ratings)
    assert str(error.value).endswith("which needs token counts; give --counts")
    pd.DataFrame({"token_id": range(100, 109), "x": range(9)}).to_csv(
        tmp_path / "few.csv", index=False
    )
    with pytest.raises(ConfigError) as error:
        run_with(series, tmp_path / "run", counts, [str(tmp_path / "few.csv")])
    assert "column 'x' is known of 8 of the 213 tokens that count>=10 keeps" in str(error.value)
    assert not (tmp_path / "run").exists()


def test_of_some_rows_only_their_tokens_enter(series, counts, tmp_path, ratings):
    lines = []
    run = track(
        series, tmp_path / "run", counts=counts, rows="100:200", command="", report=lines.append,
        settings=TrackingSettings(covariates=ratings),
    )  # fmt: skip
    trend = run.trend(NORM, against="covariate:rating")
    assert set(trend["n"]) == {run.kept.sum()}


def test_findings_name_each_column_with_its_reliability(series, counts, tmp_path, ratings):
    run, _ = run_with(series, tmp_path / "run", counts, ratings)
    rating, age = [text for text in findings(run) if text.startswith("The column")]
    assert rating.startswith("The column 'rating' at step 32 (213 tokens, rho [simultaneous band])")
    assert "Its reliability is 0." in rating
    assert "reliability" not in age
    assert "inside its null band" in age
    last = run.trend(NORM, against="covariate:rating").iloc[-1]
    assert f"input embedding norms {last['value']:+.3f} [{last['band_low']:+.3f}" in rating
    assert "nothing here measures importance" in findings(run)[-1], "a covariate is no importance"


def test_a_run_without_covariates_has_no_such_stage(series, counts, tmp_path):
    run_with(series, tmp_path / "run", counts)
    content = json.loads((tmp_path / "run" / "run.json").read_text())
    assert "covariates" not in content
    assert [stage["name"] for stage in content["stages"]] == ["weights"]
