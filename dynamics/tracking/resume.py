"""Whether a run folder is that of the run at hand, and what in it is done."""

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dynamics.checkpoints.checkpoint import Checkpoint
from dynamics.checkpoints.formats.tensors import digest
from dynamics.checkpoints.series import CheckpointSeries
from dynamics.errors import MismatchError, OutputError
from dynamics.files import PARTIAL, sha256_file
from dynamics.runs.run import MATRIX_ROWS, measures_path, read_info, step_path


def resume(
    output: Path, info: dict[str, Any], chosen: CheckpointSeries, ids: np.ndarray | None
) -> dict[int, dict[str, Any]]:
    """Checkpoints already measured by the same run, whose tables are whole, by step.

    Args:
        output: The run folder.
        info: What the run would write; it gets the names of the measures found, the entries of
            the checkpoints, damaged or not, and what was asked of the running model.
        chosen: The checkpoints to measure.
        ids: Ids of the rows that are read, all of them when None.

    Raises:
        MismatchError: The folder is of other settings, counts, versions, or of other weights.
        OutputError: The folder holds something else.
        CheckpointError: A file cannot be read.
    """
    if not (output / "run.json").exists():
        if output.exists() and any(path.suffix != PARTIAL for path in output.iterdir()):
            raise OutputError(f"{output} exists and holds no run; give another output folder")
        return {}
    found = read_info(output)
    there, here = _comparable(found, info)
    for part in ("settings", "counts", "series", "versions"):
        if difference := first_difference(there.get(part), here[part]):
            raise MismatchError(
                f"{output} holds another run ({part}: {difference}); give another output folder, "
                "or remove that one"
            )
    info["measures"] = found["measures"]
    info["checkpoints"] = found["checkpoints"]
    if "live" in found:
        info["live"] = found["live"]
    checkpoints = {checkpoint.step: checkpoint for checkpoint in chosen}
    for entry in found["checkpoints"]:
        checkpoint = checkpoints.get(entry["step"])
        if checkpoint is None:
            reason = info["series"]["left_out"][str(entry["step"])]
            raise MismatchError(
                f"{output} holds step {entry['step']}, which could be measured and cannot be now: "
                f"{reason}; restore it, or give another output folder"
            )
        if not _same_weights(checkpoint, entry, ids):
            raise MismatchError(
                f"{output} was made of other weights than {checkpoint.store.name} holds now; give "
                "another output folder, or remove that one"
            )
    return {
        entry["step"]: entry
        for entry in found["checkpoints"]
        if is_whole(measures_path(output, entry["step"]), entry["table_sha256"])
        and is_whole(step_path(output, MATRIX_ROWS, entry["step"]), entry["matrices_sha256"])
    }


def _comparable(
    found: Mapping[str, Any], info: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Contents of two `run.json`, without how they came to the same steps where they did.

    A step that is left out belongs to the steps that were asked for: it may be measured later.
    """
    both = [{**each, "series": {**each["series"], "left_out": None}} for each in (found, info)]
    if found["series"]["steps"] == info["series"]["steps"]:
        for each in both:
            each["settings"] = {**each["settings"], "steps": None}
    else:
        for each, whole in zip(both, (found, info), strict=True):
            series = whole["series"]
            each["series"]["steps"] = sorted(
                {*series["steps"], *map(int, series.get("left_out", ()))}
            )
    return both[0], both[1]


def resume_live(output: Path, info: dict[str, Any], described: Mapping[str, Any]) -> None:
    """Let a run ask its model what is described, if the model of no step was asked something else.

    Args:
        output: The run folder.
        info: What the run would write; its `live` gets what is described.
        described: What is asked.

    Raises:
        MismatchError: It was asked something else.
    """
    found = info.get("live")
    if not (found and found["checkpoints"]):
        info["live"] = {**described, "checkpoints": []}
        return
    for part, wanted in described.items():
        if difference := first_difference({part: found.get(part)}, {part: wanted}):
            raise MismatchError(
                f"the model was asked something else in {output} ({difference}), and is asked once "
                "for everything together; give another output folder, or remove that one"
            )


def is_whole(path: Path, sha256: str | None) -> bool:
    """Whether a table is the one that was written; one that was not has no digest."""
    return sha256 is None or (path.exists() and sha256_file(path) == sha256)


def _same_weights(checkpoint: Checkpoint, entry: Mapping[str, Any], ids: np.ndarray | None) -> bool:
    """Whether a checkpoint is what was measured; by its commit on a hub, which reads nothing."""
    if entry["commit"] is not None:
        _ = checkpoint.vocab_size  # a tag says which commit it is when its index is read
        if checkpoint.commit is not None:
            return entry["commit"] == checkpoint.commit
    known = entry["tensor_sha256" if ids is None else "rows_sha256"]
    return all(digest(checkpoint.tensor(role, ids)) == sha for role, sha in known.items())


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
