"""The headline figure, as wide as one column of a journal: norm with frequency and importance.

A panel for each correlation, with its null band; a line for each norm, and for each arm where arms
are laid over each other, with differences from the first arm in a second column.
"""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator

from dynamics.errors import NothingToDrawError, OutputError, did_you_mean
from dynamics.progress import Report, no_report
from dynamics.report.curves import Curve
from dynamics.report.headline_caption import headline_caption
from dynamics.report.importance import unreliable_steps
from dynamics.report.style import (
    arms_over_steps,
    caption,
    look,
    step_axis,
    without_mathematics,
)
from dynamics.runs.arms import Arm, Quantity
from dynamics.runs.differences import difference_curve
from dynamics.runs.grouping import Runs
from dynamics.runs.headline import (
    HEADLINE_NORMS,
    About,
    differences_headline,
    headline,
    headline_correlations,
    headline_importance,
)
from dynamics.runs.importance_findings import given_of
from dynamics.runs.measures import identifiable_measures

MM = 1 / 25.4
COLUMN = 85 * MM
"""Width of one column of a journal, in inches."""

SMALLEST, SIZE, TITLE_SIZE = 6.0, 6.5, 7.5
"""Sizes of text, in points at the width of a column: tick labels, other text, and the title."""

_PANEL, _LINE = 24 * MM, 1.3 * SIZE / 72
"""Height of a panel without its legend, and of a line of text, in inches."""

_LETTER = 0.58
"""Width of a letter, as a share of the size of its font."""

_WIDE, _NARROW = 48, 26
"""Characters in a line of a legend above a panel, alone in its row or beside another."""

_COLUMNS = 2
"""Arms beside each other; further ones follow below."""


@dataclass(frozen=True)
class _Line:
    """One line of every panel.

    Attributes:
        arm: The arm.
        measure: The norm.
        label: What tells the line from others of the panel; empty where it is alone.
        look: Its look; None for that of the panel.
        differences: Tables of `difference_curve` from the first arm, by label of the correlation;
            empty for the first arm.
    """

    arm: Arm
    measure: str
    label: str
    look: Mapping[str, Any] | None
    differences: Mapping[str, pd.DataFrame]


@dataclass(frozen=True)
class _Block:
    """Panels of one arm, or of arms over each other, under one title.

    Attributes:
        title: The title, in lines.
        lines: The lines of every panel.
        correlations: The correlation of each panel by its label.
    """

    title: str
    lines: Sequence[_Line]
    correlations: Mapping[str, About]

    @property
    def has_differences(self) -> bool:
        """Return whether arms are laid over each other, and differences drawn beside them."""
        return any(line.differences for line in self.lines)

    def legend(self, label: str) -> tuple[str, ...]:
        """Return the heading of a panel's legend, empty for one line, and an entry for each line.

        The entry is empty for a line without values.
        """
        width = _NARROW if self.has_differences else _WIDE
        entries = []
        for line in self.lines:
            n = line.arm.rows(line.measure, *self.correlations[label])["n"]
            entries.append(f"{line.label or label}, {_tokens(n)}" if len(n) else "")
        heading = "" if len(self.lines) == 1 else label
        return tuple(_filled(text, width) for text in (heading, *entries))


