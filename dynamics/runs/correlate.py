"""Correlation of what a run measured with columns of a table, over steps, as `Run.correlate`."""

import copy
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dynamics.config import Words
from dynamics.corpus.covariates import Covariate, covariates_of
from dynamics.corpus.token_matching import Spellings, spellings
from dynamics.corpus.token_table import Table, token_table
from dynamics.errors import OutputError, did_you_mean
from dynamics.runs.covariate_trends import covariate_rows
from dynamics.runs.finish import measured_of
from dynamics.runs.importance_selection import known_controls
from dynamics.runs.measures import shown_measures
from dynamics.runs.run import Run
from dynamics.runs.tracked_importance import COVARIATE, Importance, read_importances
from dynamics.runs.trends import FEWEST_TOKENS, TREND_COLUMNS, in_columns
from dynamics.steps import summarize_steps

_DRAWING = "dynamics.report.covariates"
"""Module that draws, imported when a figure is drawn: nothing else here needs matplotlib."""

_MARKS = ("Ġ", "▁")
"""Signs that tokenizers write for a space at the beginning of a token."""


@dataclass(frozen=True, eq=False)
class CovariateTrends:
    """Correlations of measures and importances of a run with covariates, over steps.

    Attributes:
        run: The run.
        rows: Rows as in `trends.parquet`, `against` being `covariate:` and the name of a column.
        given: What partial correlations are given, as in the column of that name.
        notes: What was matched in the table and what was left out, a line each.
    """

    run: Run
    rows: pd.DataFrame
    given: str
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        steps = summarize_steps(self.run.steps)
        return f"<CovariateTrends of {self.run.name}: {', '.join(self.names)}, {steps}>"

    def __str__(self) -> str:
        lines = [
            f"rho of {self.run.name} at step {self.run.steps[-1]:,} [95 % interval], and given "
            f"{self.given.replace('+', ', ')}"
        ]
        for name in self.names:
            for measure, label in shown_measures().items():
                values = [self._at_last(measure, name, kind) for kind in ("", self.given)]
                if all(values):
                    lines.append(f"  {name}, {label.sentence}: {', given '.join(values)}")
        return "\n".join([*lines, *self.notes])

    @property
    def names(self) -> list[str]:
        """Names of the covariates."""
        against = self.rows["against"]
        return [name.removeprefix(COVARIATE) for name in against[against != ""].unique()]

    def trend(self, measure: str, covariate: str, given: str | None = None) -> pd.DataFrame:
        """Return the correlations of a measure or an importance with a covariate, by step.

        Args:
            measure: Full name of the measure, or name of the importance.
            covariate: Name of the column.
            given: What is held fixed, as in the column `given`: `""` for nothing; None for what
                these trends are given.

        Raises:
            OutputError: There is no such trend.
        """
        given = self.given if given is None else given
        return self._as_run.trend(
            measure,
            against=COVARIATE + covariate,
            statistic="partial_spearman" if given else "spearman",
            given=given,
        )

    def plot(self, path: str | Path | None = None) -> Any:
        """Draw the correlations over steps, raw and given the controls.

        Args:
            path: File to write the figure to; its suffix is the format.

        Returns:
            The figure of matplotlib.

        Raises:
            NothingToDrawError: The run has a single step.
        """
        return importlib.import_module(_DRAWING).draw(self._as_run, path)

    @property
    def _as_run(self) -> Run:
        """The run with these rows as its trends, which all that reads trends of runs takes."""
        run = copy.copy(self.run)
        run.trends = self.rows
        return run

    def _at_last(self, measure: str, name: str, given: str) -> str:
        """Correlation and interval at the last step; empty where there is none."""
        try:
            row = self.trend(measure, name, given).iloc[-1]
        except OutputError:
            return ""
        return f"{row['value']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"


