"""DecompX: every representation as a sum of one part for each position, carried to the logits.

Attention weights, divisors of norms and slopes act(z)/z of activations are those of the whole
input. A gated product gives half to each factor, as `cp_lrp` does: DecompX is defined without.

P positions, R selected positions, K parts (one a position, and one of the biases where they are
kept apart), D hidden size, E features, C labels or tokens of the vocabulary, T targets.
"""

from collections.abc import Callable
from itertools import islice

import torch
from jaxtyping import Float
from torch import Tensor

from dynamics.attribution.batch import AttributionBatch, Scores
from dynamics.attribution.logit_shares import SUMS, check_shares, conservation, of_targets
from dynamics.errors import MeasureError
from dynamics.models.attention_calls import precise
from dynamics.models.block_parts import BlockParts
from dynamics.models.frozen_maps import FrozenNorm, distance, linear_map
from dynamics.models.head_parts import HeadCalls, head_calls
from dynamics.models.recorded_blocks import RecordedBlocks, record_blocks

Parts = Float[Tensor, "R K D"]
Share = Callable[[Parts, Tensor], Parts]
"""Adds a bias to the parts of each position."""


def decompx(batch: AttributionBatch) -> Scores:
    """Share of each position's embedding and of biases in the logit of each target; signed.

    Each bias is shared out by the absolute dot product of every part with it (`absdot`).

    Returns:
        Scores, which sum to the check `logit`; `conservation` is how far they miss it, relative to
        the largest of them. NaN for targets that do not exist.

    Raises:
        ConfigError: The form is a log-probability, or mixing is single.
        MeasureError: The parts of a representation or of the logit miss it by more than rounding.
    """
    return _scores(batch, "decompx", share_by_dot_product)


def decompx_without_biases(batch: AttributionBatch) -> Scores:
    """Share of each position's embedding in the logit, without biases; the numbers of CP-LRP.

    An embedding is the input of the first block: a position's share holds its position embedding.

    Returns:
        Scores, and the checks of `decompx` with `bias`, the share of all biases, which is carried
        as a part of its own: scores and bias sum to the logit.

    Raises:
        ConfigError: As for `decompx`.
        MeasureError: As for `decompx`.
    """
    return _scores(batch, "decompx_without_biases", keep_apart)


def share_by_dot_product(parts: Parts, bias: Tensor) -> Parts:
    """Give each part of a position a share of the bias.

    Where no part has a dot product with it, parts that are not zero get equal shares.
    """
    # Modarressi et al. 2023 (arXiv 2306.02873): weights |x_k . b| / sum over k of |x_k . b|
    weights = (parts * bias).sum(-1, keepdim=True).abs()
    weights = torch.where(
        weights.sum(1, keepdim=True) == 0, (parts != 0).any(-1, keepdim=True), weights
    )
    totals = weights.sum(1, keepdim=True)
    return parts + weights / totals.where(totals > 0, 1) * bias


def keep_apart(parts: Parts, bias: Tensor) -> Parts:
    """Add the bias to the last part, which is that of all biases."""
    return torch.cat([parts[:, :-1], parts[:, -1:] + bias], dim=1)


@torch.no_grad()
def _scores(batch: AttributionBatch, method: str, share: Share) -> Scores:
    """Score positions by the parts of the logits under a rule for biases."""
    check_shares(batch, method)
    values = precise(torch.zeros(batch.visible.shape, device=batch.model.device))
    missing = torch.full_like(values[:, 0], torch.nan)
    names = ("logit", "conservation", *(["bias"] if share is keep_apart else []))
    checks = {name: missing.clone() for name in names}
    for index, inputs in enumerate(map(batch.alone, range(len(batch.inputs)))):
        blocks = record_blocks(batch.model, inputs)
        layer = len(blocks) if batch.settings.layer is None else batch.settings.layer
        parts, norm = decomposed(blocks, layer, share), blocks.final_norm(layer)
        parts = parts if norm is None else _normed(parts, norm, share)
        states = batch.model.stack().as_final(blocks.reading.scored, layer)[0]
        for target in batch.target_mask[index].nonzero().flatten().tolist():
            readout = int(batch.readouts[index, target])
            head = head_calls(batch.model, states[readout])
            by_column = _logit_parts(parts[readout, None], head, share)[0].T  # C x K
            shares = of_targets(batch, index, [target], by_column)[0]
            logit = of_targets(batch, index, [target], head.logits)[0]
            values[index, : len(states), target] = shares[: len(states)]
            checks["logit"][index, target] = logit
            checks["conservation"][index, target] = conservation(batch, method, shares, logit)
            if share is keep_apart:
                checks["bias"][index, target] = shares[-1]
    return Scores(values, checks=checks)


