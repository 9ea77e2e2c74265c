"""Checkpoints of one training, ordered by step.

1. `open_series` recognises the content of a folder: checkpoints, a training, a model, a hub cache.
2. `select_names` parses the step of each name, and notes the names that are skipped.
3. A checkpoint with a step but no weights belongs to the series; reading it raises an error.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from dynamics.checkpoints.cached_repositories import (
    CachedRepository,
    cached_repositories,
    cached_repository,
)
from dynamics.checkpoints.checkpoint import Checkpoint
from dynamics.checkpoints.step_names import STEP, parse_step_name, select_names
from dynamics.checkpoints.stores import Traffic
from dynamics.checkpoints.weight_files import (
    WEIGHTS_FILES,
    has_standard_file,
    has_weights,
    no_weights,
    other_weights_files,
    refuse_parts,
    step_in_name,
    unsupported_format,
)
from dynamics.checkpoints.weights import Weights
from dynamics.errors import CheckpointError, StepError, first_of
from dynamics.steps import parse, summarize_steps

_CHECKPOINTS = "checkpoints"
_SHOWN = 5  # names listed in a message

# Files that mark a folder as one of a model, in a format that can be read or not.
_MODEL_FILES = (
    *("*.safetensors", "*.safetensors.index.json", "pytorch_model*", "adapter_model*"),
    *("model*.pt", "model*.pth", "model*.ckpt", "ckpt*.pt", "consolidated*.pth", "*.gguf"),
    *("*.distcp", "mp_rank_*", "flax_model*", "tf_model*"),
)


@dataclass(frozen=True)
class CheckpointSeries:
    """The checkpoints of one training.

    Attributes:
        name: Name of the series.
        checkpoints: Its checkpoints, by ascending step; one may hold no weights.
        unit: Unit of its steps; "step" unless names give epochs or tokens only.
        notes: One line for each reason why names were skipped.
    """

    name: str
    checkpoints: tuple[Checkpoint, ...]
    unit: str = STEP
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<CheckpointSeries {self.name}: {summarize_steps(self.steps, self.unit)}>"

    def __len__(self) -> int:
        return len(self.checkpoints)

    def __iter__(self) -> Iterator[Checkpoint]:
        return iter(self.checkpoints)

    @property
    def steps(self) -> list[int]:
        """Steps of the checkpoints, ascending."""
        return [checkpoint.step for checkpoint in self.checkpoints]

    @property
    def traffic(self) -> Traffic:
        """Requests and bytes transferred so far to read the series; none for a folder."""
        traffic = self.checkpoints[0].traffic
        return traffic.total or traffic

    def select(self, expression: str) -> "CheckpointSeries":
        """Return the part of the series that a step expression selects.

        Args:
            expression: In the step language, see `dynamics.steps`.

        Raises:
            StepError: The expression is malformed, names a step that does not exist, or selects
                none.
        """
        steps = parse(expression).select(self.steps)
        selected = (checkpoint for checkpoint in self.checkpoints if checkpoint.step in steps)
        return replace(self, checkpoints=tuple(selected))


def open_series(path: Path | str) -> CheckpointSeries:
    """Open the checkpoints in a folder, without reading any.

    Args:
        path: One of

            - a folder of checkpoints with steps in their names (see `step_names.PATTERNS`);
            - a training folder, which has them under `checkpoints`;
            - a folder and a shell pattern that selects names in it, `FOLDER/stage1-*`;
            - a repository in the cache of a hub, with steps in its revisions, or the whole cache;
            - a folder of files with steps in their names, each of which is a checkpoint;
            - the folder or file of a single model; its step is that of its name, else the one
              recorded in the file, else 0.

    Returns:
        The series. A folder with a step in its name belongs to it even without weights.

    Raises:
        CheckpointError: The folder does not exist, or nothing in it is a checkpoint with weights.
        StepError: Two folders name the same step, or folders are of several trainings or stages;
            or a file records another step than its name has.
    """
    # Not resolve(): a link called step-4 is step 4, wherever it leads.
    folder = Path(os.path.abspath(Path(path).expanduser()))  # noqa: PTH100
    pattern = None
    if not folder.exists() and any(mark in folder.name for mark in "*?["):
        folder, pattern = folder.parent, folder.name
    if folder.is_file() and folder.suffix:  # its format is recognised when it is read
        refuse_parts(folder)
        step = step_in_name(folder) or _recorded_step(Checkpoint(folder, 0)) or 0
        return CheckpointSeries(folder.stem, (Checkpoint(folder, step),))
    if not folder.is_dir():
        state = "is a file" if folder.exists() else "does not exist"
        raise CheckpointError(f"{folder}: {state}; a folder of checkpoints or of a model is needed")
    if (repository := cached_repository(folder)) is not None:
        return _open_cached(repository)
    if repositories := cached_repositories(folder) or cached_repositories(folder / "hub"):
        return _open_cache(folder, repositories)
    notes: list[str] = []
    for parent in (folder, folder / _CHECKPOINTS):
        if (series := _open_children(parent, pattern, notes)) is not None:
            return series
    may_have_files = pattern is None and not has_standard_file(folder)
    if may_have_files and (series := _open_files(folder)) is not None:
        return series
    if pattern is None and has_weights(folder):
        return _open_model(folder)
    if pattern is None and (contents := unsupported_format(folder)):
        raise CheckpointError(contents)
    if notes:
        raise CheckpointError(f"{folder}: no checkpoint inside; {'; '.join(notes)}")
    raise CheckpointError(_nothing_inside(folder, pattern))


def _open_children(parent: Path, pattern: str | None, notes: list[str]) -> CheckpointSeries | None:
    """Open the checkpoints in a folder; None where it is a model itself, or has none.

    Args:
        parent: The folder.
        pattern: Shell pattern of the names to select, None for all.
        notes: Notes of the series; those on skipped names are appended.

    Raises:
        CheckpointError: There are names with steps, and none of them holds weights.
        StepError: As for `open_series`.
    """
    if not parent.is_dir():
        return None
    children = _folders(parent)
    if pattern is not None:
        children = {name: path for name, path in children.items() if fnmatchcase(name, pattern)}
    with_weights = frozenset(name for name, path in children.items() if _holds_model(path))
    selection = select_names(
        # A folder with a step in its name may be half written; it counts without a model.
        [name for name in children if name in with_weights or _has_step(name)],
        place=str(parent),
        usable=with_weights,
        kinds_may_mix=pattern is not None,
    )
    notes += selection.notes
    checkpoints = tuple(
        Checkpoint(children[name.name], name.step, name.tokens_seen) for name in selection.names
    )
    any_weights = any(has_weights(children[name.name]) for name in selection.names)
    if has_weights(parent):
        if not any_weights:
            # DeepSpeed puts a folder called global_step500 beside the weights of a checkpoint.
            return None
        notes.append(f"skipped: the model in {parent} itself, because its step is not known")
    if not checkpoints:
        return None
    if not any_weights:
        raise CheckpointError(no_weights(checkpoints[0].store))
    name = parent.parent.name if parent.name == _CHECKPOINTS else parent.name
    return CheckpointSeries(name, checkpoints, selection.unit, tuple(notes))


def _open_model(folder: Path) -> CheckpointSeries:
    """Open a single model as a series of one step."""
    repository = None
    if folder.parent.name == "snapshots":
        repository = cached_repository(folder.parent)
    names = [folder.name] if repository is None else repository.revisions_of(folder)
    parsed = next((parsed for name in names if (parsed := parse_step_name(name)) is not None), None)
    if parsed is None or parsed.unit != STEP:
        step = _recorded_step(Checkpoint(folder, 0)) or 0
        return CheckpointSeries(folder.name, (Checkpoint(folder, step),))
    return CheckpointSeries(folder.name, (Checkpoint(folder, parsed.step, parsed.tokens_seen),))


def _open_files(folder: Path) -> CheckpointSeries | None:
    """Open the files of a folder that have a step in their names; None where there are none.

    Raises:
        StepError: Two files are of one step, or one records another step than its name has.
    """
    files = other_weights_files(folder)
    steps = {path: step for path in files if (step := step_in_name(path)) is not None}
    if not steps:
        return None
    by_step: dict[int, Path] = {}
    for path, step in steps.items():
        recorded = _recorded_step(Checkpoint(path, step))
        if recorded not in (None, step):
            raise StepError(
                f"{path}: its name has step {step}, the file records step {recorded}; rename it "
                f"to step={recorded}{path.suffix}"
            )
        if (rival := by_step.setdefault(step, path)) != path:
            raise StepError(f"{rival} and {path.name} are both step {step}; remove one of them")
    skipped = ", ".join(path.name for path in files if path not in steps)
    notes = (f"{skipped}: skipped because the name has no step",) if skipped else ()
    checkpoints = tuple(Checkpoint(by_step[step], step) for step in sorted(by_step))
    name = folder.parent.name if folder.name == _CHECKPOINTS else folder.name
    return CheckpointSeries(name, checkpoints, notes=notes)


def _recorded_step(checkpoint: Checkpoint) -> int | None:
    """Return the step that the weights file records, None when it records none."""
    try:
        return Weights(checkpoint.store).step
    except CheckpointError:
        return None  # the error is raised again when the weights are read


def _open_cached(repository: CachedRepository) -> CheckpointSeries:
    """Open a repository in the cache: its revisions with steps in their names, or `main`."""
    place = f"{repository.name} in the cache ({repository.folder})"
    snapshots = repository.snapshots
    with_weights = frozenset(name for name, path in snapshots.items() if _holds_model(path))
    selection = select_names(
        [name for name in snapshots if name != "main"],
        place=place,
        usable=with_weights,
        on_hub=True,
    )
    notes = [*selection.notes]
    step_folders = {snapshots[name.name] for name in selection.names}
    if step_folders and "main" in snapshots and snapshots["main"] not in step_folders:
        notes.append("skipped because the name has no step: main")
    if repository.absent:
        notes.append(f"skipped because they are not in the cache: {', '.join(repository.absent)}")
    checkpoints = tuple(
        Checkpoint(snapshots[name.name], name.step, name.tokens_seen, name.name)
        for name in selection.names
    )
    if not checkpoints:
        checkpoints = _cached_model(repository, with_weights)
        if not checkpoints:
            details = "; ".join(notes) or "no snapshot in it holds weights"
            raise CheckpointError(f"{place}: no checkpoint inside; {details}")
    unnamed = [path for path in repository.unnamed if path != checkpoints[0].path]
    if unnamed:
        shown = ", ".join(path.name for path in unnamed)
        notes.append(f"skipped because no revision names these snapshots: {shown}")
    return CheckpointSeries(repository.name, checkpoints, selection.unit, tuple(notes))


def _cached_model(
    repository: CachedRepository, with_weights: frozenset[str]
) -> tuple[Checkpoint, ...]:
    """Return the model of a cached repository without steps; empty if missing or ambiguous.

    It is `main` if that has weights, else the only snapshot with weights.

    Args:
        repository: The repository.
        with_weights: Names of the revisions whose snapshots hold weights.
    """
    if "main" in with_weights:
        return (Checkpoint(repository.snapshots["main"], 0, label="main"),)
    models = {repository.snapshots[name]: name for name in sorted(with_weights)}
    models |= {path: path.name for path in repository.unnamed if _holds_model(path)}
    if len(models) != 1:
        return ()
    return tuple(Checkpoint(path, 0, label=name) for path, name in models.items())


def _open_cache(folder: Path, repositories: list[CachedRepository]) -> CheckpointSeries:
    """Open a whole cache: its only model, or repositories that are the steps of one training."""
    if len(repositories) == 1:
        return _open_cached(repositories[0])
    by_name = {repository.name.rpartition("/")[2]: repository for repository in repositories}
    if len(by_name) == len(repositories) and all(map(_has_step, by_name)):
        selection = select_names(by_name, place=str(folder), on_hub=True)
        opened = {name: _open_cached(by_name[name.name]) for name in selection.names}
        checkpoints = tuple(
            Checkpoint(series.checkpoints[-1].place, name.step, name.tokens_seen, name.name)
            for name, series in opened.items()
        )
        return CheckpointSeries(folder.name, checkpoints, selection.unit, selection.notes)
    shown = first_of([repository.folder.name for repository in repositories], _SHOWN)
    raise CheckpointError(
        f"{folder}: is a cache of {len(repositories)} models ({shown}); give one of them, such as "
        f"{repositories[0].folder}"
    )


def _nothing_inside(folder: Path, pattern: str | None) -> str:
    """Return the message for a folder in which no checkpoint was found."""
    if pattern is not None:
        return f"{folder}: no checkpoint inside whose name fits {pattern!r}"
    deeper = [
        child
        for child in _folders(folder).values()
        if any(_has_step(name) and _holds_model(path) for name, path in _folders(child).items())
    ]
    if deeper:
        shown = ", ".join(child.name for child in deeper[:_SHOWN])
        return f"{folder}: no checkpoint inside, but in {shown}; give {deeper[0]}"
    return (
        f"{folder}: no checkpoint inside; a folder of checkpoints with steps in their names, such "
        f"as checkpoint-500 or step500, is expected, or a model: one of {', '.join(WEIGHTS_FILES)}"
    )


def _folders(folder: Path) -> dict[str, Path]:
    """Return the folders in a folder by name, without hidden ones; empty if it is no folder."""
    if not folder.is_dir():
        return {}
    try:
        return {
            path.name: path
            for path in sorted(folder.iterdir())
            if not path.name.startswith(".") and path.is_dir()
        }
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be read: {error.strerror}") from error


def _has_step(name: str) -> bool:
    """Return whether a name has a training step, not only an epoch or tokens."""
    parsed = parse_step_name(name)
    return parsed is not None and parsed.unit == STEP


def _holds_model(folder: Path) -> bool:
    """Return whether a folder holds a model, in a format that can be read or not."""
    if has_weights(folder):
        return True
    try:
        return any(
            fnmatchcase(path.name, pattern) for path in folder.iterdir() for pattern in _MODEL_FILES
        )
    except OSError:  # the error is raised, with the checkpoint's name, when it is read
        return True
