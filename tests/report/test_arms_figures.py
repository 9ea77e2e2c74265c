"""Figures of importance, surgery, slopes, agreement and read-out; and of several seeds."""

import json
import shutil

import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from scipy import stats

from dynamics.errors import MismatchError, NothingToDrawError
from dynamics.report.figures import FIGURES, plot
from dynamics.report.importance import importance_over_training
from dynamics.report.importance_tokens import norm_against_importance
from dynamics.report.statistics_over_steps import (
    SURGERY_LINES,
    agreement,
    matrices,
    slopes,
    surgery,
)
from dynamics.report.style import draw_caption, log_axis
from dynamics.runs.run import Run, step_path, write_table
from tests.report.test_figures import axes_of, caption, rendered
from tests.tracking.arms import GAUGES, IMPORTANCES, made_run, planted
from tests.tracking.synthetic import STEPS, make_counts, tracked

OF_ONE_STATISTIC = ("importance", "surgery", "slopes", "agreement", "matrices")
INPUT, CENTERED = GAUGES


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three seeds of one arm, two of another."""
    folder = tmp_path_factory.mktemp("arms")
    one = [made_run(folder, "one", seed, rows=planted(seed)) for seed in (0, 1, 2)]
    other = [
        made_run(folder, "other", seed, rows=planted(9 + seed), training__optimizer="sgd")
        for seed in (0, 1)
    ]
    return one + other


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    return tracked(tmp_path_factory.mktemp("bare"), name="bare")


def lines_of(ax):
    """The labelled lines of a panel."""
    return {line.get_label(): line for line in ax.lines if not line.get_label().startswith("_")}


def hollow_steps(ax, color):
    return {
        step
        for line in ax.lines
        if line.get_markerfacecolor() == "white" and line.get_color() == color
        for step in line.get_xdata()
    }


def test_raw_partial_and_disattenuated_correlations_are_the_trends(runs):
    panels = axes_of(importance_over_training(runs[:1]))
    pairs = [(gauge, name) for gauge in GAUGES for name in IMPORTANCES]
    for ax, (gauge, name) in zip(panels, pairs, strict=True):
        lines = lines_of(ax)
        for label, statistic in (
            ("raw", "spearman"),
            ("partial", "partial_spearman"),
            ("raw, disattenuated", "spearman_disattenuated"),
        ):
            given = lines_given(runs[0], statistic)
            rows = runs[0].trend(gauge, against=name, statistic=statistic, given=given)
            x, y = lines[label].get_data()
            assert list(x) == list(STEPS)
            np.testing.assert_array_equal(y, rows["value"])
        first = runs[0].trend(gauge, against=name)["value"].iloc[0]
        assert any(
            len(set(line.get_ydata())) == 1 and line.get_ydata()[0] == first for line in ax.lines
        )


def lines_given(run, statistic):
    return "" if statistic != "partial_spearman" else "log_frequency+characters+word_start"


def test_points_are_hollow_where_the_importance_is_unreliable(runs):
    for ax, name in zip(axes_of(importance_over_training(runs[:1])), IMPORTANCES * 2, strict=True):
        color = lines_of(ax)["raw"].get_color()
        if name == "information_gain_right":  # counted, not sampled in contexts
            assert hollow_steps(ax, color) == set()
            continue
        rows = runs[0].trend(name, against="", statistic="reliability")
        assert hollow_steps(ax, color) == set(rows["step"][rows["value"] < 0.7]) != set()


def test_of_an_arm_with_seeds_only_their_spread_is_drawn(runs):
    ax = axes_of(importance_over_training(runs))[0]
    line = lines_of(ax)["one"]
    each = np.array([run.trend(INPUT, against="occlusion")["value"] for run in runs[:3]])
    z = np.arctanh(each)
    np.testing.assert_allclose(line.get_ydata(), np.tanh(z.mean(axis=0)))
    ends = np.tanh(stats.ttest_1samp(z, 0).confidence_interval())
    bands = [band for band in ax.collections if isinstance(band, PolyCollection)]
    assert len(bands) == 2
    corners = bands[0].get_paths()[0].vertices
    for end in ends:
        for step, value in zip(STEPS, end, strict=True):
            assert (np.abs(corners - (step, value)).sum(axis=1) < 1e-9).any()
    thin = [line for line in ax.lines if line.get_linewidth() < 0.5 and len(line.get_xdata()) > 2]
    assert sorted(tuple(line.get_ydata()) for line in thin)[:3] != []
    assert {tuple(row) for row in each} <= {tuple(line.get_ydata()) for line in thin}


@pytest.mark.parametrize(
    ("draw", "measures", "against", "statistics"),
    [
        (surgery, GAUGES, "held_out_loss", SURGERY_LINES),
        (slopes, GAUGES, "log_frequency", {
            "log_slope": "observed frequency, over tokens",
            "twin_log_slope": "random frequency, within twins",
            "twin_minus_curve": "random minus observed, same counts"}),
    ],
)  # fmt: skip
def test_each_panel_has_the_lines_of_its_measure(runs, draw, measures, against, statistics):
    panels = axes_of(draw(runs[:1]))
    for ax, measure in zip(panels, measures, strict=False):
        for statistic, label in statistics.items():
            rows = runs[0].trends
            rows = rows[
                (rows["measure"] == measure)
                & (rows["against"] == against)
                & (rows["statistic"] == statistic)
            ].sort_values("step")
            np.testing.assert_array_equal(lines_of(ax)[label].get_ydata(), rows["value"])


def test_agreement_and_read_outs_are_the_trends(runs):
    (ax,) = axes_of(agreement(runs[:1]))
    assert set(lines_of(ax)) == {
        *("norm", "inverse log frequency", "recency", "logit", "normxlogit"),
    }
    for ax, role in zip(
        axes_of(matrices(runs[:1])), ("input_embedding", "output_embedding"), strict=True
    ):
        rows = runs[0].trend(role, statistic="readout_r2", given="unit_rows")
        np.testing.assert_array_equal(lines_of(ax)["unit rows"].get_ydata(), rows["value"])


def test_surgery_is_drawn_on_a_scale_that_shows_both_embeddings(runs):
    for ax in axes_of(rendered(surgery(runs[:1]))):
        assert ax.get_yscale() == "symlog"
        low, high = ax.get_ylim()
        shown = [tick for tick in ax.get_yticks() if low <= tick <= high]
        assert len(shown) >= 2
        assert 0 in shown


@pytest.mark.parametrize("name", OF_ONE_STATISTIC)
@pytest.mark.parametrize("count", [1, 5])
def test_no_text_is_cropped_and_the_caption_states_its_terms(runs, name, count):
    figure = FIGURES[name](runs[:count])
    draw_caption(figure)
    rendered(figure)
    whole = figure.bbox
    drawn = [figure._supxlabel, *(text for legend in figure.legends for text in legend.texts)]
    for ax in axes_of(figure):
        drawn += [ax.title, ax.xaxis.label, ax.yaxis.label]
    for text in drawn:
        box = text.get_window_extent()
        assert box.x0 >= whole.x0 and box.x1 <= whole.x1, text.get_text()
        assert box.y0 >= whole.y0 and box.y1 <= whole.y1, text.get_text()
    said = caption(figure)
    of_tokens = name not in ("surgery", "agreement")  # over held-out rows, and over inputs
    assert ("no padding, special, added, byte, fragment or unreachable tok" in said) == of_tokens
    assert ("count>=10" in said) == of_tokens
    if count == 5:
        drawn = "100 tokens" if name == "importance" else "213 tokens"
        terms = f"{drawn}, count>=10, 3 seeds" if of_tokens else "3 seeds"
        assert f"one{': ' if of_tokens else ', '}{terms} (initialisation and order diff" in said
        assert "95 % t interval over seeds, descriptive with fewer than 5 seeds" in said
    else:
        assert "over seeds" not in said


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("importance", "no run has importances to compare norms with; track it with --importance"),
        ("norm_against_importance", "no run has importances to draw norms against; track it with"),
        ("covariates", "no run has covariates; add them with dynamics track --covariates"),
        ("surgery", "no run has surgery on norms; track it with --surgery"),
        ("agreement", "no run has agreement within inputs; track it with --agreement"),
    ],
)
def test_what_was_not_measured_is_told_with_the_option_that_measures_it(bare, tmp_path, name, told):
    with pytest.raises(NothingToDrawError, match=told):
        plot([bare], tmp_path / "figures", figures=[name])
    assert not (tmp_path / "figures").exists()


def test_what_the_runs_hold_nothing_of_is_left_out_with_one_line_each(bare, tmp_path):
    lines = []
    files = plot([bare], tmp_path, formats=["png"], report=lines.append)
    left_out = [line.split(" ")[1] for line in lines if "is left out" in line]
    assert all("\n" not in line for line in lines)
    assert [file.stem for file in files] == [name for name in FIGURES if name not in left_out]
    assert {"importance", "norm_against_importance", "surgery", "agreement"} <= set(left_out)


def test_what_one_arm_lacks_is_left_out_and_the_other_drawn(runs, bare):
    figure = surgery([*runs[:3], bare])
    assert {ax.get_title() for ax in axes_of(figure)} == {"one"}


def test_runs_of_different_tokenizers_are_not_drawn_together(runs, tmp_path):
    foreign = tracked(tmp_path, name="foreign", counts=make_counts(tokenizer="b" * 64))
    with pytest.raises(MismatchError, match="are of different tokenizers"):
        plot([runs[0], foreign], tmp_path / "figures")


@pytest.mark.parametrize("name", ["correlation", "norms_by_frequency", "norm_against_frequency"])
def test_figures_of_frequency_take_arms(runs, name):
    figure = FIGURES[name](runs)
    said = caption(figure)
    if name == "correlation":
        titles = [ax.get_title() for ax in axes_of(figure)]
        assert titles == ["one", "other"]
        assert "3 seeds (initialisation and order differ)" in said
    else:
        assert "one: 213 tokens, count>=10, the first of 3 seeds" in said


@pytest.fixture(scope="module")
def probed(runs, tmp_path_factory):
    """A run whose model was asked at two steps, about two importances, one of them positive."""
    folder = tmp_path_factory.mktemp("probed") / "run"
    shutil.copytree(runs[0].path, folder)
    info = json.loads((folder / "run.json").read_text())
    rng, checkpoints = np.random.default_rng(4), []
    ids = np.sort(rng.choice(300, 200, replace=False))
    for step in (0, 32):
        columns = {"token_id": ids, "contexts": np.full(200, 16)}
        for name in ("occlusion", "occlusion_norm_matched"):
            values = np.exp(rng.standard_normal(200)) - (name != "occlusion")
            columns |= {name: values, f"{name}_half_1": values, f"{name}_half_2": values}
        table = write_table(step_path(folder, "importance", step), columns)
        checkpoints.append({"step": step, "tables": {"importance": table}})
    info["live"] = {
        "settings": {},
        "embeddings_only": [],
        "probes": None,
        "held_out_sha256": None,
        "checkpoints": checkpoints,
    }
    (folder / "run.json").write_text(json.dumps(info))
    return Run(folder)


def test_points_are_tokens_coloured_by_their_frequency(probed):
    panels = axes_of(rendered(norm_against_importance([probed])))
    pairs = [
        (INPUT, "occlusion"),
        (INPUT, "occlusion_norm_matched"),
        (CENTERED, "occlusion"),
    ]
    assert [ax.get_title() for ax in panels[:2]] == ["step 0", "step 32"]
    assert len(panels) == 2 * len(pairs)
    for at, ax in enumerate(panels):
        (gauge, name), step = pairs[at // 2], (0, 32)[at % 2]
        (points,) = ax.collections
        table = probed.importance(step).set_index("token_id")[name].reindex(range(300)).to_numpy()
        shown = probed.kept & np.isfinite(table)
        assert 0 < shown.sum() < probed.kept.sum()
        expected = np.column_stack([table, probed.measures(step)[gauge]])[shown]
        found = np.ma.filled(points.get_offsets(), np.nan)
        there = np.isfinite(found).all(axis=1)
        np.testing.assert_allclose(found[there], expected)
        np.testing.assert_allclose(
            points.get_array()[there], probed.tokens["log_frequency"].to_numpy()[shown]
        )
        assert ax.get_xscale() == ("log" if name == "occlusion" else "linear")
    assert "213 tokens, count>=10" in caption(norm_against_importance([probed]))


def test_a_narrow_logarithmic_axis_has_labels():
    ax = Figure().subplots()
    log_axis(ax, 0.027, 0.041)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0.03", "0.04"]