def correlate(
    run: Run,
    table: Table,
    *,
    given: str | Sequence[str] | None = None,
    measures: Sequence[str] | None = None,
    words: Words = "space",
) -> CovariateTrends:
    """Correlate measures and importances of a run with the columns of a table; see `Run.correlate`.

    Raises:
        CorpusError: The table cannot be read.
        MismatchError: Its tokens are not those of the run.
        OutputError: The run has no counts, or no such measure or control.
    """
    if run.rule is None:
        raise OutputError(
            f"{run.path} was tracked without counts, so that frequency cannot be held fixed; track "
            "it with --counts"
        )
    notes: list[str] = []
    covariates = covariates_of([token_table(table)], _spellings(run), words, notes.append)
    ids = run.tokens["token_id"].to_numpy()
    columns = {covariate.name: covariate.values[ids] for covariate in covariates}
    controls = _controls(run, given, columns)
    measured = measured_of(run.path, run.record, _with_controls(run.tokens, controls, columns))
    if measures is not None:
        for name in measures:
            run.check_measure(name)
        chosen = {name: measured.measures[name] for name in measures}
        measured = type(measured)(measured.steps, measured.tokens, chosen, measured.exposures)
    known = np.all([np.isfinite(columns[name]) for name in controls if name in columns], axis=0)
    followed = {
        COVARIATE + covariate.name: _importance(covariate, ids, known)
        for covariate in covariates
        if covariate.name not in controls
    }
    importances = read_importances(run.path, run.record.live_checkpoints, measured.tokens)
    rows = list(covariate_rows(measured, importances, followed, run.rule, controls))
    frame = pd.DataFrame(in_columns(rows), columns=list(TREND_COLUMNS))
    if frame.empty:
        raise OutputError(
            f"fewer than {FEWEST_TOKENS} tokens that {run.rule} keeps have a value in the table; "
            "give more tokens"
        )
    return CovariateTrends(run, frame, "+".join(controls), tuple(notes))


def _importance(covariate: Covariate, ids: np.ndarray, known: np.ndarray) -> Importance:
    """Return a covariate as an importance, unknown where a control is."""
    values, *halves = (
        np.where(known, column[ids], np.nan)[np.newaxis] for column in covariate.columns.values()
    )
    return Importance(None, values, (halves[0], halves[1]) if halves else None)


def _controls(
    run: Run, given: str | Sequence[str] | None, columns: Mapping[str, np.ndarray]
) -> tuple[str, ...]:
    """Return the names of what is held fixed, each known of tokens.

    Raises:
        OutputError: A name is none of a column of tokens or of the table, or there is none.
    """
    if given is None:
        return known_controls(run.tokens)
    names = tuple(given.split("+") if isinstance(given, str) else given)
    numbers = run.tokens.select_dtypes(["number", "bool"]).columns
    allowed = {"merge_rank", *map(str, numbers), *columns}
    for name in names:
        if name not in allowed:
            raise OutputError(
                f"cannot hold {name!r} fixed, which is no column of the tokens of {run.path} or of "
                f"the table; {did_you_mean(name, allowed)}"
            )
    return names


def _with_controls(
    tokens: pd.DataFrame, controls: Sequence[str], columns: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Return the columns of tokens, with those of the table that are held fixed."""
    added = {
        # any number where it is unknown: such tokens do not enter
        name: np.nan_to_num(columns[name])
        for name in controls
        if name in columns and name not in tokens
    }
    return {str(name): column.to_numpy() for name, column in tokens.items()} | added


def _spellings(run: Run) -> Spellings:
    """Return the spellings of a run's tokens: their texts, with each sign for a space in front."""
    surfaces = pd.Series("", index=range(run.record.series.vocab_size))
    kinds = pd.Series("padding", index=surfaces.index)
    if "token" in run.tokens:
        surfaces[run.tokens["token_id"]] = run.tokens["token"].to_numpy()
        kinds[run.tokens["token_id"]] = run.tokens["kind"].to_numpy()
    own = {
        mark + text[1:]: token_id
        for token_id, text in enumerate(surfaces)
        for mark in _MARKS
        if text.startswith(" ") and text.isascii()
    }
    return spellings(str(run.path), surfaces.tolist(), kinds.tolist(), own)
