"""What is explained: which prediction of which input.

An input of a causal LM is read out at the token before the one that is predicted; a masked one at
the masked position; a classifier where its head reads.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import GenerationConfig

from dynamics.attribution.inputs import Input, one_token, surfaces
from dynamics.attribution.result import Target
from dynamics.errors import CheckpointError, ConfigError, MeasureError
from dynamics.models.live_model import LiveModel

NAMED_TARGETS = ("predicted", "given")


@dataclass(frozen=True)
class Ask:
    """Which predictions are explained.

    Attributes:
        target: `predicted`, what the model holds most likely; `given`, every token that the text
            or its continuation has, from those before it; else a label, a token or `id:N`.
        foil: Label, token or `id:N` that the target is contrasted with. The number of a label or
            token may also be an int.
        position: Position that is predicted: masked in a masked LM, from the tokens before it in a
            causal one. None is the next token, and each mask in a masked LM.
        generate: Tokens to generate greedily first, and to explain.
    """

    target: str | int = "predicted"
    foil: str | int | None = None
    position: int | None = None
    generate: int = 0


@dataclass(frozen=True)
class Place:
    """Where a prediction is read, and what is predicted there when it is known beforehand.

    Attributes:
        position: As in `Target`.
        readout: Position it is read from.
        token_id: Token or label, None for the model's prediction.
    """

    position: int
    readout: int
    token_id: int | None = None


NOTHING = Place(-1, 0, -1)
"""Where a model without head is read: methods that need no prediction score for one target."""


def prepare(
    model: LiveModel, given: Input, ask: Ask, *, reads_head: bool = True
) -> tuple[Input, list[Place]]:
    """The input as the model gets it, and where its predictions are read.

    Args:
        model: The model.
        given: The input.
        ask: Which predictions.
        reads_head: Whether it must be known which representation a label is read from.

    Raises:
        CheckpointError: It must, and the head reads no single one.
        ConfigError: The target is no single token or no label, the position does not exist, or a
            masked LM has nothing to predict.
    """
    if ask.generate:
        given = _generated(model, given, ask.generate)
    named = None if ask.target in NAMED_TARGETS else _column(model, ask.target)
    if model.output.over == "labels":
        if ask.target == "given" or ask.position is not None:
            raise ConfigError("a classifier predicts a label of the whole text: name one or none")
        readout = _label_readout(model, given, reads_head)
        last = len(given.predicting) - 1
        return given, [
            Place(-1, last, named) if readout is None else Place(readout, readout, named)
        ]
    if model.is_causal:
        return given, _causal(given, ask, named)
    return _masked(model, given, ask, named)


def _label_readout(model: LiveModel, given: Input, reads_head: bool) -> int | None:
    """Position that a label is read from; None for the mean, and where nobody needs to know."""
    try:
        return model.head.position(given.tokens.ids)
    except CheckpointError:
        if reads_head:
            raise
        return None


def _causal(given: Input, ask: Ask, named: int | None) -> list[Place]:
    ids = given.predicting.ids
    if ask.position is not None:
        if not 1 <= ask.position <= len(ids):
            raise ConfigError(
                f"position {ask.position} cannot be predicted from the tokens before it; it is one "
                f"of 1 to {len(ids)} ({len(ids)} is what follows the text)"
            )
        positions = [ask.position]
    elif ask.generate or ask.target == "given":
        positions = list(range(given.given or 1, len(ids)))
    else:
        positions = [len(ids)]
    if ask.target == "given" and (not positions or positions[-1] == len(ids)):
        raise ConfigError(
            "target 'given' needs a token that is given: a text of two tokens or more, or a "
            "continuation"
        )
    known = ask.target == "given" or bool(ask.generate)
    return [
        Place(position, position - 1, ids[position] if known and named is None else named)
        for position in positions
    ]


def _masked(
    model: LiveModel, given: Input, ask: Ask, named: int | None
) -> tuple[Input, list[Place]]:
    mask = model.tokenizer.mask_token_id
    if not isinstance(mask, int):
        raise ConfigError(f"the tokenizer of {model.name} has no mask token")
    ids = list(given.tokens.ids)
    if ask.position is None:
        positions = [index for index, token_id in enumerate(ids) if token_id == mask]
        if not positions:
            raise ConfigError(
                f"the text has no {model.tokenizer.mask_token}; write it where a token is to be "
                "predicted, or name the position of one with --position"
            )
        if ask.target == "given":
            raise ConfigError("target 'given' needs the position of the token, with --position")
    elif not 0 <= ask.position < len(ids) or given.tokens.special[ask.position]:
        raise ConfigError(
            f"position {ask.position} holds no token of the text; its tokens are at "
            f"{_spans(given.tokens.special)}"
        )
    else:
        positions = [ask.position]
    if ask.target == "given":
        named = ids[positions[0]]
    texts = list(given.tokens.word_texts)
    for position in positions:
        word = given.tokens.words[position]
        if ids[position] != mask and word is not None:
            texts[word] = ""  # what is hidden is not shown
        ids[position] = mask
    masked = replace(given, tokens=replace(given.tokens, ids=ids, word_texts=texts))
    return masked, [Place(position, position, named) for position in positions]


def predicted_columns(model: LiveModel, logits: Float[Tensor, " C"]) -> list[int]:
    """What a model predicts: the most likely token or label.

    Of labels that do not compete it is each whose probability is above .5, or the most likely one
    where there is none; of a regression each number.
    """
    if model.task == "regression":
        return list(range(len(logits)))
    above = (logits > 0).nonzero().flatten().tolist() if model.is_multi_label else []
    return above or [int(logits.argmax())]


def resolve(model: LiveModel, places: Sequence[Place], ask: Ask) -> list[Target]:
    """The targets of one input, with their text.

    Args:
        model: The model.
        places: Where predictions are read, and which.
        ask: Which predictions.
    """
    foil_id = None if ask.foil is None else _column(model, ask.foil)
    foil = None if foil_id is None else name(model, foil_id)
    columns = [-1 if place.token_id is None else place.token_id for place in places]
    return [
        Target(place.position, column, name(model, column), foil_id, foil)
        for place, column in zip(places, columns, strict=True)
    ]


def name(model: LiveModel, column: int) -> str:
    """Name of a label, or text of a token; empty where nothing is predicted."""
    if model.task == "none":
        return ""
    if model.output.over == "labels":
        return model.labels.get(column, str(column))
    return surfaces(model, [column])[0]


def _column(model: LiveModel, written: str | int) -> int:
    if isinstance(written, int) and not isinstance(written, bool):
        written = f"id:{written}"
    if not isinstance(written, str):
        raise ConfigError(
            f"a target is one label or token, or its number; {str(written)[:40]} is of type "
            f"{type(written).__name__}; explain several in one call each"
        )
    if model.output.over == "vocabulary":
        return one_token(model, written)
    for index, label in model.labels.items():
        if written in (label, str(index), f"id:{index}"):
            return index
    known = ", ".join(f"{label} ({index})" for index, label in model.labels.items())
    raise ConfigError(f"{model.name} has no label {written!r}; it has {known}")


@torch.no_grad()
def _generated(model: LiveModel, given: Input, count: int) -> Input:
    if not model.is_causal:
        raise ConfigError(f"{model.name} cannot generate: its task is {model.task}")
    ids: Int[Tensor, "1 P"] = torch.tensor([given.tokens.ids], device=model.device)
    before = len(given.predicting)
    room = model.max_length
    if room is not None and before + count > room:
        raise ConfigError(
            f"{before} tokens and {count} generated ones do not fit the window of {model.name}, "
            f"{room} tokens"
        )
    decoder = given.decoder
    start = (
        {}
        if decoder is None
        else {"decoder_input_ids": torch.tensor([decoder.ids], device=model.device)}
    )
    network: Any = model.network
    own = network.generation_config
    # Penalties and forced tokens of its own would not give what the model holds most likely.
    network.generation_config = GenerationConfig(
        eos_token_id=own.eos_token_id,
        pad_token_id=own.pad_token_id,
        decoder_start_token_id=getattr(network.config, "decoder_start_token_id", None),
        max_new_tokens=count,
    )
    try:
        produced = network.generate(ids, attention_mask=torch.ones_like(ids), **start)
    finally:
        network.generation_config = own
    produced = produced[0, before:].tolist()
    if not produced:
        raise MeasureError(f"{model.name} generated no token")
    return given.followed_by(model, produced)


def _spans(special: Sequence[bool]) -> str:
    kept = [index for index, each in enumerate(special) if not each]
    return f"{kept[0]} to {kept[-1]}" if kept else "no position"
