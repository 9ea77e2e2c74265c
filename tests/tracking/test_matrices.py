"""What the matrices say as a whole, against numpy on the checkpoint files."""

import json

import numpy as np
import pytest
from scipy.stats import linregress, spearmanr

from dynamics.checkpoints.series import open_series
from dynamics.config import TrackingSettings
from dynamics.errors import MismatchError
from dynamics.measure_groups import MEASURE_GROUPS
from dynamics.runs.findings import last_step_table
from dynamics.runs.measures import MEASURES
from dynamics.runs.run import Run, read_table, step_path, stored_rows
from dynamics.runs.trends import TREND_COLUMNS
from dynamics.tracking import matrices
from dynamics.tracking.track import track
from tests.statistics.fold_by_fold import solved_fold_by_fold
from tests.tracking import independent
from tests.tracking.synthetic import (
    GAIN,
    INPUT,
    OUTPUT,
    STEPS,
    WIDTH,
    files_of,
    grow,
    make_counts,
    read_float64,
    write_series,
)

EVERYTHING = TrackingSettings(measures="all", every_row=True)
MATRICES = TrackingSettings(measures="ranks,readouts")
BETA = "gpt_neox.final_layer_norm.bias"
LAST = STEPS[-1]


def with_beta(counts, **settings):
    series = grow(counts, **settings)
    for step, tensors in series.items():
        tensors[BETA] = (np.linspace(-1, 1, WIDTH) * step / LAST).astype(tensors[GAIN].dtype)
    return series


@pytest.fixture(scope="module")
def complete(tmp_path_factory, counts):
    """A run with everything, in float64, of counts with an information gain, and its folder."""
    counts = make_counts()
    gain = np.random.default_rng(5).gamma(2, size=len(counts.table))
    gain[50] = np.nan
    counts.table["information_gain_symmetric"] = gain
    folder = tmp_path_factory.mktemp("complete")
    series = write_series(folder / "series", with_beta(counts, dtype=np.float64))
    return track(series, folder / "run", counts=counts, settings=EVERYTHING), folder / "series"


def scalar(run, statistic, step=LAST, **about):
    rows = run.trends[(run.trends["statistic"] == statistic) & (run.trends["step"] == step)]
    for column, value in {"measure": "input_embedding", **about}.items():
        rows = rows[rows[column] == value]
    (row,) = rows.to_dict("records")
    return row


def tensor(folder, key, step=LAST):
    return read_float64(folder, step)[key]


@pytest.mark.parametrize(("role", "key"), [("input", INPUT), ("output", OUTPUT)])
def test_mean_direction_and_effective_rank(complete, role, key):
    run, folder = complete
    rows = tensor(folder, key)
    mean, norms = rows.mean(axis=0), np.linalg.norm(rows, axis=1)
    about = {"measure": f"{role}_embedding"}
    share = scalar(run, "mean_direction_share", **about)
    assert share["value"] == pytest.approx(len(rows) * mean @ mean / (norms**2).sum())
    assert (share["n"], share["against"], share["rule"]) == (300, "", "")
    assert np.isnan(share["low"])
    ratio = scalar(run, "mean_shift_ratio", **about)["value"]
    assert ratio == pytest.approx(np.linalg.norm(mean) / norms.mean())
    for name, matrix in [("effective_rank", rows), ("effective_rank_centered", rows - mean)]:
        singular = np.linalg.svd(matrix, compute_uv=False)
        share = singular / singular.sum()
        expected = np.exp(-(share * np.log(share)).sum())
        assert scalar(run, name, **about)["value"] == pytest.approx(expected)


@pytest.mark.parametrize(("role", "key"), [("input", INPUT), ("output", OUTPUT)])
@pytest.mark.parametrize("step", [0, LAST])
def test_the_readout_of_frequency_is_a_ridge_regression_on_each_set_of_predictors(
    complete, role, key, step
):
    run, folder = complete
    tokens = run.tokens
    kept = independent.kept("count>=10", tokens["count"].to_numpy(), tokens["kind"].to_numpy())
    rows, y = tensor(folder, key, step)[kept], np.log(tokens["count"].to_numpy()[kept])
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    units = rows / norms
    kinds = [
        (each - each.mean(axis=0)) / np.sqrt(each.var(axis=0).mean()) for each in (units, norms)
    ]
    for given, predictors in [
        ("rows", rows),
        ("unit_rows", units),
        ("norm", norms),
        ("unit_rows+norm", np.hstack(kinds)),
    ]:
        found = scalar(run, "readout_r2", step, measure=f"{role}_embedding", given=given)
        expected, *_ = solved_fold_by_fold(predictors, y)
        assert found["value"] == pytest.approx(expected, abs=1e-7), given
        assert found["low"] < found["value"] < found["high"]
        about = {"n": len(kept), "against": "log_frequency", "rule": "count>=10"}
        assert about.items() <= found.items()


