"""Whether the output embedding is the input embedding: decided here and nowhere else."""

from collections.abc import Mapping
from typing import Any

from dynamics.checkpoints.architectures import Family, Role
from dynamics.checkpoints.tensors import digest
from dynamics.checkpoints.weights import ReadableTensor

_FIRST_ROWS = slice(16)


def is_tied(
    family: Family,
    roles: Mapping[Role, str],
    tensors: Mapping[str, ReadableTensor],
    config: Mapping[str, Any],
) -> bool:
    """Whether the output embedding is the input embedding, as transformers would load the files.

    With both in the files, they are tied when they share one place in one file; else, unless
    config.json says `tie_word_embeddings: false`, when their values are equal (some converters
    write a tied matrix twice). With only the input embedding in the files, they are tied unless
    config.json says so, or the family shows its head and here is none. A config.json that does
    not mention ties means tied: transformers has always written what is not the default.

    Args:
        family: The family.
        roles: The key that plays each role.
        tensors: The tensors by key.
        config: Contents of config.json, empty when there is none.
    """
    untied = config.get("tie_word_embeddings") is False
    if "output_embedding" in roles:
        first, second = tensors[roles["input_embedding"]], tensors[roles["output_embedding"]]
        return first == second or (not untied and _equal(first, second))
    has_head = "final_norm_weight" in roles or "output_bias" in roles
    return not untied and (has_head or not family.head_shows)


def _equal(first: ReadableTensor, second: ReadableTensor) -> bool:
    return (
        first.shape == second.shape
        and digest(first.read(_FIRST_ROWS)) == digest(second.read(_FIRST_ROWS))
        and digest(first.read()) == digest(second.read())
    )
