"""What an audit needs to know of each checkpoint, gathered with as few bytes as the level allows.

A hub tells the hash of a file without sending it; the header tells shapes. Beyond that a block of
rows of each embedding is enough to tell payloads apart and to place them on the trajectory. Whether
every number is finite is known of the rows that were read, which are all of a small matrix.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch

from dynamics.checkpoints.architectures import Role
from dynamics.checkpoints.catalog.public_series import PublicSeries
from dynamics.checkpoints.checkpoint import Checkpoint
from dynamics.checkpoints.formats.tensors import digest
from dynamics.checkpoints.hub.revisions import HubRevision
from dynamics.checkpoints.series import CheckpointSeries
from dynamics.checkpoints.training_folder import read_training, training_of
from dynamics.checkpoints.weights import ReadableTensor
from dynamics.corpus.tokenizers.loading import load_tokenizer, vocabulary_size
from dynamics.errors import CheckpointError, UnreachableError
from dynamics.scores.norms import embedding_norm, rows_not_finite
from dynamics.steps import parse

Level = Literal["none", "rows", "all"]
OnCheckpoint = Callable[[int, int], None]

ROLES: tuple[Role, ...] = ("input_embedding", "output_embedding")
VECTORS: tuple[Role, ...] = ("final_norm_weight", "final_norm_bias", "output_bias")
BLOCK_ROWS = 1024  # consecutive rows that stand for a tensor
_SMALL, _SMALL_REMOTE = 1 << 22, 1 << 20  # bytes of a matrix that is read whole at any level
_SKETCH = 16_384  # numbers kept of them, to measure distances between steps
_WORKERS = 8  # checkpoints asked at a time, half as many as are remembered


@dataclass(frozen=True, eq=False)
class Block:
    """Some rows of an embedding.

    Attributes:
        digest: SHA-256 of them.
        mean_norm: Their mean norm.
        sketch: Some of their numbers, the same ones at every step.
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
        file_sha256: SHA-256 of the file that holds it, None when it is not told.
        digest: SHA-256 of all its values, where they were read.
        block: Some of its rows, where they were read.
        rows_read: First row that was read and the one after the last; None where none was.
        not_finite: Rows, or elements of a vector, that hold NaN or infinity, of those read.
    """

    dtype: str
    shape: tuple[int, ...]
    file_sha256: str | None = None
    digest: str | None = None
    block: Block | None = None
    rows_read: tuple[int, int] | None = None
    not_finite: tuple[int, ...] = ()

    @property
    def payload(self) -> str | None:
        """What equal tensors share: the digest of what was read, else that of the file.

        None of what is not finite: that all is NaN at two steps does not make one of the other.
        """
        if self.not_finite:
            return None
        return self.digest or (self.block and self.block.digest) or self.file_sha256


@dataclass(frozen=True, eq=False)
class CheckpointFacts:
    """One checkpoint.

    Attributes:
        step: Its step.
        name: Its name.
        commit: Its commit on a hub.
        tensors: Its embeddings and vectors by role; a tied output embedding is left out.
        problem: Why it cannot be read, None when it can.
        notes: What a reader of its numbers should know of its files.
        unreachable: Whether the problem is one of the hub or the way there, not of its files.
        model_type: What its config.json calls its architecture, None where nothing does.
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
        """Rows of an embedding, None where they were not read or are not finite."""
        facts = self.tensors.get(role)
        return None if facts is None or facts.not_finite else facts.block

    def broken(self, role: Role) -> tuple[int, ...]:
        """Rows that are not finite, of those read."""
        facts = self.tensors.get(role)
        return () if facts is None else facts.not_finite

    def payload(self, role: Role) -> str | None:
        """What equal tensors share, None when it is not known."""
        facts = self.tensors.get(role)
        return facts and facts.payload


