"""Resuming a run folder: comparison of its settings with the current ones, and finished steps."""

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dynamics.checkpoints.architectures import ROLES
from dynamics.checkpoints.checkpoint import Checkpoint
from dynamics.checkpoints.formats.tensors import digest
from dynamics.checkpoints.series import CheckpointSeries
from dynamics.errors import MismatchError, OutputError
from dynamics.files import PARTIAL, sha256_file
from dynamics.runs.record import RUN_JSON, CheckpointRecord, LiveRecord, RunRecord, read_record
from dynamics.runs.run import MATRIX_ROWS, measures_path, step_path


def resume(
    output: Path, record: RunRecord, series: CheckpointSeries, ids: np.ndarray | None
) -> dict[int, CheckpointRecord]:
    """Return by step the checkpoints that the folder has whole tables of.

    Args:
        output: The run folder.
        record: New contents of `run.json`; it gets the measures, checkpoints (also damaged ones),
            live stage, paths and covariates of the folder.
        series: The checkpoints to measure.
        ids: Ids of the rows that are read, all of them when None.

    Raises:
        MismatchError: The folder holds a run with other settings, counts, versions or weights.
        OutputError: The folder holds something other than a run.
        CheckpointError: A file cannot be read.
    """
    if not (output / RUN_JSON).exists():
        if output.exists() and any(path.suffix != PARTIAL for path in output.iterdir()):
            raise OutputError(f"{output} exists and holds no run; give another output folder")
        return {}
    stored = read_record(output)
    if difference := _difference(stored, record):
        raise MismatchError(
            f"{output} holds another run ({difference}); give another output folder, or remove "
            "that one"
        )
    if (groups := stored.settings.measures) != record.settings.measures:
        raise MismatchError(
            f"{output} holds the groups of measures {','.join(groups)}, not "
            f"{','.join(record.settings.measures)}; resume it with --measures "
            f"{','.join(groups)} (tracking.measures in a study), or give another output folder"
        )
    record.measures = stored.measures
    record.checkpoints = stored.checkpoints
    if stored.live is not None:
        record.live = stored.live
    if stored.paths is not None:
        record.paths = stored.paths
    if stored.covariates:
        record.covariates = stored.covariates
    checkpoints = {checkpoint.step: checkpoint for checkpoint in series}
    for measured in stored.checkpoints:
        checkpoint = checkpoints.get(measured.step)
        if checkpoint is None:
            reason = record.series.left_out[str(measured.step)]
            raise MismatchError(
                f"{output} holds step {measured.step}, which cannot be measured now: "
                f"{reason}; restore it, or give another output folder"
            )
        if not _same_weights(checkpoint, measured, ids):
            raise MismatchError(
                f"{output} was measured on other weights than {checkpoint.store.name} has now; "
                "give another output folder, or remove that one"
            )
    return {
        measured.step: measured
        for measured in stored.checkpoints
        if is_whole(measures_path(output, measured.step), measured.table_sha256)
        and is_whole(step_path(output, MATRIX_ROWS, measured.step), measured.matrices_sha256)
    }


def _difference(stored: RunRecord, record: RunRecord) -> str | None:
    """Return the first setting, count, series property or version that differs, if any.

    Two step expressions that select the same steps are equal. Steps that are left out count as
    selected: they may be measured later.
    """
    pair = [stored.plain(), record.plain()]
    same_steps = stored.series.steps == record.series.steps
    for content in pair:
        series = content["series"]
        if stored.settings.measures:  # compared by `resume`, which names what to type
            content["settings"]["measures"] = None
        if same_steps:
            content["settings"]["steps"] = None
        else:
            left_out = map(int, series.get("left_out", ()))
            series["steps"] = sorted({*(series["steps"] or ()), *left_out})
        series["left_out"] = None
    return difference_of_runs(*pair)


def difference_of_runs(stored: Mapping[str, Any], current: Mapping[str, Any]) -> str | None:
    """Return the first difference of two runs in the parts that determine their numbers, if any.

    The shape of the model is compared with its weights, by their digests. No number depends on the
    cap of the logits. Older folders name neither.
    """
    names = ("shapes", "architecture", "logit_softcap")
    stored, current = (
        {**content, "series": {**content["series"], **dict.fromkeys(names)}}
        for content in (stored, current)
    )
    for part in ("settings", "counts", "series", "versions"):
        if difference := first_difference(stored.get(part), current[part]):
            return f"{part}: {difference}"
    return None


def resume_live(output: Path, record: RunRecord, live: LiveRecord) -> None:
    """Add the live stage to a record that has none; an existing one must have the same settings.

    Args:
        output: The run folder.
        record: New contents of `run.json`; it gets the live stage.
        live: The live stage without its checkpoints.

    Raises:
        MismatchError: The folder holds a live stage with other settings.
    """
    if record.live is None or not record.live.checkpoints:
        record.live = live
        return
    stored, current = record.live.plain(), live.plain()
    for part in ("settings", "embeddings_only", "probes", "held_out_sha256"):
        if difference := first_difference({part: stored.get(part)}, {part: current[part]}):
            raise MismatchError(
                f"{output} already holds results of running the models with other settings "
                f"({difference}), and a run folder holds one set of them; give another output "
                "folder, or remove that one"
            )


def is_whole(path: Path, sha256: str | None) -> bool:
    """Return whether a file has this digest; None is the digest of a table that is not written."""
    return sha256 is None or (path.exists() and sha256_file(path) == sha256)


def _same_weights(
    checkpoint: Checkpoint, measured: CheckpointRecord, ids: np.ndarray | None
) -> bool:
    """Return whether a checkpoint has the measured weights; on a hub by its commit, if known."""
    if measured.commit is not None:
        _ = checkpoint.vocab_size  # reads the index, which resolves a tag to its commit
        if checkpoint.commit is not None:
            return measured.commit == checkpoint.commit
    digests = measured.tensor_sha256 if ids is None else measured.rows_sha256
    return all(
        digest(checkpoint.tensor(role, ids)) == digests[role] for role in ROLES if role in digests
    )


def first_difference(stored: Any, current: Any) -> str | None:
    """Return the first key at which two settings differ, with both values; None when equal.

    A missing key equals None: the folder may be older than the key.
    """
    if isinstance(stored, dict) and isinstance(current, dict):
        for key in stored | current:
            if difference := first_difference(stored.get(key), current.get(key)):
                return f"{key} is {difference}"
        return None
    if stored == current:
        return None
    stored, current = (textwrap.shorten(str(value), 60) for value in (stored, current))
    return f"{stored} in the folder, {current} now"
