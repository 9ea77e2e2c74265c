"""A run on disk: tables of what was measured, and what made them.

    run.json                      settings, versions, digests; equal inputs give equal bytes
    tokens.parquet                one row per token: what does not change over steps
    measures/step-NNNNNNNN.parquet  one row per token: what was measured at that step
    matrices/step-NNNNNNNN.parquet  rows of trends.parquet: what the matrices say at that step
    importance/step-NNNNNNNN.parquet  one row per probed token: what the model does with it
    live/step-NNNNNNNN.parquet    rows of trends.parquet: what the running model says at that step
    paths/rows-NNNNNNNN.parquet   one row per token: cosine to the last step at each, ray share
    covariates/NAME-HHHHHHHH.parquet  one row per token that has a value in a user's column
    trends.parquet                one row per step and statistic
    profile.parquet               one row per step, measure and frequency bin

V tokens, K steps.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Float32, Float64, Integer

from dynamics.errors import OutputError
from dynamics.files import sha256_file, whole_file
from dynamics.runs.record import (
    CALLBACK,
    RUN_JSON,
    CheckpointRecord,
    LiveCheckpointRecord,
    RunRecord,
    read_record,
)
from dynamics.runs.trends import Row
from dynamics.statistics.vocabulary import VocabularyRule, parse_rule, placebo_mask
from dynamics.steps import summarize_steps

if TYPE_CHECKING:
    from dynamics.config import Words
    from dynamics.corpus.token_table import Table
    from dynamics.runs.correlate import CovariateTrends

IMPORTANCE, MATRIX_ROWS, LIVE_ROWS = "importance", "matrices", "live"
"""Folders of a run with tables of each step: a row per probed token, and rows of trends from the
matrices and from the running model."""


class Run:
    """A run folder, read on demand.

    Args:
        path: What `dynamics track` or `NormDynamicsCallback` wrote, or a folder of `dynamics
            study`, whose run is meant.

    Attributes:
        path: The run folder.
        record: Contents of `run.json`.

    Raises:
        OutputError: There is no run at `path`, or it is damaged or not finished.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not (self.path / RUN_JSON).exists() and (self.path / "run" / RUN_JSON).exists():
            self.path = self.path / "run"
        if not (self.path / RUN_JSON).exists():
            raise OutputError(
                f"{path} holds no run (no run.json); `dynamics track SERIES -o {path}` makes one"
            )
        self.record = read_record(self.path)
        if not self.record.finished:
            raise OutputError(_unfinished(self.path, self.record))

    @property
    def info(self) -> dict[str, Any]:
        """Contents of `run.json` as plain values."""
        return self.record.plain()

    def __repr__(self) -> str:
        steps, rule = summarize_steps(self.steps), self.rule or "no counts"
        return f"<Run {self.path}: {self.name}, {steps}, {rule}>"

    @property
    def name(self) -> str:
        """Name of the series that was tracked."""
        return self.record.series.name

    @property
    def steps(self) -> list[int]:
        """Steps that were measured, ascending."""
        return self.record.steps

    @property
    def rule(self) -> VocabularyRule | None:
        """Vocabulary rule of the main statistics; None for a run without counts."""
        rule = self.record.settings.rule
        return None if rule is None else parse_rule(rule, self.rows)

    @property
    def rows(self) -> str | None:
        """Rows that were read, such as `0:1000`; None when all were."""
        return self.record.settings.rows

    @cached_property
    def tokens(self) -> pd.DataFrame:
        """One row per token id: surface, kind, counts; only the ids for a run without counts."""
        return read_table(self.path / "tokens.parquet", self.record.tables["tokens.parquet"])

    @cached_property
    def trends(self) -> pd.DataFrame:
        """One row per step and statistic, with interval, band and null where there are."""
        return read_table(self.path / "trends.parquet", self.record.tables["trends.parquet"])

    def trend(
        self,
        measure: str,
        *,
        against: str = "log_frequency",
        statistic: str = "spearman",
        given: str = "",
        rule: VocabularyRule | None = None,
    ) -> pd.DataFrame:
        """The rows of `trends` of one statistic, by ascending step.

        By default they are of the main rule, or of no rule where the statistic needs none.

        Raises:
            OutputError: There is no such statistic in this run.
        """
        wanted = {
            "measure": measure,
            "against": against,
            "statistic": statistic,
            "given": given,
            "rule": str(rule or self.rule),
        }
        rows = self.trends
        for column, value in wanted.items():
            without = column == "rule" and rule is None
            rows = rows[(rows[column] == value) | (without & (rows[column] == ""))]
            if rows.empty:
                raise OutputError(f"{self.path} has no trend with {column} {value!r} in {wanted}")
        return rows.sort_values("step")

    def correlate(
        self,
        table: "Table",
        *,
        given: str | Sequence[str] | None = None,
        measures: Sequence[str] | None = None,
        words: "Words" = "space",
    ) -> "CovariateTrends":
        """Correlate measures and importances with the columns of a table, over steps.

        Args:
            table: A CSV, TSV or parquet file, or a frame of pandas, with a row per token: a column
                `token_id`, `token` or `word`, and columns of numbers.
            given: What partial correlations hold fixed: columns of `tokens` or of the table,
                `log_frequency` or `merge_rank`, joined by `+` or as a list; frequency and spelling
                when None.
            measures: Full names of measures; all when None.
            words: Token that stands for a word: `space`, the one that begins a word; `bare`, the
                one without its leading space; `either`, the first of these that there is.

        Raises:
            CorpusError: The table cannot be read.
            MismatchError: Its tokens are not those of the run.
            OutputError: The run has no counts, or no such measure or control.

        Example:
            >>> run.correlate("ratings.csv", given="log_frequency").plot()  # doctest: +SKIP
        """
        from dynamics.runs.correlate import correlate  # which reads runs itself

        return correlate(self, table, given=given, measures=measures, words=words)

    @cached_property
    def profile(self) -> pd.DataFrame:
        """One row per step, measure and frequency bin; empty without counts."""
        return read_table(self.path / "profile.parquet", self.record.tables["profile.parquet"])

    @property
    def kept(self) -> Bool[np.ndarray, " V"]:
        """Mask of the tokens that the main vocabulary rule keeps.

        Raises:
            OutputError: The run has no counts.
        """
        if self.rule is None:
            raise OutputError(f"{self.path} was tracked without counts: no vocabulary rule applies")
        return self.rule.mask(self.tokens["count"].to_numpy(), self.tokens["kind"].to_numpy())

    @property
    def never_seen(self) -> Bool[np.ndarray, " V"]:
        """Mask of the tokens that never occur in the training stream, special tokens apart."""
        return placebo_mask(self.tokens["count"].to_numpy(), self.tokens["kind"].to_numpy())

    def measures(self, step: int) -> pd.DataFrame:
        """Measures of one step, one row per token id.

        Raises:
            OutputError: The step was not measured, or its table is damaged.
        """
        for checkpoint in self.record.checkpoints:
            if checkpoint.step == step:
                return read_measures(self.path, checkpoint)
        raise OutputError(f"{self.path} has no step {step}; it has {self.steps}")

    @property
    def live_steps(self) -> list[int]:
        """Steps at which the model was run, ascending."""
        return [checkpoint.step for checkpoint in self.record.live_checkpoints]

    @property
    def importances(self) -> list[str]:
        """Names of the importances that were measured."""
        if not any(IMPORTANCE in each.tables for each in self.record.live_checkpoints[:1]):
            return []
        columns = self.importance(self.live_steps[0]).columns
        return [name for name in columns if f"{name}_half_1" in columns]

    def importance(self, step: int) -> pd.DataFrame:
        """Importances at one step, one row per probed token.

        Columns are `token_id`, `contexts` (how many), and for each importance NAME its mean over
        the contexts, NAME, and over each half of them, NAME_half_1 and NAME_half_2; a half is NaN
        where all contexts of the token share text.

        Raises:
            OutputError: None was measured at the step, or the table is damaged.
        """
        for checkpoint in self.record.live_checkpoints:
            if checkpoint.step == step and IMPORTANCE in checkpoint.tables:
                return read_importance(self.path, checkpoint)
        raise OutputError(
            f"{self.path} has no importance at step {step}; its model was run at "
            f"{self.live_steps or 'no step (dynamics track --importance)'}"
        )

    def importance_array(self, name: str) -> Float64[np.ndarray, "K V"]:
        """One importance at every live step; NaN for tokens that were not probed.

        Args:
            name: Name of an importance, or of one of its halves.

        Raises:
            OutputError: It was not measured; the message lists those that were.
        """
        ids, tables = self.tokens["token_id"].to_numpy(), map(self.importance, self.live_steps)
        rows = []
        for table in tables:
            if name not in table:
                raise OutputError(
                    f"{self.path} has no importance {name!r}; it has {', '.join(self.importances)}"
                )
            rows.append(spread(table, name, ids))
        return np.stack(rows) if rows else np.empty((0, len(ids)))

    def array(self, measure: str) -> Float32[np.ndarray, "K V"]:
        """One measure at every step, plain numpy.

        Raises:
            OutputError: No such measure; the message lists those there are.
        """
        self.check_measure(measure)
        return np.stack([self.measures(step)[measure].to_numpy() for step in self.steps])

    def check_measure(self, measure: str) -> None:
        """Refuse a measure that the run does not have.

        Raises:
            OutputError: No such measure; the message lists those there are.
        """
        if measure not in self.record.measures:
            raise OutputError(
                f"{self.path} has no measure {measure!r}; it has {', '.join(self.record.measures)}"
            )