def decomposed(blocks: RecordedBlocks, layer: int, share: Share) -> Float[Tensor, "P K D"]:
    """Return the parts of every representation after a block; they sum to it.

    Args:
        blocks: The blocks.
        layer: 1 for the first block, 0 for the embeddings.
        share: Rule for biases.

    Raises:
        MeasureError: The parts of a block miss its output.
    """
    embedding = precise(blocks.reading.scored.embedding)[0]
    count = len(embedding)
    parts = embedding.new_zeros(count, count + (share is keep_apart), embedding.shape[1])
    parts[range(count), range(count)] = embedding
    for block in islice(blocks, layer):
        mixed = _attention(block, parts, share)
        parts = _feed_forward(block, mixed, parts if block.is_parallel else mixed, share)
        error = distance(parts.sum(1), block.output)
        if error > SUMS * block.limit:
            raise MeasureError(
                f"{block.name} the parts of its output miss it by {error:.2g} of its largest "
                "number; it has an operation that no record describes; use a method that "
                "decomposes nothing, such as occlusion"
            )
    return parts


def _attention(block: BlockParts, parts: Parts, share: Share) -> Parts:
    """Return the parts of the state after attention."""
    attention = block.layout.attention
    output, value = block.map(attention.output), block.value_map()
    normed = _normed_at(block, attention.input_norm, parts, share)
    added = output(block.attend(value(normed)))
    bias = output(block.of_heads(value.bias)) + output.bias  # weights of attention sum to 1
    if attention.output_norm:
        return parts + _normed_at(block, attention.output_norm, share(added, bias), share)
    return _normed_at(block, attention.sum_norm, share(parts + added, bias), share)


def _feed_forward(block: BlockParts, mixed: Parts, source: Parts, share: Share) -> Parts:
    """Return the parts of the output: those of the state and of the network that reads a source."""
    layout = block.layout
    normed = _normed_at(block, layout.feed_forward.input_norm, source, share)
    inner = block.input_of(layout.feed_forward.output)
    paths = (layout.up, layout.gate) if layout.gate else (layout.up,)
    hidden = torch.zeros(())
    for path in paths:
        first = block.map(path)
        factor = slope(inner, block.output_of(path))[:, None] / len(paths)
        hidden = share(first(normed), first.bias) * factor + hidden
    last = block.map(layout.feed_forward.output)
    added = share(last(hidden), last.bias)
    added = _normed_at(block, layout.feed_forward.output_norm, added, share)
    return _normed_at(block, layout.feed_forward.sum_norm, mixed + added, share)


def slope(result: Tensor, value: Tensor) -> Tensor:
    """Return act(z)/z of each number, 0 where z is 0."""
    return torch.where(value == 0, 0, result / value)


def _normed_at(block: BlockParts, path: str | None, parts: Parts, share: Share) -> Parts:
    """Return parts after a norm of the block; unchanged for no norm."""
    norm = block.norm(path)
    return parts if norm is None else _normed(parts, norm, share)


def _normed(parts: Parts, norm: FrozenNorm, share: Share) -> Parts:
    """Return parts after a norm, its bias shared out."""
    return share(norm(parts), norm.bias)


def _logit_parts(parts: Parts, head: HeadCalls, share: Share) -> Float[Tensor, "1 K C"]:
    """Return the parts of all logits, through the maps and norms of the head.

    What lies between two of them is an activation of each number by itself: a slope.
    """
    state = head.state
    for call in head.calls:
        parts, state = parts * slope(call.value, state), call.output
        if (first := linear_map(call.module)) is not None:
            parts = share(first(parts), first.bias)
        else:
            parts = _normed(parts, head.norm(call), share)
    return parts * slope(head.logits, state)
