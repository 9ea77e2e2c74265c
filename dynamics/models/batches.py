"""Inputs and results of one forward pass, and batches run in parts where a model mixes inputs.

B inputs, P positions, D hidden size, C labels or tokens of the vocabulary, K chosen columns.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from dynamics.models.output import Logits, nearly_equal
from dynamics.models.stack import States

Ids = Int[Tensor, "B P"]
Batching = Literal["padded", "equal_length", "one_by_one"]


@dataclass(frozen=True)
class Batch:
    """Token ids of several inputs, padded on the right.

    Attributes:
        input_ids: Token ids of the text; of the source in an encoder-decoder.
        attention_mask: 1 for tokens, 0 for padding.
        token_type_ids: Segment of each token, where the tokenizer gives it.
        decoder_input_ids: Token ids of the decoder, in an encoder-decoder.
        decoder_attention_mask: 1 for tokens of the decoder, 0 for padding.
    """

    input_ids: Ids
    attention_mask: Ids
    token_type_ids: Ids | None = None
    decoder_input_ids: Ids | None = None
    decoder_attention_mask: Ids | None = None

    def __len__(self) -> int:
        return len(self.input_ids)

    def map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """Apply a function to every tensor of the batch."""
        return Batch(**{name: change(tensor) for name, tensor in self.tensors.items()})

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors that there are, by the name of their input of the network."""
        return {name: tensor for name, tensor in vars(self).items() if tensor is not None}

    @property
    def lengths(self) -> list[tuple[int, int]]:
        """Number of tokens of each input, in the source and in the decoder (0 without one)."""
        decoder = self.decoder_attention_mask
        target = torch.zeros_like(self.attention_mask[:, :1]) if decoder is None else decoder
        counts = torch.stack([self.attention_mask.sum(1), target.sum(1)], dim=1)
        return [(source, decoded) for source, decoded in counts.tolist()]

    def part(self, indices: Sequence[int], lengths: tuple[int, int]) -> "Batch":
        """Select inputs of equal length, without their padding."""
        source, decoded = lengths
        return Batch(
            **{
                name: tensor[list(indices), : decoded if name.startswith("decoder") else source]
                for name, tensor in self.tensors.items()
            }
        )


def padded_batch(
    ids: Sequence[Sequence[int]],
    segments: Sequence[Sequence[int]] | None = None,
    decoder: Sequence[Sequence[int]] | None = None,
    *,
    padding: int,
) -> Batch:
    """Pad inputs on the right to one batch.

    Args:
        ids: Token ids of each input; of its source in an encoder-decoder.
        segments: Segment of each token.
        decoder: Token ids of the decoder.
        padding: Id of the padding token.
    """

    def padded(rows: Sequence[Sequence[int]], value: int) -> Tensor:
        return torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(row) for row in rows], batch_first=True, padding_value=value
        )

    def token_mask(rows: Sequence[Sequence[int]]) -> Tensor:
        return padded([[1] * len(row) for row in rows], 0)

    return Batch(
        padded(ids, padding),
        token_mask(ids),
        padded(segments, 0) if segments else None,
        padded(decoder, padding) if decoder else None,
        token_mask(decoder) if decoder else None,
    )


@dataclass(frozen=True)
class Reading:
    """Representations and logits from one forward pass of the whole network.

    Attributes:
        scored: Representations of the tokens that are scored.
        read: Representations that predictions are read from: the same object, except when the
            source of an encoder-decoder is scored.
        logits: The network's own logits: of each position for some tokens of the vocabulary, or of
            each input for all labels; None for a model without head.
        columns: Token ids of the logits; None for labels.
    """

    scored: States
    read: States
    logits: Logits | None = None
    columns: Int[Tensor, " K"] | None = None


Forward = Callable[[Batch, Float[Tensor, "B P E"] | None], Reading]
"""A forward pass of a batch, with rows to use in place of those that the embedding looks up."""