def _unfinished(run: Path, record: RunRecord) -> str:
    """Message on a run that cannot be opened yet, with what finishes it."""
    if record.command != CALLBACK:
        return f"{run} is not finished; the same `dynamics track` command resumes it"
    if not record.checkpoints:
        reason = "".join(f" ({stop.reason})" for stop in record.stops[-1:])
        return (
            f"{run} is a run of {CALLBACK} in which no step is measured{reason}; train again to "
            "have it measured"
        )
    return (
        f"{run} is not finished: the training that {CALLBACK} measures has not ended, or was cut "
        f"off after step {record.steps[-1]}; resume the training, or finish the run "
        f"as it is with {CALLBACK}({str(run)!r}, ...).finish() and the arguments it had"
    )


def read_measures(run: Path, checkpoint: CheckpointRecord) -> pd.DataFrame:
    """Read the table of measures of a step.

    Raises:
        OutputError: The table is missing or its bytes have changed.
    """
    return read_table(measures_path(run, checkpoint.step), checkpoint.table_sha256)


def read_importance(run: Path, checkpoint: LiveCheckpointRecord) -> pd.DataFrame:
    """Read the table of importances of a step that has one.

    Raises:
        OutputError: The table is missing or its bytes have changed.
    """
    path = step_path(run, IMPORTANCE, checkpoint.step)
    return read_table(path, checkpoint.tables[IMPORTANCE])


