"""Shared parts of all figures: looks, panels, axes, names and captions.

The caption of every figure states the number of tokens, the rule that selected them and the meaning
of its bands. It is the label of the figure, is written to a file beside the picture, and is drawn
into the picture on request. Colours differ in lightness, lines also in style and marker, to be
readable in grey.
"""

import textwrap
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from dynamics.errors import NothingToDrawError
from dynamics.runs.compare import Arm, arms_of
from dynamics.runs.grouping import Runs

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

LOOKS: tuple[dict[str, Any], ...] = (
    {"color": "#0b3c7d", "marker": "o", "linestyle": "-"},
    {"color": "#b84a00", "marker": "s", "linestyle": "--"},
    {"color": "#3fae86", "marker": "^", "linestyle": "-."},
    {"color": "#c77cb5", "marker": "D", "linestyle": (0, (4, 1, 1, 1, 1, 1))},
    {"color": "#222222", "marker": "v", "linestyle": ":"},
    {"color": "#57b0e8", "marker": "P", "linestyle": (0, (6, 1))},
    {"color": "#dfa520", "marker": "X", "linestyle": (0, (2, 1))},
    {"color": "#7a7a7a", "marker": "*", "linestyle": (0, (1, 2))},
    {"color": "#8c1c4a", "marker": "<", "linestyle": (0, (3, 1, 1, 1))},
)
"""Distinguishable looks of lines, in order of use."""

_CHARACTERS_PER_INCH = 18.5
"""Characters of a drawn caption; few enough that wide letters stay inside the figure."""

_CAPTION_SIZE = 6.5
_CAPTION_LINE = 1.25 * _CAPTION_SIZE / 72
"""Height of a line of a drawn caption, in inches."""


def look(position: int) -> dict[str, Any]:
    """Return the look of the line at a position; looks repeat after the last."""
    return LOOKS[position % len(LOOKS)]


def panels(
    *, rows: int, columns: int, width: float, height: float, share: bool = True
) -> tuple[Figure, np.ndarray]:
    """Make a figure and its axes, rows x columns; rows share their vertical axis if `share`."""
    # Not pyplot: nothing global, no window, and figures are freed with their last reference.
    figure = Figure(figsize=(max(4.6, width * columns), height * rows + 0.3), layout="constrained")
    sharey = "row" if share and columns > 1 else "none"
    return figure, figure.subplots(rows, columns, squeeze=False, sharey=sharey)


