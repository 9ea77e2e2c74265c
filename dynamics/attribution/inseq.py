"""Attributions as files of Inseq 0.7, written and read without Inseq.

The format is that of `inseq.data.attribution` and `inseq.utils.serialization` in Inseq 0.7: JSON in
which an object is its class and its attributes, and a tensor is a safetensors file with the one
tensor `attribution`, in base64. Classes named in a file are never imported.

P positions that are scored, T targets, G tokens of Inseq's target, L layers.
"""

import base64
import gzip
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.numpy import load, save

from dynamics.attribution.result import Attribution, Target
from dynamics.errors import ConfigError, CorpusError

_DATA, _TYPING = "inseq.data.attribution", "inseq.utils.typing"
_COARSE = "CoarseFeatureAttributionSequenceOutput"
_LAYERED = "MultiDimensionalFeatureAttributionSequenceOutput"
_EXTRA = "dynamics"  # the entry of `info` with the fields that Inseq has no place for
_GZIP = b"\x1f\x8b"
_MALFORMED = (  # errors of reading a file that is not of Inseq
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    EOFError,
    RecursionError,
    zlib.error,
    SafetensorError,
)


def to_inseq(attributions: Iterable[Attribution]) -> str:
    """Return the text of a JSON file that `inseq.FeatureAttributionOutput.load` reads.

    A causal prediction is a generated token, scored over the tokens before it; other predictions
    are the target of an encoder-decoder whose source is the text. Consecutive layers of one text
    are one sequence with a dimension for layers. Checks are step scores. Scores are in float32;
    fields that Inseq has no place for are in `info`.

    Args:
        attributions: Attributions of one model and method, as one file of Inseq holds them.

    Raises:
        ConfigError: There are none, or they are of several models or methods.
    """
    attributions = list(attributions)
    sources = {(attribution.model, attribution.method) for attribution in attributions}
    if len(sources) != 1:
        names = ", ".join(f"{method} of {model}" for model, method in sorted(sources)) or "nothing"
        raise ConfigError(
            f"an Inseq file holds the attributions of one model by one method, not of {names}; "
            "write one file for each"
        )
    sequences = _group_layers(attributions)
    first = attributions[0]
    info = {
        "attribution_method": first.method,
        "attribute_target": _is_generated(first) and first.task == "seq2seq",
        "attr_pos_start": None,
        "attr_pos_end": None,
        "constrained_decoding": first.asked.get("target") == "given",
        "generated_texts": [_generated_text(group[0]) for group in sequences],
        "include_eos_baseline": False,
        "input_texts": [group[0].text for group in sequences],
        "model_class": None,
        "model_name": first.model,
        "step_scores": list(first.checks),
        "tokenizer_class": None,
        "tokenizer_name": None,
        _EXTRA: [[_extra(attribution) for attribution in group] for group in sequences],
    }
    content = {
        "sequence_attributions": [_sequence(group) for group in sequences],
        "step_attributions": None,
        "info": info,
    }
    output = _instance(_DATA, "FeatureAttributionOutput", content)
    return json.dumps(output, indent=4, sort_keys=True)


def from_inseq(path: Path) -> list[Attribution]:
    """Read a file of Inseq, or of `to_inseq`, with a score for each token, or token and layer.

    Each side of an encoder-decoder and each layer becomes an attribution. In a file that Inseq
    wrote there are no words, and no token counts as special.

    Args:
        path: JSON, gzipped or not.

    Raises:
        CorpusError: The file cannot be read, or was not saved by Inseq.
        ConfigError: Its scores have more dimensions; aggregate them in Inseq before saving.
    """
    try:
        raw = path.read_bytes()
        content = json.loads(gzip.decompress(raw) if raw.startswith(_GZIP) else raw)
        return _read(content["attributes"])
    except OSError as error:
        raise CorpusError(f"{path} cannot be read: {error.strerror or error}") from error
    except _MALFORMED as error:
        raise CorpusError(
            f"{path} is no file that Inseq saved ({type(error).__name__}: {error}); save it with "
            "FeatureAttributionOutput.save"
        ) from error


