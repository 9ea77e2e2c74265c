"""ALTI and ALTI-Logit: what each position brings into the next state, and into the logit.

P positions, R selected positions, T targets, D hidden size.
"""

from collections.abc import Iterator, Sequence
from itertools import islice

import torch
from jaxtyping import Float
from torch import Tensor

from dynamics.attribution.batch import AttributionBatch, Scores
from dynamics.attribution.logit_shares import check_shares, conservation, of_targets
from dynamics.attribution.mixing import Mixing, mixing_scores, rows_of_sum_one
from dynamics.models.attention_calls import precise
from dynamics.models.block_parts import BlockParts
from dynamics.models.head_parts import linear_head
from dynamics.models.recorded_blocks import record_blocks

PARTS = ("initial", "feed_forward", "attention_bias", "final_bias")
NUMBERS_AT_ONCE = 2**24  # of the vectors that are held together: 128 MiB in double precision


def alti(batch: AttributionBatch) -> Scores:
    """Nearness of each position's transformed vector to the new state; rows sum to 1, rolled out.

    The new state is that after attention, its residual and, in BERT-like blocks, its norm.
    """
    return mixing_scores(batch, "alti", contributions)


def row_chunks(block: BlockParts) -> Iterator[slice]:
    """Yield slices of positions whose vectors from all positions fit into memory together."""
    count, width = block.input.shape
    size = max(1, NUMBERS_AT_ONCE // (count * max(width, block.heads_width)))
    for start in range(0, count, size):
        yield slice(start, start + size)


def contributions(block: BlockParts) -> tuple[Mixing, int]:
    """Return how near each position's vector is to the state after attention, as shares.

    A row in which every vector is farther away than zero is, is empty.
    """
    by_chunk = []
    for rows in row_chunks(block):
        terms, states = block.mixing_terms(rows), block.mixed[rows]
        # Ferrando et al. 2022 (arXiv 2203.04212): max(0, |y_i|_1 - |y_i - T_i(x_j)|_1)
        apart = (states[:, None] - terms).abs().sum(-1)
        by_chunk.append((states.abs().sum(-1, keepdim=True) - apart).clamp_min(0))
    # A position without attention weight has the vector 0, whose nearness is rounding at most.
    attends = (block.weights > 0).any(0).fill_diagonal_(True)
    return rows_of_sum_one(torch.cat(by_chunk).where(attends, 0))


@torch.no_grad()
def alti_logit(batch: AttributionBatch) -> Scores:
    """What the values of each position add to the logit, led back to the input by ALTI; signed.

    Computed of the logit before a cap on it, if the model has one.

    Returns:
        Scores, and as checks what is not shared out: `initial`, the embedding at the read-out;
        `feed_forward`, all feed-forward networks; `attention_bias`, the biases of attention outputs
        and of their norms; `final_bias`, those of the final norm and the head. With the scores they
        sum to `logit`; `conservation` is how far they miss it, relative to the largest of them.

    Raises:
        ConfigError: The form is a log-probability, mixing is single, or the head is not linear.
        MeasureError: Scores and parts miss the logit by more than rounding.
    """
    check_shares(batch, "alti_logit")
    values = precise(torch.zeros(batch.visible.shape, device=batch.model.device))
    missing = torch.full_like(values[:, 0], torch.nan)
    checks = {name: missing.clone() for name in (*PARTS, "logit", "conservation")}
    for index in range(len(batch.inputs)):
        targets = batch.target_mask[index].nonzero().flatten().tolist()
        if not targets:
            continue
        shares, parts, logits = _shares(batch, index, targets)
        for column, target in enumerate(targets):
            values[index, : len(shares[column]), target] = shares[column]
            for name, part in zip(PARTS, parts[column], strict=True):
                checks[name][index, target] = part
            checks["logit"][index, target] = logits[column]
            checks["conservation"][index, target] = conservation(
                batch, "alti_logit", torch.cat([shares[column], parts[column]]), logits[column]
            )
    return Scores(values, checks=checks)


def _shares(
    batch: AttributionBatch, index: int, targets: Sequence[int]
) -> tuple[Float[Tensor, "T P"], Float[Tensor, "T 4"], Float[Tensor, " T"]]:
    """Return the shares of positions, the parts that are kept apart, and the logits they sum to."""
    model = batch.model
    blocks = record_blocks(model, batch.alone(index))
    layer = len(blocks) if batch.settings.layer is None else batch.settings.layer
    readouts = batch.readouts[index, targets].tolist()
    scored = blocks.reading.scored
    states, norm = model.stack().as_final(scored, layer)[0, readouts], blocks.final_norm(layer)
    head = linear_head(model, states[0])
    directions = of_targets(batch, index, targets, head.weight)

    def logits_of(vectors: Float[Tensor, "T K D"]) -> Float[Tensor, "T K"]:
        """Return what vectors add to the logits: U_w . LNf(z), its divisor that of the state."""
        normed = vectors if norm is None else norm(vectors, readouts)
        return torch.einsum("tkd,td->tk", normed, directions)

    head_bias = of_targets(batch, index, targets, head.bias)
    parts = head_bias.new_zeros(len(targets), len(PARTS))
    parts[:, :1] = logits_of(precise(scored.embedding)[0, readouts, None])
    parts[:, 3] = head_bias if norm is None else head_bias + directions @ norm.bias
    length = scored.embedding.shape[1]
    shares, below = parts.new_zeros(len(targets), length), torch.eye(length).to(parts)
    for block in islice(blocks, layer):
        # Ferrando et al. 2023 (arXiv 2305.12535): the sum over layers of D_l M_(l-1)
        shares += logits_of(block.attention_shares(readouts)) @ below
        parts[:, 1:2] += logits_of(block.fed_forward[readouts, None])
        parts[:, 2:3] += logits_of(block.attention_bias[readouts, None])
        below = contributions(block)[0] @ below
    logits = (directions * precise(states)).sum(-1) + head_bias
    return shares, parts, logits
