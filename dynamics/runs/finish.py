"""The tables of a run over all its steps, once every step is measured."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from dynamics.checkpoints.architectures import ROLES
from dynamics.runs.covariate_trends import covariate_rows, read_covariates
from dynamics.runs.importance_checks import importance_check_rows
from dynamics.runs.importance_trends import importance_rows
from dynamics.runs.measures import EXPOSURE
from dynamics.runs.paths import path_columns, path_profile_rows, path_trend_rows, read_paths
from dynamics.runs.profile import PROFILE_COLUMNS, profile_rows
from dynamics.runs.record import RunRecord
from dynamics.runs.run import LIVE_ROWS, MATRIX_ROWS, read_measures, stored_rows, write_table
from dynamics.runs.slope_trends import slope_rows
from dynamics.runs.tracked_importance import read_importances
from dynamics.runs.trends import (
    Row,
    TrendInput,
    in_columns,
    trend_rows,
)
from dynamics.statistics.departures import departures
from dynamics.statistics.vocabulary import parse_rule

COSINES = {role: f"{role}_cosine_to_first" for role in ROLES}


def finish(
    output: Path,
    record: RunRecord,
    tokens: Mapping[str, np.ndarray] | None,
    ids: np.ndarray | None,
    *,
    over_steps: bool = True,
) -> None:
    """Write the tables over all steps, and declare the run finished.

    Args:
        output: The run folder.
        record: Contents of its `run.json`, which is written again.
        tokens: From `token_columns`, None without counts.
        ids: Ids of the rows that were read, all of them when None.
        over_steps: Compute what needs the measures of several steps; otherwise `trends.parquet` has
            only the rows that were computed step by step.
    """
    token_ids = {"token_id": np.arange(record.series.vocab_size) if ids is None else ids}
    measured = None if tokens is None or not over_steps else measured_of(output, record, tokens)
    cosines: Mapping[str, Float[np.ndarray, "K V"]] = {}
    if over_steps:
        cosines = _cosines(output, record) if measured is None else measured.measures
    paths = read_paths(output, record)
    tables: dict[str, Mapping[str, Any]] = {
        "tokens.parquet": {
            **(tokens or token_ids),
            **_departures(record, cosines),
            **path_columns(paths),
        }
    }
    trends: list[Row] = []
    profile: list[Row] = []
    if measured is not None:
        assert record.settings.rule is not None  # there are counts
        rule = parse_rule(record.settings.rule, record.settings.rows)
        importances = read_importances(output, record.live_checkpoints, measured.tokens)
        covariates = read_covariates(output, record.covariates, measured.tokens)
        trends = [
            *trend_rows(measured, rule),
            *slope_rows(measured, rule),
            *importance_rows(measured, importances, rule),
            *importance_check_rows(measured, importances, rule),
            *path_trend_rows(paths, measured, rule),
            *covariate_rows(measured, importances, covariates, rule),
        ]
        profile = [*profile_rows(measured, rule), *path_profile_rows(paths, measured, rule)]
    matrix_tables = {each.step: each.matrices_sha256 for each in record.checkpoints}
    live_tables = {each.step: each.tables.get(LIVE_ROWS) for each in record.live_checkpoints}
    trends += stored_rows(output, MATRIX_ROWS, matrix_tables)
    trends += stored_rows(output, LIVE_ROWS, live_tables)
    tables["trends.parquet"] = in_columns(trends)
    tables["profile.parquet"] = in_columns(profile, PROFILE_COLUMNS)
    record.tables = {name: write_table(output / name, table) for name, table in tables.items()}
    record.finished = True
    record.write(output)


def _departures(
    record: RunRecord, cosines: Mapping[str, Float[np.ndarray, "K V"]]
) -> dict[str, np.ndarray]:
    """At which step each row leaves its initialisation, per embedding; empty for a single step."""
    if len(record.steps) < 2:
        return {}
    return {
        f"left_initialisation_{role.removesuffix('_embedding')}": departures(
            record.steps, cosines[name]
        )
        for role, name in COSINES.items()
        if name in cosines
    }


def _cosines(output: Path, record: RunRecord) -> dict[str, Float[np.ndarray, "K V"]]:
    """The cosines to the first step alone, a table at a time."""
    cosines = {name: [] for name in COSINES.values() if name in record.measures}
    for checkpoint in record.checkpoints:
        table = read_measures(output, checkpoint)
        for name, rows in cosines.items():
            rows.append(table[name].to_numpy())
    return {name: np.stack(rows) for name, rows in cosines.items()}


def measured_of(output: Path, record: RunRecord, tokens: Mapping[str, Any]) -> TrendInput:
    """Read measures, tokens and exposures at every step."""
    tables = [read_measures(output, checkpoint) for checkpoint in record.checkpoints]
    exposed = all(column in table for table in tables for column in EXPOSURE.values())
    return TrendInput(
        steps=record.steps,
        tokens=pd.DataFrame(dict(tokens)),
        measures={name: np.stack([t[name].to_numpy() for t in tables]) for name in record.measures},
        exposures={
            role: np.stack([t[column].to_numpy() for t in tables])
            for role, column in EXPOSURE.items()
        }
        if exposed
        else None,
    )
