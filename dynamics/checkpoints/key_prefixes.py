"""Removal of the parts that wrappers of a model add to keys.

DistributedDataParallel and DeepSpeed add `module.`, torch.compile `_orig_mod.`, FSDP and activation
checkpointing a part in the middle, a Lightning module the name of the attribute that holds the
model, often `model.` or `net.`; they nest. But `model.` is also part of the keys of many models, so
unchanged keys are tried first.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from dynamics.errors import CheckpointError

# Parts of a key that only wrappers have, at any position.
_WRAPPERS = frozenset(
    {
        "_orig_mod",
        "_forward_module",
        "_fsdp_wrapped_module",
        "_checkpoint_wrapped_module",
        "_fpw_module",
    }
)
# First parts of keys that are often those of a wrapper, and can be those of a model.
_LEADING = frozenset(
    {"module", "model", "net", "network", "base_model", "student", "state_dict", "state", "app"}
)
_DEEPEST = 6  # most prefixes in a row
_ADAPTERS = ("lora_", "modules_to_save", "ia3_l", "hada_w", "vera_lambda")

T = TypeVar("T")


@dataclass(frozen=True)
class UnwrappedTensors(Mapping[str, T]):
    """Tensors by the keys of the model itself.

    Attributes:
        wrapped: The tensors by the keys in the files.
        keys_in_files: The key in the files for each key of the model.
        removed: Parts that were removed from the keys.
    """

    wrapped: Mapping[str, T]
    keys_in_files: Mapping[str, str] = field(repr=False)
    removed: tuple[str, ...] = ()

    @property
    def notes(self) -> list[str]:
        """Note on the parts removed from the keys, empty when there are none."""
        removed = ", ".join(map(repr, self.removed))
        return [f"keys are read without {removed} of a wrapper"] if removed else []

    def __getitem__(self, key: str) -> T:
        return self.wrapped[self.keys_in_files[key]]

    def __contains__(self, key: object) -> bool:
        return key in self.keys_in_files

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys_in_files)

    def __len__(self) -> int:
        return len(self.keys_in_files)


def unwrap(
    tensors: Mapping[str, T], find_roles: Callable[[Collection[str]], Mapping[Any, str]], name: str
) -> UnwrappedTensors[T]:
    """Take the prefixes of wrappers off the keys of a checkpoint.

    The keys are tried unchanged and without one, two, ... leading parts. The form with the most
    roles is used; on a tie the one with the least removed.

    Args:
        tensors: The tensors by the keys in the files.
        find_roles: Returns the key in each role, none when the family of the keys is unknown.
        name: Name of the checkpoint in messages.

    Raises:
        CheckpointError: Two prefixes have equally many roles (a student and its teacher), or the
            model has adapters that are not merged.
    """
    plain = {key: key for key in tensors}
    inner = _without_wrappers(plain)
    candidates = {prefix: _without_prefix(inner, prefix) for prefix in ["", *_prefixes(inner)]}
    role_counts = {
        prefix: len(_reliable_roles(find_roles(keys), prefix, inner))
        for prefix, keys in candidates.items()
    }
    most = max(role_counts.values())
    if len(find_roles(plain)) >= most:
        return UnwrappedTensors(tensors, plain)
    shortest, *longer = [prefix for prefix, count in role_counts.items() if count == most]
    if second := next((prefix for prefix in longer if not prefix.startswith(shortest)), None):
        raise CheckpointError(
            f"{name}: holds two models, under the prefixes {shortest!r} and {second!r}; save the "
            "state dict of one of them"
        )
    if adapter := next((key for key in plain if any(part in key for part in _ADAPTERS)), None):
        raise CheckpointError(
            f"{name}: holds adapters that are not merged into the weights ({adapter}); save what "
            "model.merge_and_unload() returns with save_pretrained"
        )
    parts = {part for key in plain for part in key.split(".")}
    wrappers = [f"{word}." for word in sorted(_WRAPPERS & parts)]
    removed = tuple(part for part in [shortest, *wrappers] if part)
    return UnwrappedTensors(tensors, candidates[shortest], removed)


def _reliable_roles(
    roles: Mapping[Any, str], prefix: str, keys: Collection[str]
) -> Mapping[Any, str]:
    """Return the roles, none when the only one is a key such as `embedding.weight`.

    Models of every kind have such a key without their prefix, so the family needs a second role. A
    prefix that the input embedding lacks belongs to a part of the model, such as a block.
    """
    if prefix and prefix + roles.get("input_embedding", "") not in keys:
        return {}
    return {} if len(roles) == 1 and next(iter(roles.values())).count(".") < 2 else roles


def _without_wrappers(keys: Mapping[str, str]) -> dict[str, str]:
    """Remove the parts of wrappers at any position; change nothing if two keys became equal."""
    shortened = {
        ".".join(part for part in key.split(".") if part not in _WRAPPERS): original
        for key, original in keys.items()
    }
    return shortened if len(shortened) == len(keys) else dict(keys)


def _without_prefix(keys: Mapping[str, str], prefix: str) -> dict[str, str]:
    """Remove a prefix from the keys that have it; these replace equal keys without it."""
    # The keys with the prefix come last, so that they replace equal ones.
    in_order = sorted(keys, key=lambda key: key.startswith(prefix))
    return {key.removeprefix(prefix): keys[key] for key in in_order}


def _prefixes(keys: Collection[str]) -> list[str]:
    """List leading parts that a wrapper may have added, the shorter ones first.

    A part counts by its name, or because every key begins with it.
    """
    prefixes, level = list[str](), [""]
    for _ in range(_DEEPEST):
        level = [
            longer
            for prefix in level
            for word in sorted(_first_parts(keys, prefix))
            if word in _LEADING or all(key.startswith(f"{prefix}{word}.") for key in keys)
            for longer in [f"{prefix}{word}."]
        ]
        prefixes += level
    return prefixes


def _first_parts(keys: Collection[str], prefix: str) -> set[str]:
    """Return the part after a prefix, for keys with the prefix and at least two further parts."""
    tails = (key.removeprefix(prefix) for key in keys if key.startswith(prefix))
    return {tail.partition(".")[0] for tail in tails if "." in tail}