def find_batching(run: Forward, probes: Batch) -> Batching:
    """Find out by trial which inputs may run together without changing each other's results.

    Args:
        run: Forward pass of the network.
        probes: Three inputs, the first two of one length and the third longer.

    Returns:
        `padded`: any inputs; `equal_length`: inputs of the same length; `one_by_one`: none, or the
        network refuses batches.
    """
    lengths = probes.lengths
    singles = [run(probes.part([index], lengths[index]), None) for index in range(3)]

    def is_same(batch: Batch, indices: Sequence[int]) -> bool:
        """Return whether inputs give together what each gave alone."""
        try:
            together = run(batch, None)
        except (RuntimeError, ValueError, IndexError):  # each single input has just passed
            return False
        return all(_agree(together, singles[index], row) for row, index in enumerate(indices))

    if is_same(probes, range(3)):
        return "padded"
    return "equal_length" if is_same(probes.part([0, 1], lengths[0]), (0, 1)) else "one_by_one"


def run_in_parts(
    run: Forward,
    batch: Batch,
    rows: Float[Tensor, "B P E"] | None,
    batching: Batching,
    *,
    scores_decoder: bool,
) -> Reading:
    """Run inputs of equal length together, or each alone, and join the results to one reading.

    Args:
        run: Forward pass of the network.
        batch: The inputs.
        rows: As in `LiveModel.read`.
        batching: Inputs that may run together.
        scores_decoder: The scored tokens, and `rows`, are the decoder's.

    Returns:
        The reading of the whole batch; zeros at the positions of padding.
    """
    parts: dict[tuple[int, ...], list[int]] = {}
    lengths = batch.lengths
    for index, length in enumerate(lengths):
        key = (*length, index) if batching == "one_by_one" else length
        parts.setdefault(key, []).append(index)
    readings = []
    for indices in parts.values():
        length = lengths[indices[0]]
        part_rows = None if rows is None else rows[indices, : length[scores_decoder]]
        readings.append(run(batch.part(indices, length), part_rows))
    # Index in the joined parts of each input of the batch.
    order = torch.tensor([index for indices in parts.values() for index in indices]).argsort()
    decoder = batch.decoder_input_ids
    source = batch.input_ids.shape[1]
    target = source if decoder is None else decoder.shape[1]

    def joined(tensors: Sequence[Tensor], width: int) -> Tensor:
        """Pad the positions of the parts to a width, and put inputs into their first order."""
        padded = [  # logits over labels have no axis of positions
            tensor if tensor.dim() == 2 else pad(tensor, (0, 0, 0, width - tensor.shape[1]))
            for tensor in tensors
        ]
        return torch.cat(padded)[order.to(padded[0].device)]

    def joined_states(parts: Sequence[States], width: int) -> States:
        layers = zip(*(states.blocks for states in parts), strict=True)
        has_first = parts[0].first is not None
        return States(
            joined([states.final for states in parts], width),
            joined([states.embedding for states in parts], width) if has_first else None,
            tuple(joined(layer, width) for layer in layers),
            parts[0].first_missing,
        )

    scored_width = target if scores_decoder else source
    scored = joined_states([reading.scored for reading in readings], scored_width)
    crosses_sides = readings[0].read is not readings[0].scored
    logits = [reading.logits for reading in readings if reading.logits is not None]
    return Reading(
        scored,
        joined_states([r.read for r in readings], target) if crosses_sides else scored,
        joined(logits, target) if logits else None,
        readings[0].columns,
    )


def _agree(together: Reading, single: Reading, row: int) -> bool:
    """Return whether an input has the same result in a batch, at its positions without padding."""
    pairs = [(together.read.final[row, : single.read.final.shape[1]], single.read.final[0])]
    if single.logits is not None and together.logits is not None:
        pairs.append((together.logits[row, : single.logits.shape[1]], single.logits[0]))
    return all(nearly_equal(*pair) for pair in pairs)
