"""Figures of the correlation of norm and importance over training."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from textwrap import fill

from matplotlib.figure import Figure

from dynamics.report.curves import Curve, Panel, draw_panels
from dynamics.report.style import (
    arms_note,
    arms_over_steps,
    bands_note,
    caption,
    look,
    show_legend,
    title,
)
from dynamics.runs.compare import Arm
from dynamics.runs.grouping import Runs
from dynamics.runs.measures import identifiable_measures
from dynamics.runs.run import rows_where
from dynamics.runs.tracked_importance import COVARIATE, is_covariate
from dynamics.statistics.reliability import RELIABLE

GAUGES = {name: label.axis for name, label in identifiable_measures().items()}
"""Measures of the norm that are drawn against importance."""

IMPORTANCES = {
    "occlusion": "occlusion, next position",
    "occlusion_loss": "occlusion, rise of the loss",
    "occlusion_later": "occlusion, later positions",
    "occlusion_norm_matched": "norm-matched occlusion",
    "occlusion_norm_matched_later": "norm-matched occlusion,\nlater positions",
    "surprisal": "surprisal",
    "information_gain_right": "information gain, right",
    "information_gain_left": "information gain, left",
}
"""Importances in the order in which they are drawn; others follow under their own names."""

CONTROLS = {
    "log_frequency": "frequency",
    "characters": "length in characters",
    "word_start": "beginning of a word or not",
    "ascii_alphabetic": "ASCII letters alone or not",
    "merge_rank": "merge rank",
    "initial_norm": "initial norm",
    "distance": "distance from the first step",
}
"""What is held fixed, in words, by its name in `given`."""

NO_IMPORTANCE = ("log_frequency", "log_exposure", "log_document_frequency", "held_out_loss", "")
_IN_A_ROW = 3
"""Panels in a row: as many as a page of text shows at the size they are drawn at."""

_RHO, _PARTIAL = look(0), look(1)


def importances_of(arms: Sequence[Arm], statistic: str = "spearman") -> list[str]:
    """Importances that norms were compared with by a statistic, in the order of `IMPORTANCES`."""
    names: set[str] = set()
    for arm in arms:
        trends = arm.trends
        of_norms = trends["measure"].isin(GAUGES) & (trends["statistic"] == statistic)
        names |= set(trends["against"][of_norms])
    names = {name for name in names - set(NO_IMPORTANCE) if not is_covariate(name)}
    ordered = [name for name in IMPORTANCES if name in names]
    return [*ordered, *sorted(names - set(ordered))]


def importance_over_training(runs: Runs) -> Figure:
    """Correlation of each gauge of norm with each importance over steps, raw and partial.

    Importances that cannot be separated from frequency, having no partial correlation, are left
    out.

    One arm: a panel for each importance, with the raw, the partial and the disattenuated
    correlation. Several: a line for each arm, raw and partial in rows of their own.
    """
    arms = arms_over_steps(runs, "importance")
    names = importances_of(arms, "partial_spearman")
    figure = draw_correlations(
        correlation_panels(arms, names, GAUGES),
        arms,
        missing="no run has importances to compare norms with; track it with --importance",
    )
    bands = bands_note(arms)
    grey = (
        " Grey: simultaneous 95 % null band of the raw correlations over all norms and steps, "
        "from permuting importances over tokens. Fine dotted lines: the value at "
        f"{_first_step(arms[0])}."
        if len(arms) == 1
        else ""
    )
    caption(
        figure,
        f"Spearman correlation of norm and importance, raw and given {controls_of(arms, names)}. "
        f"{arms_note(arms, drawn={arm.name: tokens_drawn(arm, names) for arm in arms})} "
        f"{bands}{grey} Hollow points: the split-half reliability of the importance is below "
        f"{RELIABLE:g}, so a trend may be one of measurement error.",
    )
    return figure


def draw_correlations(
    panels: Iterable[Sequence[Panel]], arms: Sequence[Arm], *, missing: str
) -> Figure:
    """Draw the panels of `correlation_panels` with one legend.

    Args:
        panels: The panels, in rows.
        arms: The arms that they are of.
        missing: Message of the error when nothing can be drawn.
    """
    figure, _ = draw_panels(panels, missing=missing, width=2.3 if len(arms) == 1 else 1.9)
    show_legend(figure, 5)
    return figure


def correlation_panels(
    arms: Sequence[Arm], names: Sequence[str], measures: Mapping[str, str]
) -> Iterator[list[Panel]]:
    """Panels of measures in rows and what they are correlated with in columns.

    Args:
        arms: One arm, whose panels hold raw, partial and disattenuated correlations; or several,
            whose panels hold a line for each arm, raw and partial ones in rows of their own.
        names: What measures are correlated with, as in the column `against` of trends.
        measures: Label of each measure.
    """
    if len(arms) > 1:
        yield from _several_arms(arms, names, measures)
        return
    for measure, label in measures.items():
        yield from _wrapped([_panel(arms[0], measure, name, label) for name in names])


def _wrapped(row: Sequence[Panel]) -> Iterator[list[Panel]]:
    """Break a row of panels into several of at most `_IN_A_ROW`, padded with empty panels."""
    lines = -(-len(row) // _IN_A_ROW)
    columns = -(-len(row) // max(1, lines))
    for first in range(0, len(row), max(1, columns)):
        part = list(row[first : first + columns])
        yield part + [Panel("")] * (columns - len(part))


def _panel(arm: Arm, gauge: str, name: str, label: str) -> Panel:
    """Raw, partial and disattenuated correlation of a norm and an importance."""
    hollow = unreliable_steps(arm, name)
    null = arm.rows(gauge, name, "spearman", "")["null_high"].max()
    curves = [
        Curve(arm, gauge, name, "spearman", "", "raw", _RHO, hollow, baseline=True),
        Curve(
            *(arm, gauge, name, "partial_spearman", None, "partial", _PARTIAL, hollow),
            baseline=True,
        ),
        Curve(
            *(arm, gauge, name, "spearman_disattenuated", None, "raw, disattenuated", _RHO),
            thin=True,
        ),
    ]
    return Panel(title_of(name), curves, f"correlation,\n{label}", null)


def _several_arms(
    arms: Sequence[Arm], names: Sequence[str], measures: Mapping[str, str]
) -> Iterator[list[Panel]]:
    """Panels with a line for each arm: raw and partial correlations in rows of their own."""
    for gauge, label in measures.items():
        for statistic, kind, covariates in (
            ("spearman", "raw", ""),
            ("partial_spearman", "partial", None),
        ):
            row = [
                Panel(
                    title_of(name),
                    [
                        Curve(
                            *(arm, gauge, name, statistic, covariates, title(arm), look(index)),
                            hollow=unreliable_steps(arm, name),
                        )
                        for index, arm in enumerate(arms)
                    ],
                    f"{kind} correlation,\n{label}",
                )
                for name in names
            ]
            yield from _wrapped(row)


def unreliable_steps(arm: Arm, name: str) -> frozenset[int]:
    """Steps at which an importance has too little reliability, on average over seeds."""
    rows = arm.rows(name, "", "reliability", "")
    mean = rows.groupby("step")["value"].mean()
    return frozenset(int(step) for step in mean.index[mean < RELIABLE])


def controls_in_words(given: str) -> str:
    """Names in `given` of the trends as text, such as `frequency, merge rank`."""
    return ", ".join(CONTROLS.get(name, name.replace("_", " ")) for name in given.split("+"))


def title_of(name: str) -> str:
    """Title of an importance or a covariate in a panel."""
    if is_covariate(name):  # dollar signs would begin mathematics
        return fill(name.removeprefix(COVARIATE), 24).replace("$", r"\$")
    return IMPORTANCES.get(name, name.replace("_", " ").replace("attribution ", "attribution,\n"))


def _first_step(arm: Arm) -> str:
    """The first step at which importance was measured, with the reason for its value."""
    rows = rows_where(arm.trends, statistic="reliability")
    # information gain has a reliability at every step, importances of the model where it was run
    first = int(rows.groupby("measure")["step"].min().max()) if len(rows) else arm.runs[0].steps[0]
    if first == 0:
        return "step 0, before any training"
    return f"step {first:,}, the first measured step, after training has begun"


def tokens_drawn(arm: Arm, names: Sequence[str]) -> str:
    """Number of tokens in the correlations with importances, as text for the caption."""
    rows = arm.trends
    rows = rows[rows["rule"] == str(arm.runs[0].rule)]
    about_importance = rows["against"].isin(names) & rows["measure"].isin(GAUGES)
    counts = rows["n"][about_importance & (rows["statistic"] == "spearman")].dropna()
    if counts.empty:
        return "no tokens"
    fewest, most = int(counts.min()), int(counts.max())
    return f"{most:,} tokens" if fewest == most else f"{fewest:,} to {most:,} tokens"


def controls_of(arms: Sequence[Arm], names: Sequence[str]) -> str:
    """What the partial correlations with these names are given, as text for the caption."""
    given = [
        arm.rows(gauge, name, "partial_spearman")["given"]
        for arm in arms
        for gauge in GAUGES
        for name in names
    ]
    controls = [rows.iloc[0] for rows in given if len(rows)]
    return controls_in_words(max(controls, key=len)) if controls else "nothing"
