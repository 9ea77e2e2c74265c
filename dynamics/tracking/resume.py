"""Whether a run folder is that of the run at hand, and what in it is done."""

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
    output: Path, record: RunRecord, chosen: CheckpointSeries, ids: np.ndarray | None
) -> dict[int, CheckpointRecord]:
    """Return the checkpoints that the same run measured already, whose tables are whole, by step.

    Args:
        output: The run folder.
        record: Contents of `run.json` that the run would write; it gets the measures, checkpoints
            (damaged or not) and live stage that the folder has.
        chosen: The checkpoints to measure.
        ids: Ids of the rows that are read, all of them when None.

    Raises:
        MismatchError: The folder is of other settings, counts, versions, or of other weights.
        OutputError: The folder holds something else.
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
    record.measures = stored.measures
    record.checkpoints = stored.checkpoints
    if stored.live is not None:
        record.live = stored.live
    checkpoints = {checkpoint.step: checkpoint for checkpoint in chosen}
    for measured in stored.checkpoints:
        checkpoint = checkpoints.get(measured.step)
        if checkpoint is None:
            reason = record.series.left_out[str(measured.step)]
            raise MismatchError(
                f"{output} holds step {measured.step}, which could be measured and cannot be now: "
                f"{reason}; restore it, or give another output folder"
            )
        if not _same_weights(checkpoint, measured, ids):
            raise MismatchError(
                f"{output} was made of other weights than {checkpoint.store.name} holds now; give "
                "another output folder, or remove that one"
            )
    return {
        measured.step: measured
        for measured in stored.checkpoints
        if is_whole(measures_path(output, measured.step), measured.table_sha256)
        and is_whole(step_path(output, MATRIX_ROWS, measured.step), measured.matrices_sha256)
    }


def _difference(stored: RunRecord, record: RunRecord) -> str | None:
    """First setting, count, property of the series or version that differs, if any.

    How two runs came to the same steps does not count. A step that is left out belongs to the steps
    that were selected: it may be measured later.
    """
    pair = [stored.plain(), record.plain()]
    same_steps = stored.series.steps == record.series.steps
    for content in pair:
        series = content["series"]
        if same_steps:
            content["settings"]["steps"] = None
        else:
            left_out = map(int, series.get("left_out", ()))
            series["steps"] = sorted({*(series["steps"] or ()), *left_out})
        series["left_out"] = None
    return difference_of_runs(*pair)


def difference_of_runs(stored: Mapping[str, Any], current: Mapping[str, Any]) -> str | None:
    """First difference of two runs in what makes their numbers, if any."""
    for part in ("settings", "counts", "series", "versions"):
        if difference := first_difference(stored.get(part), current[part]):
            return f"{part}: {difference}"
    return None


def resume_live(output: Path, record: RunRecord, wanted: LiveRecord) -> None:
    """Let a run have a live stage, if it has no other one yet.

    Args:
        output: The run folder.
        record: Contents of `run.json` that the run would write; it gets the live stage.
        wanted: The live stage without its checkpoints.

    Raises:
        MismatchError: The folder holds a live stage with other settings.
    """
    if record.live is None or not record.live.checkpoints:
        record.live = wanted
        return
    stored, current = record.live.plain(), wanted.plain()
    for part in ("settings", "embeddings_only", "probes", "held_out_sha256"):
        if difference := first_difference({part: stored.get(part)}, {part: current[part]}):
            raise MismatchError(
                f"the model was asked something else in {output} ({difference}), and is asked once "
                "for everything together; give another output folder, or remove that one"
            )


def is_whole(path: Path, sha256: str | None) -> bool:
    """Whether a table is the one that was written; one that was not has no digest."""
    return sha256 is None or (path.exists() and sha256_file(path) == sha256)


def _same_weights(
    checkpoint: Checkpoint, measured: CheckpointRecord, ids: np.ndarray | None
) -> bool:
    """Tell whether a checkpoint is what was measured; by its commit on a hub, without reading."""
    if measured.commit is not None:
        _ = checkpoint.vocab_size  # a tag says which commit it is when its index is read
        if checkpoint.commit is not None:
            return measured.commit == checkpoint.commit
    digests = measured.tensor_sha256 if ids is None else measured.rows_sha256
    return all(
        digest(checkpoint.tensor(role, ids)) == digests[role] for role in ROLES if role in digests
    )


def first_difference(there: Any, here: Any) -> str | None:
    """Where two settings differ, with what is said in a run folder and now; None when nowhere.

    A key that is not there is None: the folder may be older than the key.
    """
    if isinstance(there, dict) and isinstance(here, dict):
        for key in there | here:
            if difference := first_difference(there.get(key), here.get(key)):
                return f"{key} is {difference}"
        return None
    if there == here:
        return None
    there, here = (textwrap.shorten(str(value), 60) for value in (there, here))
    return f"{there} there, {here} here"
