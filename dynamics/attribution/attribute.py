"""Explains the predictions of a model: texts in, attributions out."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from dynamics.attribution.inputs import Content, Input, as_texts, encode, surfaces, to_batch
from dynamics.attribution.methods import Method, find_method
from dynamics.attribution.question import Question, Scores, Settings
from dynamics.attribution.result import Attribution, Target
from dynamics.attribution.targets import (
    NOTHING,
    Ask,
    Place,
    predicted_columns,
    prepare,
    resolve,
)
from dynamics.errors import CheckpointError, ConfigError, MeasureError
from dynamics.models.live_model import LiveModel
from dynamics.models.named_errors import named_errors

CONVERGED = 0.05  # completeness delta above which integrated gradients are flagged
CAUSAL = (
    "the representation of a token predicts what follows that token; at the read-out its logit is "
    "the prediction itself"
)


def attribute(
    model: LiveModel,
    texts: Content | Iterable[Content],
    *,
    method: str = "normxlogit",
    ask: Ask | None = None,
    layers: Sequence[int] | Literal["all"] | None = None,
    settings: Settings | None = None,
    exclude_readout: bool = False,
    batch_size: int = 16,
) -> Iterator[Attribution]:
    """Attribute predictions to the tokens of each text.

    Scores do not depend on what else is in the batch.

    Args:
        model: From `load_model`.
        texts: Texts, conversations (lists of chat messages with `role` and `content`), or mappings
            with `text` or `messages` and, where wanted, `text_pair`, `continuation`, and a `target`
            and `foil` of its own; or one of them alone.
        method: Name in `METHODS`.
        ask: Which predictions; the model's own when None.
        layers: Layers whose representations the head reads, 0 for the embeddings; None for the
            last one only.
        settings: How; the paper's norm and logit when None.
        exclude_readout: Leave out the position that the prediction is read from.
        batch_size: Inputs that are run at once.

    Yields:
        For each text in order, one attribution for each layer.

    Raises:
        CheckpointError: The method needs a head that the model does not have.
        ConfigError: A text is empty, or the method, target, layer or setting does not fit.
        MeasureError: The model gives NaN.
    """
    if batch_size < 1:
        raise ConfigError(f"a batch of {batch_size} inputs runs nothing; give 1 or more")
    settings, ask = settings or Settings(), ask or Ask()
    for given, kind in ((settings, Settings), (ask, Ask)):
        if not isinstance(given, kind):
            raise ConfigError(
                f"{kind.__name__.lower()} is of type {type(given).__name__}; give an object of "
                f"{kind.__module__}.{kind.__name__}"
            )
    chosen = find_method(method, model)
    each_layer = _layers(model, layers, settings)
    waiting = iter(as_texts(texts))
    while group := list(islice(waiting, batch_size)):
        asked = [_prepare(model, text, ask, chosen) for text in group]
        with named_errors(model.network, model.name, "a forward pass"):
            question, asked, targets = _question(
                model, asked, settings, chosen, blocks=layers is not None
            )
        for_layer = [
            replace(question, settings=replace(settings, layer=layer)) for layer in each_layer
        ]
        with named_errors(model.network, model.name, method):
            answers = [_answer(each, chosen, lens=layers is not None) for each in for_layer]
        for index, (one, explained) in enumerate(zip(asked, targets, strict=True)):
            for each, scores in zip(for_layer, answers, strict=True):
                yield _attribution(each, scores, index, one, explained, method, exclude_readout)


@dataclass(frozen=True)
class _Asked:
    """An input with what is asked of it."""

    given: Input
    places: Sequence[Place]
    ask: Ask


def _layers(
    model: LiveModel, layers: Sequence[int] | Literal["all"] | None, settings: Settings
) -> Sequence[int | None]:
    if layers is None:
        if settings.layer is None:
            return [None]
        layers = [settings.layer]
    if isinstance(layers, int) or (isinstance(layers, str) and layers != "all"):
        raise ConfigError(f"layers are a list of numbers or 'all'; got {layers!r}")
    depth = model.stack(settings.side).depth
    chosen = range(depth + 1) if layers == "all" else layers
    if wrong := [layer for layer in chosen if not 0 <= layer <= depth]:
        raise ConfigError(
            f"{model.name} has no layer {wrong[0]}; its layers are 0 (embeddings) to {depth}"
        )
    return chosen


def _prepare(model: LiveModel, text: Content, ask: Ask, method: Method) -> _Asked:
    if isinstance(text, Mapping):
        ask = replace(
            ask, **{key: text[key] for key in ("target", "foil") if text.get(key) is not None}
        )
    given = encode(model, text)
    if model.task == "none" and method.needs == "nothing":
        return _Asked(given, [NOTHING], ask)
    return _Asked(*prepare(model, given, ask, reads_head=method.needs == "head"), ask)


@torch.no_grad()
def _question(
    model: LiveModel, asked: Sequence[_Asked], settings: Settings, method: Method, *, blocks: bool
) -> tuple[Question, list[_Asked], list[list[Target]]]:
    """A batch, run once; the inputs with what the model predicts of them; what is explained."""
    readouts = _padded([[place.readout for place in each.places] for each in asked], model)
    batch = to_batch(model, [each.given for each in asked])
    question = Question(model, batch, readouts, readouts, readouts, settings)
    question = replace(question, reading=question.read(blocks=blocks))
    asked = _predicted(question, asked, method)
    targets = [resolve(model, each.places, each.ask) for each in asked]
    foils = [[-1 if each.foil_id is None else each.foil_id for each in row] for row in targets]
    question = replace(
        question,
        readouts=_padded([[place.readout for place in each.places] for each in asked], model),
        targets=_padded([[each.token_id for each in row] for row in targets], model),
        foils=_padded(foils, model),
    )
    return question, asked, targets


def _predicted(question: Question, asked: Sequence[_Asked], method: Method) -> list[_Asked]:
    """The inputs with what the model predicts at places where nothing else is asked for.

    Raises:
        CheckpointError: The method needs the head, which does not give the network's own logits.
        MeasureError: Logits are not finite.
    """
    places = [(one, place) for one in asked for place in one.places]
    unknown = any(place.token_id is None for _, place in places)
    if question.model.task == "none" or (method.needs == "nothing" and not unknown):
        return list(asked)
    logits = _logits(question, method, every=unknown)
    for (one, _), finite in zip(places, logits.isfinite().all(-1), strict=True):
        if not finite:
            raise MeasureError(
                f"{question.model.name} gives logits that are not finite for "
                f"{one.given.text[:60]!r}; its weights or its dtype are at fault"
            )
    rows = iter(logits)
    return [
        replace(
            one,
            places=[
                replace(place, token_id=column)
                for place, row in zip(one.places, rows, strict=False)
                for column in (
                    predicted_columns(question.model, row)
                    if place.token_id is None
                    else [place.token_id]
                )
            ],
        )
        for one in asked
    ]


def _logits(question: Question, method: Method, *, every: bool) -> Float[Tensor, "N C"]:
    """Logits of each target; the head is held against the network where the method needs it."""
    reading, model = question.read(), question.model
    if model.output.over == "labels":
        return (
            question.head_logits(reading)
            if method.needs == "head"
            else question.own_logits(reading)
        )
    try:
        return question.head_logits(reading, every=every)
    except CheckpointError:
        if method.needs == "head":
            raise
    return question.own_logits(model.read(question.batch, columns=model.output.every_column))


def _answer(question: Question, method: Method, *, lens: bool) -> Scores:
    scores = method.function(question)
    if lens and method.needs != "nothing" and (kl := question.lens_divergence()) is not None:
        scores = replace(scores, checks={**scores.checks, "kl_nats": kl})
    return scores


def _attribution(
    question: Question,
    scores: Scores,
    index: int,
    asked: _Asked,
    targets: Sequence[Target],
    method: str,
    exclude_readout: bool,
) -> Attribution:
    model, settings = question.model, question.settings
    tokens = asked.given.tokens if question.crosses else asked.given.predicting
    size, count = len(tokens), len(targets)
    values = _wide(scores.values[index, :size, :count]).masked_fill(
        ~question.visible[index, :size, :count], torch.nan
    )
    if (values.isnan() & question.visible[index, :size, :count]).any():
        raise MeasureError(
            f"{method} gives NaN for {asked.given.text[:60]!r}; the weights or the dtype of "
            f"{model.name} are at fault"
        )
    if exclude_readout and not question.crosses:
        for column, place in enumerate(asked.places):
            if place.position >= 0:  # no position alone is read where all are
                values[place.readout, column] = torch.nan
    checks = {name: each[index, :count].tolist() for name, each in scores.checks.items()}
    return Attribution(
        text=asked.given.text,
        tokens=surfaces(model, tokens.ids),
        token_ids=tokens.ids,
        special=tokens.special,
        words=tokens.words,
        word_texts=tokens.word_texts,
        targets=targets,
        scores=values.numpy(force=True).astype(float),
        norm=_part(scores.norm, index, size),
        logit=None if scores.logit is None else _part(scores.logit[..., :count], index, size),
        method=method,
        layer=settings.layer,
        norm_source=settings.norm_source,
        logit_form=settings.logit_form,
        protocol=settings.protocol,
        model=model.name,
        revision=model.revision,
        side=settings.side,
        task=model.task,
        checks=checks,
        notes=_notes(model, asked.given, checks),
    )


def _notes(model: LiveModel, given: Input, checks: Mapping[str, Sequence[float]]) -> list[str]:
    notes = []
    if given.dropped:
        end = "first" if model.task == "causal" else "last"
        notes.append(
            f"the {end} {given.dropped} tokens were cut off: the window of {model.name} has "
            f"{model.max_length}"
        )
    if model.task == "causal":
        notes.append(CAUSAL)
    if max(checks.get("completeness_delta", [0])) > CONVERGED:
        notes.append(
            f"integrated gradients have not converged: they miss the change of the prediction by "
            f"{max(checks['completeness_delta']):.0%}"
        )
    return notes


def _padded(rows: Sequence[Sequence[int]], model: LiveModel) -> Int[Tensor, "B T"]:
    width = max(map(len, rows))
    padded = [[*row, *[-1] * (width - len(row))] for row in rows]
    return torch.tensor(padded, device=model.device)


def _part(values: Tensor | None, index: int, size: int) -> Float[np.ndarray, "..."] | None:
    return None if values is None else _wide(values[index, :size]).numpy(force=True).astype(float)


def _wide(values: Tensor) -> Tensor:
    """In float32 or wider: numpy has no bfloat16."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
