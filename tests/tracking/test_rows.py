"""Some rows of a series: their numbers are those of the whole; what they cannot tell is said."""

import shutil

import numpy as np
import pandas as pd
import pytest

from dynamics.checkpoints.formats.tensors import digest
from dynamics.checkpoints.rows import parse_rows
from dynamics.errors import ConfigError, MismatchError
from dynamics.measure_groups import DEFAULT_GROUPS
from dynamics.runs.findings import findings, last_step_table
from dynamics.runs.measures import MEASURES, split_name
from dynamics.runs.run import Run
from dynamics.statistics.vocabulary import parse_rule
from dynamics.tracking.cost import track_cost
from dynamics.tracking.matrices import MATRICES
from dynamics.tracking.track import track
from dynamics.tracking.training_data import find_counts
from tests.tracking.independent import spearman
from tests.tracking.synthetic import STEPS, WIDTH, files_of, grow, write_training

ROWS = "2,40:200,299"
IDS = parse_rows(ROWS).ids


@pytest.fixture
def part(series, counts, tmp_path):
    return track(series, tmp_path / "part", counts=counts, rows=ROWS)


def test_numbers_are_those_of_the_whole_run(series, counts, tmp_path, part):
    whole = track(series, tmp_path / "whole", counts=counts)
    left_out = {name for name in whole.info["measures"] if split_name(name)[1].needs_all_rows}
    assert len(left_out) == 5 + 2 * 4
    assert set(part.info["measures"]) == set(whole.info["measures"]) - left_out
    for step in STEPS:
        expected = whole.measures(step).drop(columns=sorted(left_out)).iloc[IDS]
        pd.testing.assert_frame_equal(part.measures(step), expected.reset_index(drop=True))
    expected = whole.tokens.iloc[IDS].reset_index(drop=True)
    pd.testing.assert_frame_equal(part.tokens, expected)


def test_the_run_says_which_rows_and_what_is_left_out(series, part):
    assert part.rows == ROWS
    assert part.info["settings"]["rows"] == ROWS
    wanted = [
        name for name, m in MEASURES.items() if m.needs_all_rows and m.group in DEFAULT_GROUPS
    ]
    wanted += [name for name, statistic in MATRICES.items() if statistic.group in DEFAULT_GROUPS]
    assert part.info["measures_left_out"] == wanted
    assert not (part.path / "matrices").exists()
    assert part.info["series"]["vocab_size"] == 300
    for entry, checkpoint in zip(part.info["checkpoints"], series, strict=True):
        assert "tensor_sha256" not in entry
        assert entry["rows_sha256"] == {
            role: digest(checkpoint.tensor(role)[IDS])
            for role in ("input_embedding", "output_embedding")
        }
    told = f"rows {ROWS} alone were read; left out, as they need every row: norm_centered, "
    assert told in last_step_table(part)
    assert f"count>=10 of rows {ROWS}: " in last_step_table(part)
    assert "its sign is not decided" in " ".join(findings(part))


def test_statistics_are_of_these_rows(part, counts):
    rule = parse_rule("count>=10", ROWS)
    table = counts.table.iloc[IDS]
    kept = rule.mask(table["count"].to_numpy(), table["kind"].to_numpy())
    trend = part.trend("input_embedding_norm").set_index("step")
    assert set(trend["rule"]) == {f"count>=10 of rows {ROWS}"}
    assert set(part.trends["rule"].str.endswith(f" of rows {ROWS}")) == {True}
    assert set(trend["n"]) == {kept.sum()}
    norms = part.measures(32)["input_embedding_norm"].to_numpy(np.float64)[kept]
    expected = spearman(norms, table["count"].to_numpy()[kept])
    assert trend["value"][32] == pytest.approx(expected, abs=1e-12)


def test_a_few_tokens_are_followed_and_nothing_is_correlated(series, counts, tmp_path):
    run = track(series, tmp_path / "few", counts=counts, rows="5,17,290")
    assert list(run.measures(32)["token_id"]) == [5, 17, 290]
    assert list(run.tokens["count"]) == list(counts.table["count"].iloc[[5, 17, 290]])
    assert run.trends.empty
    assert "count>=10 of rows 5,17,290 keeps 1 of 3 tokens, too few to" in last_step_table(run)
    alone = track(series, tmp_path / "alone", rows="5,17,290")
    assert list(alone.tokens["token_id"]) == [5, 17, 290]
    assert "rows 5,17,290 alone" in last_step_table(alone)


def test_exposure_is_of_these_rows(tmp_path, counts):
    series = write_training(tmp_path / "training", counts, grow(counts))
    found = find_counts(series, "auto")
    whole = track(series, tmp_path / "whole", counts=found)
    part = track(series, tmp_path / "part", counts=found, rows=ROWS)
    for column in ("exposure_as_input", "exposure_as_target"):
        seen = part.measures(8)[column].to_numpy()
        assert (seen == whole.measures(8)[column].to_numpy()[IDS]).all()
        assert seen.any()


def test_going_on_with_the_same_rows_and_with_others(series, counts, tmp_path, part):
    before = files_of(part.path)
    (part.path / "measures/step-00000008.parquet").unlink()
    track(series, part.path, counts=counts, rows="299,2,40:150,150:200")
    assert files_of(part.path) == before
    for rows, here in (("2,40:200", "2,40:200"), (None, "None")):
        with pytest.raises(
            MismatchError, match=f"settings: rows is {ROWS} in the folder, {here} now"
        ):
            track(series, part.path, counts=counts, rows=rows)
    whole = track(series, tmp_path / "whole", counts=counts)
    with pytest.raises(MismatchError, match=f"settings: rows is None in the folder, {ROWS} now"):
        track(series, whole.path, counts=counts, rows=ROWS)
    assert files_of(part.path) == before


def test_other_weights_in_these_rows_are_refused(series, counts, part):
    paths = [checkpoint.path for checkpoint in series]
    shutil.copytree(paths[1], paths[2], dirs_exist_ok=True)
    with pytest.raises(MismatchError, match="was measured on other weights"):
        track(series, part.path, counts=counts, rows=ROWS)


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ("0:301", "--rows selects row 300, but the embedding of series has 300 rows"),
        ("", "cannot read ''"),
        ("9:3", "holds no row"),
    ],
)
def test_rows_that_cannot_be_had_are_an_error_before_anything_is_written(
    series, tmp_path, rows, told
):
    for use in (
        lambda: track(series, tmp_path / "run", rows=rows),
        lambda: track_cost(series, rows=rows),
    ):
        with pytest.raises(ConfigError, match=told):
            use()
    assert not (tmp_path / "run").exists()


def test_the_cost_is_that_of_the_rows(series):
    cost = track_cost(series, rows="0:100,299")
    assert cost.rows == "0:100,299"
    assert cost.bytes_per_checkpoint == 2 * 300 * WIDTH * 4  # what is between is read along
    assert "4 checkpoints, rows 0:100,299 of the embeddings" in cost.describe()
    assert track_cost(series, rows="0:100").bytes_per_checkpoint == 2 * 100 * WIDTH * 4


def test_opened_again_the_run_is_of_these_rows(part):
    again = Run(part.path)
    assert str(again.rule) == f"count>=10 of rows {ROWS}"
    assert again.array("input_embedding_norm").shape == (len(STEPS), len(IDS))
    assert again.kept.shape == (len(IDS),)
