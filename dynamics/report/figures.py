"""Figures of runs, drawn from their tables. A figure is a function and an entry of `FIGURES`.

Settings of a figure are keywords of its function, and named in `SETTINGS_OF`.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from dynamics.errors import NothingToDrawError, OutputError, did_you_mean
from dynamics.files import whole_file
from dynamics.progress import Report, no_report
from dynamics.report.covariates import covariates_over_training
from dynamics.report.frequency import (
    correlation_over_training,
    norm_against_frequency,
    norms_by_frequency,
)
from dynamics.report.headline import headline_over_training
from dynamics.report.importance import importance_over_training
from dynamics.report.importance_tokens import norm_against_importance
from dynamics.report.paths import paths
from dynamics.report.statistics_over_steps import agreement, matrices, slopes, surgery
from dynamics.report.style import STYLE, caption_of, draw_caption
from dynamics.runs.arms import Arm
from dynamics.runs.grouping import Arms, arms_of, grouping_lines
from dynamics.runs.run import Run

DEFAULT_FORMATS = ("pdf", "png")
FORMATS = (*DEFAULT_FORMATS, "svg")

FIGURES: dict[str, Callable[..., Figure]] = {
    "correlation": correlation_over_training,
    "norms_by_frequency": norms_by_frequency,
    "norm_against_frequency": norm_against_frequency,
    "importance": importance_over_training,
    "norm_against_importance": norm_against_importance,
    "covariates": covariates_over_training,
    "surgery": surgery,
    "slopes": slopes,
    "agreement": agreement,
    "matrices": matrices,
    "paths": paths,
    "headline": headline_over_training,
}

SETTINGS_OF: dict[str, tuple[str, ...]] = {
    "headline": ("measures", "importance", "overlay", "report"),
}
"""Keywords of figures, beside runs: settings of `plot`, and its `report` where a figure is drawn in
part if the runs do not hold all of it."""

_NO_DATE = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}


def plot(
    runs: Sequence[Run],
    folder: Path,
    *,
    figures: Sequence[str] = (),
    formats: Sequence[str] = DEFAULT_FORMATS,
    arms: Arms | None = None,
    settings: Mapping[str, Any] | None = None,
    report: Report = no_report,
) -> list[Path]:
    """Draw figures of one or several runs into a folder.

    The caption of each figure is written beside it, to `NAME.txt`. Runs that differ in their seed
    alone are drawn as one arm, by the spread over seeds.

    Args:
        runs: Runs to draw beside each other.
        folder: Folder of the files; files of the same name are replaced.
        figures: Names out of `FIGURES`; when empty, all for which the runs hold data.
        formats: Names out of `FORMATS`, each a file.
        arms: Runs of each arm by its name, where the grouping is set; see `arms_of`.
        settings: Settings of figures by name, see `SETTINGS_OF`; and `caption`, which draws
            captions into the pictures too.
        report: Receives a line for each figure that is left out or drawn in part; and for each arm,
            where there are several runs, with what keeps arms apart.

    Returns:
        The pictures, in order.

    Raises:
        OutputError: A figure or a format is not known, or a run cannot be drawn in it.
        NothingToDrawError: The runs hold no data for a figure that was named.
        MismatchError: Two runs are of different tokenizers, or cannot be of one arm as it is set;
            both are named.
    """
    if not runs:
        raise OutputError("there is no run to draw; give one or several")
    for name in figures:
        if name not in FIGURES:
            raise OutputError(f"there is no figure {name!r}; {did_you_mean(name, FIGURES)}")
    for suffix in formats:
        if suffix not in FORMATS:
            raise OutputError(f"there is no format {suffix!r}; {did_you_mean(suffix, FORMATS)}")
    settings = settings or {}
    _check_settings(figures, settings)
    for run in runs:
        if run.rule is None:
            raise OutputError(
                f"{run.path} was tracked without counts, so that there is no frequency to draw; "
                "track it with --counts"
            )
    grouped = arms_of(runs, arms)
    for line in grouping_lines(grouped):
        report(line)
    files = []
    with mpl.rc_context(STYLE):
        for name, figure in _drawn(grouped, figures, settings, report).items():
            if text := caption_of(figure):
                with whole_file(folder / f"{name}.txt") as partial:
                    partial.write_text(f"{text}\n", "utf-8")
            if settings.get("caption"):
                draw_caption(figure)
            for suffix in formats:
                path = folder / f"{name}.{suffix}"
                with whole_file(path) as partial:
                    figure.savefig(partial, format=suffix, metadata=_NO_DATE.get(suffix))
                files.append(path)
    return files


def _check_settings(figures: Sequence[str], settings: Mapping[str, Any]) -> None:
    """Check that a figure that is drawn takes each setting.

    Raises:
        OutputError: No figure, or none of those that are named, takes a setting.
    """
    for name in settings.keys() - {"caption"}:
        takers = [figure for figure, names in SETTINGS_OF.items() if name in names]
        if not takers:
            known = [known for names in SETTINGS_OF.values() for known in names]
            raise OutputError(f"no figure has a setting {name!r}; {did_you_mean(name, known)}")
        if figures and not {*takers} & {*figures}:
            raise OutputError(
                f"{name} is a setting of the figure {takers[0]}, which is not drawn; add --figures "
                f"{takers[0]}"
            )


def _drawn(
    arms: Sequence[Arm], figures: Sequence[str], settings: Mapping[str, Any], report: Report
) -> dict[str, Figure]:
    """Draw the named figures, or all that apply."""

    def draw_figure(name: str) -> Figure:
        available = {**settings, "report": report}
        taken = {key: available[key] for key in SETTINGS_OF.get(name, ()) if key in available}
        return FIGURES[name](arms, **taken)

    if figures:
        return {name: draw_figure(name) for name in figures}
    drawn = {}
    for name in FIGURES:
        try:
            drawn[name] = draw_figure(name)
        except NothingToDrawError as error:
            report(f"figure {name} is left out: {error}")
    return drawn
