"""Figures of one statistic each, arms beside one another: surgery, slopes, agreement, read-out."""

from collections.abc import Iterator, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from dynamics.report.curves import Curve, Panel, draw_panels
from dynamics.report.importance import GAUGES
from dynamics.report.style import (
    about,
    caption,
    look,
    need_trend,
    show_legend,
    title,
    what_bands_are,
)
from dynamics.runs.compare import Arm, arms_of
from dynamics.runs.run import Run

SURGERIES = {
    "surgery_equalized": "equalized",
    "surgery_shuffled": "shuffled",
    "surgery_shuffled_within_bins": "shuffled within bins of frequency",
    "surgery_fitted": "replaced by their fit on frequency",
}
SLOPES = {
    "log_slope": "observational, over tokens",
    "twin_log_slope": "causal, within twins",
    "log_slope_of_twinned": "observational, over the tokens with a twin",
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


def surgery(runs: Sequence[Run]) -> Figure:
    """Held-out loss change when the norms of input or centred output rows are operated on."""
    need_trend(runs, "surgery")
    arms = arms_of(runs)
    figure, axes = draw_panels(
        _beside_one_another(
            arms,
            {
                f"loss change, nats\n{where}": [
                    (gauge, "held_out_loss", name, "", label) for name, label in SURGERIES.items()
                ]
                for gauge, where in GAUGES.items()
            },
        ),
        missing="no run has surgery on norms; track it with --surgery",
        width=_width(arms),
        linear_within=_LINEAR,
    )
    for ax in axes:
        _few_ticks(ax)
    show_legend(figure, 2)
    n = _largest_n(arms, "held_out_loss", SURGERIES)
    bands = what_bands_are(arms, "Bands: 95 % intervals over held-out rows.")
    caption(
        figure,
        f"What the norms are good for: change of the loss on {n} held-out rows when norms are "
        f"replaced and directions kept; linear within ±{_LINEAR:g}, logarithmic beyond. "
        f"{about(arms)} {bands}",
    )
    return figure


def slopes(runs: Sequence[Run]) -> Figure:
    """Slope of log norm on log frequency, within twins and over tokens, for each gauge."""
    need_trend(runs, "slopes")
    arms = arms_of(runs)
    figure, _ = draw_panels(
        _beside_one_another(
            arms,
            {
                f"slope of log norm,\n{where}": [
                    (gauge, "log_frequency", name, None, label) for name, label in SLOPES.items()
                ]
                for gauge, where in GAUGES.items()
            },
        ),
        missing="no run has slopes of log norm on log frequency; track it again to have them",
        width=_width(arms),
    )
    show_legend(figure, 2)
    n = _largest_n(arms, "log_frequency", ["twin_log_slope"])
    bands = what_bands_are(arms, "Bands: 95 % intervals over tokens, and over pairs of twins.")
    caption(
        figure,
        f"Slope of log norm on log frequency. Causal: within {n} tokens that were trained under "
        "two ids, chance deciding at each occurrence. Observational: over tokens, which differ in "
        "more than frequency; what is causal is held against the slope over the same tokens. "
        f"{about(arms)} {bands}",
    )
    return figure


def agreement(runs: Sequence[Run]) -> Figure:
    """Within-input agreement of each attribution method with occlusion, over steps."""
    need_trend(runs, "agreement")
    arms = arms_of(runs)
    statistic = "within_input_agreement"
    methods = {
        name: name.replace("_", " ")
        for arm in arms
        for name in arm.trends.loc[arm.trends["statistic"] == statistic, "measure"]
    }
    figure, _ = draw_panels(
        _beside_one_another(
            arms,
            {
                "agreement with occlusion\nwithin inputs": [
                    (method, "occlusion", statistic, None, label)
                    for method, label in methods.items()
                ]
            },
        ),
        missing="no run has agreement within inputs; track it with --agreement",
        width=_width(arms),
        height=2.6,
    )
    show_legend(figure, 4)
    n = _largest_n(arms, "occlusion", [statistic])
    bands = what_bands_are(arms, "Bands: 95 % intervals over inputs.")
    caption(
        figure,
        "When a score explains predictions: mean over inputs of the Spearman correlation, within "
        f"one input, of a method's scores and occlusion's, the read-out position left out; {n} "
        f"inputs. {about(arms)} {bands}",
    )
    return figure


def matrices(runs: Sequence[Run]) -> Figure:
    """How well frequency is read out of each embedding: from rows, directions, norms, and both."""
    need_trend(runs, "matrices")
    arms = arms_of(runs)
    figure, axes = draw_panels(
        _beside_one_another(
            arms,
            {
                f"read-out R²,\n{where}": [
                    (role, "log_frequency", "readout_r2", given, label)
                    for given, label in READ_OUTS.items()
                ]
                for role, where in EMBEDDINGS.items()
            },
        ),
        missing="no run has read-outs of frequency; track it again to have them",
        width=_width(arms),
    )
    for ax in axes:
        ax.set_ylim(min(-0.05, max(ax.get_ylim()[0], -0.3)), 1)
    show_legend(figure, 4 if len(arms) > 1 else 2)
    bands = what_bands_are(arms, "Bands: 95 % intervals, where there are any.")
    caption(
        figure,
        "Share of the variance of log frequency that a ridge regression on an embedding predicts "
        "for tokens it was not fitted on (ten folds); below 0 it is worse than the mean. "
        f"{about(arms)} {bands}",
    )
    return figure


def _beside_one_another(
    arms: Sequence[Arm],
    rows: Mapping[str, Sequence[tuple[str, str, str, str | None, str]]],
) -> Iterator[list[Panel]]:
    """A column for each arm, `_IN_A_ROW` at most and the others below them.

    Args:
        arms: What is compared.
        rows: By the name of the vertical axis, what is drawn: measure, against, statistic, given,
            label.
    """
    for first in range(0, len(arms), _IN_A_ROW):
        block = arms[first : first + _IN_A_ROW]
        for ylabel, lines in rows.items():
            row = [
                Panel(
                    title(arm, 26) if len(arms) > 1 else "",
                    [Curve(arm, *line, look(at)) for at, line in enumerate(lines)],
                    ylabel,
                )
                for arm in block
            ]
            yield row + [Panel("")] * (min(_IN_A_ROW, len(arms)) - len(row))


def _width(arms: Sequence[Arm]) -> float:
    return 4.6 if len(arms) == 1 else 2.7


def _few_ticks(ax: Axes) -> None:
    """Of a symmetric logarithmic scale, 0 and every power of ten would run into each other."""
    low, high = ax.get_ylim()
    powers = [10.0**power for power in range(-3, 3)]
    ticks = [sign * power for sign in (-1, 1) for power in powers]
    shown = sorted({0.0, *(tick for tick in ticks if low <= tick <= high)})
    ax.set_yticks(shown, [f"{tick:g}" for tick in shown])
    ax.yaxis.set_minor_locator(NullLocator())


def _largest_n(
    arms: Sequence[Arm], against: str, statistics: Mapping[str, str] | Sequence[str]
) -> str:
    n = [
        arm.trends["n"][
            (arm.trends["against"] == against) & arm.trends["statistic"].isin(list(statistics))
        ]
        for arm in arms
    ]
    counted = sorted({int(value) for column in n for value in column.dropna()})
    return f"{counted[-1]:,}" if counted else "no"
