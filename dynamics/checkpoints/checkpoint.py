"""One checkpoint: its tensors by role, read without the model."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from dynamics.checkpoints.architectures import (
    FAMILIES,
    ROLES,
    Family,
    Norm,
    Role,
    find_headed_family,
    find_roles,
)
from dynamics.checkpoints.float_tensors import FloatTensors
from dynamics.checkpoints.formats.readable_tensor import ReadableTensor, Rows
from dynamics.checkpoints.formats.tensors import digest
from dynamics.checkpoints.key_prefixes import UnwrappedTensors, unwrap
from dynamics.checkpoints.model_types import (
    FinalNorm,
    facts_of,
    find_final_norm,
    find_layout,
    find_logit_softcap,
    shaping_entries,
)
from dynamics.checkpoints.quantised import QuantisedTensor
from dynamics.checkpoints.stores import FileStore, LocalFolder, Traffic, read_json
from dynamics.checkpoints.ties import Tie, expected_tie, find_tie
from dynamics.checkpoints.training_folder import is_training, read_training, training_of
from dynamics.checkpoints.weight_files import unsupported_format
from dynamics.checkpoints.weights import Weights
from dynamics.errors import CheckpointError

_REMEMBERED = 16  # checkpoints whose index stays in memory: twice as many as an audit reads at once
_NOT_ABSENT: frozenset[Role] = frozenset({"output_embedding", "final_norm_weight"})
"""Roles whose absence is a fact about the model, so that shards are searched beyond an index."""
_IDENTIFYING = 16  # hexadecimal digits of a digest


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A model at one step of its training; files are read on demand.

    Attributes:
        place: Its folder, its single file, or another store of its files.
        step: Training steps taken.
        tokens: Tokens trained on up to this step, where known from the series.
        label: Its name, where that of its place differs: a snapshot is named for its commit.
    """

    place: Path | FileStore
    step: int
    tokens: int | None = None
    label: str | None = None

    @cached_property
    def store(self) -> FileStore:
        """Store of its files."""
        if not isinstance(self.place, Path):
            return self.place
        if self.place.is_file():
            return LocalFolder(self.place.parent, self.place.name)
        return LocalFolder(self.place)

    @property
    def path(self) -> Path | None:
        """Its folder, None when its files are on a hub."""
        store = self.store if isinstance(self.place, Path) else None
        return store.path if isinstance(store, LocalFolder) else None

    @property
    def name(self) -> str:
        """Name of the folder or of the revision."""
        return self.label or self.store.label

    @property
    def revision(self) -> str | None:
        """Branch, tag or commit on a hub, None for a folder."""
        return self.store.revision

    @property
    def commit(self) -> str | None:
        """Hash of the commit on a hub; None for a folder, and for a tag until it is first read."""
        return self.store.commit

    @property
    def traffic(self) -> Traffic:
        """Requests and bytes transferred so far to read it."""
        return self.store.traffic

    def tensor(self, role: Role, rows: Rows = None) -> torch.Tensor:
        """Read one tensor, in the dtype on disk, or float32 where codes are stored.

        No byte of another tensor is read.

        Args:
            role: Role of the tensor. `output_embedding` is the input embedding when they are tied.
            rows: Consecutive rows, or those of ascending ids; all of them when None.

        Returns:
            Of shape (V, D) for embeddings, (V,) for the output bias, (D,) for the final norm. It
            may be a view of the mapped file; changing it does not change the file.

        Raises:
            CheckpointError: The checkpoint has no such tensor, its numbers are of an unsupported
                type or layout, or a file is missing, damaged, unsafe or cannot be fetched.
        """
        return _contents(self).locate(role).read(rows)

    def has(self, role: Role) -> bool:
        """Return whether the checkpoint has a tensor in this role."""
        contents = _contents(self)
        return role in contents.roles or (role == "output_embedding" and contents.tie.tied)

    def digest(self, role: Role) -> str:
        """Compute the SHA-256 of a tensor's dtype, shape and values, in any file format."""
        return digest(self.tensor(role))

    def locate(self, role: Role) -> ReadableTensor:
        """Return a tensor with its file, position, dtype and shape, unread.

        Raises:
            CheckpointError: As for `tensor`.
        """
        return _contents(self).locate(role)

    def bytes(self, role: Role) -> int:
        """Return the bytes of a tensor on disk."""
        return _contents(self).locate(role).nbytes

    def file_sha256(self, role: Role) -> str | None:
        """Return the hexadecimal SHA-256 of the whole file that holds a tensor.

        A hub provides it without sending the file, or not at all (None); a file on disk is read.
        """
        return self.store.sha256(_contents(self).locate(role).filename)

    def identity(self) -> str | None:
        """Return an identifier of the weights: `sha256:` over all weights files, or `commit:`.

        The files of a folder are read whole. A hub provides their digests without sending them;
        where it does not, the commit stands for them. None when neither is known. The same weights
        in other files have another identifier.

        Raises:
            CheckpointError: There are no weights, or they cannot be reached.
        """
        digests = Weights(self.store).file_digests()
        if None in digests:
            return self.commit and f"commit:{self.commit}"
        joined = " ".join(map(str, digests))
        return f"sha256:{sha256(joined.encode()).hexdigest()[:_IDENTIFYING]}"

    @property
    def tied(self) -> bool:
        """Whether the output embedding is the input embedding."""
        return _contents(self).tie.tied

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks on its files that matter for its numbers, such as a stale index."""
        return _contents(self).notes

    @property
    def model_type(self) -> str | None:
        """Model type in its config.json; None where there is none."""
        model_type = _contents(self).config.get("model_type")
        return None if model_type is None else str(model_type)

    @property
    def architecture(self) -> dict[str, Any]:
        """Entries of its config.json that give the model its shape; empty where there is none."""
        return shaping_entries(_contents(self).config)

    @property
    def shapes(self) -> dict[str, list[int]]:
        """Rows and columns of each embedding, by role."""
        return {role: list(self.locate(role).shape) for role in ROLES if self.has(role)}

    @property
    def final_norm(self) -> Norm | None:
        """Type of the norm before the output embedding, None when there is none or unknown."""
        return _contents(self).final_norm.type

    @property
    def logit_softcap(self) -> float | None:
        """Number that no logit exceeds, 0 without such a cap; None where it is not known."""
        return find_logit_softcap(_contents(self).config)

    @property
    def final_norm_note(self) -> str | None:
        """Reason in one line why the norm before the output embedding is unknown, None if known."""
        return _contents(self).final_norm.note if self.has("output_embedding") else None

    def final_norm_gain(self) -> torch.Tensor | None:
        """Read the gain of the norm before the output embedding, one factor for each of D features.

        This is the stored weight, or 1 + weight, depending on the model class. None where the norm
        has no weight, or is not known.
        """
        offset = _contents(self).final_norm.gain_offset
        if offset is None or not self.has("final_norm_weight"):
            return None
        return self.tensor("final_norm_weight").float() + offset

    @property
    def vocab_size(self) -> int:
        """Rows of the input embedding; often more than the tokenizer has entries."""
        return _contents(self).locate("input_embedding").shape[0]

    @cached_property
    def tokens_seen(self) -> int | None:
        """Tokens trained on up to this step, None when not recorded."""
        if self.tokens is not None or self.path is None:
            return self.tokens
        if folder := training_of(self.path):
            return read_training(folder).tokens_per_step * self.step
        state = read_json(self.store, "trainer_state.json") or {}
        recorded = state.get("num_input_tokens_seen")
        return int(recorded) if recorded else None


class _Contents:
    """Tensors and configuration of a checkpoint; a tensor is looked up in its file on demand."""

    def __init__(self, store: FileStore) -> None:
        self._store = store
        self._weights = Weights(store)
        if isinstance(store, LocalFolder):
            self._weights.search_shards()
        layout = self._find_roles()
        if layout is None or not layout[1].keys() >= _NOT_ABSENT:
            self._weights.search_shards()  # an index may lack tensors that its shards hold
            layout = self._find_roles()
        if layout is None:
            raise CheckpointError(
                f"{store.name}: no input embedding is known by these keys; the largest matrices "
                f"are {_largest_matrices(self._weights)}; known families are " + ", ".join(FAMILIES)
            )
        self.family, self.roles = layout
        key = self.roles["input_embedding"]
        if len(shape := self._tensors[key].shape) != 2 or 0 in shape:
            # DeepSpeed ZeRO-3 leaves empty tensors in the file of the model.
            contents = unsupported_format(store.path) if isinstance(store, LocalFolder) else None
            raise CheckpointError(
                f"{store.name}: {key!r} should be a matrix, but is of shape {shape}"
                + (f"; {contents}" if contents else "")
            )

    def _find_roles(self) -> tuple[Family, dict[Role, str]] | None:
        """Find the family and the key in each role, None when no embedding is recognised.

        A tied matrix that was saved only under the key of the output embedding is the input
        embedding as well.

        Raises:
            CheckpointError: There is only an output embedding, and no config.json ties it.
        """
        self._unwrapped = (
            UnwrappedTensors(self._weights, {key: key for key in self._weights})
            if self._has_keys_of_its_class()
            else unwrap(self._weights, self._roles_of, self._store.name)
        )
        self._tensors = FloatTensors(self._store.name, self._unwrapped, lambda: self.config)
        if (layout := find_layout(self._tensors, self.config)) is not None:
            return layout
        if (name := find_headed_family(self._tensors)) is None:
            return None
        roles = find_roles(FAMILIES[name], self._tensors)
        if not expected_tie(self.config):
            raise CheckpointError(
                f"{self._store.name}: holds an output embedding, {roles['output_embedding']!r}, "
                "but no input embedding, and its config.json does not say that they are tied"
            )
        roles["input_embedding"] = roles["output_embedding"]
        return FAMILIES[name], roles

    def _has_keys_of_its_class(self) -> bool:
        """Return whether the keys are those of the class in config.json, without a prefix.

        An output embedding under a prefix, as with a wrapper of the body alone, is evidence against
        it.
        """
        layout = find_layout(self._weights, self.config)
        type_facts = facts_of(str(self.config.get("model_type")))
        if layout is None or layout[0] not in [facts.family for facts in type_facts]:
            return False
        family, roles = layout
        heads = tuple(f".{key}" for key in family.output_embedding)
        return "output_embedding" in roles or not any(key.endswith(heads) for key in self._weights)

    def _roles_of(self, keys: Collection[str]) -> Mapping[Role, str]:
        """Return the key in each role; empty when the keys are of no known layout."""
        layout = find_layout(keys, self.config)
        return {} if layout is None else layout[1]

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """Contents of config.json, empty when there is none.

        A step of `dynamics train` with embeddings only has the config.json of the first full one.
        """
        config = read_json(self._store, "config.json")
        if config is None and isinstance(self._store, LocalFolder):
            steps = self._store.path.parent
            if steps.name == "checkpoints" and is_training(steps.parent):
                for path in sorted(steps.glob("*/config.json"))[:1]:
                    config = read_json(LocalFolder(path.parent), "config.json")
        return config or {}

    @cached_property
    def tie(self) -> Tie:
        """Decision whether the embeddings are tied."""
        if "output_embedding" not in self.roles:
            self._check_absent(self.family.output_embedding)
        return find_tie(self.family, self.roles, self._tensors, self.config)

    def _check_absent(self, keys: tuple[str, ...]) -> None:
        """Refuse to treat a tensor as absent when its module stores anything but a bias.

        Raises:
            CheckpointError: Its module does.
        """
        modules = tuple(key.removesuffix("weight") for key in keys)
        for key in self._unwrapped if modules else ():
            if key.startswith(modules) and not key.endswith("bias"):
                raise CheckpointError(
                    f"{self._store.name}: holds {key!r}, so there is an output embedding, but in "
                    "an unsupported layout; save the weights as float16, bfloat16 or "
                    "float32 and give that folder"
                )

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """Remarks on the files that matter for the numbers read from them."""
        notes = [*self._weights.notes, *self._unwrapped.notes]
        for role in ROLES:
            key = self.roles.get(role)
            if key is not None and isinstance(tensor := self._tensors[key], QuantisedTensor):
                matrix = role.replace("_", " ")
                notes.append(
                    f"the {matrix} {key!r} is stored as {tensor.layout.description}; its norms are "
                    "those of the decoded numbers"
                )
        return (*notes, *([self.tie.note] if self.tie.note else []))

    @cached_property
    def final_norm(self) -> FinalNorm:
        """Facts of the norm before the output embedding; a note where it is not known."""
        return find_final_norm(self._tensors, self.roles, self.config)

    def locate(self, role: Role) -> ReadableTensor:
        """Return the tensor in a role, unread; a tied output embedding is the input embedding."""
        if role == "output_embedding" and self.tie.tied:
            role = "input_embedding"
        if role not in self.roles:
            present = ", ".join(self.roles)
            raise CheckpointError(f"{self._store.name}: has no {role}; it has {present}")
        return self._tensors[self.roles[role]]


@lru_cache(maxsize=_REMEMBERED)
def _contents(checkpoint: Checkpoint) -> _Contents:
    """Return the contents of a checkpoint; those of the last few stay in memory."""
    return _Contents(checkpoint.store)


def _largest_matrices(weights: Mapping[str, ReadableTensor]) -> str:
    """List the keys and shapes of the matrices with most rows, for a message."""
    shapes = {key: weights[key].shape for key in weights}
    matrices = [key for key, shape in shapes.items() if len(shape) == 2]
    matrices.sort(key=lambda key: shapes[key][0], reverse=True)
    return ", ".join(f"{key!r} {shapes[key]}" for key in matrices[:8]) or "none"
