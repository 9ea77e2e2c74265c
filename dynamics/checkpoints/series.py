"""Checkpoints of one training, ordered by step."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from dynamics.checkpoints.checkpoint import Checkpoint
from dynamics.checkpoints.stores import Traffic
from dynamics.checkpoints.weight_files import (
    WEIGHTS_FILES,
    check_is_whole,
    has_standard_file,
    has_weights,
    name_contents,
    no_weights,
    other_weights_files,
    step_in_name,
)
from dynamics.checkpoints.weights import Weights
from dynamics.errors import CheckpointError, StepError
from dynamics.steps import parse

_STEP_NAME = re.compile(r"(?:checkpoint-|step[-_]?)(\d+)")
_CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class CheckpointSeries:
    """The checkpoints of one training.

    Attributes:
        name: Name of the series.
        checkpoints: Its checkpoints, by ascending step.
        notes: One line each on what was passed over in the place of the series.
    """

    name: str
    checkpoints: tuple[Checkpoint, ...]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.checkpoints)

    def __iter__(self) -> Iterator[Checkpoint]:
        return iter(self.checkpoints)

    @property
    def steps(self) -> list[int]:
        """Steps there are, ascending."""
        return [checkpoint.step for checkpoint in self.checkpoints]

    @property
    def traffic(self) -> Traffic:
        """What reading the series transferred so far; nothing for a folder."""
        traffic = self.checkpoints[0].traffic
        return traffic.whole or traffic

    def select(self, expression: str) -> "CheckpointSeries":
        """The part of the series that a step expression means.

        Args:
            expression: In the step language, see `dynamics.steps`.

        Raises:
            StepError: The expression is malformed, or a step it names does not exist.
        """
        chosen = parse(expression).select(self.steps)
        return replace(
            self, checkpoints=tuple(each for each in self.checkpoints if each.step in chosen)
        )


def open_series(path: Path | str) -> CheckpointSeries:
    """Open the checkpoints in a folder, without reading any.

    Args:
        path: A folder of checkpoints named `checkpoint-N`, `step-N`, `step_N` or `stepN`; or a
            training folder, which has them under `checkpoints`; or the folder or file of a single
            model, whose step is that of its name, else the one it records, else 0; or a folder of
            such files, whose names tell their steps.

    Raises:
        CheckpointError: The folder does not exist, or there is no checkpoint in it, or one of
            them is without weights.
        StepError: Two folders name the same step, or a file another one than it records.
    """
    # Not resolve(): a link called step-4 is step 4, wherever it leads.
    folder = Path(os.path.abspath(Path(path).expanduser()))  # noqa: PTH100
    if folder.is_file() and folder.suffix:  # its bytes tell what it is, when it is read
        check_is_whole(folder)
        return CheckpointSeries(folder.stem, (_single(folder),))
    if not folder.is_dir():
        found = "is a file" if folder.exists() else "does not exist"
        raise CheckpointError(f"{folder}: {found}; a folder of checkpoints or of a model is needed")
    checkpoints = _numbered(folder) or _numbered(folder / _CHECKPOINTS)
    notes: tuple[str, ...] = ()
    if not checkpoints and not has_standard_file(folder):
        checkpoints, notes = _numbered_files(folder)
    if not checkpoints and has_weights(folder):
        checkpoints = [_single(folder)]
    if not checkpoints and (contents := name_contents(folder)):
        raise CheckpointError(contents)
    if not checkpoints:
        raise CheckpointError(
            f"{folder}: no checkpoint inside; folders named checkpoint-N, step-N, step_N or stepN "
            f"are understood, or one of {', '.join(WEIGHTS_FILES)}"
        )
    for before, after in pairwise(checkpoints):
        if before.step == after.step:
            raise StepError(
                f"{before.store.name} and {after.name} are both step {after.step}; remove one of "
                "them"
            )
    for checkpoint in checkpoints:
        if isinstance(checkpoint.place, Path) and not has_weights(checkpoint.place):
            raise CheckpointError(no_weights(checkpoint.store))
    name = folder.parent.name if folder.name == _CHECKPOINTS else folder.name
    return CheckpointSeries(name, tuple(checkpoints), notes)


def _numbered(folder: Path) -> list[Checkpoint]:
    if not folder.is_dir():
        return []
    found = [
        Checkpoint(child, step)
        for child in folder.iterdir()
        if (step := _step(child)) is not None and child.is_dir()
    ]
    return sorted(found, key=lambda checkpoint: (checkpoint.step, checkpoint.name))


def _single(place: Path) -> Checkpoint:
    """Open the folder or the file of one model; its name tells the step, or what it records."""
    step = _step(place) if place.is_dir() else step_in_name(place)
    checkpoint = Checkpoint(place, step or 0)
    if step is None:
        checkpoint = replace(checkpoint, step=_recorded_step(checkpoint) or 0)
    return checkpoint


def _numbered_files(folder: Path) -> tuple[list[Checkpoint], tuple[str, ...]]:
    """Open the files of a folder whose names tell a step, each of which holds one checkpoint.

    Returns:
        The checkpoints by ascending step, and a line on the files whose names tell none.

    Raises:
        StepError: A file records another number of steps than its name tells.
    """
    files = other_weights_files(folder)
    steps = {path: step for path in files if (step := step_in_name(path)) is not None}
    for path, step in steps.items():
        recorded = _recorded_step(Checkpoint(path, step))
        if recorded not in (None, step):
            raise StepError(
                f"{path}: its name tells step {step}, the file records step {recorded}; rename it "
                f"to step={recorded}{path.suffix}"
            )
    checkpoints = [Checkpoint(path, step) for path, step in steps.items()]
    checkpoints.sort(key=lambda checkpoint: (checkpoint.step, checkpoint.name))
    rest = ", ".join(path.name for path in files if path not in steps)
    passed_over = f"{rest}: passed over, because the name tells no step"
    return checkpoints, (passed_over,) if checkpoints and rest else ()


def _recorded_step(checkpoint: Checkpoint) -> int | None:
    """Return the steps that a training recorded in the file of its weights."""
    try:
        return Weights(checkpoint.store).step
    except CheckpointError:
        return None  # whoever reads the weights is told what is wrong with them


def _step(folder: Path) -> int | None:
    match = _STEP_NAME.fullmatch(folder.name)
    return int(match[1]) if match else None
