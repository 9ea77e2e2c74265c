"""Figures draw what the tables hold, read back from the axes."""

import numpy as np
import pytest
from matplotlib.collections import PolyCollection, QuadMesh
from matplotlib.figure import Figure

from dynamics.config import TrackingSettings
from dynamics.errors import NothingToDrawError, OutputError
from dynamics.report.figures import FIGURES, FORMATS, plot
from dynamics.report.frequency import (
    LINES,
    PANELS,
    correlation_over_training,
    norm_against_frequency,
    norms_by_frequency,
)
from dynamics.report.paths import paths
from dynamics.report.style import caption_of, draw_caption
from dynamics.runs.run import Run, rows_where
from dynamics.tracking.track import track
from tests.tracking.synthetic import OUTPUT, STEPS, grow, make_counts, tracked, write_series

OF_FREQUENCY = ("correlation", "norms_by_frequency", "norm_against_frequency")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tracked(tmp_path_factory.mktemp("run"), name="first")


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    series = grow(make_counts(), seed=3, steps=(0, 5, 90), slope=0.1)
    return tracked(tmp_path_factory.mktemp("other"), name="second", series=series, rule="count>=3")


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    return tracked(tmp_path_factory.mktemp("single"), name="alone", steps="32")


def axes_of(figure):
    """The panels, without colour bars and what is hidden."""
    return [ax for ax in figure.axes if ax.get_label() != "<colorbar>" and ax.get_visible()]


def rendered(figure):
    figure.draw_without_rendering()  # lays everything out and reads every text
    return figure


def caption(figure):
    return " ".join(caption_of(figure).split())


def texts(figure):
    found = [caption_of(figure)]
    for ax in figure.axes:
        found += [ax.get_title(), ax.get_xlabel(), ax.get_ylabel()]
    return "\n".join(found)


@pytest.mark.parametrize("name", OF_FREQUENCY)
@pytest.mark.parametrize("runs", [1, 2])
def test_every_figure_draws_one_run_and_two(run, other, name, runs):
    figure = FIGURES[name]([run, other][:runs])
    assert isinstance(figure, Figure)
    for each in [run, other][:runs]:
        assert f"{each.name}: {each.kept.sum():,} tokens, {each.rule}" in caption(figure)
        if runs == 2:
            assert each.name in "\n".join(ax.get_title() for ax in axes_of(figure))


def test_the_correlation_curves_are_the_trends(run, other):
    figure = correlation_over_training([run, other])
    for each, ax in zip([run, other], axes_of(figure), strict=True):
        lines = {line.get_label(): line for line in ax.lines}
        bands = [band for band in ax.collections if isinstance(band, PolyCollection)]
        assert len(bands) == len(LINES)
        for (measure, (label, _)), band in zip(LINES.items(), bands, strict=True):
            trend = each.trend(measure)
            x, y = lines[label].get_data()
            assert list(x) == each.steps
            np.testing.assert_array_equal(y, trend["value"])
            corners = {tuple(corner) for corner in band.get_paths()[0].vertices}
            for edge in ("band_low", "band_high"):
                assert set(zip(each.steps, trend[edge], strict=True)) <= corners
            assert (lines[label].get_linestyle() == "--") == (measure == "output_embedding_norm")
        grey = next(patch for patch in ax.patches if patch.get_label() == "null band")
        reach = each.trend("input_embedding_norm")["null_high"].iloc[0]
        assert grey.get_y() == -reach
        assert grey.get_height() == pytest.approx(2 * reach)


def test_step_0_has_its_place_on_the_logarithmic_axis(run):
    (ax,) = axes_of(rendered(correlation_over_training([run])))
    left, right = ax.get_xlim()
    assert left < 0 < STEPS[-1] < right
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "1", "10"]
    inside = ax.transData.transform([(step, 0) for step in STEPS])[:, 0]
    assert (np.diff(inside) > 5).all()


def test_every_curve_has_its_entry_in_the_legend(run):
    (legend,) = correlation_over_training([run]).legends
    found = [text.get_text() for text in legend.get_texts()]
    assert found == [*(label for label, _ in LINES.values()), "null band"]


def test_curves_differ_in_marker_or_style_so_that_grey_print_reads():
    looks = [(look.get("marker"), look.get("linestyle")) for _, look in LINES.values()]
    assert len(set(looks)) == len(looks)


def test_the_heat_map_is_the_mean_of_the_profile(run, other):
    figure = norms_by_frequency([run, other])
    panels = iter(axes_of(figure))
    for each in (run, other):
        for measure in PANELS:
            (mesh,) = (c for c in next(panels).collections if isinstance(c, QuadMesh))
            table = each.profile[each.profile["measure"] == measure]
            rows = [group["mean"].tolist() for _, group in table.groupby("bin")]
            np.testing.assert_array_equal(mesh.get_array().reshape(len(rows), -1), rows)


def test_the_heat_map_names_bins_and_steps(run):
    ax = axes_of(rendered(norms_by_frequency([run])))[0]
    labels = [label.get_text() for label in ax.get_yticklabels()]
    table = run.profile[run.profile["bin"] >= 0]
    assert labels[0] == "never"
    assert labels[1].startswith("10–")
    assert labels[-1].endswith(f"–{table['count_high'].max():,}")
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "2", "8", "32"]


