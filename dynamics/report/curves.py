"""Statistics over steps as small panels: of one run, or of the spread over an arm's seeds."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dynamics.errors import NothingToDrawError
from dynamics.report.style import panels, step_axis
from dynamics.runs.compare import Arm


@dataclass(frozen=True, eq=False)
class Curve:
    """One statistic of one arm over steps.

    Attributes:
        arm: The arm whose runs are drawn.
        measure: As in `trends.parquet`.
        against: As in `trends.parquet`.
        statistic: As in `trends.parquet`.
        given: As in `trends.parquet`; None as in `Quantity`.
        label: Label in the legend.
        look: Colour, marker and style of the line.
        hollow: Steps at which the point is hollow.
        thin: Draw a thin dash-dotted line without points and interval.
        baseline: Mark the value at the first step by a fine line.
    """

    arm: Arm
    measure: str
    against: str
    statistic: str
    given: str | None
    label: str
    look: Mapping[str, Any]
    hollow: frozenset[int] = frozenset()
    thin: bool = False
    baseline: bool = False

    @cached_property
    def seeds(self) -> list[pd.DataFrame]:
        """The rows of each seed, by ascending step."""
        rows = self.arm.rows(self.measure, self.against, self.statistic, self.given)
        rows = rows[rows["value"].notna()].sort_values("step")
        return [seed_rows for _, seed_rows in rows.groupby("seed")]

    def draw(self, ax: Axes, shade: float = 0.18) -> bool:
        """Draw the curve, its interval with opacity `shade`; return whether it has any value."""
        seeds = self.seeds
        if not seeds:
            return False
        color = self.look["color"]
        if len(self.arm.runs) == 1:
            (mean,) = seeds
            # The band over the whole curve; the pointwise interval where there is no band.
            low, high = (mean[f"band_{end}"].fillna(mean[end]) for end in ("low", "high"))
        else:
            mean = self.arm.curve(self.measure, self.against, self.statistic, self.given)
            low, high = mean["low"], mean["high"]
            for rows in seeds if not self.thin else ():
                ax.plot(rows["step"], rows["value"], color=color, lw=0.4, alpha=0.45)
        x, y = mean["step"].to_numpy(), mean["value"].to_numpy()
        if self.thin:
            ax.plot(x, y, color=color, lw=0.7, ls="-.", label=self.label)
            return True
        ax.fill_between(x, low, high, color=color, alpha=shade, lw=0)
        if len(x) == 1:  # a band of one point has no width
            ax.vlines(x, low, high, color=color, alpha=2 * shade, lw=2)
        ax.plot(x, y, label=self.label, ms=2.8, lw=1.1, **self.look)
        hollow = np.isin(x, list(self.hollow))
        ax.plot(
            x[hollow],
            y[hollow],
            ls="",
            ms=2.8,
            color=color,
            marker=self.look["marker"],
            mfc="white",
        )
        if self.baseline:
            ax.axhline(y[0], color=color, lw=0.5, ls=(0, (1, 3)))
        return True


@dataclass(frozen=True, eq=False)
class Panel:
    """Curves that share their axes.

    Attributes:
        title: Title above the panel.
        curves: Curves to draw.
        ylabel: Label of the vertical axis; shown at the first panel of a row.
        reach: Half-width of a null band around 0, None for no band.
    """

    title: str
    curves: Sequence[Curve] = field(default_factory=list)
    ylabel: str = ""
    reach: float | None = None


def draw_panels(
    rows: Iterable[Sequence[Panel]],
    *,
    missing: str,
    width: float = 2.3,
    height: float = 1.9,
    linear_within: float | None = None,
) -> tuple[Figure, list[Axes]]:
    """Draw a figure of panels, without rows and columns that would be empty.

    Args:
        rows: Panels by row, as many in each.
        missing: Message of the error when nothing can be drawn.
        width: Width of a panel, in inches.
        height: Height of a panel, in inches.
        linear_within: The vertical scale is logarithmic beyond plus and minus this; linear
            everywhere when None.

    Returns:
        The figure and the axes in which something was drawn.

    Raises:
        NothingToDrawError: No panel has anything to draw.
    """
    grid = [list(row) for row in rows]
    full = np.array([[any(c.seeds for c in panel.curves) for panel in row] for row in grid])
    if not full.any():
        raise NothingToDrawError(missing)
    used_rows, used_columns = np.flatnonzero(full.any(axis=1)), np.flatnonzero(full.any(axis=0))
    figure, axes = panels(
        rows=len(used_rows), columns=len(used_columns), width=width, height=height
    )
    drawn = []
    for i, row in enumerate(used_rows):
        for j, column in enumerate(used_columns):
            ax, panel = axes[i][j], grid[row][column]
            if not full[row][column]:
                ax.set_visible(False)
                continue
            if linear_within is not None:
                ax.set_yscale("symlog", linthresh=linear_within)
            _draw_panel(ax, panel)
            if j == np.flatnonzero(full[row][used_columns])[0]:
                ax.set_ylabel(panel.ylabel, fontsize=8)
            if i == np.flatnonzero(full[used_rows][:, column])[-1]:
                ax.set_xlabel("training step", fontsize=8)
            drawn.append(ax)
    return figure, drawn


def _draw_panel(ax: Axes, panel: Panel) -> None:
    """Draw null band, zero line and curves of a panel."""
    if panel.reach is not None and np.isfinite(panel.reach):
        ax.axhspan(-panel.reach, panel.reach, color="#d9d9d9", zorder=0, lw=0, label="null band")
    ax.axhline(0, color="black", lw=0.5)
    for curve in panel.curves:
        curve.draw(ax, 0.18 if len(panel.curves) <= 3 else 0.1)
    steps = sorted(
        {step for curve in panel.curves for rows in curve.seeds for step in rows["step"]}
    )
    step_axis(ax, [int(step) for step in steps])
    ax.set_title(panel.title, fontsize=8)
    ax.tick_params(labelsize=7)
