"""Figures of norm and frequency: their correlation over training, and the norms themselves."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from dynamics.report.curves import Curve
from dynamics.report.style import (
    arms_note,
    arms_over_steps,
    bands_note,
    caption,
    chosen_steps,
    ends,
    log_axis,
    panels,
    show_legend,
    spread,
    step_axis,
    title,
)
from dynamics.runs.compare import Arm, arms_of
from dynamics.runs.grouping import Runs
from dynamics.runs.measures import identifiable_measures
from dynamics.runs.profile import NEVER_SEEN
from dynamics.runs.run import Run, rows_where

LINES: dict[str, tuple[str, dict[str, Any]]] = {
    "input_embedding_norm": ("input", {"color": "#0b3c7d", "marker": "o"}),
    "output_embedding_norm_centered": (
        "output, uniform mean removed",
        {"color": "#b84a00", "marker": "s"},
    ),
    "output_embedding_norm_centered_frequency": (
        "output, unigram mean removed",
        {"color": "#3fae86", "marker": "^", "linestyle": "-."},
    ),
    "output_embedding_norm": (
        "output, raw",
        {"color": "#a8a8a8", "linestyle": "--", "marker": ""},
    ),
}
"""Label and look of each measure in the correlation figure."""

PANELS = {name: label.panel for name, label in identifiable_measures().items()}
"""Measures of the other figures, a panel for each."""

_ARMS_IN_A_ROW = 3


def correlation_over_training(runs: Runs) -> Figure:
    """Spearman correlation of norm and log frequency against step, with band and null band."""
    arms = arms_over_steps(runs, "correlation")
    columns = min(len(arms), _ARMS_IN_A_ROW)
    rows = -(-len(arms) // columns)
    figure, axes = panels(rows=rows, columns=columns, width=4.6, height=3.4 if rows == 1 else 2.8)
    for ax in axes.flat[len(arms) :]:
        ax.set_visible(False)
    for arm, ax in zip(arms, axes.flat, strict=False):
        for measure, (label, look) in LINES.items():
            Curve(arm, measure, "log_frequency", "spearman", "", label, look).draw(ax)
        # The null band is one for all curves of a run; of several seeds the widest is drawn.
        reach = max(run.trend("input_embedding_norm")["null_high"].max() for run in arm.runs)
        ax.axhspan(-reach, reach, color="#d9d9d9", zorder=0, lw=0, label="null band")
        ax.axhline(0, color="black", lw=0.5)
        step_axis(ax, arm.runs[0].steps)
        tied = arm.runs[0].record.series.tied
        name = title(arm, 40)
        ax.set(ylim=(-1, 1), title=f"{name} (tied)" if tied else name)
    for ax in axes[-1]:
        ax.set_xlabel("training step (log scale, step 0 at the left)")
    for row in axes:
        row[0].set_ylabel("Spearman correlation\nwith log frequency")
    show_legend(figure, 2 if columns == 1 else 5)
    bands = bands_note(arms)
    caption(
        figure,
        f"Input and output embedding norms against token frequency. {arms_note(arms)} {bands} "
        "Grey: simultaneous 95 % null band over all curves and steps of a run, from permuting "
        f"frequencies over tokens.{_raw_norms_note(arms)}",
    )
    return figure


def _raw_norms_note(arms: Sequence[Arm]) -> str:
    """Return a sentence on the arms whose raw output norms are known to have no fixed origin."""
    free = [arm for arm in arms if all(run.record.is_output_shift_free for run in arm.runs)]
    if not free:
        return ""
    names = "" if len(free) == len(arms) else f" of {', '.join(arm.name for arm in free)}"
    return (
        f" Raw output norms{names} are not identifiable: a vector added to every output row "
        "changes no prediction."
    )


def norms_by_frequency(runs: Runs) -> Figure:
    """Mean norm in each bin of token frequency against step, as a heat map; first seeds only."""
    arms = arms_over_steps(runs, "norms_by_frequency")
    figure, axes = panels(rows=len(arms), columns=len(PANELS), width=3.1, height=3.0)
    lowest = ""
    for arm, row in zip(arms, axes, strict=True):
        run = arm.runs[0]
        for (measure, label), ax in zip(PANELS.items(), row, strict=True):
            if measure not in run.record.measures:
                ax.set_visible(False)
                continue
            table = rows_where(run.profile, measure=measure)
            if (table["bin"] == NEVER_SEEN).any():
                lowest = (
                    " Lowest row: tokens that never occur; their norms may lie beyond the colour "
                    "scale."
                )
            _heat_map(figure, ax, table)
            name = label if len(arms) == 1 else f"{title(arm, 30)}:\n{label}"
            ax.set(xlabel="training step", title=name)
        row[0].set_ylabel("occurrences in one pass of the corpus")
    caption(
        figure,
        "Mean norm of the tokens in each bin of frequency, bins equally wide in log frequency and "
        f"of at least 50 tokens. {arms_note(arms, first_seeds=True)}{lowest} Steps are "
        "spaced evenly, not to scale.",
    )
    return figure


def norm_against_frequency(runs: Runs) -> Figure:
    """Norm against log frequency at some steps: density of tokens, and the median of each bin.

    Several arms are drawn at their first and last step only, one also in between, more than three
    at their last alone; of an arm the first seed.
    """
    arms = arms_of(runs)
    columns = [(arm, step) for arm in arms for step in _shown_steps(arm, len(arms))]
    figure, axes = panels(rows=len(PANELS), columns=len(columns), width=2.3, height=1.9)
    for (measure, label), row in zip(PANELS.items(), axes, strict=True):
        for (arm, step), ax in zip(columns, row, strict=True):
            run = arm.runs[0]
            if measure not in run.record.measures:
                ax.set_visible(False)
                continue
            _density(ax, run, measure, step)
            if measure == next(iter(PANELS)):
                name = f"{title(arm, 24)},\n" if len(arms) > 1 else ""
                ax.set_title(f"{name}step {step:,}")
            if measure == list(PANELS)[-1]:
                ax.set_xlabel("occurrences")
        row[0].set_ylabel(f"norm, {label}", fontsize=7)
    caption(
        figure,
        "Norm of each token's row against how often the token occurs in one pass of the corpus. "
        f"{arms_note(arms, first_seeds=True)} Grey: density of tokens, logarithmic; line: median "
        "in bins equally wide in log frequency and of at least 50 tokens, shaded: its 95 % "
        "interval over tokens.",
    )
    return figure


def _shown_steps(arm: Arm, arms: int) -> list[int]:
    """Steps of an arm that are drawn beside those of as many arms."""
    steps = arm.runs[0].steps
    if arms == 1:
        return chosen_steps(steps)
    return ends(steps) if arms <= _ARMS_IN_A_ROW else steps[-1:]


def _heat_map(figure: Figure, ax: Axes, table: pd.DataFrame) -> None:
    """Draw the mean norm of each bin (vertical, rarest below) and step (horizontal)."""
    means = table.pivot_table(index="bin", columns="step", values="mean")
    if NEVER_SEEN in means.index:
        ax.axhline(1, color="white", lw=2)
    bins = means[means.index >= 0].to_numpy()
    mesh = ax.pcolormesh(
        means.to_numpy(), cmap="cividis", vmin=bins.min(), vmax=bins.max(), rasterized=True
    )
    figure.colorbar(mesh, ax=ax, label="mean norm", pad=0.02, extend="both")
    steps = means.columns.to_numpy()
    shown = spread(len(steps), 7)
    ax.set_xticks(shown + 0.5, [f"{steps[index]:,}" for index in shown], rotation=90)
    ax.set_yticks(*_bin_labels(table, means.index.to_numpy()))


def _density(ax: Axes, run: Run, measure: str, step: int) -> None:
    """Draw the density of norm and count at a step, and the median of each bin of frequency."""
    kept_mask = run.kept
    counts = run.tokens["count"].to_numpy()[kept_mask]
    # The scale begins below one token, which would be white on white otherwise.
    ax.hexbin(
        counts,
        run.measures(step)[measure].to_numpy()[kept_mask],
        xscale="log",
        gridsize=28,
        norm=LogNorm(vmin=0.2),
        cmap="Greys",
        lw=0.1,
        mincnt=1,
    )
    log_axis(ax, counts.min(), counts.max())
    bins = rows_where(run.profile, measure=measure, step=step)
    bins = bins[bins["bin"] >= 0]
    center = bins["count_median"]
    ax.fill_between(
        center, bins["median_low"], bins["median_high"], color="#d55e00", alpha=0.4, lw=0
    )
    ax.plot(
        center,
        bins["median"],
        color="#d55e00",
        lw=1.4,
        marker="o",
        ms=2,
        path_effects=[withStroke(linewidth=2.8, foreground="white")],
    )


def _bin_labels(table: pd.DataFrame, bins: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Positions and labels of at most 8 ticks; a label is the range of token counts in a bin.

    The bin of tokens that never occur is labelled "never".
    """
    bounds = table.groupby("bin")[["count_low", "count_high"]].first()
    shown = spread(len(bins), 8)
    labels = []
    for index in shown:
        low, high = bounds.loc[bins[index]].to_numpy()
        labels.append(
            "never" if bins[index] < 0 else f"{low:,}–{high:,}" if low < high else f"{low:,}"
        )
    return shown + 0.5, labels
