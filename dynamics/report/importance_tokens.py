"""Figure of norm against importance token by token, coloured by how often the token occurs."""

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure

from dynamics.errors import NothingToDrawError
from dynamics.report.importance import GAUGES, title_of
from dynamics.report.style import arms_note, caption, chosen_steps, log_axis, panels, title
from dynamics.runs.compare import arms_of
from dynamics.runs.grouping import Runs
from dynamics.runs.run import Run

PAIRS = (
    ("input_embedding_norm", "occlusion"),
    ("input_embedding_norm", "occlusion_norm_matched"),
    ("input_embedding_norm", "information_gain_right"),
    ("output_embedding_norm_centered", "occlusion"),
    ("output_embedding_norm_centered", "information_gain_left"),
)
"""Measure of the norm and importance in each row of panels."""


def norm_against_importance(runs: Runs) -> Figure:
    """Norm against importance at some steps, a point per token, coloured by log frequency.

    One arm is drawn at four steps, several at their last; of an arm the first seed.

    Raises:
        NothingToDrawError: No run has importances.
    """
    arms = arms_of(runs)
    columns = [(arm, step) for arm in arms for step in _steps(arm.runs[0], len(arms) > 1)]
    rows = [
        (gauge, name)
        for gauge, name in PAIRS
        if any(_has(arm.runs[0], gauge, name) for arm in arms)
    ]
    if not rows:
        raise NothingToDrawError(
            "no run has importances to draw norms against; track it with --importance"
        )
    # Norms of two optimizers have so little in common that one would be a line on a common axis.
    figure, axes = panels(
        rows=len(rows), columns=len(columns), width=2.2, height=1.8, share=len(arms) == 1
    )
    points = None
    for row_index, ((gauge, name), row) in enumerate(zip(rows, axes, strict=True)):
        for (arm, step), ax in zip(columns, row, strict=True):
            run = arm.runs[0]
            if not _has(run, gauge, name):
                ax.set_visible(False)
                continue
            points = _scatter(ax, run, gauge, name, step)
            ax.set_xlabel(title_of(name).replace("\n", " "), fontsize=7)
            ax.tick_params(labelsize=6.5)
            if row_index == 0:
                label = f"{title(arm, 24)},\n" if len(arms) > 1 else ""
                ax.set_title(f"{label}step {step:,}", fontsize=8)
        row[0].set_ylabel(GAUGES[gauge], fontsize=7)
    assert points is not None
    figure.colorbar(points, ax=axes, label="log frequency", shrink=0.5, aspect=40, pad=0.01)
    caption(
        figure,
        "Norm of each probed token's row against its importance, coloured by the natural logarithm "
        "of the token's share of the stream: if the colours form layers, an apparent relation is "
        f"one with frequency. {arms_note(arms, first_seeds=True)} The axis of importance is "
        "logarithmic where all values are positive.",
    )
    return figure


def _steps(run: Run, last_only: bool) -> list[int]:
    """Steps that are drawn: the last, or some of those whose model was run."""
    steps = run.live_steps or run.steps
    return steps[-1:] if last_only else chosen_steps(steps)


def _has(run: Run, gauge: str, name: str) -> bool:
    """Return whether a run has the norm and the importance."""
    if gauge not in run.record.measures:
        return False
    return name in run.importances or (name in run.tokens and bool(run.tokens[name].notna().any()))


def _scatter(ax: Axes, run: Run, gauge: str, name: str, step: int) -> PathCollection:
    """Draw a point for each token that the rule keeps."""
    kept_mask = run.kept
    frequency = run.tokens["log_frequency"].to_numpy()[kept_mask]
    importance = _importance(run, name, step)[kept_mask]
    norm = run.measures(step)[gauge].to_numpy()[kept_mask]
    measured = importance[np.isfinite(importance)]
    if (measured > 0).all():
        log_axis(ax, measured.min(), measured.max())
    return ax.scatter(
        importance,
        norm,
        c=frequency,
        cmap="cividis",
        vmin=frequency.min(),
        vmax=frequency.max(),
        s=4,
        lw=0,
        alpha=0.8,
        rasterized=True,
    )


def _importance(run: Run, name: str, step: int) -> Float[np.ndarray, " V"]:
    """One importance of every token, NaN where it was not measured."""
    if name in run.tokens:
        return run.tokens[name].to_numpy(np.float64, na_value=np.nan)
    return run.importance_array(name)[run.live_steps.index(step)]
