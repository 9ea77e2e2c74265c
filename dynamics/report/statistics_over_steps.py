"""Figures of one statistic each, arms in columns: surgery, slopes, agreement, read-out."""

from collections.abc import Collection, Iterator, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from dynamics.report.curves import Curve, Panel, draw_panels
from dynamics.report.importance import GAUGES
from dynamics.report.style import (
    arms_note,
    arms_over_steps,
    bands_note,
    caption,
    look,
    show_legend,
    title,
)
from dynamics.runs.compare import Arm
from dynamics.runs.grouping import Runs
from dynamics.runs.run import rows_where
from dynamics.runs.surgeries import SURGERIES

SURGERY_LINES = {f"surgery_{name}": surgery.label for name, surgery in SURGERIES.items()}
"""Label of each statistic of surgery."""

SLOPES = {
    "log_slope": "observed frequency, over tokens",
    "twin_log_slope": "random frequency, within twins",
    "twin_minus_curve": "random minus observed, same counts",
}
READ_OUTS = {
    "rows": "rows",
    "unit_rows": "unit rows",
    "norm": "norm alone",
    "unit_rows+norm": "unit rows and norm",
}
EMBEDDINGS = {"input_embedding": "input embedding", "output_embedding": "output embedding"}
_IN_A_ROW = 3
_LINEAR = 1e-3
"""Loss change, in nats, up to which the scale of surgery is linear."""


def surgery(runs: Runs) -> Figure:
    """Held-out loss change when the norms of input or centred output rows are replaced."""
    arms = arms_over_steps(runs, "surgery")
    figure, axes = draw_panels(
        _arm_columns(arms, _of_gauges("loss change, nats", "held_out_loss", SURGERY_LINES)),
        missing="no run has surgery on norms; track it with --surgery",
        width=_width(arms),
        linear_within=_LINEAR,
    )
    for ax in axes:
        _few_ticks(ax)
    n = _largest_n(arms, "held_out_loss", SURGERY_LINES)
    _explain(
        figure,
        f"Norm surgery: change of the loss on {n} held-out rows when norms are replaced and "
        "directions kept. All rows doubled or halved: what the model makes of scale as such. The "
        f"axis is linear within ±{_LINEAR:g} and logarithmic beyond.",
        arms,
        "Bands: 95 % intervals over held-out rows.",
        of_tokens=False,
    )
    return figure


def slopes(runs: Runs) -> Figure:
    """Slope of log norm on log frequency, within twins and over tokens, for each gauge."""
    arms = arms_over_steps(runs, "slopes")
    figure, _ = draw_panels(
        _arm_columns(arms, _of_gauges("slope of log norm,", "log_frequency", SLOPES)),
        missing="no run has slopes of log norm on log frequency; track it again to have them",
        width=_width(arms),
    )
    n = _largest_n(arms, "log_frequency", ["twin_log_slope"])
    _explain(
        figure,
        f"Slope of log norm on log frequency. Random frequency: within {n} pairs of a token and "
        "its twin, a second id drawn by chance at each occurrence. Observed frequency: over "
        "tokens, which differ in more than frequency. Minus the curve: 0 where random and observed "
        "frequency go with norms alike at the same counts.",
        arms,
        "Bands: 95 % intervals over tokens, and over pairs of twins.",
    )
    return figure


def agreement(runs: Runs) -> Figure:
    """Within-input agreement of each attribution method with occlusion, over steps."""
    arms = arms_over_steps(runs, "agreement")
    statistic = "within_input_agreement"
    methods = dict.fromkeys(
        name for arm in arms for name in rows_where(arm.trends, statistic=statistic)["measure"]
    )
    lines = [(name, "occlusion", statistic, None, name.replace("_", " ")) for name in methods]
    figure, _ = draw_panels(
        _arm_columns(arms, {"agreement with occlusion\nwithin inputs": lines}),
        missing="no run has agreement within inputs; track it with --agreement",
        width=_width(arms),
        height=2.6,
    )
    n = _largest_n(arms, "occlusion", [statistic])
    _explain(
        figure,
        f"Mean over {n} inputs of the Spearman correlation, within one input, between the scores "
        "of a method and those of occlusion. The read-out position is left out.",
        arms,
        "Bands: 95 % intervals over inputs.",
        legend_columns=4,
        of_tokens=False,
    )
    return figure


