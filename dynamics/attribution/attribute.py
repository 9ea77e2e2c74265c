"""Explain the predictions of a model: texts in, attributions out."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Literal, TypedDict, Unpack

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from dynamics.attribution.batch import AttributionBatch, Scores
from dynamics.attribution.contents import Content, as_texts
from dynamics.attribution.inputs import Input, encode, surfaces, to_batch
from dynamics.attribution.methods import Method, find_method
from dynamics.attribution.result import Attribution, Target
from dynamics.attribution.settings import AttributionSettings
from dynamics.attribution.targets import (
    NO_TARGET,
    TargetPosition,
    TargetSpec,
    locate,
    predicted_columns,
    resolve,
)
from dynamics.errors import CheckpointError, ConfigError, MeasureError
from dynamics.former_names import renamed_argument
from dynamics.models.live_model import LiveModel
from dynamics.models.named_errors import named_errors

CONVERGED = 0.05  # completeness delta above which integrated gradients are flagged
CAUSAL = (
    "the representation of a token predicts what follows that token; at the read-out its logit is "
    "the prediction itself"
)


class AttributeOptions(TypedDict, total=False):
    """Options of `attribute`; None stands for the default.

    Attributes:
        target_spec: Predictions to explain; the model's own by default.
        layers: Layers whose representations the head reads, 0 for the embeddings; the last one
            only by default.
        settings: Settings of the method.
        exclude_readout: Leave out the position that the prediction is read from.
        batch_size: Inputs that run at once; 16 by default.
    """

    target_spec: TargetSpec | None
    layers: Sequence[int] | Literal["all"] | None
    settings: AttributionSettings | None
    exclude_readout: bool
    batch_size: int


@dataclass(frozen=True, kw_only=True)
class Attributing:
    """The options of `attribute`, checked, with their defaults.

    Attributes:
        target_spec: As in `AttributeOptions`, like the others.
        layers: None for the layer of the settings.
        settings: Settings of the method.
        exclude_readout: Leave out the position that the prediction is read from.
        batch_size: Inputs that run at once.

    Raises:
        ConfigError: An option is of the wrong type, or the batch size is less than 1.
    """

    target_spec: TargetSpec = field(default_factory=TargetSpec)
    layers: Sequence[int] | Literal["all"] | None = None
    settings: AttributionSettings = field(default_factory=AttributionSettings)
    exclude_readout: bool = False
    batch_size: int = 16

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1; got {self.batch_size}")
        for name, kind in (("settings", AttributionSettings), ("target_spec", TargetSpec)):
            if not isinstance(value := getattr(self, name), kind):
                raise ConfigError(
                    f"{name} is of type {type(value).__name__}; give an object of "
                    f"{kind.__module__}.{kind.__name__}"
                )

    def layer_numbers(self, model: LiveModel) -> Sequence[int | None]:
        """Return the layers that the head reads, None for the last one where none is named.

        Raises:
            ConfigError: The model has no such layer, or the layers are no numbers.
        """
        layers = self.layers
        if layers is None:
            if self.settings.layer is None:
                return [None]
            layers = [self.settings.layer]
        if isinstance(layers, int) or (isinstance(layers, str) and layers != "all"):
            raise ConfigError(f"layers are a list of numbers or 'all'; got {layers!r}")
        depth = model.stack(self.settings.side).depth
        numbers = range(depth + 1) if layers == "all" else layers
        if wrong := [layer for layer in numbers if not 0 <= layer <= depth]:
            raise ConfigError(
                f"{model.name} has no layer {wrong[0]}; its layers are 0 (embeddings) to {depth}"
            )
        return numbers


@renamed_argument("ask", "target_spec")
def attribute(
    model: LiveModel,
    texts: Content | Iterable[Content],
    *,
    method: str = "normxlogit",
    **options: Unpack[AttributeOptions],
) -> Iterator[Attribution]:
    """Attribute predictions to the tokens of each text.

    Scores of a text do not depend on the other texts of its batch.

    Args:
        model: From `load_model`.
        texts: Texts, conversations (lists of chat messages with `role` and `content`), or mappings
            with `text` or `messages` and optionally `text_pair`, `continuation`, `target` and
            `foil`; or a single text, conversation or mapping.
        method: Name in `METHODS`.
        **options: See `AttributeOptions`.

    Returns:
        For each text in order, one attribution for each layer, computed batch by batch.

    Raises:
        CheckpointError: The method needs a head that the model does not have.
        ConfigError: A text is empty, or the method, target, layer or setting does not fit.
        MeasureError: Logits or scores are not finite.

    Example::

        attribute(model, "The cat sat on the")
        attribute(model, ["The cat", {"text": "The dog", "foil": " bit"}], layers="all")
        attribute(model, [{"role": "user", "content": "Hi"}], target_spec=TargetSpec(generate=8))
    """
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    return attribute_with(model, texts, method, Attributing(**given))


def attribute_with(
    model: LiveModel, texts: Content | Iterable[Content], method: str, options: Attributing
) -> Iterator[Attribution]:
    """Yield what `attribute` returns; the options are checked."""
    settings, lens = options.settings, options.layers is not None
    scorer = find_method(method, model)
    layer_numbers = options.layer_numbers(model)
    remaining = iter(as_texts(texts))
    while group := list(islice(remaining, options.batch_size)):
        items = [_prepare(model, text, options.target_spec, scorer) for text in group]
        with named_errors(model.network, model.name, "a forward pass"):
            batch, items, targets = _run_batch(model, items, settings, scorer, blocks=lens)
        batches = [
            replace(batch, settings=replace(settings, layer=layer)) for layer in layer_numbers
        ]
        with named_errors(model.network, model.name, method):
            scores = [_score(batch, scorer, lens=lens) for batch in batches]
        for index, (item, item_targets) in enumerate(zip(items, targets, strict=True)):
            for layer_batch, layer_scores in zip(batches, scores, strict=True):
                attribution = _attribution(
                    layer_batch, layer_scores, index, item, item_targets, method
                )
                if options.exclude_readout and not batch.scores_encoder:
                    _clear_readouts(attribution, item.target_positions)
                yield attribution


@dataclass(frozen=True)
class _Item:
    """An input, and the positions of the targets that are explained in it."""

    encoded: Input
    target_positions: Sequence[TargetPosition]
    target_spec: TargetSpec


def _prepare(model: LiveModel, text: Content, target_spec: TargetSpec, method: Method) -> _Item:
    """Encode a text and find its targets, by its own target and foil where it has them."""
    if isinstance(text, Mapping):
        changes = {key: text[key] for key in ("target", "foil") if text.get(key) is not None}
        target_spec = replace(target_spec, **changes)
    encoded = encode(model, text)
    if model.task == "none" and method.needs == "nothing":
        return _Item(encoded, [NO_TARGET], target_spec)
    located = locate(model, encoded, target_spec, reads_head=method.needs == "head")
    return _Item(*located, target_spec)


@torch.no_grad()
def _run_batch(
    model: LiveModel,
    items: Sequence[_Item],
    settings: AttributionSettings,
    method: Method,
    *,
    blocks: bool,
) -> tuple[AttributionBatch, list[_Item], list[list[Target]]]:
    """Run the model once; return the batch, its items with all targets known, and these targets."""
    readouts = _readouts(model, items)
    inputs = to_batch(model, [item.encoded for item in items])
    batch = AttributionBatch(model, inputs, readouts, readouts, readouts, settings)
    batch = replace(batch, reading=batch.read(blocks=blocks))
    items = _with_predictions(batch, items, method)
    targets = [resolve(model, item.target_positions, item.target_spec) for item in items]
    foils = [[-1 if t.foil_id is None else t.foil_id for t in row] for row in targets]
    batch = replace(
        batch,
        readouts=_readouts(model, items),
        targets=_padded([[target.token_id for target in row] for row in targets], model),
        foils=_padded(foils, model),
    )
    return batch, items, targets


def _with_predictions(
    batch: AttributionBatch, items: Sequence[_Item], method: Method
) -> list[_Item]:
    """Set the targets that are not fixed to the model's prediction at their position.

    Raises:
        CheckpointError: The method needs the head, which does not give the network's own logits.
        MeasureError: Logits are not finite.
    """
    pairs = [(item, position) for item in items for position in item.target_positions]
    predicts = any(position.token_id is None for _, position in pairs)
    if batch.model.task == "none" or (method.needs == "nothing" and not predicts):
        return list(items)
    logits = _logits(batch, method, all_columns=predicts)
    for (item, _), finite in zip(pairs, logits.isfinite().all(-1), strict=True):
        if not finite:
            raise MeasureError(
                f"{batch.model.name} gives logits that are not finite for "
                f"{item.encoded.text[:60]!r}; its weights or its dtype are at fault"
            )
    rows = iter(logits)
    return [
        replace(
            item,
            target_positions=[
                replace(position, token_id=column)
                for position, row in zip(item.target_positions, rows, strict=False)
                for column in (
                    predicted_columns(batch.model, row)
                    if position.token_id is None
                    else [position.token_id]
                )
            ],
        )
        for item in items
    ]


def _logits(batch: AttributionBatch, method: Method, *, all_columns: bool) -> Float[Tensor, "N C"]:
    """Return the logits of each target; a method that needs the head gets those of the head."""
    reading, model = batch.read(), batch.model
    if model.output.over == "labels":
        needs_head = method.needs == "head"
        return batch.head_logits(reading) if needs_head else batch.network_logits(reading)
    try:
        return batch.head_logits(reading, all_columns=all_columns)
    except CheckpointError:
        if method.needs == "head":
            raise
    return batch.network_logits(model.read(batch.inputs, columns=model.output.every_column))


def _score(batch: AttributionBatch, method: Method, *, lens: bool) -> Scores:
    """Score a batch by a method; with a lens, add each layer's divergence from the prediction."""
    scores = method.function(batch)
    if lens and method.needs != "nothing" and (kl := batch.lens_divergence()) is not None:
        scores = replace(scores, checks={**scores.checks, "kl_nats": kl})
    return scores


