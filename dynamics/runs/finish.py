"""The tables of a run over all its steps, once every step is measured."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from dynamics.checkpoints.architectures import ROLES
from dynamics.files import write_json
from dynamics.runs.importance_trends import importance_rows
from dynamics.runs.measures import EXPOSURE
from dynamics.runs.run import (
    LIVE_ROWS,
    MATRIX_ROWS,
    measures_path,
    read_table,
    stored_rows,
    write_table,
)
from dynamics.runs.slope_trends import slope_rows
from dynamics.runs.tracked_importance import read_importances
from dynamics.runs.trends import (
    PROFILE_COLUMNS,
    Row,
    TrendInput,
    in_columns,
    profile_rows,
    trend_rows,
)
from dynamics.statistics.departures import departures
from dynamics.statistics.vocabulary import parse_rule

COSINES = {role: f"{role}_cosine_to_first" for role in ROLES}


def finish(
    output: Path,
    info: dict[str, Any],
    tokens: Mapping[str, np.ndarray] | None,
    ids: np.ndarray | None,
    *,
    over_steps: bool = True,
) -> None:
    """Write the tables over all steps, and declare the run finished.

    Args:
        output: The run folder.
        info: Content of its `run.json`, which is written again.
        tokens: From `token_columns`, None without counts.
        ids: Ids of the rows that were read, all of them when None.
        over_steps: Compute what needs the measures of several steps; otherwise `trends.parquet` has
            only the rows that were computed step by step.
    """
    token_ids = {"token_id": np.arange(info["series"]["vocab_size"]) if ids is None else ids}
    measured = None if tokens is None or not over_steps else _measured(output, info, tokens)
    cosines: Mapping[str, Float[np.ndarray, "K V"]] = {}
    if over_steps:
        cosines = _cosines(output, info) if measured is None else measured.measures
    tables: dict[str, Mapping[str, Any]] = {
        "tokens.parquet": {**(tokens or token_ids), **_departures(info, cosines)}
    }
    trends: list[Row] = []
    profile: list[Row] = []
    if measured is not None:
        rule = parse_rule(info["settings"]["rule"], info["settings"].get("rows"))
        importances = read_importances(output, info, measured.tokens)
        trends = [
            *trend_rows(measured, rule),
            *slope_rows(measured, rule),
            *importance_rows(measured, importances, rule),
        ]
        profile = list(profile_rows(measured, rule))
    of_matrices = {entry["step"]: entry["matrices_sha256"] for entry in info["checkpoints"]}
    of_models = {
        entry["step"]: entry["tables"].get(LIVE_ROWS)
        for entry in info.get("live", {}).get("checkpoints", ())
    }
    trends += stored_rows(output, MATRIX_ROWS, of_matrices)
    trends += stored_rows(output, LIVE_ROWS, of_models)
    tables["trends.parquet"] = in_columns(trends)
    tables["profile.parquet"] = in_columns(profile, PROFILE_COLUMNS)
    info["tables"] = {name: write_table(output / name, table) for name, table in tables.items()}
    info["finished"] = True
    write_json(output / "run.json", info)


def _departures(
    info: dict[str, Any], cosines: Mapping[str, Float[np.ndarray, "K V"]]
) -> dict[str, np.ndarray]:
    """At which step each row leaves its initialisation, per embedding; empty for a single step."""
    steps = [entry["step"] for entry in info["checkpoints"]]
    if len(steps) < 2:
        return {}
    return {
        f"left_initialisation_{role.removesuffix('_embedding')}": departures(steps, cosines[name])
        for role, name in COSINES.items()
        if name in cosines
    }


def _cosines(output: Path, info: dict[str, Any]) -> dict[str, Float[np.ndarray, "K V"]]:
    """The cosines to the first step alone, a table at a time."""
    found = {name: [] for name in COSINES.values() if name in info["measures"]}
    for entry in info["checkpoints"]:
        table = read_table(measures_path(output, entry["step"]), entry["table_sha256"])
        for name, rows in found.items():
            rows.append(table[name].to_numpy())
    return {name: np.stack(rows) for name, rows in found.items()}


def _measured(output: Path, info: dict[str, Any], tokens: Mapping[str, np.ndarray]) -> TrendInput:
    tables = [
        read_table(measures_path(output, entry["step"]), entry["table_sha256"])
        for entry in info["checkpoints"]
    ]
    exposed = all(column in table for table in tables for column in EXPOSURE.values())
    return TrendInput(
        steps=[entry["step"] for entry in info["checkpoints"]],
        tokens=pd.DataFrame(dict(tokens)),
        measures={
            name: np.stack([t[name].to_numpy() for t in tables]) for name in info["measures"]
        },
        exposures={
            role: np.stack([t[column].to_numpy() for t in tables])
            for role, column in EXPOSURE.items()
        }
        if exposed
        else None,
    )
