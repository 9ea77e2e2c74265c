"""GlobEnc: lengths of the vectors of each position after both norms of a block.

P positions.
"""

import torch

from dynamics.attribution.alti import row_chunks
from dynamics.attribution.batch import AttributionBatch, Scores
from dynamics.attribution.mixing import Mixing, mixing_scores
from dynamics.models.block_parts import BlockParts


def globenc(batch: AttributionBatch) -> Scores:
    """Length of each position's vector after both norms of a block, multiplied over blocks.

    As in the released code, rows do not sum to 1.
    """
    return mixing_scores(batch, "globenc", lengths)


def lengths(block: BlockParts) -> tuple[Mixing, int]:
    """Return the L2 norm of each position's vector in each new state; no row is empty.

    The feed-forward network is skipped: its effect is in the divisor of the second norm alone.
    """
    last_norm = block.norm(block.layout.feed_forward.sum_norm)
    assert last_norm is not None, "blocks without are refused"
    # Modarressi et al. 2022 (arXiv 2205.03286): N_ij = |LN2(LN1(T_i(x_j)))|_2
    by_chunk = [
        last_norm(block.mixing_terms(rows), rows).norm(dim=-1) for rows in row_chunks(block)
    ]
    return torch.cat(by_chunk), 0