def _group_layers(attributions: Sequence[Attribution]) -> list[list[Attribution]]:
    """Group consecutive attributions that differ in an ascending layer only."""
    groups: list[list[Attribution]] = []
    for attribution in attributions:
        if groups and _is_later_layer(groups[-1][-1], attribution):
            groups[-1].append(attribution)
        else:
            groups.append([attribution])
    return groups


def _is_later_layer(first: Attribution, second: Attribution) -> bool:
    """Return whether the second attribution is of the same text and a later layer."""
    if first.layer is None or second.layer is None or first.layer >= second.layer:
        return False
    return all(
        getattr(first, name) == getattr(second, name)
        for name in ("text", "tokens", "token_ids", "targets", "revision", "side", "norm_source")
    )


def _is_generated(attribution: Attribution) -> bool:
    """Return whether the targets are consecutive and see no later token: generated, in Inseq."""
    task, side = attribution.task, attribution.side
    if task != "causal" and (task, side) != ("seq2seq", "target"):
        return False
    positions = [target.position for target in attribution.targets]
    first, scores = positions[0], attribution.scores
    return (
        1 <= first <= len(attribution.tokens)
        and positions == list(range(first, first + len(positions)))
        and all(np.isnan(scores[start:, target]).all() for target, start in enumerate(positions))
    )


def _generated_text(attribution: Attribution) -> str:
    """Return the tokens of Inseq's target as one text."""
    tokens, _ = _target_side(attribution)
    return "".join(token for token, _ in tokens).strip()


def _target_side(attribution: Attribution) -> tuple[list[tuple[str, int]], int]:
    """Return the tokens of Inseq's target with their ids, and the index of the first explained."""
    predicted = [(target.token, target.token_id) for target in attribution.targets]
    if not _is_generated(attribution):
        return predicted, 0
    start = attribution.targets[0].position
    prefix = list(zip(attribution.tokens, attribution.token_ids, strict=True))[:start]
    return [*prefix, *predicted], start


def _sequence(group: Sequence[Attribution]) -> dict[str, Any]:
    """Return Inseq's record of one text: its tokens, and scores with an axis for several layers."""
    first = group[0]
    tokens, start = _target_side(first)
    generated = _is_generated(first)
    layered = len(group) > 1
    size = len(tokens) if generated else len(first.tokens)
    scores = np.full((size, len(first.targets), len(group)), np.nan, dtype=np.float32)
    for layer, attribution in enumerate(group):
        scores[: len(attribution.scores), :, layer] = attribution.scores[:size]
    encoded = _encode(scores if layered else scores[..., 0])
    source = tokens[:start] if generated else list(zip(first.tokens, first.token_ids, strict=True))
    content = {
        "source": _tokens(source),
        "target": _tokens(tokens),
        "source_attributions": None if generated else encoded,
        "target_attributions": encoded if generated else None,
        "step_scores": {
            name: _encode(np.array(values, dtype=np.float32))
            for name, values in first.checks.items()
        },
        "sequence_scores": {},
        "attr_pos_start": start,
        "attr_pos_end": len(tokens),
    }
    if layered:
        content["_num_dimensions"] = 1
    return _instance(_DATA, _LAYERED if layered else _COARSE, content)


def _extra(attribution: Attribution) -> dict[str, Any]:
    """Return all fields but the scores; tokens and targets show whether Inseq changed the file."""
    return {key: value for key, value in attribution.to_dict().items() if key != "scores"}