@dataclass(frozen=True, eq=False)
class SeriesFacts:
    """A series as an audit sees it.

    Attributes:
        name: Its name.
        level: What was read of tensors.
        wanted: Steps that should be there, ascending.
        existing: Steps that are there, ascending.
        checkpoints: Those that are wanted and there, by step.
        last: The last one there is, wanted or not.
        main: The branch main, where there is one to compare.
        known: Entry of the catalog.
        tokenizer_size: Entries of the tokenizer, where it is known.
        first_learning_rate: Learning rate of the first update, where a trainer recorded it.
        notes: What was passed over in the place of the series, one line each.
    """

    name: str
    level: Level
    wanted: tuple[int, ...]
    existing: tuple[int, ...]
    checkpoints: tuple[CheckpointFacts, ...]
    last: CheckpointFacts
    main: CheckpointFacts | None = None
    known: PublicSeries | None = None
    tokenizer_size: int | None = None
    first_learning_rate: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def rows_read(self) -> str:
        """What was read of the embeddings, in words."""
        matrices = [
            each.tensors[role] for each in self.read for role in self.roles if role in each.tensors
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
        smaller = len(matrices) > sum(
            tensor.rows_read != (0, tensor.shape[0]) for tensor in matrices
        )
        return (
            f"of each embedding rows {' or '.join(blocks)} alone"
            f"{' and smaller ones whole' if smaller else ''}"
        )

    @property
    def read(self) -> list[CheckpointFacts]:
        """The checkpoints, and the last one where it is none of them."""
        return list(dict.fromkeys([*self.checkpoints, self.last]))

    @property
    def roles(self) -> list[Role]:
        """Roles of embeddings that any checkpoint has a tensor in."""
        return [role for role in ROLES if any(role in c.tensors for c in self.checkpoints)]


def gather(
    series: CheckpointSeries,
    steps: str,
    level: Level,
    known: PublicSeries | None,
    on_checkpoint: OnCheckpoint,
) -> SeriesFacts:
    """Ask every selected checkpoint what it holds, several at a time.

    Args:
        series: The series.
        steps: Which steps, in the step language; numbers need not exist.
        level: `none` of the tensors is read, a block of `rows`, or `all`.
        known: Entry of the catalog.
        on_checkpoint: Called with how many are done and how many there are.

    Raises:
        CheckpointError: No checkpoint can be read.
        StepError: The expression is malformed or selects nothing.
    """
    parsed = parse(steps)
    expected = _expected(series, known)
    wanted = parsed.select({*series.steps, *expected, *parsed.numbers})
    chosen = [each for each in series if each.step in wanted]
    asked = list(dict.fromkeys([*chosen, series.checkpoints[-1]]))
    if (main := _main(series, known)) is not None:
        asked.append(main)
    found = read_checkpoints(asked, level, on_checkpoint)
    if chosen and all(each.problem for each in found):
        raise CheckpointError(f"no checkpoint can be read: {found[0].problem}")
    facts = SeriesFacts(
        name=series.name,
        level=level,
        wanted=tuple(wanted),
        existing=tuple(series.steps),
        checkpoints=tuple(found[: len(chosen)]),
        last=found[asked.index(series.checkpoints[-1])],
        main=found[-1] if main is not None else None,
        known=known,
        tokenizer_size=_tokenizer_size(series, known),
        notes=series.notes,
    )
    if len(facts.checkpoints) > 1 and _starts_equal(facts):
        facts = replace(facts, first_learning_rate=_first_learning_rate(chosen[-1]))
    return facts


def gather_headers(series: CheckpointSeries) -> SeriesFacts:
    """Gather what the headers of a folder's checkpoints tell, and nothing of what should be there.

    Args:
        series: The series.
    """
    found = tuple(read_checkpoints(series.checkpoints, "none"))
    steps = tuple(series.steps)
    return SeriesFacts(series.name, "none", steps, steps, found, found[-1])


def read_checkpoints(
    checkpoints: Sequence[Checkpoint],
    level: Level,
    on_checkpoint: OnCheckpoint = lambda done, total: None,
) -> list[CheckpointFacts]:
    """Read checkpoints, several at a time; one that cannot be read says why.

    Args:
        checkpoints: The checkpoints.
        level: `none` of the tensors is read, a block of `rows`, or `all`.
        on_checkpoint: Called with how many are done and how many there are.
    """
    found: list[CheckpointFacts] = []
    on_checkpoint(0, len(checkpoints))
    with ThreadPoolExecutor(_WORKERS) as pool:
        for facts in pool.map(_Reader(level), checkpoints):
            found.append(facts)
            on_checkpoint(len(found), len(checkpoints))
    return found


class _Reader:
    """Gathers facts of checkpoints; rows of equal files are read once."""

    def __init__(self, level: Level) -> None:
        self._level: Level = level
        self._read: dict[tuple[Role, str], TensorFacts] = {}

    def __call__(self, checkpoint: Checkpoint) -> CheckpointFacts:
        about = CheckpointFacts(checkpoint.step, checkpoint.name)
        try:
            tensors = {role: self._matrix(checkpoint, role) for role in _untied(checkpoint)}
            tensors |= {
                role: self._vector(checkpoint, role) for role in VECTORS if checkpoint.has(role)
            }
        except CheckpointError as error:
            unreachable = isinstance(error, UnreachableError)
            return replace(
                about, commit=checkpoint.commit, problem=str(error), unreachable=unreachable
            )
        return replace(
            about,
            commit=checkpoint.commit,
            tensors=tensors,
            notes=checkpoint.notes,
            model_type=checkpoint.model_type,
        )

    def _matrix(self, checkpoint: Checkpoint, role: Role) -> TensorFacts:
        located = checkpoint.locate(role)
        sha = None if checkpoint.path else checkpoint.store.sha256(located.filename)
        if sha is not None and (role, sha) in self._read:
            return self._read[role, sha]
        facts = TensorFacts(_dtype(located), located.shape, sha)
        if self._level != "none":
            # Past special tokens, among the frequent ones; but no fewer rows than there are.
            start = max(0, min(located.shape[0] // 8, located.shape[0] - BLOCK_ROWS))
            block = slice(start, min(start + BLOCK_ROWS, located.shape[0]))
            small = _SMALL if checkpoint.path is not None else _SMALL_REMOTE
            whole = self._level == "all" or located.nbytes <= small
            read = slice(0, located.shape[0]) if whole else block
            rows = located.read(None if whole else block)
            sample = rows[block.start - read.start : block.stop - read.start]
            facts = replace(
                facts,
                digest=digest(rows) if whole else None,
                block=Block(digest(sample), embedding_norm(sample).mean().item(), _sketch(sample)),
                rows_read=(read.start, read.stop),
                not_finite=tuple(row + read.start for row in rows_not_finite(rows)),
            )
        if sha is not None:
            self._read[role, sha] = facts
        return facts

    def _vector(self, checkpoint: Checkpoint, role: Role) -> TensorFacts:
        located = checkpoint.locate(role)
        if self._level == "none":
            return TensorFacts(_dtype(located), located.shape)
        broken = rows_not_finite(located.read().reshape(-1, 1))
        return TensorFacts(_dtype(located), located.shape, not_finite=tuple(broken))


def _dtype(located: ReadableTensor) -> str:
    return str(located.dtype).removeprefix("torch.")


def _untied(checkpoint: Checkpoint) -> list[Role]:
    """The roles of embeddings that are tensors of their own."""
    if not checkpoint.has("output_embedding"):
        return ["input_embedding"]
    places = {role: checkpoint.locate(role) for role in ROLES}
    return list(ROLES) if len(set(places.values())) == len(ROLES) else ["input_embedding"]


def _sketch(rows: torch.Tensor) -> np.ndarray:
    every = max(1, rows.numel() // _SKETCH)
    return rows[::every].float().flatten()[:_SKETCH].numpy().copy()


def _expected(series: CheckpointSeries, known: PublicSeries | None) -> tuple[int, ...]:
    """Steps there should be: those of the catalog, or those a training of ours has come to."""
    if known is not None:
        return known.expected_steps
    folder = training_of(series.checkpoints[0].path)
    if folder is None:
        return ()
    planned = read_training(folder).planned_steps
    return tuple(step for step in planned if step <= series.steps[-1])


def _tokenizer_size(series: CheckpointSeries, known: PublicSeries | None) -> int | None:
    """Entries of the tokenizer, from the catalog or from a tokenizer beside the checkpoints."""
    path = series.checkpoints[-1].path
    if known is not None or path is None:
        return known and known.tokenizer_size
    for folder in (path, path.parent.parent / "tokenizer"):
        if (folder / "tokenizer.json").exists():
            return vocabulary_size(load_tokenizer(folder))
    return None


def _main(series: CheckpointSeries, known: PublicSeries | None) -> Checkpoint | None:
    """The branch main of the repository that holds the whole series, where it is none of it."""
    stores = [checkpoint.store for checkpoint in series]
    repositories = {store.repo for store in stores if isinstance(store, HubRevision)}
    last = stores[-1]
    if len(repositories) != 1 or not isinstance(last, HubRevision):
        return None
    if any(store.revision == "main" for store in stores):
        return None
    if known is not None and known.main is None:
        return None
    return Checkpoint(last.beside("main"), series.steps[-1])


def _starts_equal(facts: SeriesFacts) -> bool:
    first, second = facts.checkpoints[:2]
    return any(
        first.payload(role) is not None and first.payload(role) == second.payload(role)
        for role in facts.roles
    )


def _first_learning_rate(checkpoint: Checkpoint) -> float | None:
    """Learning rate of the first update, from what transformers' Trainer leaves."""
    try:
        state = json.loads(checkpoint.store.read_bytes("trainer_state.json") or b"{}")
        logged = {line["step"]: line for line in state.get("log_history", ())}
        return logged[1]["learning_rate"]
    except (CheckpointError, ValueError, LookupError, TypeError, AttributeError):
        return None