def paths_path(run: Path, start: int) -> Path:
    """Path of the table of paths whose first row has this position, in a run folder."""
    return run / "paths" / f"rows-{start:08d}.parquet"


def measures_path(run: Path, step: int) -> Path:
    """Path of the table of measures of a step in a run folder."""
    return step_path(run, "measures", step)


def step_path(run: Path, folder: str, step: int) -> Path:
    """Path of a table of a step in a run folder."""
    return run / folder / f"step-{step:08d}.parquet"


def spread(
    table: pd.DataFrame, column: str, token_ids: Integer[np.ndarray, " V"]
) -> Float64[np.ndarray, " V"]:
    """A column of a table of some tokens for all that are tracked, NaN where it has none.

    Args:
        table: One row for each of some tokens, with `token_id`.
        column: Name of a column of numbers.
        token_ids: Ids of the tokens that are tracked.
    """
    return (
        table.set_index("token_id")[column].reindex(token_ids).to_numpy(np.float64, na_value=np.nan)
    )


def rows_where(table: pd.DataFrame, **values: object) -> pd.DataFrame:
    """Return the rows of a table whose columns have all these values, in their order."""
    return table[np.logical_and.reduce([table[name] == value for name, value in values.items()])]


def stored_rows(run: Path, folder: str, tables: Mapping[int, str | None]) -> list[Row]:
    """Rows of trends that were computed at each step, in order.

    Args:
        run: The run folder.
        folder: Of which kind, `MATRIX_ROWS` or `LIVE_ROWS`.
        tables: Digest of the table of each step, None where there is none.

    Raises:
        OutputError: A table is missing or its bytes have changed.
    """
    read = [
        read_table(step_path(run, folder, step), sha256)
        for step, sha256 in tables.items()
        if sha256 is not None
    ]
    return [
        {str(column): value for column, value in row.items()}
        for table in read
        for row in table.to_dict("records")
    ]


def write_table(path: Path, columns: Mapping[str, Any]) -> str:
    """Write columns of equal length atomically as parquet; the SHA-256 of the file.

    Equal columns give equal bytes for one version of pyarrow.
    """
    with whole_file(path) as partial:
        pq.write_table(pa.table(dict(columns)), partial, compression="zstd")
    return sha256_file(path)


def read_table(path: Path, sha256: str) -> pd.DataFrame:
    """Read a table and see that it is the one that was written.

    Raises:
        OutputError: The table is missing or its bytes have changed.
    """
    if not path.exists() or sha256_file(path) != sha256:
        raise OutputError(
            f"{path} is {'damaged' if path.exists() else 'missing'}; run the same `dynamics track` "
            "command again to have it redone"
        )
    return pq.read_table(path).to_pandas()
