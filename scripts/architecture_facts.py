"""Write dynamics/checkpoints/architecture_facts.json: facts of model classes, probed live.

Every causal, masked and sequence-to-sequence language model class of the installed transformers is
built small with random parameters, run once, and saved. What meets the output embedding is the
module whose output the output embedding receives; what it does is measured by calling it alone; the
key of a tensor on disk is the key that holds its values. Settings that may change any of this
(every switch, option and factor of the config) are tried one by one. A cap of the logits is
measured by adding one vector to every row of the output embedding; its setting is the one that
changes it.

    python -m scripts.architecture_facts            # about five minutes on one core
    python -m scripts.architecture_facts llama opt  # print these model types, write nothing
"""

import inspect
import json
import sys
import tempfile
import types
import typing
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)

from dynamics.models.architecture_probes import probe_softcap
from dynamics.models.norm_response import NormResponse, norm_response
from scripts.small_models import D, ModelClass, V, classes_of, small_model, time_limit

FACTS = Path(__file__).parents[1] / "dynamics" / "checkpoints" / "architecture_facts.json"
_SECONDS = 60  # for one build


def model_classes() -> list[ModelClass]:
    """Every causal, masked and sequence-to-sequence class, sorted."""
    return classes_of(
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    )


class NotProbedError(Exception):
    """A model whose facts cannot be measured; the message is the reason."""


@dataclass(frozen=True, eq=False)
class LiveFacts:
    """What a live model does, measured.

    Attributes:
        input_embedding: Matrix that is looked up by token id.
        output_embedding: Matrix that gives the logits.
        output_bias: Bias added to the logits, None without one.
        norm: Module whose output the output embedding receives, None where no norm does.
        norm_path: Name of the module in the model; where there is no norm, of what comes instead.
        response: What the norm does.
        factor: What its output is multiplied by before it meets the output embedding.
    """

    input_embedding: Tensor
    output_embedding: Tensor
    output_bias: Tensor | None
    norm: nn.Module | None = None
    norm_path: str = ""
    response: NormResponse | None = None
    factor: float = 1.0


@dataclass(frozen=True, eq=False)
class _Call:
    path: str
    module: nn.Module
    input: Tensor | None
    output: Tensor | None


def live_facts(model: PreTrainedModel) -> LiveFacts:
    """Run a model once and measure what meets its output embedding.

    Raises:
        NotProbedError: The output embedding is no linear layer that gives the logits, or what comes
            before it is neither a norm nor a layer without one.
        Exception: Whatever the model raises when it is run.
    """
    inputs: Any = model.get_input_embeddings()
    outputs: Any = model.get_output_embeddings()
    if not isinstance(getattr(outputs, "weight", None), Tensor):
        raise NotProbedError("get_output_embeddings gives no matrix")
    calls, logits = _run(model)
    heads = [call for call in calls if _is_head(call, outputs.weight)]
    if not heads:
        raise NotProbedError("its logits do not come from get_output_embeddings alone")
    head = heads[-1]
    hidden = head.input
    assert hidden is not None and head.output is not None
    if head.output.shape[-1] < logits.shape[-1]:
        raise NotProbedError("get_output_embeddings gives a matrix with fewer rows than logits")
    if not _same_order(head.output, logits):
        raise NotProbedError("the order of its logits is not that of its output embedding")
    bias = getattr(head.module, "bias", None)
    tensors = (inputs.weight, outputs.weight, bias if isinstance(bias, Tensor) else None)
    before = calls[: calls.index(head)]
    sources = [(call, factor) for call in before if (factor := _factor(call, hidden)) is not None]
    for call, factor in sources:
        if (response := norm_response(call.module, hidden.shape[-1])) is not None:
            return LiveFacts(*tensors, call.module, call.path, response, factor)
    if not sources:
        raise NotProbedError("what its output embedding receives is the output of no module")
    source = sources[0][0]
    if not isinstance(source.module, nn.Linear) and any(source.module.parameters()):
        name = f"{source.path} ({type(source.module).__name__})"
        raise NotProbedError(f"its output embedding receives the output of {name}, no known norm")
    return LiveFacts(*tensors, norm_path=source.path)  # a projection, or an activation


