"""The figures of a run. They draw what the tables hold; a figure is a function and an entry.

Every figure states below itself how many tokens it is about, which rule chose them and what its
bands are. Colours differ in lightness, lines also in style and marker, so that print in grey reads.
"""

import textwrap
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from dynamics.errors import OutputError, did_you_mean
from dynamics.files import whole_file
from dynamics.tracking.run import Run
from dynamics.tracking.trends import NEVER_SEEN

DEFAULT_FORMATS = ("pdf", "png")
FORMATS = (*DEFAULT_FORMATS, "svg")

STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "legend.frameon": False,
    "svg.hashsalt": "dynamics",
    "pdf.fonttype": 42,
    "savefig.dpi": 200,
}

LINES = {
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
        "output, raw (not identifiable)",
        {"color": "#a8a8a8", "linestyle": "--"},
    ),
}
"""What the correlation figure draws: label and look of each measure."""

PANELS = {
    "input_embedding_norm": "input embedding",
    "output_embedding_norm_centered": "output embedding,\nuniform mean removed",
    "output_embedding_norm_centered_frequency": "output embedding,\nunigram mean removed",
}
"""What the other figures draw, a panel each."""


def correlation_over_training(runs: Sequence[Run]) -> Figure:
    """Spearman correlation of norm and log frequency against step, with band and null band."""
    _need_trend(runs, "correlation")
    figure, axes = _panels(rows=1, columns=len(runs), width=4.6, height=3.4)
    for run, name, ax in zip(runs, _names(runs, 40), axes[0], strict=True):
        for measure, (label, look) in LINES.items():
            if measure not in run.info["measures"]:
                continue
            rows = run.trend(measure)
            ax.fill_between(
                rows["step"],
                rows["band_low"],
                rows["band_high"],
                color=look["color"],
                alpha=0.2,
                lw=0,
            )
            ax.plot(rows["step"], rows["value"], label=label, ms=3, lw=1.2, **look)
        reach = run.trend("input_embedding_norm")["null_high"].max()
        ax.axhspan(-reach, reach, color="#d9d9d9", zorder=0, lw=0, label="null band")
        ax.axhline(0, color="black", lw=0.5)
        _step_axis(ax, run.steps)
        ax.set(ylim=(-1, 1), title=f"{name} (tied)" if run.info["series"]["tied"] else name)
    axes[0][0].set_ylabel("Spearman correlation with log frequency")
    legend = {label: handle for ax in axes[0] for handle, label in _legend(ax)}
    figure.legend(legend.values(), legend.keys(), loc="outside upper left", ncols=2, fontsize=7)
    _caption(
        figure,
        f"Input and output embedding norms against token frequency. {_tokens(runs)} Bands cover "
        "a whole curve at once with 95 % probability over resampled tokens; grey: where all curves "
        "and steps together stay with 95 % probability when frequencies are permuted over tokens. "
        "Raw output norms are not identifiable: a vector added to every row changes no prediction.",
    )
    return figure


def norms_by_frequency(runs: Sequence[Run]) -> Figure:
    """Mean norm in each bin of token frequency against step, as a heat map."""
    _need_trend(runs, "norms_by_frequency")
    figure, axes = _panels(rows=len(runs), columns=len(PANELS), width=3.1, height=3.0)
    lowest = ""
    for run, name, row in zip(runs, _names(runs, 30), axes, strict=True):
        for (measure, label), ax in zip(PANELS.items(), row, strict=True):
            if measure not in run.info["measures"]:
                ax.set_visible(False)
                continue
            table = run.profile[run.profile["measure"] == measure]
            means = table.pivot_table(index="bin", columns="step", values="mean")
            if NEVER_SEEN in means.index:
                ax.axhline(1, color="white", lw=2)
                lowest = (
                    " Lowest row: rows that never occur, whose norms may lie beyond the scale of "
                    "the others."
                )
            seen = means[means.index >= 0].to_numpy()
            mesh = ax.pcolormesh(
                means.to_numpy(),
                cmap="cividis",
                vmin=seen.min(),
                vmax=seen.max(),
                rasterized=True,
            )
            figure.colorbar(mesh, ax=ax, label="mean norm", pad=0.02, extend="both")
            steps = means.columns.to_numpy()
            shown = _spread(len(steps), 7)
            ax.set_xticks(shown + 0.5, [f"{steps[at]:,}" for at in shown], rotation=90)
            ax.set_yticks(*_bin_labels(table, means.index.to_numpy()))
            ax.set(xlabel="training step", title=label if len(runs) == 1 else f"{name}:\n{label}")
        row[0].set_ylabel("occurrences in one pass of the corpus")
    _caption(
        figure,
        "Mean norm of the tokens in each bin of frequency, bins equally wide in log frequency and "
        f"of at least 50 tokens. {_tokens(runs)}{lowest} Steps are spaced evenly, not to scale.",
    )
    return figure