def test_the_readout_finds_frequency_where_it_was_planted(complete):
    """Norms of input rows come to grow with log count; their directions know nothing of it."""
    run, _ = complete
    planted = {given: scalar(run, "readout_r2", given=given) for given in ("norm", "unit_rows")}
    assert planted["norm"]["low"] > 0.9
    assert planted["unit_rows"]["value"] < 0.1
    assert scalar(run, "readout_r2", step=0, given="norm")["low"] < 0.05


def test_a_norm_s_bias_is_folded_where_the_head_has_none(complete):
    run, folder = complete
    kept, frequency = kept_frequency(run)
    bias = (tensor(folder, OUTPUT) @ tensor(folder, BETA))[kept]
    about = {"measure": "output_bias_folded", "against": "log_frequency", "rule": "count>=10"}
    found = scalar(run, "spearman", **about)
    assert found["value"] == pytest.approx(spearmanr(bias, frequency).statistic)
    assert found["low"] < found["value"] < found["high"]
    slope = scalar(run, "slope", **about)
    assert slope["value"] == pytest.approx(linregress(frequency, bias).slope)
    assert slope["low"] < slope["value"] < slope["high"]
    assert np.isnan(scalar(run, "spearman", step=0, **about)["value"])  # beta is 0 there
    assert "output_bias" not in set(run.trends["measure"])


def kept_frequency(run):
    tokens = run.tokens
    kept = independent.kept("count>=10", tokens["count"].to_numpy(), tokens["kind"].to_numpy())
    return kept, tokens["log_frequency"].to_numpy()[kept]


def test_a_head_s_bias_is_taken_as_it_is_and_once_for_a_tied_model(tmp_path, counts):
    from safetensors.numpy import save_file

    rng = np.random.default_rng(4)
    bias = rng.standard_normal(300).astype(np.float32)
    for step in (0, 1):
        folder = tmp_path / f"series/step-{step}"
        folder.mkdir(parents=True)
        rows = rng.standard_normal((300, 8)).astype(np.float32)
        save_file(
            {"transformer.wte.weight": rows, "lm_head.bias": bias}, folder / "model.safetensors"
        )
        config = {"model_type": "gpt2", "tie_word_embeddings": True}
        (folder / "config.json").write_text(json.dumps(config))
    run = track(
        open_series(tmp_path / "series"), tmp_path / "run", counts=counts, settings=EVERYTHING
    )
    kept, frequency = kept_frequency(run)
    found = scalar(run, "spearman", step=1, measure="output_bias")
    assert found["value"] == pytest.approx(spearmanr(bias[kept], frequency).statistic)
    whole = run.trends[run.trends["statistic"].isin(["effective_rank", "readout_r2"])]
    assert set(whole["measure"]) == {"input_embedding"}
    assert not any("cosine_to_input" in name for name in run.info["measures"])


def test_measures_of_everything_are_those_of_numpy(complete):
    run, folder = complete
    inputs, outputs = tensor(folder, INPUT), tensor(folder, OUTPUT)
    count = run.tokens["count"].to_numpy()
    table = run.measures(LAST)
    unused = (count == 0) & (run.tokens["kind"] != "special").to_numpy()
    assert unused.sum() == 12
    for role, rows in (("input", inputs), ("output", outputs)):
        goal, mean = rows[unused].mean(axis=0), rows.mean(axis=0)
        axis = np.linalg.svd(rows - mean)[2][0]
        expected = {
            "distance": np.linalg.norm(rows - goal, axis=1),
            "cosine_distance": 1 - cosine(rows, goal),
            "cosine_distance_centered": 1 - cosine(rows - mean, goal - mean),
            "cosine_distance_without_first": 1
            - cosine(rows - np.outer(rows @ axis, axis), goal - goal @ axis * axis),
        }
        for name, values in expected.items():
            found = table[f"{role}_embedding_unused_{name}"]
            np.testing.assert_allclose(found, values, atol=1e-7, err_msg=name)
    share = count / count.sum()
    centered = outputs - share @ outputs
    values, vectors = np.linalg.eigh(centered.T @ (share[:, None] * centered))
    root = vectors * np.sqrt(values) @ vectors.T
    expected = np.linalg.norm((inputs - share @ inputs) @ root, axis=1)
    np.testing.assert_allclose(table["input_embedding_norm_whitened"], expected, rtol=1e-7)


