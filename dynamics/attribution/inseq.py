"""Attributions as files of Inseq 0.7, written and read without it.

The format is that of `inseq.data.attribution` and `inseq.utils.serialization` in Inseq 0.7: JSON in
which an object is its class and its attributes, and a tensor is a safetensors file with the one
tensor `attribution`, in base64. Classes named in a file are never imported here.

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
_OWN = "dynamics"  # the entry of `info` that holds what Inseq has no place for
_GZIP = b"\x1f\x8b"
_MALFORMED = (  # what reading anything else than such a file ends in
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
    """The text of a JSON file that `inseq.FeatureAttributionOutput.load` reads.

    A causal prediction is a generated token, scored over the tokens before it; other predictions
    are the target of an encoder-decoder whose source is the text. Consecutive layers of one text
    are one sequence with a dimension for layers. Checks are step scores. Scores are kept in
    float32; what Inseq has no place for stands in `info`.

    Args:
        attributions: Of one model and method, which is what one file of Inseq holds.

    Raises:
        ConfigError: There is none, or they are of several models or methods.
    """
    given = list(attributions)
    made_by = {(each.model, each.method) for each in given}
    if len(made_by) != 1:
        told = ", ".join(f"{method} of {model}" for model, method in sorted(made_by)) or "nothing"
        raise ConfigError(
            f"an Inseq file holds the attributions of one model by one method, not of {told}; "
            "write one file for each"
        )
    sequences = _by_layers(given)
    first = given[0]
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
        _OWN: [[_own(each) for each in group] for group in sequences],
    }
    content = {
        "sequence_attributions": [_sequence(group) for group in sequences],
        "step_attributions": None,
        "info": info,
    }
    whole = _instance(_DATA, "FeatureAttributionOutput", content)
    return json.dumps(whole, indent=4, sort_keys=True)


def from_inseq(path: Path) -> list[Attribution]:
    """Read a file of Inseq: ours, or one with a score for each token, or token and layer.

    Sides of an encoder-decoder become attributions of their own, and so do layers. What stock
    Inseq does not tell is empty: words, and which tokens are special.

    Args:
        path: JSON, gzipped or not.

    Raises:
        CorpusError: The file cannot be read, or is no such file.
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


def _by_layers(given: Sequence[Attribution]) -> list[list[Attribution]]:
    groups: list[list[Attribution]] = []
    for each in given:
        if groups and _follows(groups[-1][-1], each):
            groups[-1].append(each)
        else:
            groups.append([each])
    return groups


def _follows(before: Attribution, after: Attribution) -> bool:
    """Whether two are layers of one text, in ascending order."""
    if before.layer is None or after.layer is None or before.layer >= after.layer:
        return False
    return all(
        getattr(before, name) == getattr(after, name)
        for name in ("text", "tokens", "token_ids", "targets", "revision", "side", "norm_source")
    )


def _is_generated(one: Attribution) -> bool:
    """Whether targets follow the scored tokens one by one, as what Inseq calls generated."""
    if one.task != "causal" and (one.task, one.side) != ("seq2seq", "target"):
        return False
    positions = [each.position for each in one.targets]
    first = positions[0]
    return (
        1 <= first <= len(one.tokens)
        and positions == list(range(first, first + len(positions)))
        and all(np.isnan(one.scores[at:, target]).all() for target, at in enumerate(positions))
    )


def _generated_text(one: Attribution) -> str:
    tokens, _ = _target_side(one)
    return "".join(token for token, _ in tokens).strip()


def _target_side(one: Attribution) -> tuple[list[tuple[str, int]], int]:
    """Tokens of Inseq's target with their ids, and the first that is explained."""
    predicted = [(each.token, each.token_id) for each in one.targets]
    if not _is_generated(one):
        return predicted, 0
    start = one.targets[0].position
    before = list(zip(one.tokens, one.token_ids, strict=True))[:start]
    return [*before, *predicted], start


