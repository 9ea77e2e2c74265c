"""The headline figure: its curves are the trends, and it is legible at the width of a column."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from dynamics.errors import NothingToDrawError, OutputError
from dynamics.report.figures import plot
from dynamics.report.headline import SMALLEST, headline_over_training
from dynamics.report.style import LOOKS, caption_of
from dynamics.runs.arms import Arm, Quantity
from dynamics.runs.compare import KEYS
from dynamics.runs.differences import difference_curve
from dynamics.runs.headline import (
    HEADLINE_NORMS,
    HISTORY,
    differences_headline,
    headline,
    headline_correlations,
)
from dynamics.runs.importance_selection import GIVEN
from dynamics.runs.run import Run
from tests.report.test_figures import axes_of, rendered
from tests.tracking.arms import trend_row, with_null
from tests.tracking.synthetic import STEPS, grow, make_counts, tracked

INPUT = "input_embedding_norm"
OUTPUTS = HEADLINE_NORMS["output"]
LATE = (30, 60, 90)
GIVEN_HISTORY = f"{GIVEN}{HISTORY}"
OCCLUSION = headline_correlations("occlusion", GIVEN)


def importance_rows(steps, seed=0, name="occlusion"):
    rng = np.random.default_rng(seed)
    for measure in (INPUT, *OUTPUTS):
        for given in (GIVEN, GIVEN_HISTORY):
            if given == GIVEN_HISTORY and measure == OUTPUTS[1]:
                continue  # no distance belongs to this centring
            for step in steps[given == GIVEN_HISTORY :]:
                about = (step, measure, name, "partial_spearman", 0.2 * rng.standard_normal())
                yield with_null(trend_row(*about, given=given), 0.15 + 0.05 * rng.random())


def planted(run, rows):
    """The same run with further rows among its trends."""
    run = Run(run.path)
    table = pd.concat([run.trends, pd.DataFrame(list(rows))], ignore_index=True)
    run.__dict__["trends"] = table.drop_duplicates(KEYS, keep="last")
    return run


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    return tracked(tmp_path_factory.mktemp("bare"), name="bare")


@pytest.fixture(scope="module")
def run(bare):
    return planted(bare, importance_rows(STEPS))


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    series = grow(make_counts(), seed=3, slope=0.02)
    made = tracked(tmp_path_factory.mktemp("other"), name="tied-other", series=series, tied=True)
    return planted(made, importance_rows(STEPS, seed=1))


@pytest.fixture(scope="module")
def late(tmp_path_factory):
    series = grow(make_counts(), steps=LATE)
    made = tracked(tmp_path_factory.mktemp("late"), name="late", series=series)
    return planted(made, importance_rows(LATE))


@pytest.fixture(scope="module")
def seeds(run, other):
    return Arm("two", (run, other), ("0", "1"), "initialisation and order")


DRAWN = {
    "one": lambda run, other, late, seeds: headline_over_training([run]),
    "late": lambda run, other, late, seeds: headline_over_training([late]),
    "seeds": lambda run, other, late, seeds: headline_over_training([seeds]),
    "beside": lambda run, other, late, seeds: headline_over_training([run, other]),
    "overlay": lambda run, other, late, seeds: headline_over_training([run, other], overlay=True),
    "laid over": lambda run, other, late, seeds: headline_over_training([seeds], overlay=True),
    "output": lambda run, other, late, seeds: headline_over_training([run], measures=["output"]),
    "both": lambda run, other, late, seeds: headline_over_training(
        [run, other], measures=["input", "output"], overlay=True
    ),
}
"""Figures that are looked at for legibility."""


def titles(figure):
    return [" ".join(place.get_suptitle().split()) for place in figure.subfigs]


def entries_of(ax):
    """Entries of the legend of a panel, without that of the null band."""
    entries = [text.get_text() for text in ax.get_legend().get_texts()]
    return [entry for entry in entries if entry != "chance"]


def drawn_line(ax, label):
    (line,) = [line for line in ax.lines if line.get_label() == label]
    return line


@pytest.mark.parametrize("name", ["run", "late"])
def test_the_curves_bands_and_null_bands_are_the_trends(request, name):
    made = request.getfixturevalue(name)
    figure = rendered(headline_over_training([made]))
    for ax, (label, about) in zip(axes_of(figure), OCCLUSION.items(), strict=True):
        against, statistic, given = about
        rows = made.trend(INPUT, against=against, statistic=statistic, given=given)
        (entry,) = entries_of(ax)
        assert " ".join(entry.split()) == f"{label}, n = {rows['n'].iloc[0]}"
        line = drawn_line(ax, entry)
        np.testing.assert_array_equal(line.get_xdata(), rows["step"])
        np.testing.assert_array_equal(line.get_ydata(), rows["value"])
        (band,) = [band for band in ax.collections if isinstance(band, PolyCollection)]
        corners = {tuple(corner) for corner in np.asarray(band.get_paths()[0].vertices)}
        for edge in ("band_low", "band_high"):
            assert set(zip(rows["step"], rows[edge], strict=True)) <= corners
        (null,) = [patch for patch in ax.patches if isinstance(patch, Rectangle)]
        assert null.get_y() == -rows["null_high"].max()
        assert null.get_height() == pytest.approx(2 * rows["null_high"].max())


def test_the_title_is_the_computed_headline(run, other, seeds):
    arms = [Arm(made.name, (made,), ("",), "") for made in (run, other)]
    texts = [headline(arm, [INPUT], "occlusion") for arm in arms]
    assert titles(headline_over_training([run])) == [texts[0]]
    beside = titles(headline_over_training([run, other]))
    assert beside == [f"bare: {texts[0]}", f"tied-other: {texts[1]}"]
    assert titles(headline_over_training([seeds])) == [headline(seeds, [INPUT], "occlusion")]
    output = titles(headline_over_training([run], measures=["output"]))
    assert output == [headline(arms[0], OUTPUTS, "occlusion")]


def test_output_norms_are_drawn_under_both_centrings(run):
    figure = headline_over_training([run], measures=["output"])
    for ax, (_, *about) in zip(axes_of(figure), OCCLUSION.items(), strict=True):
        against, statistic, given = about[0]
        shown = entries_of(ax)
        expected = ["uniform mean removed", "unigram mean removed"]
        assert [entry.split(",")[0] for entry in shown] == (
            expected[:1] if given == GIVEN_HISTORY else expected
        )
        for entry, measure in zip(shown, OUTPUTS, strict=False):
            rows = run.trend(measure, against=against, statistic=statistic, given=given)
            np.testing.assert_array_equal(drawn_line(ax, entry).get_ydata(), rows["value"])
    assert "not for norms with the unigram mean removed" in caption_of(figure)


def test_overlaid_arms_share_panels_and_differences_are_those_of_the_tables(run, other):
    figure = rendered(headline_over_training([run, other], overlay=True))
    arms = [Arm(made.name, (made,), ("",), "") for made in (run, other)]
    axes = axes_of(figure)
    curves = {}
    for left, right, (label, about) in zip(axes[::2], axes[1::2], OCCLUSION.items(), strict=True):
        entries = entries_of(left)
        for made, entry in zip((run, other), entries, strict=True):
            against, statistic, given = about
            rows = made.trend(INPUT, against=against, statistic=statistic, given=given)
            np.testing.assert_array_equal(drawn_line(left, entry).get_ydata(), rows["value"])
            assert " ".join(entry.split()).startswith(f"{made.name}, n = ")
        curves[label] = difference_curve(arms[1], arms[0], Quantity(INPUT, *about))
        line = next(line for line in right.lines if np.size(line.get_xdata()) == len(curves[label]))
        np.testing.assert_array_equal(line.get_ydata(), curves[label]["value"])
        expected = [
            b - a
            for a, b in zip(
                *(drawn_line(left, entry).get_ydata() for entry in entries), strict=True
            )
        ]
        np.testing.assert_allclose(np.asarray(line.get_ydata()), expected)
    assert titles(figure) == [differences_headline(arms[1], arms[0], INPUT, curves)]
    assert "tied-other minus bare, input norms at step 32: frequency -" in titles(figure)[0]
    assert "say nothing of other seeds" in caption_of(figure)


def test_the_runs_of_one_arm_are_laid_over_each_other(seeds):
    figure = headline_over_training([seeds], overlay=True)
    assert titles(figure)[0].startswith("tied-other minus bare, input norms at step 32: frequency ")


def brightness(color):
    """Luminance as seen in print in grey."""
    return float(np.dot(to_rgb(color), (0.299, 0.587, 0.114)))


def problems(figure, smallest=SMALLEST):
    """What is not legible in a figure at its own size."""
    figure.draw_without_rendering()
    beyond = {text for ax in figure.axes for axis in (ax.xaxis, ax.yaxis) for text in unseen(axis)}
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text()]
    boxes = {text: text.get_window_extent() for text in texts if text not in beyond}
    boxes = {text: box for text, box in boxes.items() if box.width}
    page = figure.bbox
    for text, box in boxes.items():
        if text.get_fontsize() < smallest:
            yield f"small: {text.get_text()}"
        if min(*box.p0 - page.p0, *page.p1 - box.p1) < 0:
            yield f"cropped: {text.get_text()}"
    for (first, box), (second, other_box) in combinations(boxes.items(), 2):
        if box.overlaps(other_box):
            yield f"overlap: {first.get_text()} and {second.get_text()}"
    for ax in axes_of(figure):
        marked = [line for line in ax.lines if line.get_marker() != "None"]
        lines = [line for line in marked if line.get_linestyle() != "None"]
        for first, second in combinations(lines, 2):
            styles = {(line.get_linestyle(), line.get_marker()) for line in (first, second)}
            contrast = abs(brightness(first.get_color()) - brightness(second.get_color()))
            if len(styles) == 1 and contrast < 0.15:
                yield f"alike in grey: {first.get_label()} and {second.get_label()}"


def unseen(axis):
    """Labels of ticks that are not drawn: outside the axis, or left from an earlier layout."""
    low, high = sorted(axis.get_view_interval())
    drawn = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    for tick in (*axis.majorTicks, *axis.minorTicks):
        if tick not in drawn:
            yield from (tick.label1, tick.label2)


@pytest.mark.parametrize("name", DRAWN)
def test_the_figure_is_legible_at_the_width_of_a_column(run, other, late, seeds, name):
    figure = DRAWN[name](run, other, late, seeds)
    columns = 2 if name == "beside" else 1
    assert figure.get_size_inches()[0] * 25.4 == pytest.approx(85 * columns)
    assert list(problems(figure)) == []
    for ax in axes_of(figure):
        labels = [text.get_text() for text in ax.get_yticklabels()]
        assert 2 <= len(labels) <= 7
    (bottom, *_) = axes_of(figure)[::-1]
    assert len(bottom.get_xticks()) >= 2


def test_the_check_of_legibility_can_fail():
    figure = Figure(figsize=(3, 2))
    ax = figure.subplots()
    for place in (0.2, 0.3):
        ax.plot([0, 1, 2], [place] * 3, "o-", color=str(place), label=str(place))
    ax.set_xticks([0, 0.01, 2], ["zero", "nearly zero", "two"])
    ax.set_title("tiny", fontsize=4)
    figure.text(0.9, 0.5, "beyond the edge of the figure")
    found = {problem.split(":")[0] for problem in problems(figure)}
    assert found == {"small", "cropped", "overlap", "alike in grey"}


def test_looks_of_lines_differ_in_grey():
    for first, second in combinations(LOOKS, 2):
        assert first["marker"] != second["marker"]
        assert first["linestyle"] != second["linestyle"]


def test_without_importance_frequency_is_drawn_and_one_line_says_what_adds_it(bare, tmp_path):
    lines = []
    (file,) = plot([bare], tmp_path, figures=["headline"], formats=["png"], report=lines.append)
    (line,) = lines
    assert "\n" not in line
    assert line.startswith("figure headline shows frequency alone: no importance in ")
    assert "`dynamics track SERIES -o RUN --importance occlusion` adds one" in line
    figure = headline_over_training([bare])
    assert len(axes_of(figure)) == 1
    assert titles(figure)[0].endswith("; importance was not measured.")
    assert file.with_suffix(".txt").read_text() == f"{caption_of(figure)}\n"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"measures": ["ouput"]}, "no norms 'ouput' to draw; did you mean 'output'"),
        ({"importance": "surprisal"}, "no importance 'surprisal' with frequency held fixed in .*; "
         "`dynamics track SERIES -o RUN --importance surprisal` adds it"),
        ({"overlay": True}, "alone cannot be laid over another run; give several runs with overl"),
        ({"overlaid": True}, "no figure has a setting 'overlaid'; did you mean 'overlay'"),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn_is_refused_in_one_line(run, tmp_path, settings, message):
    with pytest.raises(OutputError, match=message):
        plot([run], tmp_path / "figures", figures=["headline"], settings=settings)
    assert not (tmp_path / "figures").exists()


def test_a_setting_is_refused_where_its_figure_is_not_drawn(run, tmp_path):
    message = "overlay is a setting of the figure headline, which is not drawn; add --figures head"
    with pytest.raises(OutputError, match=message):
        plot([run], tmp_path, figures=["correlation"], settings={"overlay": True})


def test_norms_that_a_run_lacks_are_named_with_the_remedy(tmp_path):
    part = tracked(tmp_path, name="part", rows="0:250")
    message = "has no output embedding norms, uniform mean removed; track it without --rows"
    with pytest.raises(NothingToDrawError, match=message):
        headline_over_training([part], measures=["output"])


def test_an_importance_that_is_named_is_drawn(run):
    made = planted(run, [*importance_rows(STEPS, name="surprisal")])
    (place,) = headline_over_training([made], importance="surprisal").subfigs
    assert "importance (surprisal)" in " ".join(place.get_suptitle().split())


def test_the_caption_is_drawn_only_on_request(run, tmp_path):
    sizes = []
    for drawn in (False, True):
        options = {"figures": ["headline"], "formats": ["png"], "settings": {"caption": drawn}}
        (file,) = plot([run], tmp_path / str(drawn), **options)
        sizes.append(file.stat().st_size)
        assert "95 % null band" in file.with_suffix(".txt").read_text()
    assert sizes[1] > 1.3 * sizes[0]


def test_controls_are_named_in_words(run):
    text = caption_of(headline_over_training([run]))
    assert "given frequency, length in characters, beginning of a word or not, " in text
    assert "_" not in text
    assert "alphabetic" not in text