def headline_over_training(
    runs: Runs,
    *,
    measures: Sequence[str] = ("input",),
    importance: str | None = None,
    overlay: bool = False,
    report: Report = no_report,
) -> Figure:
    """Correlation of norms with frequency, and with importance beyond it, against step.

    The title states what the runs show, computed from their trends (`runs.headline`).

    Args:
        runs: Runs or arms.
        measures: Names out of `HEADLINE_NORMS`: norms of input rows, or of output rows under both
            centrings.
        importance: Name of an importance; by default that of `headline_importance`.
        overlay: Lay arms over each other, with differences from the first; the runs, where all
            are of one arm.
        report: Receives a line if no importance was measured.

    Raises:
        OutputError: A measure or an importance is not known.
        NothingToDrawError: A run has one checkpoint alone, or none of the norms; or `overlay` of
            a single run.
        MismatchError: Two runs are of different tokenizers; both are named.
    """
    arms = arms_over_steps(runs, "headline")
    if overlay:
        arms = _laid_over(arms)
    names = _norms(measures, arms)
    importance = _importance(importance, arms, report)
    groups = [arms] if overlay else [[arm] for arm in arms]
    blocks = [_block(group, names, importance, len(groups) > 1) for group in groups]
    columns = min(len(blocks), _COLUMNS)
    rows = -(-len(blocks) // columns)
    height = max(map(_height, blocks))
    figure = Figure(figsize=(COLUMN * columns, height * rows), layout="constrained")
    places = figure.subfigures(rows, columns, squeeze=False)
    for place, block in zip(places.flat, blocks, strict=False):
        _draw(place, block)
    caption(figure, headline_caption(arms, names, importance, overlay))
    return figure


def _laid_over(arms: Sequence[Arm]) -> list[Arm]:
    """Return the arms to lay over each other: of a single arm its runs."""
    if len(arms) > 1:
        return list(arms)
    runs = arms[0].runs
    if len(runs) == 1:
        raise NothingToDrawError(
            f"{runs[0].path} alone cannot be laid over another run; give several runs with overlay"
        )
    return [
        Arm(
            f"{run.name}, seed {seed}" if run.name == arms[0].name else run.name,
            (run,),
            (seed,),
            "",
        )
        for run, seed in zip(runs, arms[0].seeds, strict=True)
    ]


def _norms(measures: Sequence[str], arms: Sequence[Arm]) -> list[str]:
    """Return the full names of the norms, after a check that every run has them."""
    for name in measures:
        if name not in HEADLINE_NORMS:
            raise OutputError(f"no norms {name!r} to draw; {did_you_mean(name, HEADLINE_NORMS)}")
    names = [measure for name in dict.fromkeys(measures) for measure in HEADLINE_NORMS[name]]
    for run in (run for arm in arms for run in arm.runs):
        if run.record.without_trends:
            raise NothingToDrawError(f"{run.path} has no trends: {run.record.without_trends}")
        for name in names:
            if name not in run.record.measures:
                label = identifiable_measures()[name].sentence
                remedy = "track it without --rows" if run.rows else "draw --measures input instead"
                raise NothingToDrawError(f"{run.path} has no {label}; {remedy}")
            if run.trends[run.trends["measure"] == name].empty:
                raise NothingToDrawError(
                    f"{run.path} has no correlations, as {run.rule} keeps {run.kept.sum()} tokens; "
                    "track it with another --rule"
                )
    return names


def _importance(name: str | None, arms: Sequence[Arm], report: Report) -> str | None:
    """Return the importance to draw; one that is named must be in the trends of a run."""
    default = headline_importance(arms)
    paths = ", ".join(str(run.path) for arm in arms for run in arm.runs)
    if name is None:
        if default is None:
            report(
                f"figure headline shows frequency alone: no importance in {paths}; "
                "`dynamics track SERIES -o RUN --importance occlusion` adds one"
            )
        return default
    if not any(
        len(arm.rows(measure, name, "partial_spearman", given_of(arm.runs[0])))
        for arm in arms
        for norms in HEADLINE_NORMS.values()
        for measure in norms
    ):
        raise NothingToDrawError(
            f"no importance {name!r} with frequency held fixed in {paths}; "
            f"`dynamics track SERIES -o RUN --importance {name}` adds it"
        )
    return name


def _lines(
    arms: Sequence[Arm],
    measures: Sequence[str],
    correlations: Mapping[str, About],
) -> Iterator[_Line]:
    """Yield the lines of a panel: each norm of each arm."""
    alone = len(arms) * len(measures) == 1
    for index, (arm, measure) in enumerate((arm, name) for arm in arms for name in measures):
        label = identifiable_measures()[measure]
        norm = label.short if label.role == "input_embedding" else label.removed
        names = [arm.name] * (len(arms) > 1) + [norm] * (len(measures) > 1)
        differences = {
            label: difference_curve(arm, arms[0], Quantity(measure, *about))
            for label, about in correlations.items()
            if arm is not arms[0]
        }
        yield _Line(arm, measure, ", ".join(names), None if alone else look(index), differences)


def _block(
    arms: Sequence[Arm], measures: Sequence[str], importance: str | None, named: bool
) -> _Block:
    """Return the panels of an arm, or of arms over each other, with its title.

    It holds the findings of an arm, `named` or not; or the differences of several.
    """
    correlations = headline_correlations(importance, given_of(arms[0].runs[0]))
    lines = list(_lines(arms, measures, correlations))
    if len(arms) > 1:
        sentences = [
            differences_headline(line.arm, arms[0], line.measure, line.differences)
            for line in lines
            if line.differences
        ]
    else:
        text = headline(arms[0], measures, importance)
        sentences = [f"{arms[0].name}: {text}" if named else text]
    width = int(COLUMN * 72 / (_LETTER * TITLE_SIZE))
    title = "\n".join(_filled(sentence, width) for sentence in sentences)
    return _Block(title, lines, correlations)


def _height(block: _Block) -> float:
    """Height of a block, in inches: its title, and panels with their legends."""
    texts = [text for label in block.correlations for text in block.legend(label) if text]
    return (
        (block.title.count("\n") + 1) * 1.25 * TITLE_SIZE / 72
        + 10 * MM
        + _PANEL * len(block.correlations)
        + _LINE * sum(text.count("\n") + 1 for text in texts)
    )


def _draw(place: SubFigure, block: _Block) -> None:
    """Draw the panels of a block under its title."""
    lines, overlay = block.lines, block.has_differences
    place.suptitle(without_mathematics(block.title), fontsize=TITLE_SIZE, x=0.01, ha="left")
    axes = place.subplots(len(block.correlations), 1 + overlay, squeeze=False)
    for column in axes.T:
        for ax in column[2:]:
            ax.sharey(column[1])
    steps = sorted({step for line in lines for run in line.arm.runs for step in run.steps})
    for index, (label, about) in enumerate(block.correlations.items()):
        _draw_lines(axes[index][0], about, lines, block.legend(label), index)
        if overlay:
            _draw_differences(axes[index][1], label, lines)
        for ax in axes[index]:
            ax.axhline(0, color="black", lw=0.5)
            step_axis(ax, steps)
            ax.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
            ax.tick_params(labelsize=SMALLEST, length=2, pad=2, labelbottom=ax in axes[-1])
    if overlay:
        first = _filled(f"difference from {lines[0].arm.name}", _NARROW)
        axes[0][1].set_title(without_mathematics(first), fontsize=SIZE, loc="left")
    for ax in axes[-1]:
        ax.set_xlabel("training step", fontsize=SIZE, labelpad=2)
    roles = dict.fromkeys(identifiable_measures()[line.measure].role for line in lines)
    norm = " and ".join(role.removesuffix("_embedding") for role in roles)
    place.supylabel(f"Spearman correlation of {norm} norm with", fontsize=SIZE)


def _draw_lines(
    ax: Axes,
    about: About,
    lines: Sequence[_Line],
    legend: tuple[str, ...],
    index: int,
) -> None:
    """Draw one correlation of every line with its band, the null band, and the legend above."""
    heading, *entries = map(without_mathematics, legend)
    reach = 0.0
    for line, entry in zip(lines, entries, strict=True):
        rows = line.arm.rows(line.measure, *about)
        if rows.empty:
            continue
        style, hollow = line.look or look(index), unreliable_steps(line.arm, about[0])
        curve = Curve(line.arm, line.measure, *about, entry, style, hollow)
        curve.draw(ax, 0.2 if len(lines) < 3 else 0.1)
        reach = max(reach, rows["null_high"].max())
    if reach > 0:
        chance = "" if index else "chance"  # once is enough
        ax.axhspan(-reach, reach, color="#d9d9d9", zorder=0, lw=0, label=chance)
    ax.legend(
        title=heading or None,
        title_fontsize=SIZE,
        alignment="left",
        fontsize=SIZE,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        borderaxespad=0.1,
        borderpad=0.1,
        labelspacing=0.2,
        handlelength=2.4,
        columnspacing=1,
        ncols=2 if len(lines) == 1 and not index else 1,
    )


def _filled(text: str, width: int) -> str:
    """Return a text in lines of at most so many characters, with hyphenated names whole."""
    return textwrap.fill(text, width, break_on_hyphens=False)


def _tokens(n: pd.Series) -> str:
    """Return numbers of tokens as `n = 200`, which no line breaks; a range where they differ."""
    fewest, most = int(n.min()), int(n.max())
    number = f"{fewest:,}" if fewest == most else f"{fewest:,}–{most:,}"
    return f"n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{number}"


def _draw_differences(ax: Axes, label: str, lines: Sequence[_Line]) -> None:
    """Draw the difference of every line from that of the first arm with the same norm."""
    for line in lines:
        curve = line.differences.get(label)
        if line.look is None or curve is None or curve.empty:
            continue
        color = line.look["color"]
        ax.fill_between(curve["step"], curve["low"], curve["high"], color=color, alpha=0.2, lw=0)
        ax.plot(curve["step"], curve["value"], ms=2.8, lw=1.1, **line.look)
