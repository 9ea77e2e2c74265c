"""Decision whether the output embedding is the input embedding; made in this module only."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dynamics.checkpoints.architectures import Family, Role
from dynamics.checkpoints.formats.readable_tensor import ReadableTensor
from dynamics.checkpoints.formats.tensors import digest
from dynamics.checkpoints.weight_files import EMBEDDINGS_FILE

_FIRST_ROWS = slice(16)
_TIE_FIELDS = ("tie_word_embeddings", "weight_tying", "tie_embeddings")  # of hf_olmo, of mamba_ssm
_INNER_CONFIGS = ("text_config", "llm_config", "language_config")
_HEADED_CLASSES = ("For", "LMHead")  # parts of the names of transformers' classes with a head


@dataclass(frozen=True)
class Tie:
    """Decision whether the embeddings are tied.

    Attributes:
        tied: Whether the output embedding is the input embedding.
        note: Remark on the decision that matters for the numbers, None for no remark.
    """

    tied: bool
    note: str | None = None


def find_tie(
    family: Family,
    roles: Mapping[Role, str],
    tensors: Mapping[str, ReadableTensor],
    config: Mapping[str, Any],
) -> Tie:
    """Decide whether the embeddings are tied, as transformers would load the files.

    With both in the files, they are tied when they share one place in one file, or when their
    values are equal (some converters write a tied matrix twice) and config.json does not deny it;
    matrices that differ are never tied, whatever config.json says. With only the input embedding
    in the files, config.json decides, or else the default of transformers' class for the model
    type; where neither is known, they are taken as tied, with a note. In a family whose head is
    recognised by other tensors, a model without these has no output embedding.

    Args:
        family: The family.
        roles: The key that plays each role.
        tensors: The tensors by key, including those that an index leaves out.
        config: Contents of config.json, empty when there is none.
    """
    configured = configured_tie(config)
    if "output_embedding" in roles:
        first, second = tensors[roles["input_embedding"]], tensors[roles["output_embedding"]]
        if first == second:
            return Tie(tied=True)
        if configured is False:
            return Tie(tied=False)
        if _equal(first, second):
            return Tie(tied=expected_tie(config) is not False)
        differ = (
            "config.json says that the embeddings are tied, but the files hold two different "
            "matrices; both are measured, as transformers 5 loads them"
        )
        return Tie(tied=False, note=differ if configured else None)
    if family.head_shows and not {"final_norm_weight", "output_bias"} & roles.keys():
        return Tie(tied=False)
    expected = expected_tie(config)
    if expected is None:
        if tensors[roles["input_embedding"]].filename == EMBEDDINGS_FILE:
            return Tie(tied=True)  # `dynamics train` leaves out no matrix in this file
        note = (
            "no output embedding in the files, and config.json has neither tie_word_embeddings "
            "nor a model type that transformers knows: the input embedding is taken for both"
        )
        return Tie(tied=True, note=note)
    classes = config.get("architectures") or ["For"]
    headed = any(part in str(name) for name in classes for part in _HEADED_CLASSES)
    absent = (
        "no output embedding in the files, and it is not tied: only the input embedding is read"
    )
    return Tie(tied=expected, note=absent if headed and not expected else None)


def expected_tie(config: Mapping[str, Any]) -> bool | None:
    """Return whether a config.json, or else the default of its model type, ties; None if unknown.

    Some classes of transformers tie although config.json says no (T5).
    """
    if configured := configured_tie(config):
        return True
    default = default_tie(config)
    return configured if default is None else default


def configured_tie(config: Mapping[str, Any]) -> bool | None:
    """Return the tie stated in config.json, for the model or else for its text part."""
    parts = (config, *(config.get(name) for name in _INNER_CONFIGS))
    for part in (part for part in parts if isinstance(part, Mapping)):
        for field in _TIE_FIELDS:
            if isinstance(tied := part.get(field), bool):
                return tied
    return None


def default_tie(config: Mapping[str, Any]) -> bool | None:
    """Return the tie that transformers derives from a config.json; None for an unknown type."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING  # loads slowly

    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        return None
    config_class = CONFIG_MAPPING[model_type]
    try:
        parsed = config_class.from_dict(dict(config))
    except Exception:  # a class may refuse a config.json with any error; its default stays
        parsed = config_class
    return bool(getattr(parsed, "tie_word_embeddings", False))  # as PreTrainedModel reads it


def _equal(first: ReadableTensor, second: ReadableTensor) -> bool:
    """Return whether two tensors have equal values; most that differ do so in the first rows."""
    return (
        first.shape == second.shape
        and digest(first.read(_FIRST_ROWS)) == digest(second.read(_FIRST_ROWS))
        and digest(first.read()) == digest(second.read())
    )