def step_axis(ax: Axes, steps: Sequence[int]) -> None:
    """Set a logarithmic axis from the first step on; step 0 has its place left of step 1."""
    first, last = steps[0], steps[-1]
    powers = [10**power for power in range(len(str(last))) if first <= 10**power <= last]
    ticks = powers[:: 1 + len(powers) // 5]  # few enough for a narrow panel
    if first == 0:
        ax.set_xscale("symlog", linthresh=1, linscale=0.4)
        ticks = [0, *ticks]
    else:
        ax.set_xscale("log")
        ticks = sorted({first, *(tick for tick in ticks if tick > 2 * first)})
    if len(ticks) == 1 and last > first:
        ticks.append(last)
    ax.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    ax.minorticks_off()
    ax.set(xlim=(-0.15 if first == 0 else first / 1.15, last * 1.15))


def log_axis(ax: Axes, low: float, high: float) -> None:
    """Set a logarithmic horizontal axis whose labels are few, also over less than a few decades."""
    ax.set_xscale("log")
    ax.xaxis.set_minor_formatter(NullFormatter())
    if high < 30 * low:
        ticks = sorted({float(f"{value:.1g}") for value in np.geomspace(low, high, 4)})
        ax.set_xticks(ticks, [f"{tick:,g}" for tick in ticks])


def spread(length: int, most: int) -> np.ndarray:
    """At most `most` positions evenly over a length, first and last among them."""
    return np.unique(np.linspace(0, length - 1, min(length, most)).round().astype(int))


def chosen_steps(steps: Sequence[int]) -> list[int]:
    """The first and the last step, and those nearest to a sixteenth and a quarter of the last."""
    targets = (steps[0], steps[-1] / 16, steps[-1] / 4, steps[-1])
    return sorted({min(steps, key=lambda step: abs(step - target)) for target in targets})


def ends(steps: Sequence[int]) -> list[int]:
    """The first and the last step."""
    return sorted({steps[0], steps[-1]})


def title(arm: Arm, width: int = 1000) -> str:
    """Name of an arm for a figure, broken to a width."""
    return without_mathematics(textwrap.fill(arm.name, width))


def without_mathematics(text: str) -> str:
    """Escape dollar signs: matplotlib would set the text between two as mathematics."""
    return text.replace("$", r"\$")


def arms_over_steps(runs: Runs, figure: str) -> list[Arm]:
    """Return the arms of runs that all have several steps.

    Raises:
        NothingToDrawError: A run has a single step.
        MismatchError: Two runs are of different tokenizers; both are named.
    """
    arms = arms_of(runs)
    for run in (run for arm in arms for run in arm.runs):
        if len(run.steps) < 2:
            raise NothingToDrawError(
                f"{run.path} has a single checkpoint (step {run.steps[0]}), and the figure "
                f"{figure!r} is about change; draw --figures norm_against_frequency instead"
            )
    return arms


def show_legend(figure: Figure, columns: int) -> None:
    """Draw one legend above all panels, each label once."""
    entries: dict[str, Any] = {}
    for ax in figure.axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    figure.legend(
        entries.values(), entries.keys(), loc="outside upper left", ncols=columns, fontsize=7
    )


def arms_note(
    arms: Sequence[Arm],
    *,
    first_seeds: bool = False,
    drawn: Mapping[str, str] | None = None,
    of_tokens: bool = True,
) -> str:
    """Parenthesis of a caption: arms, seeds, tokens, the rule, steps the audit left out.

    Args:
        arms: The arms drawn.
        first_seeds: Only the first seed of every arm is drawn.
        drawn: Number of tokens drawn, as text, by the name of the arm; those that its rule keeps
            when None.
        of_tokens: Whether what is drawn is of the tokens that the rule keeps. Otherwise neither
            they nor the rule are named.
    """
    left_out = [
        f"{arm.name}: {_steps(left)} left out, flagged by the audit"
        for arm in arms
        for run in arm.runs
        if (left := run.record.series.left_out)
    ]
    if not of_tokens:
        names = [f"{arm.name}{_seeds(arm, first_seeds)}" for arm in arms]
        return f"({'; '.join([*names, *left_out])}.)"
    drawn = drawn or {arm.name: f"{arm.runs[0].kept.sum():,} tokens" for arm in arms}
    tokens = {
        arm.name: f"{drawn[arm.name]}, {arm.runs[0].rule}{_seeds(arm, first_seeds)}" for arm in arms
    }
    alike = len(set(tokens.values())) == 1 and len(arms) > 2
    parts = (
        [f"{len(arms)} arms: {next(iter(tokens.values()))}"]
        if alike
        else [f"{arm.name}: {tokens[arm.name]}" for arm in arms]
    )
    twins = any("twin_of" in run.tokens for arm in arms for run in arm.runs if run.rule)
    kinds = "no padding, special, added, byte, fragment or unreachable tokens"
    kinds = f"no twins, {kinds}" if twins else kinds
    return f"({'; '.join([*parts, kinds, *left_out])}.)"


BANDS_OVER_TOKENS = "Bands cover a whole curve at once with 95 % probability over resampled tokens."
"""What bands of one run mean in figures of correlations."""


def bands_note(arms: Sequence[Arm], of_one_run: str = BANDS_OVER_TOKENS) -> str:
    """Sentence of a caption on bands and intervals.

    Args:
        arms: The arms drawn.
        of_one_run: Sentence on the bands of arms with a single seed.
    """
    seeded_arms = [arm for arm in arms if len(arm.runs) > 1]
    parts = [of_one_run] if len(seeded_arms) < len(arms) else []
    if seeded_arms:
        descriptive = any(arm.descriptive for arm in seeded_arms)
        parts.append(
            "For arms with several seeds: thin lines are seeds, thick lines their mean, bands the "
            "95 % t interval over seeds"
            + (", descriptive with fewer than 5 seeds." if descriptive else ".")
            + " Seeds share their tokens: these bands say nothing about other tokens."
        )
    return " ".join(parts)


def caption(figure: Figure, text: str) -> None:
    """Set the caption of a figure: one paragraph, which is not drawn."""
    figure.set_label(text)


def caption_of(figure: Figure) -> str:
    """Return the caption of a figure; empty where it has none."""
    return str(figure.get_label())


def draw_caption(figure: Figure) -> None:
    """Draw the caption of a figure below it; the figure grows by the height of its lines."""
    width, height = figure.get_size_inches()
    lines = textwrap.wrap(caption_of(figure), int(width * _CHARACTERS_PER_INCH))
    figure.set_size_inches(width, height + len(lines) * _CAPTION_LINE)
    text = without_mathematics("\n".join(lines))
    figure.supxlabel(text, fontsize=_CAPTION_SIZE, x=0.01, ha="left", color="#333333")


def _seeds(arm: Arm, first: bool) -> str:
    """Part of a caption on the seeds of an arm; empty for a single one."""
    if len(arm.runs) == 1:
        return ""
    if first:
        return f", the first of {len(arm.runs)} seeds"
    return f", {len(arm.runs)} seeds ({arm.varies} differ{'s' * (' and ' not in arm.varies)})"


def _steps(steps: Collection[str]) -> str:
    """Steps and a verb, such as `steps 10, 20 are`."""
    return f"step{'s' * (len(steps) > 1)} {', '.join(steps)} {'are' if len(steps) > 1 else 'is'}"
