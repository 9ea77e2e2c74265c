"""Facts about each checkpoint that an audit needs, read with as few bytes as the level allows.

A hub gives the hash of a file without sending it; the header gives shapes. Beyond that, a block of
rows of each embedding is enough to tell payloads apart and to place them on the trajectory. Values
are checked for NaN and infinity in the rows that were read; a small matrix is read whole.
"""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch

from dynamics.checkpoints.architectures import ROLES, Role
from dynamics.checkpoints.catalog.public_series import PublicSeries
from dynamics.checkpoints.checkpoint import Checkpoint
from dynamics.checkpoints.formats.tensor_entries import dtype_name
from dynamics.checkpoints.formats.tensors import digest
from dynamics.checkpoints.hub.revisions import HubRevision
from dynamics.checkpoints.series import CheckpointSeries
from dynamics.checkpoints.training_folder import read_training, training_of
from dynamics.corpus.tokenizers.loading import load_tokenizer, vocabulary_size
from dynamics.errors import CheckpointError, UnreachableError
from dynamics.progress import OnProgress, no_progress
from dynamics.scores.identical import IdenticalRows, identical_rows
from dynamics.scores.norms import embedding_norm, rows_not_finite
from dynamics.steps import parse

Level = Literal["none", "rows", "all"]
VECTORS: tuple[Role, ...] = ("final_norm_weight", "final_norm_bias", "output_bias")
BLOCK_ROWS = 1024  # consecutive rows that stand for a tensor
_SMALL, _SMALL_REMOTE = 1 << 22, 1 << 20  # bytes up to which a matrix is read whole
_SKETCH = 16_384  # numbers kept of a block, to measure distances between steps
_WORKERS = 8  # checkpoints read at a time: half as many as checkpoint.py keeps in memory


@dataclass(frozen=True, eq=False)
class Block:
    """Some rows of an embedding.

    Attributes:
        digest: SHA-256 of the rows.
        mean_norm: Mean norm of the rows.
        sketch: A sample of their numbers, from the same positions at every step.
    """

    digest: str
    mean_norm: float
    sketch: np.ndarray


@dataclass(frozen=True, eq=False)
class TensorFacts:
    """One embedding, or a vector beside it, at one step.

    Attributes:
        dtype: Type on disk.
        shape: Rows and columns; the length of a vector.
        file_sha256: SHA-256 of the file that holds it, None when unknown.
        digest: SHA-256 of all its values, where they were read.
        block: Some of its rows, where they were read.
        rows_read: First row that was read and the one after the last; None where none was.
        not_finite: Rows, or elements of a vector, that hold NaN or infinity, of those read.
        identical: Rows that equal another bit by bit, counted from the first one read.
    """

    dtype: str
    shape: tuple[int, ...]
    file_sha256: str | None = None
    digest: str | None = None
    block: Block | None = None
    rows_read: tuple[int, int] | None = None
    not_finite: tuple[int, ...] = ()
    identical: IdenticalRows | None = None

    @property
    def payload(self) -> str | None:
        """Digest that equal tensors share: of the values read, else of the file.

        None for a tensor that is not finite: two steps full of NaN are no copies of each other.
        """
        if self.not_finite:
            return None
        return self.digest or (self.block and self.block.digest) or self.file_sha256


@dataclass(frozen=True, eq=False)
class CheckpointFacts:
    """Facts about one checkpoint.

    Attributes:
        step: Its step.
        name: Its name.
        commit: Its commit on a hub.
        tensors: Its embeddings and vectors by role; a tied output embedding is left out.
        problem: Why it cannot be read, None when it can.
        notes: Remarks on its files that matter for the numbers read from them.
        unreachable: Whether the problem lies with the hub or the connection, not with its files.
        model_type: Architecture that its config.json names, None where it names none.
    """

    step: int
    name: str
    commit: str | None = None
    tensors: Mapping[Role, TensorFacts] = field(default_factory=dict)
    problem: str | None = None
    notes: tuple[str, ...] = ()
    unreachable: bool = False
    model_type: str | None = None

    def block(self, role: Role) -> Block | None:
        """Return the block of an embedding, None where none was read or it is not finite."""
        facts = self.tensors.get(role)
        return None if facts is None or facts.not_finite else facts.block

    def not_finite(self, role: Role) -> tuple[int, ...]:
        """Return the rows with NaN or infinity, among those that were read."""
        facts = self.tensors.get(role)
        return () if facts is None else facts.not_finite

    def payload(self, role: Role) -> str | None:
        """Return the digest that equal tensors share, None when it is unknown."""
        facts = self.tensors.get(role)
        return facts and facts.payload


