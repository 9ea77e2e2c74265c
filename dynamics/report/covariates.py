"""Figure of the correlation of norms and importances with covariates over training."""

from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from dynamics.files import whole_file
from dynamics.report.importance import (
    GAUGES,
    controls_of,
    correlation_panels,
    draw_correlations,
    importances_of,
    title_of,
    tokens_drawn,
)
from dynamics.report.style import (
    STYLE,
    arms_note,
    arms_over_steps,
    bands_note,
    caption,
    draw_caption,
)
from dynamics.runs.grouping import Runs
from dynamics.runs.run import Run
from dynamics.runs.tracked_importance import is_covariate
from dynamics.statistics.reliability import RELIABLE


def covariates_over_training(runs: Runs) -> Figure:
    """Correlation of norms and importances with each covariate over steps, raw and partial.

    A row of panels for each norm and each importance, a column for each covariate. One arm: the
    raw, the partial and, where the covariate has halves, the disattenuated correlation. Several: a
    line for each arm, raw and partial in rows of their own.
    """
    arms = arms_over_steps(runs, "covariates")
    names = list(dict.fromkeys(name for arm in arms for name in arm.trends["against"]))
    names = [name for name in names if is_covariate(name)]
    importances = {name: title_of(name) for name in importances_of(arms)}
    figure = draw_correlations(
        correlation_panels(arms, names, GAUGES | importances),
        arms,
        missing="no run has covariates; add them with dynamics track --covariates",
    )
    bands = bands_note(arms)
    null = (
        " Grey: simultaneous 95 % null band of the raw correlations with a column. Fine dotted "
        "lines: the value at the first step."
        if len(arms) == 1
        else ""
    )
    has_halves = any(arm.trends["measure"].isin(names).any() for arm in arms)
    hollow = (
        f" Hollow points: the split-half reliability of the column is below {RELIABLE:g}."
        if has_halves
        else ""
    )
    drawn = {arm.name: tokens_drawn(arm, names) for arm in arms}
    caption(
        figure,
        f"Spearman correlation of norms{' and importances' if importances else ''} with numbers "
        f"per token from a table, raw and given {controls_of(arms, names)}. "
        f"{arms_note(arms, drawn=drawn)} {bands}{null}{hollow}",
    )
    return figure


def draw(run: Run, path: str | Path | None = None) -> Figure:
    """Draw `covariates_over_training` of one run, and write it to a file if there is a path."""
    with mpl.rc_context(STYLE):
        figure = covariates_over_training([run])
        draw_caption(figure)  # no file lies beside it
        if path is not None:
            with whole_file(Path(path)) as partial:
                figure.savefig(partial, format=Path(path).suffix[1:] or None)
    return figure
