"""Checkpoints of one training, ordered by step.

1. `open_series` finds what is in a folder: checkpoints, a training, a model, a hub's cache.
2. `choose_names` tells the step of each, and what is passed over.
3. A checkpoint that has a step and no weights is one of the series: who reads it says so.
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
from dynamics.checkpoints.step_names import STEP, choose_names, parse_step_name
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
from dynamics.steps import parse, summarize_steps

_CHECKPOINTS = "checkpoints"
_SHOWN = 5  # names a refusal shows

# Files by which a folder that no step names is told to hold a model, whatever can be read of it.
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
        unit: What its steps count; "step" unless names tell epochs or tokens only.
        notes: One line each on what was passed over in the place of the series.
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
        steps = parse(expression).select(self.steps)
        return replace(
            self, checkpoints=tuple(each for each in self.checkpoints if each.step in steps)
        )


def open_series(path: Path | str) -> CheckpointSeries:
    """Open the checkpoints in a folder, without reading any.

    Args:
        path: One of

            - a folder of checkpoints, whose names tell steps (see `step_names.PATTERNS`);
            - a training folder, which has them under `checkpoints`;
            - a folder and a shell pattern of the names that are meant, `FOLDER/stage1-*`;
            - a repository in the cache of a hub, whose revisions tell steps, or the cache;
            - a folder of files whose names tell steps, each of which is a checkpoint;
            - the folder or file of a single model, whose step is that of its name, else the one it
              records, else 0.

    Returns:
        The series. A folder whose name tells a step is in it whether or not it holds weights.

    Raises:
        CheckpointError: The folder does not exist, or nothing in it is a checkpoint with weights.
        StepError: Two folders name the same step, or folders are of several trainings or stages;
            or a file records another step than its name tells.
    """
    # Not resolve(): a link called step-4 is step 4, wherever it leads.
    folder = Path(os.path.abspath(Path(path).expanduser()))  # noqa: PTH100
    pattern = None
    if not folder.exists() and any(mark in folder.name for mark in "*?["):
        folder, pattern = folder.parent, folder.name
    if folder.is_file() and folder.suffix:  # its bytes tell what it is, when it is read
        check_is_whole(folder)
        step = step_in_name(folder) or _recorded_step(Checkpoint(folder, 0)) or 0
        return CheckpointSeries(folder.stem, (Checkpoint(folder, step),))
    if not folder.is_dir():
        found = "is a file" if folder.exists() else "does not exist"
        raise CheckpointError(f"{folder}: {found}; a folder of checkpoints or of a model is needed")
    if (repository := cached_repository(folder)) is not None:
        return _open_cached(repository)
    if repositories := cached_repositories(folder) or cached_repositories(folder / "hub"):
        return _open_cache(folder, repositories)
    notes: list[str] = []
    for parent in (folder, folder / _CHECKPOINTS):
        series = _open_children(parent, pattern, notes)
        if series is not None:
            return series
    if pattern is None and not has_standard_file(folder):
        series = _open_files(folder)
        if series is not None:
            return series
    if pattern is None and has_weights(folder):
        return _open_model(folder)
    if pattern is None and (contents := name_contents(folder)):
        raise CheckpointError(contents)
    if notes:
        raise CheckpointError(f"{folder}: no checkpoint inside; {'; '.join(notes)}")
    raise CheckpointError(_nothing_inside(folder, pattern))


def _open_children(parent: Path, pattern: str | None, notes: list[str]) -> CheckpointSeries | None:
    """The series of the children of a folder; None where it is a model, or holds none.

    Args:
        parent: The folder.
        pattern: Shell pattern of the names that were asked for.
        notes: Gets what was passed over; what is there belongs to the series.

    Raises:
        CheckpointError: Names tell steps, and none of them holds weights.
        StepError: As for `open_series`.
    """
    if not parent.is_dir():
        return None
    children = _folders(parent)
    if pattern is not None:
        children = {name: path for name, path in children.items() if fnmatchcase(name, pattern)}
    holding = frozenset(name for name, path in children.items() if _holds_model(path))
    chosen = choose_names(
        # A folder without a model counts only where it tells a step: it may be half written.
        [name for name in children if name in holding or _tells_step(name)],
        place=str(parent),
        usable=holding,
        kinds_may_mix=pattern is not None,
    )
    notes += chosen.notes
    checkpoints = tuple(
        Checkpoint(children[said.name], said.step, said.tokens_seen) for said in chosen.names
    )
    sound = any(has_weights(children[said.name]) for said in chosen.names)
    if has_weights(parent):
        if not sound:
            # What a trainer keeps beside the weights of a checkpoint is called global_step500.
            return None
        notes.append(f"passed over: the model in {parent} itself, as no step is told of it")
    if not checkpoints:
        return None
    if not sound:
        raise CheckpointError(no_weights(checkpoints[0].store))
    name = parent.parent.name if parent.name == _CHECKPOINTS else parent.name
    return CheckpointSeries(name, checkpoints, chosen.unit, tuple(notes))


def _open_model(folder: Path) -> CheckpointSeries:
    """The series of one model."""
    repository = None
    if folder.parent.name == "snapshots":
        repository = cached_repository(folder.parent)
    called = [folder.name] if repository is None else repository.revisions_of(folder)
    said = next((said for name in called if (said := parse_step_name(name)) is not None), None)
    if said is None or said.unit != STEP:
        step = _recorded_step(Checkpoint(folder, 0)) or 0
        return CheckpointSeries(folder.name, (Checkpoint(folder, step),))
    return CheckpointSeries(folder.name, (Checkpoint(folder, said.step, said.tokens_seen),))


def _open_files(folder: Path) -> CheckpointSeries | None:
    """The series of the files of a folder whose names tell a step; None where there are none.

    Raises:
        StepError: Two files are of one step, or one records another than its name tells.
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
                f"{path}: its name tells step {step}, the file records step {recorded}; rename it "
                f"to step={recorded}{path.suffix}"
            )
        if (rival := by_step.setdefault(step, path)) != path:
            raise StepError(f"{rival} and {path.name} are both step {step}; remove one of them")
    rest = ", ".join(path.name for path in files if path not in steps)
    notes = (f"{rest}: passed over, because the name tells no step",) if rest else ()
    checkpoints = tuple(Checkpoint(by_step[step], step) for step in sorted(by_step))
    name = folder.parent.name if folder.name == _CHECKPOINTS else folder.name
    return CheckpointSeries(name, checkpoints, notes=notes)