def _attribution(
    batch: AttributionBatch,
    scores: Scores,
    index: int,
    item: _Item,
    targets: Sequence[Target],
    method: str,
) -> Attribution:
    """Return the attribution of one input of a batch, as plain arrays."""
    model, settings, encoded = batch.model, batch.settings, item.encoded
    tokens = encoded.tokens if batch.scores_encoder else encoded.context
    size, count = len(tokens), len(targets)
    visible = batch.visible[index, :size, :count]
    values = _wide(scores.values[index, :size, :count]).masked_fill(~visible, torch.nan)
    if (values.isnan() & visible).any():
        raise MeasureError(
            f"{method} gives NaN for {encoded.text[:60]!r}; the weights or the dtype of "
            f"{model.name} are at fault"
        )
    checks = {name: check[index, :count].tolist() for name, check in scores.checks.items()}
    return Attribution(
        text=encoded.text,
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
        notes=_notes(model, encoded, checks),
    )


def _clear_readouts(attribution: Attribution, positions: Sequence[TargetPosition]) -> None:
    """Set the score of each target's read-out to NaN; a mean over all positions has none."""
    for column, position in enumerate(positions):
        if position.position >= 0:
            attribution.scores[position.readout, column] = np.nan


def _notes(model: LiveModel, encoded: Input, checks: Mapping[str, Sequence[float]]) -> list[str]:
    """Return remarks for the reader: truncation, causal scores, gradients that did not converge."""
    notes = []
    if encoded.dropped:
        end = "first" if model.task == "causal" else "last"
        notes.append(
            f"the {end} {encoded.dropped} tokens were cut off: the window of {model.name} has "
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


def _readouts(model: LiveModel, items: Sequence[_Item]) -> Int[Tensor, "B T"]:
    """Return the position that each target is read from, -1 where an input has fewer."""
    return _padded([[p.readout for p in item.target_positions] for item in items], model)


def _padded(rows: Sequence[Sequence[int]], model: LiveModel) -> Int[Tensor, "B T"]:
    """Return rows of numbers as a tensor, filled up with -1."""
    width = max(map(len, rows))
    padded = [[*row, *[-1] * (width - len(row))] for row in rows]
    return torch.tensor(padded, device=model.device)


def _part(values: Tensor | None, index: int, size: int) -> Float[np.ndarray, "..."] | None:
    """Return the values of one input without padding, None where the method has none."""
    return None if values is None else _wide(values[index, :size]).numpy(force=True).astype(float)


def _wide(values: Tensor) -> Tensor:
    """Convert to float32 or wider: numpy has no bfloat16."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