@dataclass(frozen=True, eq=False)
class SeriesFacts:
    """Facts about a series.

    Attributes:
        name: Its name.
        level: How much of the tensors was read.
        selected_steps: Steps to audit, ascending; some may not exist.
        existing_steps: Steps that exist, ascending.
        checkpoints: The checkpoints of selected steps that exist, by step.
        last: The last checkpoint that exists, selected or not.
        main: The branch main, where there is one to compare.
        catalog_entry: Entry of the catalog, None for a series it does not list.
        tokenizer_size: Entries of the tokenizer, None when unknown.
        first_learning_rate: Learning rate of the first update, where a trainer recorded it.
        notes: One line for each group of names that were skipped as no steps.
    """

    name: str
    level: Level
    selected_steps: tuple[int, ...]
    existing_steps: tuple[int, ...]
    checkpoints: tuple[CheckpointFacts, ...]
    last: CheckpointFacts
    main: CheckpointFacts | None = None
    catalog_entry: PublicSeries | None = None
    tokenizer_size: int | None = None
    first_learning_rate: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def rows_read(self) -> str:
        """The rows of the embeddings that were read, in words."""
        matrices = [
            checkpoint.tensors[role]
            for checkpoint in self.with_last
            for role in self.roles
            if role in checkpoint.tensors
        ]
        if self.level == "none" or not matrices:
            return "no weights"
        partly = {
            (*tensor.rows_read, tensor.shape[0])
            for tensor in matrices
            if tensor.rows_read is not None and tensor.rows_read != (0, tensor.shape[0])
        }
        if not partly:
            return "every row of each embedding"
        blocks = [f"{start:,} to {end - 1:,} of {rows:,}" for start, end, rows in sorted(partly)]
        any_whole = any(tensor.rows_read == (0, tensor.shape[0]) for tensor in matrices)
        smaller = " and smaller ones whole" if any_whole else ""
        return f"of each embedding rows {' or '.join(blocks)} alone{smaller}"

    @property
    def with_last(self) -> list[CheckpointFacts]:
        """The selected checkpoints, and the last one where it is not among them."""
        return list(dict.fromkeys([*self.checkpoints, self.last]))

    @property
    def roles(self) -> list[Role]:
        """Roles of embeddings that any checkpoint has a tensor in."""
        return [role for role in ROLES if any(role in c.tensors for c in self.checkpoints)]


def gather(
    series: CheckpointSeries,
    steps: str,
    level: Level,
    catalog_entry: PublicSeries | None,
    on_checkpoint: OnProgress,
) -> SeriesFacts:
    """Gather the facts of every selected checkpoint, several at a time.

    Args:
        series: The series.
        steps: Which steps, in the step language; numbers need not exist.
        level: `none` of the tensors is read, a block of `rows`, or `all`.
        catalog_entry: Entry of the catalog.
        on_checkpoint: Called with how many are done and how many there are.

    Raises:
        CheckpointError: No checkpoint can be read.
        StepError: The expression is malformed or selects nothing.
    """
    parsed = parse(steps)
    expected = _expected_steps(series, catalog_entry)
    selected_steps = parsed.select({*series.steps, *expected, *parsed.numbers})
    selected = [checkpoint for checkpoint in series if checkpoint.step in selected_steps]
    to_read = list(dict.fromkeys([*selected, series.checkpoints[-1]]))
    if (main := _main_branch(series, catalog_entry)) is not None:
        to_read.append(main)
    checkpoint_facts = read_checkpoints(to_read, level, on_checkpoint)
    if selected and all(checkpoint.problem for checkpoint in checkpoint_facts):
        raise CheckpointError(f"no checkpoint can be read: {checkpoint_facts[0].problem}")
    facts = SeriesFacts(
        name=series.name,
        level=level,
        selected_steps=tuple(selected_steps),
        existing_steps=tuple(series.steps),
        checkpoints=tuple(checkpoint_facts[: len(selected)]),
        last=checkpoint_facts[to_read.index(series.checkpoints[-1])],
        main=checkpoint_facts[-1] if main is not None else None,
        catalog_entry=catalog_entry,
        tokenizer_size=_tokenizer_size(series, catalog_entry),
        notes=series.notes,
    )
    if len(facts.checkpoints) > 1 and _starts_equal(facts):
        facts = replace(facts, first_learning_rate=_first_learning_rate(selected[-1]))
    return facts


