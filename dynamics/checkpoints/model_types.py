"""Facts about the model classes of transformers, measured and stored as data.

`architecture_facts.json` is written by `scripts/architecture_facts.py`, which builds a small model
of every causal, masked and sequence-to-sequence class, runs it, calls its final norm alone, and
saves it. Keys on disk, and type and gain of the norm, are those of the version of transformers that
the file names. Classes that no release of transformers has are added here, from their source.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from dynamics.checkpoints.architectures import FAMILIES, Family, Norm, Role, find_family, find_roles


@dataclass(frozen=True)
class ModelFacts:
    """Facts about a model class, some of them for one setting of its config only.

    Attributes:
        model_type: As in config.json; empty for files without one.
        class_name: The class.
        family: Keys of its tensors, on disk and in memory.
        norm: Type of the norm in front of the output embedding, None where there is none.
        module: Name of that norm in the model, or of the module in its place; `{last}` stands for
            the index of the last layer.
        has_weight: Whether the norm has a weight.
        has_bias: Whether the norm has a bias, None where it may have one.
        gain_offset: Number added to the weight before features are multiplied by it.
        tied: Whether embeddings are tied by default, without a setting in config.json.
        ties: Whether they can be tied.
        scaled: Whether hidden states are multiplied by a constant between norm and output
            embedding; it changes no ratio of folded norms, which leave it out.
        softcap: Number that no logit exceeds by default, 0 without such a cap; None if not known.
        softcap_setting: Name in config.json that sets another cap, None without one.
        settings: Values in config.json under which the facts hold, None for an absent name.
        required_keys: Further keys in the files under which the facts hold.
        refusal: Reason why the norm is unknown under these settings, None when it is known.
    """

    model_type: str
    class_name: str
    family: Family
    norm: Norm | None
    module: str
    has_weight: bool = False
    has_bias: bool | None = False
    gain_offset: float = 0.0
    tied: bool = False
    ties: bool = True
    scaled: bool = False
    softcap: float | None = 0.0
    softcap_setting: str | None = None
    settings: Mapping[str, Any] | None = None
    required_keys: tuple[str, ...] = ()
    refusal: str | None = None

    @property
    def is_special(self) -> bool:
        """Whether the facts hold under conditions, in place of the general ones about the class."""
        return bool(self.settings or self.required_keys)

    def applies(self, config: Mapping[str, Any], keys: Collection[str]) -> bool:
        """Return whether the conditions are met; without a config no setting is."""
        if self.settings and not config:
            return False
        return all(key in keys for key in self.required_keys) and all(
            _setting(config, name) == value for name, value in (self.settings or {}).items()
        )

    def softcap_in(self, config: Mapping[str, Any]) -> float | None:
        """Return the number that no logit exceeds, 0 without such a cap; None if not known."""
        if self.softcap_setting is None:
            return self.softcap
        parts = ("text_config", "decoder")
        cap = _setting(config, self.softcap_setting, self.softcap, parts)
        return float(cap or 0) if isinstance(cap, int | float | None) else None


@dataclass(frozen=True)
class FinalNorm:
    """Norm in front of the output embedding.

    Attributes:
        type: Under `layer` the mean over the features of a row of the output embedding changes no
            prediction. None where there is no such norm, or it is not known.
        gain_offset: Number added to its weight to give its gain; None as for `type`.
        note: Reason in one line why the norm is unknown, None when it is known.
    """

    type: Norm | None = None
    gain_offset: float | None = None
    note: str | None = None


@dataclass(frozen=True)
class FactsTable:
    """Contents of `architecture_facts.json`.

    Attributes:
        transformers: Version of transformers that was probed.
        facts: Facts by model type.
        refused: Reasons why a class could not be probed, by `model_type/Class`.
        not_built: Errors that kept a small model from being built or run, by the same names.
    """

    transformers: str
    facts: Mapping[str, tuple[ModelFacts, ...]]
    refused: dict[str, str]
    not_built: dict[str, str]


@cache
def facts_table() -> FactsTable:
    """Read the table, once per process."""
    assert __package__ is not None
    data = json.loads(files(__package__).joinpath("architecture_facts.json").read_text("utf-8"))
    by_type: dict[str, list[ModelFacts]] = {}
    for record in data["classes"]:
        for model_type in record["model_types"]:
            by_type.setdefault(model_type, []).append(_read(record, model_type))
    facts = {model_type: tuple(classes) for model_type, classes in by_type.items()}
    return FactsTable(data["transformers"], facts, data["refused"], data["not_built"])


def facts_of(model_type: str) -> tuple[ModelFacts, ...]:
    """Return the facts of every class of a model type; empty where it is not covered."""
    return (*_FROM_SOURCE.get(model_type, ()), *facts_table().facts.get(model_type, ()))


def refusal_of(config: Mapping[str, Any], class_name: str) -> str | None:
    """Return the reason why the output embedding of a class is unknown, None without a reason.

    Args:
        config: As in config.json.
        class_name: The class.
    """
    model_type = _model_type(config) or ""
    for facts in facts_of(model_type):
        if facts.class_name == class_name and facts.refusal and facts.applies(config, ()):
            return facts.refusal
    return facts_table().refused.get(f"{model_type}/{class_name}")


def find_layout(
    keys: Collection[str], config: Mapping[str, Any]
) -> tuple[Family, dict[Role, str]] | None:
    """Find the key in each role: by the facts of the model type, else by the known families.

    Args:
        keys: The keys in the files, or the names of the parameters of a model in memory.
        config: Contents of config.json, empty when there is none.

    Returns:
        The family, and the key in each role; None when no input embedding is recognised.
    """
    type_facts = facts_of(_model_type(config) or "")
    applying = _most_specific([facts for facts in type_facts if facts.applies(config, keys)])
    classes = str(config.get("architectures"))
    for facts in sorted(applying, key=lambda facts: f"'{facts.class_name}'" not in classes):
        roles = find_roles(facts.family, keys)
        if "input_embedding" in roles and facts.has_weight <= ("final_norm_weight" in roles):
            return facts.family, roles
    if (name := find_family(keys)) is None:
        return None
    return FAMILIES[name], find_roles(FAMILIES[name], keys)


def find_final_norm(
    keys: Collection[str], roles: Mapping[Role, str], config: Mapping[str, Any]
) -> FinalNorm:
    """Find the norm before the output embedding, from facts of the class and never from a name.

    Args:
        keys: The keys in the files, or the names of the parameters of a model in memory.
        roles: The key that plays each role, from `find_layout`.
        config: Contents of config.json, empty when there is none.
    """
    model_type = _model_type(config)
    key, has_bias = roles.get("final_norm_weight"), "final_norm_bias" in roles
    if model_type is None:
        # Any class may have written the files, so all classes with these keys must agree.
        classes = (*facts_table().facts.values(), *_FROM_SOURCE.values(), _WITHOUT_CONFIG)
        candidates = [
            facts
            for type_facts in classes
            for facts in type_facts
            if facts.required_keys or (facts.has_weight and facts.has_bias in (has_bias, None))
        ]
    elif not (candidates := facts_of(model_type)):
        return FinalNorm(note=_not_covered(model_type))

    def fits(facts: ModelFacts) -> bool:
        """Return whether the files can be of this class, by its norm and the keys they have."""
        if facts.norm is None or not facts.applies(config, keys):
            return facts.applies(config, keys)
        if has_bias and facts.has_bias is False:
            return False
        if not facts.has_weight:
            return key is None
        return key is not None and find_roles(facts.family, keys).get("final_norm_weight") == key

    fitting = _most_specific([facts for facts in candidates if fits(facts)])
    if fitting and (refusal := fitting[0].refusal):
        return FinalNorm(note=f"{refusal}; {_NOT_FOLDED}")
    norms = {
        FinalNorm(facts.norm, None if facts.norm is None else facts.gain_offset)
        for facts in fitting
    }
    if len(norms) == 1:
        return norms.pop()
    if model_type is not None:
        return FinalNorm(
            note=f"the final norm of model type {model_type} is expected under other keys "
            f"than the files have; {_NOT_FOLDED}"
        )
    return FinalNorm(
        note="there is no config.json with a model_type, and models with the same keys differ in "
        f"their final norm; {_NOT_FOLDED}; put the model's config.json beside its weights"
    )


def find_logit_softcap(config: Mapping[str, Any]) -> float | None:
    """Find the cap of a model's logits, from facts of the class and its setting.

    Args:
        config: Contents of config.json, empty when there is none.

    Returns:
        The number that no logit exceeds, 0 without such a cap; None where it is not known.
    """
    caps = {facts.softcap_in(config) for facts in facts_of(_model_type(config) or "")}
    return caps.pop() if len(caps) == 1 else None


def _setting(
    config: Mapping[str, Any],
    name: str,
    default: Any = None,
    parts: tuple[str, ...] = ("text_config",),
) -> Any:
    """Return a setting of a config.json, or of a part of it: the text model, by default."""
    inner = (part for key in parts if isinstance(part := config.get(key), Mapping))
    return next((level[name] for level in (config, *inner) if name in level), default)


def shaping_entries(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a config.json that say which model it is: type, depth, widths, heads.

    Two models of equal entries have tensors of equal shapes but for the rows of the embeddings.
    """
    return {key: config[key] for key in _SHAPING if config.get(key) is not None}


