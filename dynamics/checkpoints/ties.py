"""Whether the output embedding is the input embedding: decided here and nowhere else."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dynamics.checkpoints.architectures import Family, Role
from dynamics.checkpoints.formats.tensors import digest
from dynamics.checkpoints.weight_files import EMBEDDINGS_FILE
from dynamics.checkpoints.weights import ReadableTensor

_FIRST_ROWS = slice(16)
_TIE_FIELDS = ("tie_word_embeddings", "weight_tying", "tie_embeddings")  # of hf_olmo, of mamba_ssm
_INNER_CONFIGS = ("text_config", "llm_config", "language_config")
_HEADED_CLASSES = ("For", "LMHead")  # parts of the names of transformers' classes with a head


@dataclass(frozen=True)
class Tie:
    """Whether the output embedding is the input embedding.

    Attributes:
        tied: Whether it is.
        note: What a reader of the numbers should know of the decision, None where nothing.
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
    values are equal (some converters write a tied matrix twice) and nothing says that they are not
    tied; matrices that differ are never tied, whatever config.json says. With only the input
    embedding in the files, config.json decides, or else the default of transformers' class for the
    model type; where neither tells, they are tied, and the note says so. A family that shows its
    head has no output embedding where there is no head.

    Args:
        family: The family.
        roles: The key that plays each role.
        tensors: The tensors by key, those among them that an index leaves out too.
        config: Contents of config.json, empty when there is none.
    """
    mentioned = mentioned_tie(config)
    if "output_embedding" in roles:
        first, second = tensors[roles["input_embedding"]], tensors[roles["output_embedding"]]
        if first == second:
            return Tie(tied=True)
        if mentioned is False:
            return Tie(tied=False)
        if _equal(first, second):
            return Tie(tied=stated_tie(config) is not False)
        return Tie(
            tied=False,
            note="config.json says that the embeddings are tied, but the files hold two different "
            "matrices; both are measured, as transformers 5 loads them"
            if mentioned
            else None,
        )
    if family.head_shows and not {"final_norm_weight", "output_bias"} & roles.keys():
        return Tie(tied=False)
    stated = stated_tie(config)
    if stated is None:
        if tensors[roles["input_embedding"]].filename == EMBEDDINGS_FILE:
            return Tie(tied=True)  # a training of ours leaves out no matrix there
        note = (
            "no output embedding in the files, and config.json tells neither tie_word_embeddings "
            "nor a model type that transformers knows: the input embedding is taken for both"
        )
        return Tie(tied=True, note=note)
    classes = config.get("architectures") or ["For"]
    headed = any(part in str(name) for name in classes for part in _HEADED_CLASSES)
    absent = (
        "no output embedding in the files, and it is not tied: only the input embedding is read"
    )
    return Tie(tied=stated, note=absent if headed and not stated else None)


def stated_tie(config: Mapping[str, Any]) -> bool | None:
    """Return whether a model of this config.json is tied; None where neither it nor its type tells.

    Some classes of transformers tie although config.json says no (T5).
    """
    if mentioned := mentioned_tie(config):
        return True
    default = default_tie(config)
    return mentioned if default is None else default


def mentioned_tie(config: Mapping[str, Any]) -> bool | None:
    """Return what config.json says of ties, for the model or else for its text part."""
    inner = (config.get(name) for name in _INNER_CONFIGS)
    for part in (config, *(inner for inner in inner if isinstance(inner, Mapping))):
        for field in _TIE_FIELDS:
            if isinstance(stated := part.get(field), bool):
                return stated
    return None


def default_tie(config: Mapping[str, Any]) -> bool | None:
    """Return what transformers makes of a config.json; None for a model type it does not know."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING  # loads slowly

    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        return None
    config_class = CONFIG_MAPPING[model_type]
    try:
        built = config_class.from_dict(dict(config))
    except Exception:  # a class may refuse what stands in the file in any way; its default stays
        built = config_class
    return bool(getattr(built, "tie_word_embeddings", False))  # as PreTrainedModel asks for it


def _equal(first: ReadableTensor, second: ReadableTensor) -> bool:
    return (
        first.shape == second.shape
        and digest(first.read(_FIRST_ROWS)) == digest(second.read(_FIRST_ROWS))
        and digest(first.read()) == digest(second.read())
    )
