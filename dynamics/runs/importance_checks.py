"""Rows of trends that qualify correlations with importance: other vocabulary rules, reliability.

K steps, n tokens.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from dynamics.runs.importance_selection import (
    Selection,
    halves_over_steps,
    stepped_up_rows,
    steps_and_tokens,
)
from dynamics.runs.tracked_importance import Importance
from dynamics.runs.trends import FEWEST_TOKENS, Row, TrendInput, trajectory_rows
from dynamics.statistics.correlation import spearman
from dynamics.statistics.ranks import rank
from dynamics.statistics.trajectory import stack
from dynamics.statistics.vocabulary import VocabularyRule, swept


def importance_check_rows(
    measured: TrendInput,
    importances: Mapping[str, Importance],
    rule: VocabularyRule,
    held_fixed: tuple[str, ...] | None = None,
) -> Iterator[Row]:
    """One row per step and statistic, ready for `trends.parquet`.

    Under the other rules of the sweep `spearman` and `partial_spearman` given `COVARIATES` at the
    last step, without bands. Under the main rule `partial_reliability`, the reliability of what
    `COVARIATES` leave of an importance, by which a partial correlation is attenuated; where
    frequency may not be partialled out there is none.

    Args:
        measured: What the trends are made of.
        importances: Importances by name.
        rule: The main vocabulary rule.
        held_fixed: As in `Selection`.
    """
    counts, kinds = measured.tokens["count"].to_numpy(), measured.tokens["kind"].to_numpy()
    for steps, known, names in steps_and_tokens(measured, importances, rule.mask(counts, kinds)):
        selection = Selection(measured, steps, known, held_fixed=held_fixed)
        for name in names:
            yield from _partial_reliability_rows(name, importances[name], selection, rule)
    last = {name: importance.at_last_step for name, importance in importances.items()}
    for other in swept(rule)[1:]:
        for steps, known, names in steps_and_tokens(measured, last, other.mask(counts, kinds)):
            selection = Selection(measured, steps[-1:], known, held_fixed=held_fixed)
            for name in names:
                yield from _rows_at_last_step(name, last[name], selection, other)


def _rows_at_last_step(
    name: str, importance: Importance, selection: Selection, rule: VocabularyRule
) -> Iterator[Row]:
    """Correlations at the last step under one rule, plain and given `COVARIATES`."""
    step, controls = selection.steps[-1], selection.controls
    values = rank(importance.values[-1, selection.known], name)
    left = controls.residual(values) if importance.beyond_frequency else None
    ranked = {measure: rows[-1] for measure, rows in selection.ranked.items()}
    frequency = {"log_frequency": selection.frequency}
    for measure, row in (frequency | ranked).items():
        keys = {"measure": measure, "against": name, "rule": str(rule)}
        yield from trajectory_rows([step], stack([spearman(row, values)]), keys)
        if left is not None and measure in ranked:
            keys |= {"statistic": "partial_spearman", "given": selection.given}
            yield from trajectory_rows([step], stack([controls.spearman(row, left)]), keys)


def _partial_reliability_rows(
    name: str, importance: Importance, selection: Selection, rule: VocabularyRule
) -> Iterator[Row]:
    """Reliability over steps of what `COVARIATES` leave, over tokens with both halves."""
    halves = halves_over_steps(importance, selection)
    if halves is None or not importance.beyond_frequency:
        return
    in_both = np.isfinite(halves[0][0])
    if in_both.sum() < FEWEST_TOKENS:
        return
    known = selection.known.copy()
    known[known] = in_both
    controls = replace(selection, known=known).controls
    correlations = [controls.spearman(*(half[in_both] for half in pair)) for pair in halves]
    keys = {"measure": name, "statistic": "partial_reliability", "given": selection.given}
    yield from stepped_up_rows(selection.steps, correlations, keys | {"rule": str(rule)})