def _model_type(config: Mapping[str, Any]) -> str | None:
    """Return the model type in a config.json, None where there is none."""
    model_type = config.get("model_type")
    return model_type if isinstance(model_type, str) else None


def _most_specific(applying: list[ModelFacts]) -> list[ModelFacts]:
    """Select facts that hold under conditions, preferably those without a norm, else all."""
    special = [facts for facts in applying if facts.is_special]
    without_norm = [facts for facts in special if facts.norm is None]
    return without_norm or special or applying


_SHAPING = (
    *("model_type", "hidden_size", "n_embd", "d_model", "dim", "embedding_size"),
    *("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers"),
    *("num_attention_heads", "n_head", "n_heads", "num_heads", "num_key_value_heads", "head_dim"),
    *("intermediate_size", "n_inner", "ffn_dim", "hidden_dim", "d_ff"),
)
"""Names under which models of transformers keep their depth, widths and heads."""

_NOT_FOLDED = "norms with its gain are left out"


def _not_covered(model_type: str) -> str:
    """Return the note on a model type of which no facts are known."""
    table = facts_table()
    reasons = {
        name.partition("/")[0]: reason for name, reason in (table.not_built | table.refused).items()
    }
    if model_type in reasons:
        return (
            f"the final norm of model type {model_type} is not known, as its class could not be "
            f"probed ({reasons[model_type]}); {_NOT_FOLDED}"
        )
    return (
        f"the final norm of model type {model_type} is not known (the classes of transformers "
        f"{table.transformers} are, see docs/model-types.md); {_NOT_FOLDED}"
    )