def _recorded_step(checkpoint: Checkpoint) -> int | None:
    """Return the steps that a training recorded in the file of its weights."""
    try:
        return Weights(checkpoint.store).step
    except CheckpointError:
        return None  # whoever reads the weights is told what is wrong with them


def _open_cached(repository: CachedRepository) -> CheckpointSeries:
    """The series of a repository in the cache: its revisions that tell steps, or `main`."""
    place = f"{repository.name} in the cache ({repository.folder})"
    snapshots = repository.snapshots
    holding = frozenset(name for name, path in snapshots.items() if _holds_model(path))
    names = choose_names(
        [name for name in snapshots if name != "main"], place=place, usable=holding, on_hub=True
    )
    notes = [*names.notes]
    of_steps = {snapshots[said.name] for said in names.names}
    if of_steps and "main" in snapshots and snapshots["main"] not in of_steps:
        notes.append("passed over, as the name tells no step: main")
    if repository.absent:
        notes.append(f"passed over, as not in the cache: {', '.join(repository.absent)}")
    checkpoints = tuple(
        Checkpoint(snapshots[said.name], said.step, said.tokens_seen, said.name)
        for said in names.names
    )
    if not checkpoints:
        checkpoints = _cached_model(repository, holding)
        if not checkpoints:
            told = "; ".join(notes) or "no snapshot in it holds weights"
            raise CheckpointError(f"{place}: no checkpoint inside; {told}")
    unnamed = [path for path in repository.unnamed if path != checkpoints[0].path]
    if unnamed:
        shown = ", ".join(path.name for path in unnamed)
        notes.append(f"passed over, as no revision names these snapshots: {shown}")
    return CheckpointSeries(repository.name, checkpoints, names.unit, tuple(notes))


def _cached_model(repository: CachedRepository, holding: frozenset[str]) -> tuple[Checkpoint, ...]:
    """The model of a repository whose revisions tell no step: `main`, or the only one there is."""
    if "main" in holding:
        return (Checkpoint(repository.snapshots["main"], 0, label="main"),)
    models = {repository.snapshots[name]: name for name in sorted(holding)}
    models |= {path: path.name for path in repository.unnamed if _holds_model(path)}
    if len(models) != 1:
        return ()
    return tuple(Checkpoint(path, 0, label=name) for path, name in models.items())


def _open_cache(folder: Path, repositories: list[CachedRepository]) -> CheckpointSeries:
    """The series of a whole cache: its only model, or repositories that are steps of one."""
    if len(repositories) == 1:
        return _open_cached(repositories[0])
    by_name = {repository.name.rpartition("/")[2]: repository for repository in repositories}
    if len(by_name) == len(repositories) and all(map(_tells_step, by_name)):
        names = choose_names(by_name, place=str(folder), on_hub=True)
        opened = {said: _open_cached(by_name[said.name]).checkpoints[-1] for said in names.names}
        return CheckpointSeries(
            folder.name,
            tuple(
                Checkpoint(last.place, said.step, said.tokens_seen, said.name)
                for said, last in opened.items()
            ),
            names.unit,
            names.notes,
        )
    shown = ", ".join(repository.folder.name for repository in repositories[:_SHOWN])
    raise CheckpointError(
        f"{folder}: is a cache of {len(repositories)} models ({shown}"
        f"{', ...' if len(repositories) > _SHOWN else ''}); give one of them, such as "
        f"{repositories[0].folder}"
    )


def _nothing_inside(folder: Path, pattern: str | None) -> str:
    """What to say of a folder in which no checkpoint was found."""
    if pattern is not None:
        return f"{folder}: no checkpoint inside whose name fits {pattern!r}"
    deeper = [
        child
        for child in _folders(folder).values()
        if any(_tells_step(name) and _holds_model(path) for name, path in _folders(child).items())
    ]
    if deeper:
        shown = ", ".join(child.name for child in deeper[:_SHOWN])
        return f"{folder}: no checkpoint inside, but in {shown}; give {deeper[0]}"
    return (
        f"{folder}: no checkpoint inside; a folder of checkpoints whose names tell steps, such as "
        f"checkpoint-500 or step500, is expected, or a model: one of {', '.join(WEIGHTS_FILES)}"
    )


def _folders(folder: Path) -> dict[str, Path]:
    """The folders in a folder by name, ascending; hidden ones left out, none where it is none."""
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


def _tells_step(name: str) -> bool:
    said = parse_step_name(name)
    return said is not None and said.unit == STEP


def _holds_model(folder: Path) -> bool:
    """Whether a folder holds a model of any format, one that cannot be read among them."""
    if has_weights(folder):
        return True
    try:
        return any(
            fnmatchcase(path.name, each) for path in folder.iterdir() for each in _MODEL_FILES
        )
    except OSError:  # read later, by who can say whose checkpoint it is
        return True