def norm_against_frequency(runs: Sequence[Run]) -> Figure:
    """Norm against log frequency at some steps: density of tokens, and the median of each bin.

    Several runs are drawn at their first and last step only, one run also in between.
    """
    columns = [
        (run, name, step)
        for run, name in zip(runs, _names(runs, 24), strict=True)
        for step in (_chosen_steps(run.steps) if len(runs) == 1 else _ends(run.steps))
    ]
    figure, axes = _panels(rows=len(PANELS), columns=len(columns), width=2.3, height=1.9)
    for (measure, label), row in zip(PANELS.items(), axes, strict=True):
        for (run, name, step), ax in zip(columns, row, strict=True):
            if measure not in run.info["measures"]:
                ax.set_visible(False)
                continue
            kept = run.kept
            count = run.tokens["count"].to_numpy()[kept]
            norms = run.measures(step)[measure].to_numpy()[kept]
            # The scale begins below one token, which would be white on white otherwise.
            ax.hexbin(
                count,
                norms,
                xscale="log",
                gridsize=28,
                norm=LogNorm(vmin=0.2),
                cmap="Greys",
                lw=0.1,
                mincnt=1,
            )
            profile = run.profile
            bins = profile[
                (profile["measure"] == measure) & (profile["step"] == step) & (profile["bin"] >= 0)
            ]
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
            if measure == next(iter(PANELS)):
                ax.set_title(f"{name},\nstep {step:,}" if len(runs) > 1 else f"step {step:,}")
            if measure == list(PANELS)[-1]:
                ax.set_xlabel("occurrences")
        row[0].set_ylabel(f"norm, {label}", fontsize=7)
    _caption(
        figure,
        f"Norm of each token's row against how often the token occurs in one pass of the corpus. "
        f"{_tokens(runs)} Grey: density of tokens, logarithmic; line: median in bins equally "
        "wide in log frequency and of at least 50 tokens, shaded: its 95 % interval.",
    )
    return figure


FIGURES: dict[str, Callable[[Sequence[Run]], Figure]] = {
    "correlation": correlation_over_training,
    "norms_by_frequency": norms_by_frequency,
    "norm_against_frequency": norm_against_frequency,
}