def cosine(rows, vector):
    return rows @ vector / (np.linalg.norm(rows, axis=1) * np.linalg.norm(vector))


def test_the_whitened_norm_law_is_a_line_through_the_origin(complete):
    run, _ = complete
    squares = run.measures(LAST)["input_embedding_norm_whitened"].to_numpy() ** 2
    gain = run.tokens["information_gain_symmetric"].to_numpy()
    kept = [at for at in kept_frequency(run)[0] if np.isfinite(gain[at])]
    x, y = 2 * gain[kept], squares[kept]
    about = {"measure": "input_embedding_norm_whitened", "against": "information_gain_symmetric"}
    slope = scalar(run, "whitened_slope", **about)
    assert slope["value"] == pytest.approx(x @ y / (x @ x))
    assert slope["n"] == len(kept)
    r2 = 1 - ((y - slope["value"] * x) ** 2).sum() / ((y - y.mean()) ** 2).sum()
    assert scalar(run, "whitened_r2", **about)["value"] == pytest.approx(r2)


@pytest.mark.parametrize("group", MEASURE_GROUPS)
def test_what_is_measured_is_what_the_groups_name(group, counts, tmp_path):
    series = write_series(tmp_path / "series", with_beta(counts))
    settings = TrackingSettings(measures=group)
    run = track(series, tmp_path / "run", counts=counts, steps="2,last", settings=settings)
    groups = {MEASURES[name.split("_", 2)[2]].group for name in run.info["measures"]}
    assert groups == {"norms", group} - {"ranks", "readouts"}
    statistics = {*run.trends["statistic"]}
    assert ("effective_rank" in statistics) == (group == "ranks")
    assert ("readout_r2" in statistics) == (group == "readouts")
    assert {"mean_direction_share", "identical_rows", "slope"} <= statistics
    assert ("left_initialisation_input" in run.tokens) == (group == "distances")
    assert last_step_table(run)


def test_equal_rows_are_counted_at_each_step_and_are_ties(counts, tmp_path):
    series = grow(counts)
    for step, tensors in series.items():
        if step < 8:
            tensors[OUTPUT][40:44] = tensors[OUTPUT][40]
            tensors[OUTPUT][60] = tensors[OUTPUT][59]
    run = track(write_series(tmp_path / "series", series), tmp_path / "run", counts=counts)
    for step, rows, groups in [(0, 6, 2), (2, 6, 2), (8, 0, 0)]:
        about = {"step": step, "measure": "output_embedding"}
        assert scalar(run, "identical_rows", **about)["value"] == rows
        assert scalar(run, "identical_row_groups", **about)["value"] == groups
        assert scalar(run, "identical_rows", step=step)["value"] == 0
    table = run.measures(2)
    for name in table.columns.drop("token_id"):
        if name.startswith("output") and name != "output_embedding_cosine_to_input":
            assert len({*table[name][40:44]}) == len({*table[name][59:61]}) == 1, name


def test_a_tied_model_is_whitened_by_itself(tmp_path, counts):
    series = write_series(tmp_path / "series", grow(counts, steps=(0, 1)), tied=True)
    run = track(series, tmp_path / "run", counts=counts, settings=EVERYTHING)
    rows, share = tensor(tmp_path / "series", INPUT, 1), counts.table["count"].to_numpy()
    share = share / share.sum()
    centered = rows - share @ rows
    moment = centered.T @ (share[:, None] * centered)
    expected = np.sqrt(((centered @ moment) * centered).sum(axis=1))
    found = run.measures(1)["input_embedding_norm_whitened"]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_no_more_rows_than_said_enter_unless_everything_is_asked_for(
    series, counts, tmp_path, monkeypatch
):
    monkeypatch.setattr(matrices, "MOST_ROWS", 100)
    some, again = (
        track(series, tmp_path / name, counts=counts, steps="last", settings=MATRICES)
        for name in ("some", "again")
    )
    everything = track(series, tmp_path / "all", counts=counts, steps="last", settings=EVERYTHING)
    for statistic, about in [("effective_rank", {}), ("readout_r2", {"given": "rows"})]:
        assert scalar(some, statistic, **about)["n"] == 100
        assert scalar(everything, statistic, **about)["n"] > 200
    assert again.trends.equals(some.trends)