def matrices(runs: Runs) -> Figure:
    """Read-out of frequency from each embedding: from rows, directions, norms, and both."""
    arms = arms_over_steps(runs, "matrices")
    lines = {
        f"read-out R²,\n{where}": [
            (role, "log_frequency", "readout_r2", features, label)
            for features, label in READ_OUTS.items()
        ]
        for role, where in EMBEDDINGS.items()
    }
    figure, axes = draw_panels(
        _arm_columns(arms, lines),
        missing="no run has read-outs of frequency; track into another folder with --measures "
        "distances,readouts",
        width=_width(arms),
    )
    for ax in axes:
        ax.set_ylim(min(-0.05, max(ax.get_ylim()[0], -0.3)), 1)
    _explain(
        figure,
        "Share of the variance of log frequency that a ridge regression on an embedding predicts "
        "for tokens it was not fitted on (ten folds). Negative values are worse than the mean; "
        "those below -0.3 are not shown.",
        arms,
        "Bands: 95 % intervals over the ten folds.",
        legend_columns=4 if len(arms) > 1 else 2,
    )
    return figure


def _explain(
    figure: Figure,
    text: str,
    arms: Sequence[Arm],
    bands: str,
    *,
    legend_columns: int = 2,
    of_tokens: bool = True,
) -> None:
    """Draw the legend, and set a caption of the text, the arms and their bands."""
    show_legend(figure, legend_columns)
    note = arms_note(arms, of_tokens=of_tokens)
    caption(figure, f"{text} {note} {bands_note(arms, bands)}")


def _of_gauges(
    ylabel: str, against: str, statistics: Mapping[str, str]
) -> dict[str, list[tuple[str, str, str, str, str]]]:
    """Lines of `_arm_columns`, a row of panels for each norm, a line for each statistic."""
    return {
        f"{ylabel}\n{where}": [
            (gauge, against, name, "", label) for name, label in statistics.items()
        ]
        for gauge, where in GAUGES.items()
    }


def _arm_columns(
    arms: Sequence[Arm],
    rows: Mapping[str, Sequence[tuple[str, str, str, str | None, str]]],
) -> Iterator[list[Panel]]:
    """Panels with a column for each arm, `_IN_A_ROW` at most; further arms follow below.

    Args:
        arms: The arms to compare.
        rows: Lines of each row of panels by the label of its vertical axis: measure, against,
            statistic, given, label.
    """
    for first in range(0, len(arms), _IN_A_ROW):
        block = arms[first : first + _IN_A_ROW]
        for ylabel, lines in rows.items():
            row = [
                Panel(
                    title(arm, 26) if len(arms) > 1 else "",
                    [Curve(arm, *line, look(index)) for index, line in enumerate(lines)],
                    ylabel,
                )
                for arm in block
            ]
            yield row + [Panel("")] * (min(_IN_A_ROW, len(arms)) - len(row))


def _width(arms: Sequence[Arm]) -> float:
    """Width of a panel, in inches."""
    return 4.6 if len(arms) == 1 else 2.7


def _few_ticks(ax: Axes) -> None:
    """Set ticks at 0 and at powers of ten, without the minor ticks that would overlap."""
    low, high = ax.get_ylim()
    powers = [10.0**power for power in range(-3, 3)]
    ticks = [sign * power for sign in (-1, 1) for power in powers]
    shown = sorted({0.0, *(tick for tick in ticks if low <= tick <= high)})
    ax.set_yticks(shown, [f"{tick:g}" for tick in shown])
    ax.yaxis.set_minor_locator(NullLocator())


def _largest_n(arms: Sequence[Arm], against: str, statistics: Collection[str]) -> str:
    """Largest number that entered one of the statistics, as text for the caption."""
    rows = (
        rows_where(arm.trends, against=against, statistic=name)
        for arm in arms
        for name in statistics
    )
    counted = [n for table in rows for n in table["n"].dropna()]
    return f"{int(max(counted)):,}" if counted else "no"
