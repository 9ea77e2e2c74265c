"""Checkpoints of one training, ordered by step."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from dynamics.checkpoints.checkpoint import Checkpoint
from dynamics.checkpoints.stores import LocalFolder, Traffic
from dynamics.checkpoints.weights import WEIGHTS_FILES, no_weights
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
    """

    name: str
    checkpoints: tuple[Checkpoint, ...]

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
            training folder, which has them under `checkpoints`; or the folder of a single model,
            whose step is 0 unless its name tells.

    Raises:
        CheckpointError: The folder does not exist, or there is no checkpoint in it, or one of
            them is without weights.
        StepError: Two folders name the same step.
    """
    # Not resolve(): a link called step-4 is step 4, wherever it leads.
    folder = Path(os.path.abspath(Path(path).expanduser()))  # noqa: PTH100
    if not folder.is_dir():
        found = "is a file" if folder.exists() else "does not exist"
        raise CheckpointError(f"{folder}: {found}; a folder of checkpoints or of a model is needed")
    checkpoints = _numbered(folder) or _numbered(folder / _CHECKPOINTS)
    if not checkpoints and _has_weights(folder):
        checkpoints = [Checkpoint(folder, _step(folder) or 0)]
    if not checkpoints:
        raise CheckpointError(
            f"{folder}: no checkpoint inside; folders named checkpoint-N, step-N, step_N or stepN "
            f"are understood, or one of {', '.join(WEIGHTS_FILES)}"
        )
    for before, after in pairwise(checkpoints):
        if before.step == after.step:
            raise StepError(
                f"{before.path} and {after.name} are both step {after.step}; remove one of them"
            )
    for checkpoint in checkpoints:
        if checkpoint.path and not _has_weights(checkpoint.path):
            raise CheckpointError(no_weights(checkpoint.store))
    name = folder.parent.name if folder.name == _CHECKPOINTS else folder.name
    return CheckpointSeries(name, tuple(checkpoints))


def _numbered(folder: Path) -> list[Checkpoint]:
    if not folder.is_dir():
        return []
    found = [
        Checkpoint(child, step)
        for child in folder.iterdir()
        if (step := _step(child)) is not None and child.is_dir()
    ]
    return sorted(found, key=lambda checkpoint: (checkpoint.step, checkpoint.name))


def _has_weights(folder: Path) -> bool:
    return any(LocalFolder(folder).has(name) for name in WEIGHTS_FILES)


def _step(folder: Path) -> int | None:
    match = _STEP_NAME.fullmatch(folder.name)
    return int(match[1]) if match else None
