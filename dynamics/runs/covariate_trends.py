"""Correlation of measures and importances with covariates over steps: columns that a user brought.

A covariate is followed as an importance that is the same at every step, so that it has the same
intervals, bands, nulls and controls; every measure is compared with it, and every importance.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from dynamics.runs.importance_checks import importance_check_rows
from dynamics.runs.importance_selection import Selection, steps_and_tokens
from dynamics.runs.importance_trends import Followed, importance_rows
from dynamics.runs.record import CovariateRecord
from dynamics.runs.run import read_table, spread
from dynamics.runs.tracked_importance import COVARIATE, HALVES, Importance
from dynamics.runs.trends import ONSET, Row, TrendInput
from dynamics.statistics.vocabulary import VocabularyRule

VALUE = "value"
"""Column of the table of a covariate; those of its halves have the ending of a half."""

_LONGEST_SLUG = 40


def covariate_rows(
    measured: TrendInput,
    importances: Mapping[str, Importance],
    covariates: Mapping[str, Importance],
    rule: VocabularyRule,
    held_fixed: tuple[str, ...] | None = None,
) -> Iterator[Row]:
    """One row per step and statistic, ready for `trends.parquet`.

    For each covariate the rows of `importance_rows` with every measure, those of
    `importance_check_rows`, and `spearman`, `partial_spearman` and `within_bin_spearman` of every
    importance with it, at the steps of the importance (one of the corpus at the last step). An
    importance that may not be separated from frequency has no controlled rows.

    Args:
        measured: What the trends are made of.
        importances: Importances by name.
        covariates: Covariates by name with `COVARIATE`, of one row each.
        rule: Which tokens enter.
        held_fixed: As in `Selection`.
    """
    yield from importance_rows(measured, covariates, rule, tuple(measured.measures), held_fixed)
    yield from importance_check_rows(measured, covariates, rule, held_fixed)
    mask = rule.mask(measured.tokens["count"].to_numpy(), measured.tokens["kind"].to_numpy())
    for name, covariate in covariates.items():
        known = mask & np.isfinite(covariate.values[0])
        for steps, both, names in steps_and_tokens(measured, importances, known):
            for of_corpus, is_beyond, group in _alike(importances, names):
                at = measured.steps[-1:] if of_corpus else steps
                values = {member: importances[member].values for member in group}
                selection = Selection(
                    TrendInput(at, measured.tokens, values, None), at, both, group, held_fixed
                )
                importance = replace(covariate, beyond_frequency=is_beyond)
                rows = Followed(name, importance, selection, str(rule)).measure_rows()
                # neither side of an importance of the corpus changes over steps
                yield from (row for row in rows if not (of_corpus and _is_change(row)))


def _alike(
    importances: Mapping[str, Importance], names: Sequence[str]
) -> Iterator[tuple[bool, bool, list[str]]]:
    """Yield importances that are all of the corpus or not, and separable from frequency or not."""
    groups: dict[tuple[bool, bool], list[str]] = {}
    for name in names:
        importance = importances[name]
        key = (importance.steps is None, importance.beyond_frequency)
        groups.setdefault(key, []).append(name)
    for (of_corpus, is_beyond), group in groups.items():
        yield of_corpus, is_beyond, group


def _is_change(row: Row) -> bool:
    """Return whether a row is of a change since the first step, or of its onset."""
    return row["statistic"].endswith(("_minus_first", ONSET))


def covariate_path(run: Path, name: str) -> Path:
    """Path of the table of a covariate in a run folder, from a name with any characters."""
    slug = re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:_LONGEST_SLUG]
    return run / "covariates" / f"{slug}-{hashlib.sha256(name.encode()).hexdigest()[:8]}.parquet"


def read_covariates(
    run: Path, records: Sequence[CovariateRecord], tokens: pd.DataFrame
) -> dict[str, Importance]:
    """Every covariate of a run by its name with `COVARIATE`.

    Args:
        run: The run folder.
        records: Its covariates.
        tokens: Its tokens, one row for each that is tracked.

    Raises:
        OutputError: A table is missing or damaged.
    """
    ids, covariates = tokens["token_id"].to_numpy(), {}
    for record in records:
        table = read_table(covariate_path(run, record.name), record.table_sha256)
        values, *halves = (
            spread(table, column, ids)[np.newaxis]
            for column in (VALUE, *(VALUE + half for half in HALVES))
            if column in table
        )
        pair = (halves[0], halves[1]) if halves else None
        covariates[COVARIATE + record.name] = Importance(None, values, pair)
    return covariates
