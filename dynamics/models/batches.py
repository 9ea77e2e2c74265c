"""Inputs of one forward pass, what it gives, and batches run in parts where a model mixes inputs.

B inputs, P positions, D hidden size, C labels or tokens of the vocabulary, K chosen columns.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dynamics.models.output import Logits, nearly_equal
from dynamics.models.stack import States

Ids = Int[Tensor, "B P"]
Batching = Literal["padded", "equal_length", "one_by_one"]


@dataclass(frozen=True)
class Batch:
    """Token ids of several inputs, padded on the right.

    Attributes:
        input_ids: Of the text; of the source in an encoder-decoder.
        attention_mask: 1 for tokens, 0 for padding.
        token_type_ids: Segment of each token, where the tokenizer gives it.
        decoder_input_ids: What the decoder gets, in an encoder-decoder.
        decoder_attention_mask: 1 for its tokens, 0 for padding.
    """

    input_ids: Ids
    attention_mask: Ids
    token_type_ids: Ids | None = None
    decoder_input_ids: Ids | None = None
    decoder_attention_mask: Ids | None = None

    def __len__(self) -> int:
        return len(self.input_ids)

    def map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """Every tensor of the batch changed in the same way."""
        held = {name: tensor for name, tensor in vars(self).items() if tensor is not None}
        return replace(self, **{name: change(tensor) for name, tensor in held.items()})

    @property
    def lengths(self) -> list[tuple[int, int]]:
        """Tokens of each input, of the source and of the decoder (0 where there is none)."""
        decoder = self.decoder_attention_mask
        target = torch.zeros_like(self.attention_mask[:, :1]) if decoder is None else decoder
        both = torch.stack([self.attention_mask.sum(1), target.sum(1)], dim=1)
        return [(source, decoded) for source, decoded in both.tolist()]

    def part(self, inputs: Sequence[int], lengths: tuple[int, int]) -> "Batch":
        """Some inputs of equal length, without their padding."""
        source, decoded = lengths
        return Batch(
            **{
                name: tensor[list(inputs), : decoded if name.startswith("decoder") else source]
                for name, tensor in vars(self).items()
                if tensor is not None
            }
        )


def padded_batch(
    ids: Sequence[Sequence[int]],
    segments: Sequence[Sequence[int]] | None = None,
    decoder: Sequence[Sequence[int]] | None = None,
    *,
    padding: int,
) -> Batch:
    """Inputs as one batch, padded on the right.

    Args:
        ids: Token ids of each; of its source in an encoder-decoder.
        segments: Segment of each token.
        decoder: Token ids that the decoder gets.
        padding: Token id that pads.
    """

    def padded(rows: Sequence[Sequence[int]], value: int) -> Tensor:
        return torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(row) for row in rows], batch_first=True, padding_value=value
        )

    def attended(rows: Sequence[Sequence[int]]) -> Tensor:
        return padded([[1] * len(row) for row in rows], 0)

    return Batch(
        padded(ids, padding),
        attended(ids),
        padded(segments, 0) if segments else None,
        padded(decoder, padding) if decoder else None,
        attended(decoder) if decoder else None,
    )


@dataclass(frozen=True)
class Reading:
    """What one forward pass of the whole network gives.

    Attributes:
        scored: Representations of the tokens that are scored.
        read: Those of the tokens that predictions are read from; the same, but for the source of
            an encoder-decoder.
        logits: The network's own: of each position for some tokens of the vocabulary, or of each
            input for all labels; None of a model without head.
        columns: Token ids that the logits are of; None for labels.
    """

    scored: States
    read: States
    logits: Logits | None = None
    columns: Int[Tensor, " K"] | None = None


Run = Callable[[Batch, Float[Tensor, "B P E"] | None], Reading]


def find_batching(run: Run, probes: Batch) -> Batching:
    """Find out whether what a network gives for an input depends on what else is in the batch.

    Args:
        run: The network.
        probes: Three inputs, the first two of one length and the third longer.

    Returns:
        `padded`: not on padding either; `equal_length`: not on other inputs of the same length;
        `one_by_one`: it does, or the network refuses batches.
    """
    lengths = probes.lengths
    alone = [run(probes.part([index], lengths[index]), None) for index in range(3)]

    def same(batch: Batch, inputs: Sequence[int]) -> bool:
        try:
            together = run(batch, None)
        except (RuntimeError, ValueError, IndexError):  # it takes single inputs, as was just seen
            return False
        return all(_agree(together, alone[index], row) for row, index in enumerate(inputs))

    if same(probes, range(3)):
        return "padded"
    return "equal_length" if same(probes.part([0, 1], lengths[0]), (0, 1)) else "one_by_one"


def run_in_parts(
    run: Run,
    batch: Batch,
    rows: Float[Tensor, "B P E"] | None,
    batching: Batching,
    *,
    scores_decoder: bool,
) -> Reading:
    """Run inputs of equal length together, or each alone, and put what they give into one batch.

    Args:
        run: The network.
        batch: The inputs.
        rows: As in `LiveModel.read`.
        batching: Which inputs may be run together.
        scores_decoder: Whether the tokens that are scored, whose rows these are, are the decoder's.

    Returns:
        As if all were run at once; zeros at the positions of padding.
    """
    parts: dict[tuple[int, ...], list[int]] = {}
    lengths = batch.lengths
    for index, length in enumerate(lengths):
        key = (*length, index) if batching == "one_by_one" else length
        parts.setdefault(key, []).append(index)
    readings = []
    for inputs in parts.values():
        length = lengths[inputs[0]]
        fed = None if rows is None else rows[inputs, : length[scores_decoder]]
        readings.append(run(batch.part(inputs, length), fed))
    order = torch.tensor([index for inputs in parts.values() for index in inputs]).argsort()
    decoder = batch.decoder_input_ids
    source = batch.input_ids.shape[1]
    target = source if decoder is None else decoder.shape[1]

    def joined(tensors: Sequence[Tensor], width: int) -> Tensor:
        padded = [
            torch.nn.functional.pad(tensor, (0, 0, 0, width - tensor.shape[1]))
            for tensor in tensors
        ]
        return torch.cat(padded)[order.to(padded[0].device)]

    def states(side: Sequence[States], width: int) -> States:
        return States(
            joined([each.final for each in side], width),
            None if side[0].first is None else joined([each.embedding for each in side], width),
            tuple(
                joined(layer, width) for layer in zip(*(each.blocks for each in side), strict=True)
            ),
            side[0].first_missing,
        )

    scored = states([each.scored for each in readings], target if scores_decoder else source)
    apart = readings[0].read is not readings[0].scored
    logits = [each.logits for each in readings if each.logits is not None]
    return Reading(
        scored,
        states([each.read for each in readings], target) if apart else scored,
        _joined_logits(logits, target, joined),
        readings[0].columns,
    )


def _joined_logits(
    logits: Sequence[Tensor], width: int, joined: Callable[[Sequence[Tensor], int], Tensor]
) -> Tensor | None:
    if not logits:
        return None
    if logits[0].dim() > 2:
        return joined(logits, width)
    return joined([each[:, None] for each in logits], 1)[:, 0]


def _agree(together: Reading, alone: Reading, row: int) -> bool:
    """Whether an input gives the same in a batch, at its own positions."""
    pairs = [(together.read.final[row, : alone.read.final.shape[1]], alone.read.final[0])]
    if alone.logits is not None and together.logits is not None:
        pairs.append((together.logits[row, : alone.logits.shape[1]], alone.logits[0]))
    return all(nearly_equal(*pair) for pair in pairs)
