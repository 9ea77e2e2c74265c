"""The stage of tracking that adds covariates: columns of a user's tables, kept in the run folder.

They can be added to a run at any time. What is there stays; a column of the same name with other
values is refused.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from dynamics.checkpoints.series import CheckpointSeries
from dynamics.config import TrackingSettings
from dynamics.corpus.counts import Counts
from dynamics.corpus.covariates import Covariate, covariates_of
from dynamics.corpus.table_counts import vocabulary_spellings
from dynamics.corpus.token_matching import Spellings, spellings
from dynamics.corpus.token_table import read_token_table
from dynamics.errors import ConfigError, MismatchError
from dynamics.progress import Report, no_report
from dynamics.runs.covariate_trends import VALUE, covariate_path
from dynamics.runs.record import CovariateRecord, RunRecord
from dynamics.runs.run import write_table
from dynamics.runs.trends import FEWEST_TOKENS
from dynamics.tracking.measuring import MeasureSettings
from dynamics.tracking.training_data import series_tokenizer


def plan_covariates(
    settings: TrackingSettings,
    series: CheckpointSeries,
    counts: Counts | None,
    measured: MeasureSettings,
    report: Report = no_report,
) -> list[Covariate]:
    """Read the tables of covariates that the settings name, before anything is measured.

    Args:
        settings: Settings of the measures.
        series: The tracked checkpoints.
        counts: Token counts of the corpus.
        measured: `count` and `kind` of the rows that are read, and the vocabulary rule.
        report: Receives what was matched.

    Raises:
        ConfigError: There are no counts; or a column is known of too few tokens.
        CorpusError: A table cannot be read.
        MismatchError: Its tokens are not those of the series.
    """
    if not settings.covariates:
        return []
    if counts is None or measured.tokens is None or measured.rule is None:
        raise ConfigError(
            "covariates are correlated given frequency, which needs token counts; give --counts"
        )
    tables = map(read_token_table, settings.covariates)
    known_spellings = _spellings(series, counts, settings.tokenizer)
    covariates = covariates_of(tables, known_spellings, settings.words, report)
    kept = measured.rule.mask(measured.tokens["count"], measured.tokens["kind"])
    ids = measured.tokens["token_id"][kept]
    for covariate in covariates:
        in_rows = ids[ids < len(covariate.values)]
        known = int(np.isfinite(covariate.values[in_rows]).sum())
        if known < FEWEST_TOKENS:
            raise ConfigError(
                f"{covariate.source}: column {covariate.name!r} is known of {known} of the "
                f"{len(ids):,} tokens that {measured.rule} keeps, and a correlation needs "
                f"{FEWEST_TOKENS}; give another rule, or more tokens"
            )
    return covariates


def _spellings(series: CheckpointSeries, counts: Counts, place: str | None) -> Spellings:
    """Return the spellings of the series' tokenizer; without one the texts of the counts."""
    rows = max(series.checkpoints[0].vocab_size, len(counts.table))
    if (tokenizer := series_tokenizer(series, place)) is not None:
        return vocabulary_spellings(tokenizer, rows, series.name)
    surfaces, kinds = counts.table["token"].tolist(), counts.table["kind"].tolist()
    without = rows - len(surfaces)
    return spellings(series.name, surfaces + [""] * without, kinds + ["padding"] * without)


def add_covariates(output: Path, record: RunRecord, covariates: Iterable[Covariate]) -> None:
    """Write covariates into a run folder, and enter them in its record.

    Args:
        output: The run folder, claimed.
        record: Contents of its `run.json`, with the covariates that the folder has.
        covariates: The covariates to add; those that are there are written again.

    Raises:
        MismatchError: The folder has another covariate of the same name; nothing is written.
    """
    covariates = list(covariates)
    _check_same(output, record.covariates, covariates)
    records = {stored.name: stored for stored in record.covariates}
    for covariate in covariates:
        known = np.flatnonzero(np.isfinite(list(covariate.columns.values())).any(axis=0))
        columns = {VALUE + ending: values[known] for ending, values in covariate.columns.items()}
        path = covariate_path(output, covariate.name)
        records[covariate.name] = CovariateRecord(
            name=covariate.name,
            source=Path(covariate.source).name,
            tokens=int(np.isfinite(covariate.values).sum()),
            has_halves=covariate.halves is not None,
            values_sha256=covariate.sha256,
            table_sha256=write_table(path, {"token_id": known} | columns),
        )
    if records:
        record.covariates = list(records.values())


def _check_same(
    output: Path, stored: Sequence[CovariateRecord], covariates: Sequence[Covariate]
) -> None:
    """Refuse covariates with the name of a stored one and other values."""
    digests = {record.name: record.values_sha256 for record in stored}
    for covariate in covariates:
        if digests.get(covariate.name, covariate.sha256) != covariate.sha256:
            raise MismatchError(
                f"{output} already holds a covariate {covariate.name!r} with other values than the "
                f"column of {covariate.source}; rename the column, or give another output folder"
            )