def _read(record: Mapping[str, Any], model_type: str) -> ModelFacts:
    """Read the facts of one class from its record in the table."""
    prefix: str = record.get("prefix", "")
    stem: str = record.get("final_norm", "")
    module: str = record.get("module") or record.get("before") or stem

    def with_base(*names: str) -> tuple[str, ...]:
        """Return the names, and those of a base model saved without its head."""
        return tuple(dict.fromkeys([*names, *(name.removeprefix(prefix) for name in names)]))

    return ModelFacts(
        model_type=model_type,
        class_name=record["class"],
        family=Family(
            input_embedding=with_base(*record["input_embedding"], *record.get("input_module", [])),
            output_embedding=tuple(record["output_embedding"]),
            final_norm=with_base(stem, module) if stem else (),
            output_bias=tuple(record["output_bias"]),
            head_shows=record["head_shows"],
        ),
        norm=record["norm"],
        module=module,
        has_weight=record.get("gain") is not None,
        has_bias=record.get("bias", False),
        gain_offset=1.0 if record.get("gain") == "1 + weight" else 0.0,
        tied=record["tied"],
        ties=record["ties"],
        scaled=record.get("scaled", False),
        softcap=record.get("softcap", 0.0),
        softcap_setting=record.get("softcap_setting"),
        settings=record.get("when"),
        required_keys=tuple(record.get("requires", ())),
        refusal=record.get("refused"),
    )


def _from_source(
    model_type: str, class_name: str, family: str, norm: Norm, module: str, **facts: Any
) -> ModelFacts:
    """Return facts that were read in the source of a class, whose norm has a weight by default."""
    facts = {"has_weight": True} | facts
    return ModelFacts(model_type, class_name, FAMILIES[family], norm, module, **facts)


# OLMo 1 in its own format: allenai/OLMo, olmo/model.py, `LayerNorm.build`; the released models
# have no parameters in the norm.
_HF_OLMO_NORMS: dict[str | None, Norm] = {
    None: "layer",
    "default": "layer",
    "low_precision": "layer",
    "rms": "rms",
}

_FROM_SOURCE: dict[str, tuple[ModelFacts, ...]] = {
    "hf_olmo": tuple(
        _from_source(
            *("hf_olmo", "OLMoForCausalLM", "hf-olmo", norm, "model.transformer.ln_f"),
            has_weight=has_weight,
            has_bias=None,
            settings={"layer_norm_type": setting},
        )
        for setting, norm in _HF_OLMO_NORMS.items()
        for has_weight in (True, False)
    ),
    # DeBERTa with the head of its authors, which get_output_embeddings does not give:
    # transformers, models/deberta_v2/modeling_deberta_v2.py, `DebertaV2LMPredictionHead`.
    **{
        model_type: (
            _from_source(
                *(model_type, class_name, "deberta", "layer", "lm_predictions.lm_head.LayerNorm"),
                has_bias=True,
                tied=True,
                settings={"legacy": False},
            ),
        )
        for model_type, class_name in (
            ("deberta", "DebertaForMaskedLM"),
            ("deberta-v2", "DebertaV2ForMaskedLM"),
        )
    },
    # pico-lm/pico-train, src/model/pico_decoder.py, `RMSNorm`.
    "pico_decoder": (
        _from_source(*("pico_decoder", "PicoDecoderHF", "pico", "rms", "pico_decoder.output_norm")),
    ),
}

_WITHOUT_CONFIG = (
    # karpathy/nanoGPT, model.py, `LayerNorm`, with a bias or without. Models with RMSNorm under
    # these keys (LitGPT) have no position embeddings.
    _from_source(
        *("", "GPT", "gpt2", "layer", "transformer.ln_f"),
        has_bias=None,
        required_keys=("transformer.wpe.weight",),
    ),
)