def test_the_tables_of_steps_are_in_the_trends(complete):
    run, _ = complete
    for entry in run.info["checkpoints"]:
        path = step_path(run.path, "matrices", entry["step"])
        table = read_table(path, entry["matrices_sha256"])
        assert tuple(table.columns) == TREND_COLUMNS
        assert set(table["step"]) == {entry["step"]}
    digests = {entry["step"]: entry["matrices_sha256"] for entry in run.info["checkpoints"]}
    rows = stored_rows(run.path, "matrices", digests)
    key = ("step", "measure", "against", "statistic", "given")
    keys = {tuple(row[column] for column in key) for row in rows}
    assert len(keys) == len(rows)
    assert keys <= set(run.trends[list(key)].itertuples(index=False, name=None))


def test_equal_counts_have_no_readout_and_no_correlation(tmp_path):
    counts = make_counts()
    counts.table["count"] = 40
    series = write_series(tmp_path / "series", grow(counts, steps=(0,)))
    run = track(series, tmp_path / "run", counts=counts, settings=MATRICES)
    assert np.isnan(scalar(run, "readout_r2", step=0, given="rows")["value"])
    assert np.isnan(scalar(run, "slope", step=0, measure="output_bias_folded")["value"])


def test_matrices_of_zeros_have_nothing_to_say(tmp_path, counts):
    series = grow(counts, steps=(0, 1))
    series[0][OUTPUT] = np.zeros_like(series[0][OUTPUT])
    opened = write_series(tmp_path / "series", series)
    run = track(opened, tmp_path / "run", counts=counts, settings=MATRICES)
    about = {"step": 0, "measure": "output_embedding"}
    assert np.isnan(scalar(run, "effective_rank", **about)["value"])
    assert np.isnan(scalar(run, "mean_direction_share", **about)["value"])
    for given in ("rows", "unit_rows", "norm"):
        value = scalar(run, "readout_r2", given=given, **about)["value"]
        assert value == pytest.approx(0, abs=1e-9)


def test_each_token_has_the_step_at_which_it_leaves_its_initialisation(complete):
    run, folder = complete
    for role, key in (("input", INPUT), ("output", OUTPUT)):
        first = tensor(folder, key, STEPS[0])
        cosines = [
            (rows * first).sum(1) / np.linalg.norm(rows, axis=1) / np.linalg.norm(first, axis=1)
            for rows in (tensor(folder, key, step) for step in STEPS)
        ]
        expected = [
            next((s for at, s in enumerate(STEPS) if (row[at:] < 0.99).all()), np.nan)
            for row in np.transpose(cosines)
        ]
        np.testing.assert_array_equal(run.tokens[f"left_initialisation_{role}"], expected)
    assert run.tokens["left_initialisation_output"].isin([2, 8, 32]).any()


def test_a_run_of_an_older_version_is_another_run(series, counts, tmp_path):
    path = track(series, tmp_path / "run", counts=counts, steps="last").path
    info = json.loads((path / "run.json").read_text())
    del info["settings"]["measures"]
    for entry in info["checkpoints"]:
        del entry["matrices_sha256"]
    (path / "run.json").write_text(json.dumps(info))
    with pytest.raises(
        MismatchError,
        match=r"settings: measures is None in the folder, \['norms', 'distances'\] now\)",
    ):
        track(series, path, counts=counts, steps="last")


def test_a_damaged_table_of_a_matrix_is_redone_with_its_step_alone(
    series, counts, tmp_path, monkeypatch
):
    before = files_of(track(series, tmp_path / "run", counts=counts).path)
    step_path(tmp_path / "run", "matrices", 8).write_bytes(b"PAR1")
    read = []
    monkeypatch.setattr(
        "dynamics.tracking.measuring.matrix_rows",
        lambda role, given, step: read.append(step) or matrices.matrix_rows(role, given, step=step),
    )
    track(series, tmp_path / "run", counts=counts)
    assert files_of(tmp_path / "run") == before
    assert set(read) == {8}
    assert Run(tmp_path / "run").info["finished"]
