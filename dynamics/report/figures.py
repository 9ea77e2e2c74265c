"""Figures of runs, drawn from their tables. A figure is a function and an entry of `FIGURES`."""

from collections.abc import Callable, Sequence
from pathlib import Path

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
from dynamics.report.importance import importance_over_training
from dynamics.report.importance_tokens import norm_against_importance
from dynamics.report.paths import paths
from dynamics.report.statistics_over_steps import agreement, matrices, slopes, surgery
from dynamics.report.style import STYLE
from dynamics.runs.arms import Arm
from dynamics.runs.grouping import Arms, Runs, arms_of, grouping_lines
from dynamics.runs.run import Run

DEFAULT_FORMATS = ("pdf", "png")
FORMATS = (*DEFAULT_FORMATS, "svg")

FIGURES: dict[str, Callable[[Runs], Figure]] = {
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
}

_NO_DATE = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}


def plot(
    runs: Sequence[Run],
    folder: Path,
    *,
    figures: Sequence[str] = (),
    formats: Sequence[str] = DEFAULT_FORMATS,
    arms: Arms | None = None,
    report: Report = no_report,
) -> list[Path]:
    """Draw figures of one or several runs into a folder.

    Runs that differ in their seed alone are drawn as one arm, by the spread over seeds.

    Args:
        runs: Runs to draw beside each other.
        folder: Folder of the files; files of the same name are replaced.
        figures: Names out of `FIGURES`; when empty, all for which the runs hold data.
        formats: Names out of `FORMATS`, each a file.
        arms: Runs of each arm by its name, where the grouping is set; see `arms_of`.
        report: Receives a line for each figure that is left out; and for each arm, where there are
            several runs, with what keeps arms apart.

    Returns:
        The files, in order.

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
        for name, figure in _drawn(grouped, figures, report).items():
            for suffix in formats:
                path = folder / f"{name}.{suffix}"
                with whole_file(path) as partial:
                    figure.savefig(partial, format=suffix, metadata=_NO_DATE.get(suffix))
                files.append(path)
    return files


def _drawn(arms: Sequence[Arm], figures: Sequence[str], report: Report) -> dict[str, Figure]:
    """Draw the named figures, or all that apply."""
    if figures:
        return {name: FIGURES[name](arms) for name in figures}
    drawn = {}
    for name, draw in FIGURES.items():
        try:
            drawn[name] = draw(arms)
        except NothingToDrawError as error:
            report(f"figure {name} is left out: {error}")
    return drawn
