"""The stage of tracking that follows each row over all steps, in a second pass over the series.

What it measures needs the last step, so that it begins when every step is measured. Rows are read
in parts, each part at every step, and a part is written whole: memory does not grow with the number
of steps, and an interrupted stage resumes at the first part that is missing. More steps, or other
weights, have it done again.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor

from dynamics.checkpoints.architectures import ROLES, Role
from dynamics.checkpoints.series import CheckpointSeries
from dynamics.errors import ConfigError, MismatchError
from dynamics.progress import OnProgress, no_progress
from dynamics.runs.paths import (
    LAST_COSINE,
    RAY_SHARE,
    RAY_SHARE_OF_WALK,
    weights_digest,
)
from dynamics.runs.record import PathsRecord, PathTableRecord, RunRecord
from dynamics.runs.run import paths_path, read_measures, write_table
from dynamics.scores.norms import embedding_norm
from dynamics.scores.paths import RowPaths
from dynamics.tracking.resume import is_whole

PART_ELEMENTS = 2**22
"""Elements of the rows of one part, of which six copies are in memory at once."""

FEWEST_STEPS = 3
"""A path of two steps is a straight line."""

_SAME_NORM = 1e-4
"""Largest relative difference of two norms of equal rows, computed in other chunks or elsewhere."""


def check_enough_steps(steps: Collection[int]) -> None:
    """Refuse steps that are too few for paths.

    Raises:
        ConfigError: There are fewer than 3.
    """
    if len(steps) < FEWEST_STEPS:
        raise ConfigError(
            f"paths need {FEWEST_STEPS} steps, and there are {len(steps)}; measure more (--steps, "
            "or checkpoints.steps of a training), or leave paths out"
        )


def run_paths(
    series: CheckpointSeries,
    record: RunRecord,
    output: Path,
    ids: np.ndarray | None = None,
    on_part: OnProgress = no_progress,
) -> None:
    """Follow all rows over the steps, but for parts that the folder has over the same weights.

    Args:
        series: Checkpoints, the measured ones among them.
        record: Contents of `run.json`; it gets the stage, and is written after each part.
        output: The run folder.
        ids: Ids of the rows that are read, all of them when None.
        on_part: Called before each part of the rows and after the last, if one is missing.

    Raises:
        ConfigError: There are fewer than 3 measured steps.
        CheckpointError: A checkpoint can no longer be read.
        MismatchError: A checkpoint has other weights than were measured.
    """
    check_enough_steps(record.steps)
    ids = np.arange(record.series.vocab_size) if ids is None else ids
    if has_whole_paths(record, output, len(ids)):
        return
    if record.paths is None or record.paths.weights_sha256 != weights_digest(record):
        record.paths = PathsRecord(weights_sha256=weights_digest(record), tables=[])
    pass_over = _Pass(series, record, output)
    starts = range(0, len(ids), pass_over.part_rows)
    tables = {table.start: table for table in _whole_tables(record.paths, output)}
    for index, start in enumerate(starts):
        on_part(index, len(starts))
        part = ids[start : start + pass_over.part_rows]
        if start not in tables or tables[start].rows != len(part):
            sha256 = write_table(paths_path(output, start), pass_over.columns(start, part))
            tables[start] = PathTableRecord(start=start, rows=len(part), sha256=sha256)
        record.paths.tables = [tables[begun] for begun in starts if begun in tables]
        record.write(output)
    on_part(len(starts), len(starts))


def has_whole_paths(record: RunRecord, output: Path, rows: int) -> bool:
    """Return whether a folder has the paths of all rows over the steps and weights of its run.

    Args:
        record: Contents of `run.json` with every step measured.
        output: The run folder.
        rows: How many rows are read.
    """
    if record.paths is None or record.paths.weights_sha256 != weights_digest(record):
        return False
    return sum(table.rows for table in _whole_tables(record.paths, output)) == rows


def _whole_tables(paths: PathsRecord, output: Path) -> list[PathTableRecord]:
    """Return the tables whose files are there as they were written."""
    return [
        table for table in paths.tables if is_whole(paths_path(output, table.start), table.sha256)
    ]


class _Pass:
    """A pass over the measured checkpoints of a series, for some rows at a time."""

    def __init__(self, series: CheckpointSeries, record: RunRecord, output: Path) -> None:
        steps = {*record.steps}
        self._checkpoints = [checkpoint for checkpoint in series if checkpoint.step in steps]
        roles = ROLES[:1] if record.series.tied else ROLES
        self._roles: list[Role] = [role for role in roles if self._checkpoints[0].has(role)]
        self._tensors = {
            role: [checkpoint.locate(role) for checkpoint in self._checkpoints]
            for role in self._roles
        }
        self._norms = _measured_norms(record, output, self._roles)
        width = max(tensors[0].shape[1] for tensors in self._tensors.values())
        self.part_rows = max(1, PART_ELEMENTS // width)

    def columns(self, start: int, ids: np.ndarray) -> dict[str, object]:
        """Return the table of rows with these ids, the first of which is at position `start`."""
        columns: dict[str, object] = {"token_id": ids.astype(np.int32)}
        for role in self._roles:
            columns |= self._columns_of(role, start, ids)
        return columns

    def _columns_of(self, role: Role, start: int, ids: np.ndarray) -> dict[str, object]:
        is_range = len(ids) == ids[-1] - ids[0] + 1
        rows = slice(int(ids[0]), int(ids[-1]) + 1) if is_range else ids
        span = slice(start, start + len(ids))

        def read(index: int) -> Tensor:
            norms = self._norms[role][index, span] if role in self._norms else None
            matrix = self._tensors[role][index].read(rows)
            _check_norms(matrix, norms, role, self._checkpoints[index].step)
            return matrix

        last_index = len(self._checkpoints) - 1
        first, last = read(0), read(last_index)
        paths = RowPaths(first, last, len(self._checkpoints))
        cosines = [paths.add(first)]
        cosines += [paths.add(read(index)) for index in range(1, last_index)]
        cosines.append(paths.add(last))
        shares = paths.ray_shares()
        return {
            f"{role}_{LAST_COSINE}": _lists(torch.stack(cosines, dim=1).float().numpy()),
            f"{role}_{RAY_SHARE}": shares.observed.float().numpy(),
            f"{role}_{RAY_SHARE_OF_WALK}": shares.random_walk.float().numpy(),
        }


def _measured_norms(
    record: RunRecord, output: Path, roles: Sequence[Role]
) -> Mapping[Role, Float[np.ndarray, "K V"]]:
    """Return the norms of all rows at the measured steps, of embeddings whose norms were taken."""
    names: dict[Role, str] = {
        role: f"{role}_norm" for role in roles if f"{role}_norm" in record.measures
    }
    tables = [
        read_measures(output, checkpoint)[[*names.values()]] for checkpoint in record.checkpoints
    ]
    return {
        role: np.stack([table[name].to_numpy() for table in tables]) for role, name in names.items()
    }


def _check_norms(
    matrix: Tensor, norms: Float[np.ndarray, " n"] | None, role: Role, step: int
) -> None:
    """Refuse rows that have other norms than were measured, if given, or are not finite.

    Raises:
        MismatchError: There are such rows.
    """
    read_norms = embedding_norm(matrix).numpy()
    expected = read_norms if norms is None else norms
    same = np.isfinite(read_norms) & (np.abs(read_norms - expected) <= _SAME_NORM * expected)
    if not same.all():
        raise MismatchError(
            f"step {step} has another {role.replace('_', ' ')} than was measured "
            f"({np.count_nonzero(~same)} of {len(same)} rows have another norm); run the same "
            "command again to compare all steps, or give another output folder"
        )


def _lists(values: Float[np.ndarray, "n K"]) -> pa.Array:
    """Return a column with the K values of each row as a list."""
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