def _sequence(group: Sequence[Attribution]) -> dict[str, Any]:
    one = group[0]
    tokens, start = _target_side(one)
    generated = _is_generated(one)
    layered = len(group) > 1
    size = len(tokens) if generated else len(one.tokens)
    scores = np.full((size, len(one.targets), len(group)), np.nan, dtype=np.float32)
    for layer, each in enumerate(group):
        scores[: len(each.scores), :, layer] = each.scores[:size]
    encoded = _encode(scores if layered else scores[..., 0])
    source = tokens[:start] if generated else list(zip(one.tokens, one.token_ids, strict=True))
    content = {
        "source": _tokens(source),
        "target": _tokens(tokens),
        "source_attributions": None if generated else encoded,
        "target_attributions": encoded if generated else None,
        "step_scores": {
            name: _encode(np.array(values, dtype=np.float32)) for name, values in one.checks.items()
        },
        "sequence_scores": {},
        "attr_pos_start": start,
        "attr_pos_end": len(tokens),
    }
    if layered:
        content["_num_dimensions"] = 1
    return _instance(_DATA, _LAYERED if layered else _COARSE, content)


def _own(one: Attribution) -> dict[str, Any]:
    """What Inseq has no place for, and what tells whether the tensors still belong to it."""
    return {key: value for key, value in one.to_dict().items() if key != "scores"}


def _instance(module: str, name: str, attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {"__instance_type__": [module, name], "attributes": attributes}


def _tokens(tokens: Iterable[tuple[str, int]]) -> list[dict[str, Any]]:
    return [
        _instance(_TYPING, "TokenWithId", {"token": token, "id": token_id})
        for token, token_id in tokens
    ]


def _encode(values: np.ndarray) -> str:
    return base64.b64encode(save({"attribution": np.ascontiguousarray(values)})).decode()


def _decode(encoded: str) -> Float[np.ndarray, "..."]:
    return load(base64.b64decode(encoded, validate=True))["attribution"].astype(float)


def _read(output: Mapping[str, Any]) -> list[Attribution]:
    info, sequences = output["info"], output["sequence_attributions"]
    nothing = [None] * len(sequences)
    own, texts = info.get(_OWN, nothing), info.get("input_texts", nothing)
    if len(own) != len(sequences):  # Inseq merged several files, and kept the first one's
        own = nothing
    read = []
    for sequence, text, mine in zip(sequences, texts, own, strict=True):
        parts = sequence["attributes"]
        for side in ("source_attributions", "target_attributions"):
            if parts[side] is not None:
                layered = sequence["__instance_type__"][1] == _LAYERED
                scores = _by_layer(_decode(parts[side]), layered)
                plain = _plain(parts, side, scores, text, info)
                read += _restored(plain, mine) if mine else plain
    return read


def _by_layer(scores: Float[np.ndarray, "..."], layered: bool) -> Float[np.ndarray, "P T L"]:
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
    """Attributions from what stock Inseq tells."""
    source, target = (
        [(each["attributes"]["token"], each["attributes"]["id"]) for each in parts[key]]
        for key in ("source", "target")
    )
    start, end = parts["attr_pos_start"], parts["attr_pos_end"]
    scored = source if side == "source_attributions" else target
    explained = target[start:end]
    if scores.shape[:2] != (len(scored), len(explained)):
        raise ValueError(f"scores of shape {scores.shape} for {len(scored)} tokens")
    tokens, token_ids = zip(*scored, strict=True)
    alone = parts["source_attributions"] is None
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
            side="target" if side == "target_attributions" and not alone else "source",
            task="causal" if alone else None,
            checks={
                name: _decode(values).tolist()
                for name, values in (parts["step_scores"] or {}).items()
            },
        )
        for index, layer in enumerate(layers)
    ]


def _restored(plain: Sequence[Attribution], own: Sequence[Mapping[str, Any]]) -> list[Attribution]:
    """With what our own part of the file adds, unless Inseq has changed the tokens since."""
    if len(plain) != len(own):
        return list(plain)
    restored = []
    for one, mine in zip(plain, own, strict=True):
        size = min(len(one.tokens), len(mine["tokens"]))
        before = size if one.task is None else one.targets[0].position
        ids = [each["token_id"] for each in mine["targets"]]
        same = (
            mine["token_ids"][:before] == list(one.token_ids[:before])
            and mine["tokens"][:before] == list(one.tokens[:before])
            and ids == [each.token_id for each in one.targets]
        )
        if not same:
            return list(plain)
        scores = np.full((len(mine["tokens"]), len(ids)), np.nan)
        scores[:size] = one.scores[:size]
        restored.append(
            replace(Attribution.from_dict({**mine, "scores": scores.tolist()}), scores=scores)
        )
    return restored
