"""Findings under the other vocabulary rules of the sweep: where what a sentence says turns.

Rows under other rules than the main one have no null band of their own. Theirs is that of the main
rule, scaled: without an association the standard deviation of a rank correlation of n tokens is
1 / sqrt(n - 1), and the number of standard deviations that all gauges and steps together reach
hardly depends on the rule.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dynamics.runs.run import Run, rows_where
from dynamics.runs.trends import FEWEST_TOKENS
from dynamics.statistics.vocabulary import VocabularyRule, swept


@dataclass(frozen=True)
class SweptRow:
    """A correlation under one vocabulary rule.

    Attributes:
        row: Its row of the trends.
        reach: Half-width of its null band.
    """

    row: Mapping[Any, Any]
    reach: float

    @property
    def sign(self) -> int:
        """Sign of the correlation; 0 inside its null band."""
        value = self.row["value"]
        return int(np.sign(value)) if abs(value) > self.reach else 0

    def __str__(self) -> str:
        value, low, high = (f"{self.row[name]:+.3f}" for name in ("value", "low", "high"))
        return f"{value} [{low}, {high}] under {self.row['rule']} ({self.row['n']:,} tokens)"

    def turns_from(self, main: "SweptRow") -> bool:
        """Return whether the main rule's sign is another here, or lost, or here alone decided.

        By the interval over tokens, which must not hold the main rule's value: fewer tokens alone
        turn nothing.
        """
        if main.sign == 0:
            return not self.covers_0
        same = self.row["low"] <= main.row["value"] <= self.row["high"]
        return not same and (self.covers_0 or self.row["value"] * main.row["value"] < 0)

    @property
    def covers_0(self) -> bool:
        """Return whether the interval over tokens covers 0."""
        return self.row["low"] <= 0 <= self.row["high"]


RowsByRule = dict[VocabularyRule, dict[str, SweptRow]]
"""Correlations of each measure, by rule; the main one first."""


def rules_of(run: Run) -> list[VocabularyRule]:
    """The main rule, then those of the sweep that keep other tokens, and enough to correlate."""
    assert run.rule is not None
    counts, kinds = run.tokens["count"].to_numpy(), run.tokens["kind"].to_numpy()
    masks, rules = [run.kept], [run.rule]
    for rule in swept(run.rule)[1:]:
        mask = rule.mask(counts, kinds)
        if mask.sum() >= FEWEST_TOKENS and not any((mask == other).all() for other in masks):
            masks.append(mask)
            rules.append(rule)
    return rules


def rows_by_rule(run: Run, step: int, **columns: str) -> RowsByRule:
    """Defined correlations at a step under each of `rules_of`, with these columns of the trends.

    A rule that keeps the same tokens of those that are known as an earlier one is left out.
    """
    main, *others = rules_of(run)
    rows = _defined(run, step, main, columns)
    table: RowsByRule = {
        main: {name: SweptRow(row, row["null_high"]) for name, row in rows.items()}
    }
    for rule in others:
        swept_rows = {
            name: SweptRow(row, rows[name]["null_high"] * band_scale(rows[name]["n"], row["n"]))
            for name, row in _defined(run, step, rule, columns).items()
            if name in rows and row["n"] not in [seen[name].row["n"] for seen in table.values()]
        }
        if swept_rows:
            table[rule] = swept_rows
    return table


def band_scale(n: int, n_swept: int) -> float:
    """Factor from a null band of n tokens to one of `n_swept` tokens.

    Under permutation a rank correlation has variance 1 / (n - 1), ties or not (Kendall 1970).
    """
    return float(np.sqrt((n - 1) / (n_swept - 1)))


def turn(table: RowsByRule, name: str) -> tuple[str, bool]:
    """Correlation of a measure under the main rule and where its sign turns or is lost.

    Returns:
        The values with their intervals over tokens as text, empty where no sign turns or is lost;
        and whether one turns, to the opposite for certain.

    Example:
        `+0.540 [+0.503, +0.575] under count>=10 (1,854 tokens), +0.010 [-0.170, +0.190] under
        count>=1000 (121 tokens)`
    """
    main, *others = [rows[name] for rows in table.values() if name in rows]
    turned = [other for other in others if other.turns_from(main)]
    opposite = any(
        other.row["value"] * main.row["value"] < 0 and not other.covers_0 for other in turned
    )
    return (", ".join(map(str, [main, *turned])) if turned else ""), opposite


def turns(table: RowsByRule, labels: Mapping[str, str]) -> str:
    """Sentence on the measures whose sign turns or is lost under other rules, with the numbers.

    Args:
        table: Correlations by rule.
        labels: Label of each measure that the sentence is about.
    """
    rules = f"the vocabulary rules tried ({', '.join(map(str, table))})"
    main = next(iter(table.values()))
    found = {labels[name]: turn(table, name) for name in labels if name in main}
    opposite = [f"{label}: {text}" for label, (text, turned) in found.items() if text and turned]
    lost = [f"{label}: {text}" for label, (text, turned) in found.items() if text and not turned]
    sentences = []
    if opposite:
        sentences.append(f"The vocabulary rule changes the sign of {'; '.join(opposite)}.")
    if lost:
        sentences.append(
            f"The vocabulary rule decides whether there is a sign of {'; '.join(lost)}."
        )
    if not opposite:
        sentences.append(f"No sign changes over {rules}.")
    return " ".join(sentences)


def alike(outcomes: Sequence[tuple[VocabularyRule, str]]) -> str:
    """Parts on the rules whose outcome differs from that of the first; empty where none does."""
    (_, main), *others = outcomes
    return "; ".join(f"under {rule} {text}" for rule, text in others if text != main)


def _defined(
    run: Run, step: int, rule: VocabularyRule, columns: Mapping[str, str]
) -> dict[str, dict[Any, Any]]:
    """Defined rows of the trends at a step under a rule with these columns, by measure."""
    rows = rows_where(run.trends, step=step, rule=str(rule), **columns)
    return {row["measure"]: row for row in rows.to_dict("records") if not np.isnan(row["value"])}
