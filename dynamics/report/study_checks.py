"""Checks of a study's numbers: tables over seeds and tokens, and under every vocabulary rule."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from dynamics.report.study_cells import NOTHING, cell, markdown, plain
from dynamics.report.study_sections import Column
from dynamics.runs.arms import Arm, over_seeds
from dynamics.runs.compare import Quantity
from dynamics.runs.crossed import CROSSED, crossed, crossed_over
from dynamics.statistics.seeds import OverSeeds


def crossed_tables(
    tables: Mapping[str, Sequence[Column]], arms: Sequence[Arm]
) -> Iterator[tuple[str, str]]:
    """Yield the tables of a section again with intervals over seeds and tokens, with their titles.

    Columns of the last step that have such an interval; arms of several seeds. Nothing where no
    arm has any.
    """
    for title, columns in tables.items():
        supported = [
            column
            for column in columns
            if column.quantity.statistic in CROSSED
            and column.minus is None
            and column.quantity.at == "last"
        ]
        rows = [
            [arm.name, *(_crossed_cell(arm, column) for column in supported)]
            for arm in arms
            if len(arm.runs) > 1
        ]
        rows = [row for row in rows if any(text != NOTHING for text in row[1:])]
        if rows:
            over = crossed_over(supported[0].quantity.statistic)
            heading = f"{title}: intervals over {over}" if title else f"Intervals over {over}"
            yield heading, markdown(["arm", *(column.title for column in supported)], rows)


def _crossed_cell(arm: Arm, column: Column) -> str:
    """Mean and interval over seeds and tokens of an arm; `NOTHING` where there is none."""
    mean = crossed(arm, column.quantity)
    return NOTHING if mean is None else cell(mean, column.format)


def rules_table(labels: Mapping[str, str], against: str, arms: Sequence[Arm]) -> str | None:
    """Markdown table of correlations at the last step under every rule, a row per arm and norm.

    Args:
        labels: Label of each measure.
        against: As in `trends.parquet`.
        arms: The arms.

    Returns:
        None where no arm has more rules than one.
    """
    means = {
        (arm.name, label): _by_rule(arm, Quantity(measure, against, "spearman", ""))
        for arm in arms
        for measure, label in labels.items()
    }
    rules = list(dict.fromkeys(rule for by_rule in means.values() for rule in by_rule))
    if len(rules) < 2:
        return None
    rows = [
        [
            *about,
            *(cell(by_rule[rule], "+.3f") if rule in by_rule else NOTHING for rule in rules),
        ]
        for about, by_rule in means.items()
        if by_rule
    ]
    return markdown(["arm", "norm", *rules], rows)


def turning_signs(
    quantities: Mapping[str, Quantity], arms: Sequence[Arm], numbers: str = "+.2f"
) -> str:
    """Sentence on the correlations whose sign turns or is lost under other vocabulary rules.

    A sign turns where the mean over seeds is of the other sign, and is lost where the interval over
    seeds covers 0, which that of the main rule does not.

    Args:
        quantities: Correlations at the last step, by label.
        arms: The arms.
        numbers: Format of the numbers.
    """
    turned, tried = [], set[str]()
    for arm in arms:
        for label, quantity in quantities.items():
            by_rule = _by_rule(arm, quantity)
            if not by_rule:
                continue
            (main_rule, main), *others = by_rule.items()
            tried |= {rule for rule, _ in others}
            differing = {rule: mean for rule, mean in others if _turns(main, mean)}
            parts = [
                f"{cell(mean, numbers)} under {rule}"
                for rule, mean in {main_rule: main, **differing}.items()
            ]
            if differing:
                turned.append(f"{plain(arm.name)}, {label}: {', '.join(parts)}")
    if turned:
        return f"The vocabulary rule changes or takes away the sign of {'; '.join(turned)}."
    return "No sign changes under the other vocabulary rules tried." if tried else ""


def _turns(main: OverSeeds, other: OverSeeds) -> bool:
    """Return whether the sign of a mean is another, or lost."""
    if main.value * other.value < 0:
        return True
    return bool(main.low * main.high > 0 and other.low * other.high <= 0)


def _by_rule(arm: Arm, quantity: Quantity) -> dict[str, OverSeeds]:
    """Mean over seeds of a correlation at its last step, by rule, the main one first."""
    rows = arm.rows(quantity.measure, quantity.against, quantity.statistic, quantity.given)
    if rows.empty:
        return {}
    keys = ["measure", "against", "statistic", "given"]
    about, step = rows[keys].iloc[0], rows["step"].max()
    trends = arm.trends
    same = np.logical_and.reduce([trends[key] == about[key] for key in keys])
    swept = trends[same & (trends["step"] == step) & trends["value"].notna()]
    table = over_seeds(swept, ["rule"]) if len(swept) else pd.DataFrame()
    main = str(arm.runs[0].rule)
    order = sorted(table.index, key=lambda rule: rule != main)
    return {rule: _mean(table.loc[rule]) for rule in order}


def _mean(row: pd.Series) -> OverSeeds:
    """Return a row of `over_seeds` as an estimate."""
    return OverSeeds(row["value"], row["low"], row["high"], np.array(int(row["n_seeds"])))
