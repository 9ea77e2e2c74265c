"""Figure of the paths of rows over the steps: nearness to their end, and straightness."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dynamics.checkpoints.architectures import ROLES
from dynamics.errors import NothingToDrawError
from dynamics.report.style import (
    arms_note,
    caption,
    log_axis,
    look,
    panels,
    spread,
    step_axis,
    title,
)
from dynamics.runs.compare import arms_of
from dynamics.runs.grouping import Runs
from dynamics.runs.paths import LAST_COSINE, RAY_SHARE, RAY_SHARE_OF_WALK, TIME_TO_HALF
from dynamics.runs.run import Run, rows_where

_BINS = 4
"""Bins of frequency whose cosines are drawn, at most."""


def paths(runs: Runs) -> Figure:
    """Cosine to the last step, time to half and ray share, by frequency; first seeds only.

    Raises:
        NothingToDrawError: The rows of no run were followed over the steps.
    """
    arms = [arm for arm in arms_of(runs) if arm.runs[0].record.paths is not None]
    if not arms:
        raise NothingToDrawError(
            "the rows of no run were followed over the steps (dynamics track --paths)"
        )
    rows = [
        (arm, role)
        for arm in arms
        for role in ROLES
        if len(_of_bins(arm.runs[0], f"{role}_{RAY_SHARE}"))
    ]
    if not rows:
        raise NothingToDrawError("no rule keeps enough tokens for bins of frequency")
    figure, axes = panels(rows=len(rows), columns=3, width=3.0, height=2.3, share=False)
    for (arm, role), (cosines, times, shares) in zip(rows, axes, strict=True):
        run, kind = arm.runs[0], role.removesuffix("_embedding")
        name = f"{title(arm, 24)}:\n" if len(arms) > 1 else ""
        _draw_cosines(cosines, run, f"{role}_{LAST_COSINE}")
        cosines.set(title=f"{name}{kind} rows", ylabel="cosine to the last step")
        _draw_medians(times, run, f"{role}_{TIME_TO_HALF}", "", 0)
        times.set_ylabel("step half way to the last direction")
        _draw_medians(shares, run, f"{role}_{RAY_SHARE}", "the row's path", 0)
        _draw_medians(shares, run, f"{role}_{RAY_SHARE_OF_WALK}", "random walk", 1)
        shares.set(ylabel="share of variance on the line", ylim=(0, 1.02))
        cosines.legend(fontsize=6, loc="best")
        shares.legend(fontsize=6, loc="lower left")
    axes[-1, 0].set_xlabel("training step")
    for ax in axes[-1, 1:]:
        ax.set_xlabel("occurrences in one pass of the corpus")
    caption(
        figure,
        "Rows on their way to the last step. Left: median cosine of a row to itself at the last "
        f"step, by occurrences of the token, at most {_BINS} of the bins. Middle: median step at "
        "which this cosine has come half of its way to 1, interpolated between measured steps. "
        "Right: median share of the variance of a row's path along the line from its first to its "
        "last point, and that of a random walk in many dimensions with the same step lengths. "
        "Tokens whose row does not turn or move have no time or share and are left out. Shaded: 95 "
        f"% intervals of medians over tokens. {arms_note(arms, first_seeds=True)}",
    )
    return figure


def _of_bins(run: Run, measure: str) -> pd.DataFrame:
    """Return the profile of a measure, without tokens that never occur, by ascending bin."""
    rows = rows_where(run.profile, measure=measure)
    return rows[rows["bin"] >= 0].sort_values(["bin", "step"])


def _draw_cosines(ax: Axes, run: Run, measure: str) -> None:
    """Draw the median cosine of some bins of frequency over steps, the most frequent first."""
    table = _of_bins(run, measure)
    bins = np.unique(table["bin"])
    for index, label in enumerate(bins[spread(len(bins), _BINS)][::-1]):
        rows = rows_where(table, bin=label)
        low, high = rows[["count_low", "count_high"]].iloc[0]
        _draw_interval(ax, rows["step"], rows, f"{low:,}–{high:,} occurrences", index)
    step_axis(ax, run.steps)


def _draw_medians(ax: Axes, run: Run, measure: str, label: str, index: int) -> None:
    """Draw the median of a measure in each bin of frequency."""
    rows = _of_bins(run, measure)
    _draw_interval(ax, rows["count_median"], rows, label, index)
    log_axis(ax, rows["count_median"].min(), rows["count_median"].max())


def _draw_interval(ax: Axes, x: pd.Series, rows: pd.DataFrame, label: str, index: int) -> None:
    """Draw medians as the line at an index of the looks, with their intervals."""
    style = look(index)
    ax.fill_between(
        x, rows["median_low"], rows["median_high"], color=style["color"], alpha=0.2, lw=0
    )
    ax.plot(x, rows["median"], label=label, ms=2.8, lw=1.1, **style)