def _instance(module: str, name: str, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return an object as Inseq's JSON writes it: its class and its attributes."""
    return {"__instance_type__": [module, name], "attributes": attributes}


def _tokens(tokens: Iterable[tuple[str, int]]) -> list[dict[str, Any]]:
    """Return tokens with their ids as objects of Inseq."""
    return [
        _instance(_TYPING, "TokenWithId", {"token": token, "id": token_id})
        for token, token_id in tokens
    ]


def _encode(values: np.ndarray) -> str:
    """Return an array as base64 of a safetensors file."""
    return base64.b64encode(save({"attribution": np.ascontiguousarray(values)})).decode()


def _decode(encoded: str) -> Float[np.ndarray, "..."]:
    """Return the array that `_encode` wrote, in float64."""
    return load(base64.b64decode(encoded, validate=True))["attribution"].astype(float)


def _read(output: Mapping[str, Any]) -> list[Attribution]:
    """Return the attributions in the attributes of an output of Inseq."""
    info, sequences = output["info"], output["sequence_attributions"]
    missing = [None] * len(sequences)
    extras, texts = info.get(_EXTRA, missing), info.get("input_texts", missing)
    if len(extras) != len(sequences):  # Inseq merged several files, and kept `info` of the first
        extras = missing
    attributions = []
    for sequence, text, extra in zip(sequences, texts, extras, strict=True):
        parts = sequence["attributes"]
        for side in ("source_attributions", "target_attributions"):
            if parts[side] is not None:
                layered = sequence["__instance_type__"][1] == _LAYERED
                scores = _with_layer_axis(_decode(parts[side]), layered)
                plain = _plain(parts, side, scores, text, info)
                attributions += _restore(plain, extra) if extra else plain
    return attributions


def _with_layer_axis(scores: Float[np.ndarray, "..."], layered: bool) -> Float[np.ndarray, "P T L"]:
    """Return scores with an axis for layers, of size 1 where the file has none."""
    if scores.ndim == 2:
        return scores[:, :, None]
    if scores.ndim != 3 or not layered:
        raise ConfigError(
            f"the file holds scores of shape {scores.shape}, expected one for each token and "
            "target (and layer); call .aggregate() in Inseq before .save()"
        )
    return scores


def _plain(
    parts: Mapping[str, Any],
    side: str,
    scores: Float[np.ndarray, "P T L"],
    text: str | None,
    info: Mapping[str, Any],
) -> list[Attribution]:
    """Return attributions from the fields that Inseq itself writes."""
    source, target = (
        [(token["attributes"]["token"], token["attributes"]["id"]) for token in parts[key]]
        for key in ("source", "target")
    )
    start, end = parts["attr_pos_start"], parts["attr_pos_end"]
    scored = source if side == "source_attributions" else target
    explained = target[start:end]
    if scores.shape[:2] != (len(scored), len(explained)):
        raise ValueError(f"scores of shape {scores.shape} for {len(scored)} tokens")
    tokens, token_ids = zip(*scored, strict=True)
    target_only = parts["source_attributions"] is None
    layers = range(scores.shape[2]) if scores.shape[2] > 1 else [None]
    return [
        Attribution(
            text="".join(tokens) if text is None else text,
            tokens=list(tokens),
            token_ids=list(token_ids),
            special=[False] * len(tokens),
            words=[None] * len(tokens),
            targets=[
                Target(position, token_id, token)
                for position, (token, token_id) in enumerate(explained, start)
            ],
            scores=scores[:, :, index],
            method=str(info.get("attribution_method")),
            model=str(info.get("model_name")),
            layer=layer,
            side="target" if side == "target_attributions" and not target_only else "source",
            task="causal" if target_only else None,
            checks={
                name: _decode(values).tolist()
                for name, values in (parts["step_scores"] or {}).items()
            },
        )
        for index, layer in enumerate(layers)
    ]


def _restore(
    plain: Sequence[Attribution], extras: Sequence[Mapping[str, Any]]
) -> list[Attribution]:
    """Add the fields that `to_inseq` stored, unless Inseq has changed the tokens since."""
    if len(plain) != len(extras):
        return list(plain)
    restored = []
    for attribution, extra in zip(plain, extras, strict=True):
        size = min(len(attribution.tokens), len(extra["tokens"]))
        end = size if attribution.task is None else attribution.targets[0].position
        target_ids = [target["token_id"] for target in extra["targets"]]
        is_unchanged = (
            extra["token_ids"][:end] == list(attribution.token_ids[:end])
            and extra["tokens"][:end] == list(attribution.tokens[:end])
            and target_ids == [target.token_id for target in attribution.targets]
        )
        if not is_unchanged:
            return list(plain)
        scores = np.full((len(extra["tokens"]), len(target_ids)), np.nan)
        scores[:size] = attribution.scores[:size]
        restored.append(
            replace(Attribution.from_dict({**extra, "scores": scores.tolist()}), scores=scores)
        )
    return restored