def _run(model: PreTrainedModel) -> tuple[list[_Call], Tensor]:
    """Calls of every module in the order they end, and the logits."""
    calls: list[_Call] = []

    def recorder(path: str) -> Callable[..., None]:
        def record(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            values = [*args, *kwargs.values()]
            first = next((value for value in values if isinstance(value, Tensor)), None)
            calls.append(
                _Call(
                    path,
                    module,
                    None if first is None else first.clone(),
                    output.clone() if isinstance(output, Tensor) else None,
                )
            )

        return record

    handles = [
        module.register_forward_hook(recorder(path), with_kwargs=True)
        for path, module in model.named_modules()
    ]
    ids = torch.randint(5, V // 2, (1, 16), generator=torch.Generator().manual_seed(0))
    arguments: dict[str, Any] = {"input_ids": ids}
    if getattr(model.config, "is_encoder_decoder", False):
        arguments["decoder_input_ids"] = ids
    if "use_cache" in inspect.signature(model.forward).parameters:
        arguments["use_cache"] = False
    try:
        with torch.no_grad():
            out = model(**arguments)
    finally:
        for handle in handles:
            handle.remove()
    logits = getattr(out, "logits", None)
    logits = getattr(out, "prediction_logits", None) if logits is None else logits
    if logits is None:
        raise NotProbedError("its output has no logits")
    return calls, logits


def _is_head(call: _Call, weight: Tensor) -> bool:
    return (
        getattr(call.module, "weight", None) is weight
        and call.input is not None
        and call.input.is_floating_point()
        and call.output is not None
        and call.output.shape[-1] == len(weight)
    )


def _same_order(scores: Tensor, logits: Tensor) -> bool:
    """Tell whether each position of the logits ranks the tokens as one of the scores does."""
    tokens = logits.shape[-1]
    ranked = scores.reshape(-1, scores.shape[-1])[:, :tokens].argsort(-1)
    positions = logits.reshape(-1, tokens).argsort(-1)
    if len(positions) > len(ranked):
        return False
    # A factor may be negative in a small random model.
    heads = (ranked[: len(positions)], ranked[: len(positions)].flip(-1))
    return any(float((positions == head).float().mean()) > 0.98 for head in heads)


def _factor(call: _Call, hidden: Tensor) -> float | None:
    """Factor from a module's output to the hidden states, None where they are not one's multiple.

    The last positions of the output may be meant (a prompt is cut off).
    """
    if call.output is None or not call.output.is_floating_point():
        return None
    if call.output.shape[-1] != hidden.shape[-1]:
        return None
    target = hidden.reshape(-1, hidden.shape[-1]).double()
    rows = call.output.reshape(-1, hidden.shape[-1]).double()
    if len(rows) < len(target):
        return None
    rows = rows[len(rows) - len(target) :]
    factor = (rows * target).sum() / rows.square().sum()
    error = (rows * factor - target).abs().max()
    return float(factor) if error <= 1e-5 * target.abs().max() else None


def saved_facts(model: PreTrainedModel, live: LiveFacts, folder: Path) -> dict[str, Any]:
    """Save a model and find by value under which keys its tensors are on disk.

    Returns:
        One record of the facts file, see `dynamics.checkpoints.model_types`.

    Raises:
        NotProbedError: A tensor is not in the files, or the norm's parameters do not explain what
            it does.
    """
    model.save_pretrained(folder)
    tensors: dict[str, Tensor] = {}
    for path in folder.glob("*.safetensors"):
        tensors |= load_file(path)
    tied = live.output_embedding is live.input_embedding
    bias_of_head = live.output_bias
    record: dict[str, Any] = {
        "input_embedding": [_key(live.input_embedding, tensors)],
        "output_embedding": [] if tied else [_key(live.output_embedding, tensors)],
        "output_bias": [] if bias_of_head is None else [_key(bias_of_head, tensors)],
        "tied": tied,
        "head": f"{_path(model, model.get_output_embeddings())}.weight",
    }
    path = f"{_path(model, model.get_input_embeddings())}.weight"
    if path not in record["input_embedding"]:
        record["input_module"] = [path]
    prefix = f"{model.base_model_prefix}."
    if prefix != "." and record["input_embedding"][0].startswith(prefix):
        record["prefix"] = prefix
    record["head_shows"] = bool(model.config.is_encoder_decoder) or any(
        not key.startswith(prefix) for key in record["output_bias"]
    )
    if live.norm is None or live.response is None:
        return record | {"norm": None, "before": _last(model, live.norm_path)}
    record["norm"] = live.response.type
    weight, bias = (getattr(live.norm, name, None) for name in ("weight", "bias"))
    record["gain"] = _gain(live.response.gain, weight)
    if not _close(live.response.bias, torch.zeros(()) if bias is None else bias):
        raise NotProbedError(f"{live.norm_path} adds something other than its bias")
    path = _last(model, live.norm_path)
    if weight is not None:
        key = _key(weight, tensors)
        stem, _, end = key.rpartition(".")
        if end != "weight" or (bias is not None and _key(bias, tensors) != f"{stem}.bias"):
            raise NotProbedError(f"the norm before its output embedding is stored as {key}")
        record["final_norm"] = _like(stem, live.norm_path, path)
        record["bias"] = bias is not None
    if path != record.get("final_norm"):
        record["module"] = path
    if abs(live.factor - 1) > 1e-6:
        record["scaled"] = True
    record["head_shows"] |= not record.get("final_norm", prefix).startswith(prefix)
    return record


def _path(model: nn.Module, module: nn.Module | None) -> str:
    return next(path for path, other in model.named_modules() if other is module)


def _key(tensor: Tensor, tensors: Mapping[str, Tensor]) -> str:
    for key, stored in tensors.items():
        if stored.shape == tensor.shape and torch.equal(stored, tensor):
            return key
    raise NotProbedError("a tensor of the model is not among those it saves")


def _gain(gain: Tensor, weight: Tensor | None) -> str | None:
    if weight is None:
        if _close(gain, torch.ones(())):
            return None
    elif _close(gain, weight):
        return "weight"
    elif _close(gain, 1 + weight):
        return "1 + weight"
    raise NotProbedError("the gain of the norm before its output embedding is not its weight")


def _close(measured: Tensor, expected: Tensor) -> bool:
    return bool((measured - expected.detach().double()).abs().max() < 2e-3)


def _last(model: nn.Module, path: str) -> str:
    """The path with `{last}` for the index of a layer that is the last of its list."""
    parts = path.split(".")
    for index, part in enumerate(parts):
        if part.isdigit():
            siblings = model.get_submodule(".".join(parts[:index]))
            if isinstance(siblings, nn.ModuleList) and int(part) == len(siblings) - 1 > 0:
                parts[index] = "{last}"
    return ".".join(parts)


def _like(key: str, path: str, template: str) -> str:
    """The key with `{last}` where the path of the module has it."""
    numbers = {
        number: "{last}"
        for number, name in zip(path.split("."), template.split("."), strict=True)
        if name == "{last}"
    }
    return ".".join(numbers.get(part, part) for part in key.split("."))


def variations(model_class: ModelClass) -> Iterator[dict[str, Any]]:
    """Each setting of the text model that could change its facts, changed alone.

    Switches are flipped, options are each of their named values, factors are doubled, and there is
    one layer more.
    """
    model = small_model(model_class)
    config = model.config.get_text_config(decoder=True)
    common = {field.name for field in fields(PreTrainedConfig)}
    for field in fields(config):
        name, value = field.name, getattr(config, field.name, None)
        if name in common or name in _UNVARIED:
            continue
        kinds = _options(field.type)
        if isinstance(value, bool) or (value is None and bool in kinds):
            yield {name: not value}
        elif isinstance(value, float):
            yield {name: 2 * value if value else 0.5}
        elif value == D and "hidden" not in name:  # rows narrower than the hidden states
            yield {name: D // 2}
        for option in kinds:
            if isinstance(option, str) and option != value:
                yield {name: option}


def softcap_facts(model_class: ModelClass) -> dict[str, Any]:
    """Cap of the logits at the defaults, where there is one, and the setting that changes it.

    The cap is None where it cannot be measured.
    """
    cap = _softcap(model_class)
    config = small_model(model_class).config.get_text_config(decoder=True)
    facts: dict[str, Any] = {} if cap == 0 else {"softcap": cap}
    for field in fields(config):
        # A cap of 2 is no model's default.
        if "cap" in field.name and _softcap(model_class, {field.name: 2.0}) == 2.0:
            facts["softcap_setting"] = field.name
    return facts


def _softcap(model_class: ModelClass, changes: Mapping[str, Any] | None = None) -> float | None:
    """Cap of the logits of a small model, 0 without one; None where it cannot be measured."""
    try:
        with time_limit(_SECONDS):
            model = small_model(model_class, changes)
            head: Any = model.get_output_embeddings()
            return probe_softcap(lambda: _run(model)[1], head)
    except Exception:  # not a setting that a model this small can have
        return None


_UNVARIED = {"tie_word_embeddings", "use_cache", "is_decoder", "add_cross_attention"}


def _options(hint: Any) -> list[Any]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [option for part in typing.get_args(hint) for option in _options(part)]
    return list(typing.get_args(hint)) if typing.get_origin(hint) is typing.Literal else [hint]


def probe(model_class: ModelClass, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Facts of one class as a record; see `small_model`, `live_facts` and `saved_facts`."""
    with time_limit(_SECONDS), tempfile.TemporaryDirectory() as folder:
        model = small_model(model_class, changes)
        saved = saved_facts(model, live_facts(model), Path(folder))
        # A text model of a larger one is saved under a type of its own.
        types = {model_class.model_type: None, model.config.model_type: None}
        return {"model_types": [*types], "class": model_class.name} | saved


def class_records(model_class: ModelClass) -> list[dict[str, Any]]:
    """Facts of one class: at its defaults, then with each setting that changes its final norm.

    Raises:
        NotProbedError: As for `live_facts` and `saved_facts`.
        Exception: Whatever the class raises when it is built or run.
    """
    record = probe(model_class)
    record["ties"] = False
    for tied in (True, False):
        try:
            changed = probe(model_class, {"tie_word_embeddings": tied})
        except Exception:
            continue
        record["ties"] |= changed["tied"]
        # An untied model stores all keys, and each is that of its own role.
        _add_keys(record, changed, in_front=not tied)
        if _norm(changed) != _norm(record):
            raise NotProbedError("its final norm depends on whether it is tied")
    if not record["output_embedding"]:  # it was never untied
        record["output_embedding"] = [record["head"]]
    del record["head"]
    record |= softcap_facts(model_class)
    records = [record]
    for changes in variations(model_class):
        try:
            changed = probe(model_class, changes)
        except NotProbedError as error:
            records.append(record | {"when": changes, "refused": str(error)})
            continue
        except Exception:
            continue
        if _norm(changed) == _norm(record):
            _add_keys(record, changed)
            continue
        kept = (*_KEYS, "ties", "softcap", "softcap_setting")
        changed |= {key: record[key] for key in kept if key in record}
        del changed["head"]
        projection = changed.get("before")
        changed |= {"requires": [f"{projection}.weight"]} if projection else {"when": changes}
        records.append(changed)
    return records


def _add_keys(record: dict[str, Any], changed: Mapping[str, Any], in_front: bool = False) -> None:
    for role in _KEYS:
        keys = [changed[role], record[role]] if in_front else [record[role], changed[role]]
        record[role] = list(dict.fromkeys(key for part in keys for key in part))


_KEYS = ("input_embedding", "output_embedding", "output_bias")


def _norm(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: record.get(key) for key in ("norm", "gain", "final_norm", "bias", "before")}


def main(only: list[str]) -> None:
    """Probe every class and write the facts, or print those of some model types."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.filterwarnings("ignore")
    records: list[dict[str, Any]] = []
    refused: dict[str, str] = {}
    not_built: dict[str, str] = {}
    for model_class in model_classes():
        if only and model_class.model_type not in only:
            continue
        try:
            records += class_records(model_class)
        except NotProbedError as error:
            refused[str(model_class)] = str(error)
        except Exception as error:
            message = " ".join(str(error).split())[:160]
            not_built[str(model_class)] = f"{type(error).__name__}: {message}"
        print(model_class, "refused" * (str(model_class) in refused), flush=True)
    lines = ",\n".join(json.dumps(record) for record in records)
    written = (
        f'{{"transformers": "{transformers.__version__}",\n"classes": [\n{lines}\n],\n'
        f'"refused": {json.dumps(refused, indent=0)},\n'
        f'"not_built": {json.dumps(not_built, indent=0)}}}\n'
    )
    if only:
        print(written)
    else:
        FACTS.write_text(written, "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