def plot(
    runs: Sequence[Run],
    folder: Path,
    *,
    figures: Sequence[str] = (),
    formats: Sequence[str] = DEFAULT_FORMATS,
) -> list[Path]:
    """Draw figures of one or several runs into a folder.

    Args:
        runs: Runs to draw beside each other.
        folder: Where to; files of the same name are replaced.
        figures: Names out of `FIGURES`; all when empty.
        formats: Names out of `FORMATS`, each a file.

    Returns:
        The files, in order.

    Raises:
        OutputError: A figure or a format is not known, or a run cannot be drawn in it.
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
    files = []
    with mpl.rc_context(STYLE):
        drawn = {name: FIGURES[name](runs) for name in figures or FIGURES}
        for name, figure in drawn.items():
            for suffix in formats:
                path = folder / f"{name}.{suffix}"
                with whole_file(path) as partial:
                    figure.savefig(partial, format=suffix, metadata=_NO_DATE.get(suffix))
                files.append(path)
    return files


_CHARACTERS_PER_INCH = 18.5
"""Of the caption; few enough that a line of wide letters stays inside the figure."""

_NO_DATE = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}


def _need_trend(runs: Sequence[Run], figure: str) -> None:
    for run in runs:
        if len(run.steps) < 2:
            raise OutputError(
                f"{run.path} has a single checkpoint (step {run.steps[0]}), and the figure "
                f"{figure!r} is about change; draw --figures norm_against_frequency instead"
            )


def _panels(*, rows: int, columns: int, width: float, height: float) -> tuple[Figure, np.ndarray]:
    # Not pyplot: nothing global, no window, and figures are freed with their last reference.
    figure = Figure(figsize=(max(4.6, width * columns), height * rows + 0.7), layout="constrained")
    sharey = "row" if columns > 1 else "none"
    return figure, figure.subplots(rows, columns, squeeze=False, sharey=sharey)


def _step_axis(ax: Axes, steps: Sequence[int]) -> None:
    """Logarithmic from step 1 on, with step 0 in its place left of it."""
    ax.set_xscale("symlog", linthresh=1, linscale=0.4)
    ticks = [0, *(10**power for power in range(len(str(steps[-1]))))]
    ax.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    ax.set(xlim=(-0.15, steps[-1] * 1.15), xlabel="training step (log scale, step 0 at the left)")


def _bin_labels(table: pd.DataFrame, bins: np.ndarray) -> tuple[np.ndarray, list[str]]:
    bounds = table.groupby("bin")[["count_low", "count_high"]].first()
    shown = _spread(len(bins), 8)
    labels = []
    for at in shown:
        low, high = bounds.loc[bins[at]].to_numpy()
        labels.append(
            "never" if bins[at] < 0 else f"{low:,}–{high:,}" if low < high else f"{low:,}"
        )
    return shown + 0.5, labels


def _spread(length: int, most: int) -> np.ndarray:
    return np.unique(np.linspace(0, length - 1, min(length, most)).round().astype(int))


def _chosen_steps(steps: Sequence[int]) -> list[int]:
    """The first and the last step, and those nearest to a sixteenth and a quarter of the last."""
    wanted = (steps[0], steps[-1] / 16, steps[-1] / 4, steps[-1])
    return sorted({min(steps, key=lambda step: abs(step - want)) for want in wanted})


def _ends(steps: Sequence[int]) -> list[int]:
    return sorted({steps[0], steps[-1]})


def _names(runs: Sequence[Run], width: int = 1000) -> list[str]:
    """Names of the runs, told apart by their folders where they are the same, broken to a width.

    A dollar sign stays one: matplotlib would set what stands between two as mathematics.
    """
    names = [run.name for run in runs]
    folders = ["/".join(run.path.resolve().parts[-2:]) for run in runs]
    told_apart = [
        name if names.count(name) == 1 else f"{name} ({folder})"
        for name, folder in zip(names, folders, strict=True)
    ]
    return [textwrap.fill(name, width).replace("$", r"\$") for name in told_apart]


def _legend(ax: Axes) -> Iterator[tuple[Any, str]]:
    return zip(*ax.get_legend_handles_labels(), strict=True)


def _tokens(runs: Sequence[Run]) -> str:
    parts = [
        f"{name}: {run.kept.sum():,} tokens, {run.rule}"
        for run, name in zip(runs, _names(runs), strict=True)
    ]
    kinds = "no padding, special, added, byte, fragment or unreachable tokens"
    left_out = [
        f"{name}: {_steps(left)} left out, flagged by the audit"
        for run, name in zip(runs, _names(runs), strict=True)
        if (left := run.info["series"].get("left_out"))
    ]
    return f"({'; '.join([*parts, kinds, *left_out])}.)"


def _steps(steps: Collection[str]) -> str:
    return f"step{'s' * (len(steps) > 1)} {', '.join(steps)} {'are' if len(steps) > 1 else 'is'}"


def _caption(figure: Figure, text: str) -> None:
    width, _ = figure.get_size_inches()
    lines = textwrap.wrap(text, int(width * _CHARACTERS_PER_INCH))
    figure.supxlabel("\n".join(lines), fontsize=6.5, x=0.01, ha="left", color="#333333")
