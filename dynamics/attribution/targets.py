"""Targets of an attribution: which prediction of an input is explained, and where it is read.

A causal LM is read out at the token before the predicted one, a masked LM at the masked position,
a classifier where its head reads.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import GenerationConfig

from dynamics.attribution.inputs import Input, parse_token, surfaces
from dynamics.attribution.result import Target
from dynamics.errors import CheckpointError, ConfigError, MeasureError
from dynamics.models.live_model import LiveModel

NAMED_TARGETS = ("predicted", "given")


@dataclass(frozen=True)
class TargetSpec:
    """The predictions to explain, as the user names them.

    Attributes:
        target: `predicted`, the most likely token or label; `given`, every token that the text or
            its continuation has, from those before it; else a label, a token or `id:N`.
        foil: Label, token or `id:N` that the target is contrasted with. The number of a label or
            token may also be an int.
        position: Position that is predicted: masked in a masked LM, from the tokens before it in a
            causal one. None is the next token, and each mask in a masked LM.
        generate: Number of tokens to generate greedily first, and to explain.

    Example:
        >>> spec = TargetSpec(" mat", foil=" rug")  # one token rather than another
        >>> spec = TargetSpec("given")  # every token of the text or its continuation
        >>> spec = TargetSpec(position=3)  # the model's prediction at position 3
        >>> spec = TargetSpec(generate=5)  # five tokens that the model generates
    """

    target: str | int = "predicted"
    foil: str | int | None = None
    position: int | None = None
    generate: int = 0


Ask = TargetSpec
"""Former name, which goes with 0.2."""


@dataclass(frozen=True)
class TargetPosition:
    """A prediction to explain: its position, its read-out, and the token or label if it is fixed.

    Attributes:
        position: As in `Target`.
        readout: Position that the prediction is read from.
        token_id: Token or label; None for the model's own prediction.
    """

    position: int
    readout: int
    token_id: int | None = None


NO_TARGET = TargetPosition(-1, 0, -1)
"""The single target of a model without head: methods that need no prediction score for it."""


def locate(
    model: LiveModel, encoded: Input, target_spec: TargetSpec, *, reads_head: bool = True
) -> tuple[Input, list[TargetPosition]]:
    """Find the positions of the targets in an input, generating or masking tokens where needed.

    Args:
        model: The model.
        encoded: The input.
        target_spec: Predictions to explain.
        reads_head: The read-out position of a label must be known.

    Returns:
        The input as the model gets it, and the positions.

    Raises:
        CheckpointError: The read-out must be known, and the head reads no single position.
        ConfigError: The target is no single token or no label, the position does not exist, or a
            masked LM has nothing to predict.
    """
    if target_spec.generate:
        encoded = _generate(model, encoded, target_spec.generate)
    is_named = target_spec.target not in NAMED_TARGETS
    column = _column(model, target_spec.target) if is_named else None
    if model.output.over == "labels":
        if target_spec.target == "given" or target_spec.position is not None:
            raise ConfigError("a classifier predicts a label of the whole text: name one or none")
        readout = _label_readout(model, encoded, reads_head)
        if readout is None:
            return encoded, [TargetPosition(-1, len(encoded.context) - 1, column)]
        return encoded, [TargetPosition(readout, readout, column)]
    if model.is_causal:
        return encoded, _causal_positions(encoded, target_spec, column)
    return _mask(model, encoded, target_spec, column)


def _label_readout(model: LiveModel, encoded: Input, reads_head: bool) -> int | None:
    """Return the position that a label is read from; None for the mean, or if unknown."""
    try:
        return model.head.position(encoded.tokens.ids)
    except CheckpointError:
        if reads_head:
            raise
        return None


def _causal_positions(
    encoded: Input, target_spec: TargetSpec, column: int | None
) -> list[TargetPosition]:
    """Return the positions to explain in a causal model or a decoder."""
    ids, position = encoded.context.ids, target_spec.position
    if position is not None:
        if not 1 <= position <= len(ids):
            raise ConfigError(
                f"position {position} cannot be predicted from the tokens before it; it is one "
                f"of 1 to {len(ids)} ({len(ids)} is what follows the text)"
            )
        positions = [position]
    elif target_spec.generate or target_spec.target == "given":
        positions = list(range(encoded.continuation_start or 1, len(ids)))
    else:
        positions = [len(ids)]
    if target_spec.target == "given" and (not positions or positions[-1] == len(ids)):
        raise ConfigError(
            "target 'given' needs a token to predict: give a text of two tokens or more, or a "
            "continuation"
        )
    takes_text = column is None and (target_spec.target == "given" or target_spec.generate > 0)
    return [
        TargetPosition(position, position - 1, ids[position] if takes_text else column)
        for position in positions
    ]


def _mask(
    model: LiveModel, encoded: Input, target_spec: TargetSpec, column: int | None
) -> tuple[Input, list[TargetPosition]]:
    """Mask the predicted position, or find the masks that the text has."""
    mask = model.tokenizer.mask_token_id
    if not isinstance(mask, int):
        raise ConfigError(f"the tokenizer of {model.name} has no mask token")
    ids, position = list(encoded.tokens.ids), target_spec.position
    if position is None:
        positions = [index for index, token_id in enumerate(ids) if token_id == mask]
        if not positions:
            raise ConfigError(
                f"the text has no {model.tokenizer.mask_token}; write it where a token is to be "
                "predicted, or name the position of one with --position"
            )
        if target_spec.target == "given":
            raise ConfigError("target 'given' needs the position of the token, with --position")
    elif not 0 <= position < len(ids) or encoded.tokens.special[position]:
        raise ConfigError(
            f"position {position} holds no token of the text; its tokens are at "
            f"{_range_of_tokens(encoded.tokens.special)}"
        )
    else:
        positions = [position]
    if target_spec.target == "given":
        column = ids[positions[0]]
    texts = list(encoded.tokens.word_texts)
    for position in positions:
        word = encoded.tokens.words[position]
        if ids[position] != mask and word is not None:
            texts[word] = ""  # the text must not show what the model does not see
        ids[position] = mask
    masked = replace(encoded, tokens=replace(encoded.tokens, ids=ids, word_texts=texts))
    return masked, [TargetPosition(position, position, column) for position in positions]


def predicted_columns(model: LiveModel, logits: Float[Tensor, " C"]) -> list[int]:
    """Return the model's prediction: the most likely token or label.

    Of labels that do not compete, return all with a probability above .5, or the most likely one
    where there is none; of a regression all its numbers.
    """
    if model.task == "regression":
        return list(range(len(logits)))
    above = (logits > 0).nonzero().flatten().tolist() if model.is_multi_label else []
    return above or [int(logits.argmax())]


def resolve(
    model: LiveModel, target_positions: Sequence[TargetPosition], target_spec: TargetSpec
) -> list[Target]:
    """Return the targets of one input, with their text.

    Args:
        model: The model.
        target_positions: Positions of the targets, with their token or label.
        target_spec: Predictions to explain; names the foil.
    """
    foil_id = None if target_spec.foil is None else _column(model, target_spec.foil)
    foil = None if foil_id is None else column_name(model, foil_id)
    columns = [-1 if target.token_id is None else target.token_id for target in target_positions]
    return [
        Target(target.position, column, column_name(model, column), foil_id, foil)
        for target, column in zip(target_positions, columns, strict=True)
    ]


def column_name(model: LiveModel, column: int) -> str:
    """Return the name of a label, or the text of a token; empty for a model without head."""
    if model.task == "none":
        return ""
    if model.output.over == "labels":
        return model.labels.get(column, str(column))
    return surfaces(model, [column])[0]


def _column(model: LiveModel, written: str | int) -> int:
    """Return the id of a token, or the index of a label, that a user names."""
    if isinstance(written, int) and not isinstance(written, bool):
        written = f"id:{written}"
    if not isinstance(written, str):
        raise ConfigError(
            f"a target is one label or token, or its number; {str(written)[:40]} is of type "
            f"{type(written).__name__}; explain several in one call each"
        )
    if model.output.over == "vocabulary":
        return parse_token(model, written)
    for index, label in model.labels.items():
        if written in (label, str(index), f"id:{index}"):
            return index
    labels = ", ".join(f"{label} ({index})" for index, label in model.labels.items())
    raise ConfigError(f"{model.name} has no label {written!r}; it has {labels}")


@torch.no_grad()
def _generate(model: LiveModel, encoded: Input, count: int) -> Input:
    """Append tokens that the model generates greedily."""
    if not model.is_causal:
        raise ConfigError(f"{model.name} cannot generate: its task is {model.task}")
    ids: Int[Tensor, "1 P"] = torch.tensor([encoded.tokens.ids], device=model.device)
    start, window = len(encoded.context), model.max_length
    if window is not None and start + count > window:
        raise ConfigError(
            f"{start} tokens and {count} generated ones do not fit the window of {model.name}, "
            f"{window} tokens"
        )
    decoder = encoded.decoder
    decoder_inputs = (
        {}
        if decoder is None
        else {"decoder_input_ids": torch.tensor([decoder.ids], device=model.device)}
    )
    network: Any = model.network
    config = network.generation_config
    # Penalties and forced tokens of the model's own configuration would change what is most likely.
    network.generation_config = GenerationConfig(
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
        decoder_start_token_id=getattr(network.config, "decoder_start_token_id", None),
        max_new_tokens=count,
    )
    try:
        output = network.generate(ids, attention_mask=torch.ones_like(ids), **decoder_inputs)
    finally:
        network.generation_config = config
    generated_ids = output[0, start:].tolist()
    if not generated_ids:
        raise MeasureError(f"{model.name} generated no token")
    return encoded.followed_by(model, generated_ids)


def _range_of_tokens(special: Sequence[bool]) -> str:
    """Return the first and last position without a special token, in words."""
    positions = [index for index, is_special in enumerate(special) if not is_special]
    return f"{positions[0]} to {positions[-1]}" if positions else "no position"