def test_without_rows_that_never_occur_none_are_spoken_of(tmp_path):
    counts = make_counts()
    counts.table.loc[counts.table["count"] == 0, "count"] = 4
    figure = norms_by_frequency([tracked(tmp_path, counts=counts)])
    assert "never" not in caption(figure)
    assert not any(ax.lines for ax in axes_of(figure))  # no rule between them and the others


def test_the_medians_over_frequency_are_those_of_the_profile(run):
    panels = iter(axes_of(norm_against_frequency([run])))
    for measure in PANELS:
        for step in (0, 2, 8, 32):  # the first and last, and near a sixteenth and a quarter
            ax = next(panels)
            x, y = ax.lines[0].get_data()
            table = run.profile[
                (run.profile["measure"] == measure)
                & (run.profile["step"] == step)
                & (run.profile["bin"] >= 0)
            ]
            np.testing.assert_array_equal(x, table["count_median"])
            np.testing.assert_array_equal(y, table["median"])
            density = ax.collections[0].get_array()
            assert density.sum() == run.kept.sum()
            if measure == "input_embedding_norm":
                assert ax.get_title() == f"step {step}"


def test_a_cell_of_one_token_is_not_white(run):
    for ax in axes_of(rendered(norm_against_frequency([run]))):
        cells = ax.collections[0]
        assert cells.get_array().min() == 1
        assert cells.to_rgba(np.ma.array([1.0]))[0][:3].max() < 0.93


def test_several_runs_are_compared_at_their_first_and_last_steps(run, other):
    titles = [ax.get_title() for ax in axes_of(norm_against_frequency([run, other]))[:4]]
    assert titles == ["first,\nstep 0", "first,\nstep 32", "second,\nstep 0", "second,\nstep 90"]


@pytest.mark.parametrize("name", OF_FREQUENCY)
@pytest.mark.parametrize("runs", [1, 3])
def test_no_text_is_cropped_and_the_caption_states_its_terms(run, other, name, runs):
    figure = FIGURES[name]([run, other, run][:runs])
    draw_caption(figure)
    figure.draw_without_rendering()
    whole = figure.bbox
    drawn = [figure._supxlabel, *(text for legend in figure.legends for text in legend.texts)]
    for ax in axes_of(figure):
        drawn += [ax.title, ax.xaxis.label, ax.yaxis.label]
    for text in drawn:
        box = text.get_window_extent()
        assert box.x0 >= whole.x0 and box.x1 <= whole.x1, text.get_text()
        assert box.y0 >= whole.y0 and box.y1 <= whole.y1, text.get_text()
    assert "no padding, special, added, byte, fragment or unreachable tokens" in caption(figure)
    if name != "norms_by_frequency":
        assert "95 %" in caption(figure)


def test_runs_of_one_name_are_told_apart_by_their_folders(run, tmp_path):
    again = tmp_path / "again/run-first"
    again.parent.mkdir()
    again.symlink_to(run.path)
    copies = [run, Run(again)]
    assert all("first (" in ax.get_title() for ax in axes_of(correlation_over_training(copies)))


@pytest.mark.parametrize("name", [r"$5 and $6, a_b^{c} \frac{, 100 % <script>", "日本"])
def test_the_name_of_a_series_is_text_and_nothing_else(tmp_path, name):
    series = tmp_path / name
    opened = write_series(series, grow(make_counts()))
    strange = track(opened, tmp_path / "run", counts=make_counts())
    for drawn in OF_FREQUENCY:
        figure = FIGURES[drawn]([strange])
        if name.isascii():  # the default font has no others, and says so
            rendered(figure)
        assert name in texts(figure).replace(r"\$", "$").replace("\n", " ")


def test_the_figure_of_paths_draws_the_profile(tmp_path, run):
    followed = tracked(tmp_path, name="followed", settings=TrackingSettings(paths=True))
    figure = rendered(paths([run, followed]))
    assert "followed: 213 tokens, count>=10" in caption(figure)
    assert len(axes_of(figure)) == 2 * 3
    for kind, row in zip(("input", "output"), np.reshape(axes_of(figure), (2, 3)), strict=True):
        assert row[0].get_title() == f"{kind} rows"
        profile = followed.profile[followed.profile["bin"] >= 0]
        cosines = rows_where(profile, measure=f"{kind}_embedding_cosine_to_last")
        labels = [line.get_label() for line in row[0].lines]
        assert (
            labels
            == [
                f"{low:,}–{high:,} occurrences"
                for low, high in cosines.groupby("bin")[["count_low", "count_high"]]
                .first()
                .to_numpy()
            ][::-1]
        )
        rarest = rows_where(cosines, bin=0)
        np.testing.assert_array_equal(row[0].lines[-1].get_ydata(), rarest["median"])
        for ax, names in ((row[1], ["time_to_half"]), (row[2], ["ray_share", "ray_share_of_walk"])):
            for name, line in zip(names, ax.lines, strict=True):
                expected = rows_where(profile, measure=f"{kind}_embedding_{name}")["median"]
                np.testing.assert_array_equal(line.get_ydata(), expected)
    with pytest.raises(NothingToDrawError, match=r"no run were followed over the steps \(dynamics"):
        paths([run])