def gather_headers(series: CheckpointSeries) -> SeriesFacts:
    """Gather facts from the headers of a folder's checkpoints; every existing step is selected.

    Args:
        series: The series.
    """
    checkpoints = tuple(read_checkpoints(series.checkpoints, "none"))
    steps = tuple(series.steps)
    return SeriesFacts(series.name, "none", steps, steps, checkpoints, checkpoints[-1])


def read_checkpoints(
    checkpoints: Sequence[Checkpoint], level: Level, on_checkpoint: OnProgress = no_progress
) -> list[CheckpointFacts]:
    """Gather facts of checkpoints, several at a time; one that cannot be read has a `problem`.

    Args:
        checkpoints: The checkpoints.
        level: `none` of the tensors is read, a block of `rows`, or `all`.
        on_checkpoint: Called with how many are done and how many there are.
    """
    gathered: list[CheckpointFacts] = []
    on_checkpoint(0, len(checkpoints))
    with ThreadPoolExecutor(_WORKERS) as pool:
        for facts in pool.map(_Reader(level), checkpoints):
            gathered.append(facts)
            on_checkpoint(len(gathered), len(checkpoints))
    return gathered


class _Reader:
    """Gathers facts of checkpoints; rows of equal files are read once."""

    def __init__(self, level: Level) -> None:
        self._level: Level = level
        self._read: dict[tuple[Role, str], TensorFacts] = {}

    def __call__(self, checkpoint: Checkpoint) -> CheckpointFacts:
        """Gather the facts of one checkpoint; an error in reading it becomes its `problem`."""
        facts = CheckpointFacts(checkpoint.step, checkpoint.name)
        try:
            tensors = {role: self._matrix(checkpoint, role) for role in _untied_roles(checkpoint)}
            tensors |= {
                role: self._vector(checkpoint, role) for role in VECTORS if checkpoint.has(role)
            }
        except CheckpointError as error:
            facts = replace(
                facts, problem=str(error), unreachable=isinstance(error, UnreachableError)
            )
        else:
            notes, model_type = checkpoint.notes, checkpoint.model_type
            facts = replace(facts, tensors=tensors, notes=notes, model_type=model_type)
        return replace(facts, commit=checkpoint.commit)  # known only once a file was opened

    def _matrix(self, checkpoint: Checkpoint, role: Role) -> TensorFacts:
        """Read the facts of an embedding, or repeat those of an equal file."""
        located = checkpoint.locate(role)
        file_sha256 = None if checkpoint.path else checkpoint.store.sha256(located.filename)
        if file_sha256 is not None and (role, file_sha256) in self._read:
            return self._read[role, file_sha256]
        facts = TensorFacts(dtype_name(located.dtype), located.shape, file_sha256)
        if self._level != "none":
            # An eighth into the matrix lie frequent tokens, behind the special ones; a small matrix
            # has its block moved up so that it holds BLOCK_ROWS rows, or all there are.
            row_count = located.shape[0]
            start = max(0, min(row_count // 8, row_count - BLOCK_ROWS))
            stop = min(start + BLOCK_ROWS, row_count)
            small = _SMALL if checkpoint.path is not None else _SMALL_REMOTE
            read_all = self._level == "all" or located.nbytes <= small
            first, end = (0, row_count) if read_all else (start, stop)
            rows = located.read(None if read_all else slice(start, stop))
            sample = rows[start - first : stop - first]
            facts = replace(
                facts,
                digest=digest(rows) if read_all else None,
                block=Block(digest(sample), embedding_norm(sample).mean().item(), _sketch(sample)),
                rows_read=(first, end),
                not_finite=tuple(row + first for row in rows_not_finite(rows)),
                identical=identical_rows(rows),
            )
        if file_sha256 is not None:
            self._read[role, file_sha256] = facts
        return facts

    def _vector(self, checkpoint: Checkpoint, role: Role) -> TensorFacts:
        """Read the facts of the final norm or the output bias."""
        located = checkpoint.locate(role)
        facts = TensorFacts(dtype_name(located.dtype), located.shape)
        if self._level == "none":
            return facts
        return replace(facts, not_finite=tuple(rows_not_finite(located.read().reshape(-1, 1))))


def _untied_roles(checkpoint: Checkpoint) -> list[Role]:
    """Return the roles of embeddings that are tensors of their own."""
    if not checkpoint.has("output_embedding"):
        return ["input_embedding"]
    places = {role: checkpoint.locate(role) for role in ROLES}
    return list(ROLES) if len(set(places.values())) == len(ROLES) else ["input_embedding"]


def _sketch(rows: torch.Tensor) -> np.ndarray:
    """Return at most _SKETCH numbers of some rows, at positions that depend on their shape only."""
    interval = max(1, rows.numel() // _SKETCH)
    return rows[::interval].float().flatten()[:_SKETCH].numpy().copy()


def _expected_steps(
    series: CheckpointSeries, catalog_entry: PublicSeries | None
) -> tuple[int, ...]:
    """Return the steps that the catalog or, for a run of `dynamics train`, its settings expect."""
    if catalog_entry is not None:
        return catalog_entry.expected_steps
    folder = training_of(series.checkpoints[0].path)
    if folder is None:
        return ()
    planned = read_training(folder).planned_steps
    return tuple(step for step in planned if step <= series.steps[-1])


def _tokenizer_size(series: CheckpointSeries, catalog_entry: PublicSeries | None) -> int | None:
    """Return the tokenizer's number of entries, from the catalog or a tokenizer in the folder."""
    path = series.checkpoints[-1].path
    if catalog_entry is not None or path is None:
        return catalog_entry and catalog_entry.tokenizer_size
    for folder in (path, path.parent.parent / "tokenizer"):
        if (folder / "tokenizer.json").exists():
            return vocabulary_size(load_tokenizer(folder))
    return None


def _main_branch(series: CheckpointSeries, catalog_entry: PublicSeries | None) -> Checkpoint | None:
    """Return the branch main of the repository of the series, None where it is one of its steps."""
    stores = [checkpoint.store for checkpoint in series]
    repositories = {store.repo for store in stores if isinstance(store, HubRevision)}
    last = stores[-1]
    if len(repositories) != 1 or not isinstance(last, HubRevision):
        return None
    has_no_main = catalog_entry is not None and catalog_entry.main is None
    if has_no_main or any(store.revision == "main" for store in stores):
        return None
    return Checkpoint(last.sibling("main"), series.steps[-1])


def _starts_equal(facts: SeriesFacts) -> bool:
    """Return whether the first two checkpoints share an embedding."""
    first, second = facts.checkpoints[:2]
    return any(
        first.payload(role) is not None and first.payload(role) == second.payload(role)
        for role in facts.roles
    )


def _first_learning_rate(checkpoint: Checkpoint) -> float | None:
    """Return the learning rate of the first update from the log of transformers' Trainer."""
    try:
        state = json.loads(checkpoint.store.read_bytes("trainer_state.json") or b"{}")
        logged = {line["step"]: line for line in state.get("log_history", ())}
        return logged[1]["learning_rate"]
    except (CheckpointError, ValueError, LookupError, TypeError, AttributeError):
        return None