def test_a_tied_run_says_so(tmp_path):
    (ax,) = axes_of(correlation_over_training([tracked(tmp_path, name="model", tied=True)]))
    assert ax.get_title() == "model (tied)"


def test_a_run_without_output_embedding_shows_the_input_embedding(tmp_path, run):
    series = grow(make_counts())
    for tensors in series.values():
        del tensors[OUTPUT]
    write_series(tmp_path / "series", series)
    for config in (tmp_path / "series").rglob("config.json"):
        config.write_text('{"tie_word_embeddings": false}')
    from dynamics.checkpoints.series import open_series

    base = track(open_series(tmp_path / "series"), tmp_path / "run", counts=make_counts())
    (ax,) = axes_of(rendered(correlation_over_training([base])))
    assert [line.get_label() for line in ax.lines][:1] == ["input"]
    for draw in (norms_by_frequency, norm_against_frequency):
        assert len(axes_of(draw([base]))) == len(axes_of(draw([run]))) // 3
    (legend,) = correlation_over_training([base, run]).legends
    assert len(legend.get_texts()) == len(LINES) + 1


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_figure_has_the_same_bytes_each_time(run, tmp_path, suffix):
    files = [
        plot([run], tmp_path / name, figures=["correlation"], formats=[suffix]) for name in "ab"
    ]
    first, second = (path.read_bytes() for (path,) in files)
    assert first == second
    assert len(first) > 5000


def test_plot_draws_every_figure_that_applies(run, tmp_path):
    files = plot([run], tmp_path, formats=["png"])
    of_weights = (*OF_FREQUENCY, "slopes", "headline")
    assert [file.name for file in files] == [f"{name}.png" for name in of_weights]
    assert sorted(tmp_path.glob("*.png")) == sorted(files)
    for file in files:
        text = file.with_suffix(".txt").read_text()
        assert text == f"{caption_of(FIGURES[file.stem]([run]))}\n"
    assert len([*tmp_path.iterdir()]) == 2 * len(files)


@pytest.mark.parametrize("name", ["correlation", "norms_by_frequency"])
def test_a_single_checkpoint_is_told_what_can_be_drawn_of_it(single, tmp_path, name):
    told = (
        rf"has a single checkpoint \(step 32\), and the figure '{name}' is about change; draw "
        "--figures norm_against_frequency instead"
    )
    with pytest.raises(OutputError, match=told):
        plot([single], tmp_path / "figures", figures=[name])
    assert not (tmp_path / "figures").exists()
    (file,) = plot([single], tmp_path, figures=["norm_against_frequency"], formats=["png"])
    assert file.is_file()


def test_a_run_without_counts_cannot_be_drawn(tmp_path):
    bare = track(write_series(tmp_path / "series", grow(make_counts())), tmp_path / "run")
    with pytest.raises(
        OutputError, match=r"was tracked without counts, .*; track it with --counts"
    ):
        plot([bare], tmp_path / "figures")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"figures": ["corelation"]}, "no figure 'corelation'; did you mean 'correlation'"),
        ({"figures": ["pie"]}, "no figure 'pie'; known are: agreement, correlation, "),
        ({"formats": ["jpg"]}, "no format 'jpg'; (known are: pdf, png, svg|did you mean 'png')"),
        ({"formats": ["pdf", "pnng"]}, "no format 'pnng'; did you mean 'png'"),
    ],
)
def test_what_cannot_be_drawn_is_named_before_anything_is(run, tmp_path, settings, told):
    with pytest.raises(OutputError, match=told):
        plot([run], tmp_path / "figures", **settings)
    assert not (tmp_path / "figures").exists()


def test_nothing_to_draw_is_an_error(tmp_path):
    with pytest.raises(OutputError, match="there is no run to draw"):
        plot([], tmp_path)


def test_the_settings_of_matplotlib_are_left_as_they_were(run, tmp_path):
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    plot([run], tmp_path, figures=["correlation"], formats=["png"])
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize(
    ("left_out", "told"),
    [
        ({"4": "repeated"}, "first: step 4 is left out, flagged by the audit"),
        ({"4": "repeated", "16": "missing"}, "first: steps 4, 16 are left out, flagged by the aud"),
    ],
    ids=["one", "two"],
)
def test_the_caption_names_what_the_audit_left_out(run, left_out, told):
    flagged = Run(run.path)
    flagged.record.series.left_out = left_out
    assert told in caption(correlation_over_training([flagged]))
    assert "left out" not in caption(correlation_over_training([run]))


def test_a_run_of_some_rows_is_drawn_as_such(tmp_path):
    part = tracked(tmp_path, name="part", rows="0:250")
    for name in OF_FREQUENCY:
        figure = FIGURES[name]([part])
        assert "count>=10 of rows 0:250" in caption(figure)
        drawn = {ax.get_title() for ax in axes_of(figure)}
        assert not any("mean removed" in title for title in drawn)
