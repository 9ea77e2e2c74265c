"""Attention rollout: the attention weights of all blocks, with the residual stream, multiplied.

P positions.
"""

import torch

from dynamics.attribution.batch import AttributionBatch, Scores
from dynamics.attribution.mixing import Mixing, mixing_scores, rows_of_sum_one
from dynamics.models.block_parts import BlockParts


def attention_rollout(batch: AttributionBatch) -> Scores:
    """Mean attention weights plus the identity, multiplied over blocks; rows sum to 1.

    Weights are computed from the queries and keys that attention gets, under eager and fused
    implementations alike, and checked against its output.
    """
    return mixing_scores(batch, "attention_rollout", _with_residual)


def _with_residual(block: BlockParts) -> tuple[Mixing, int]:
    """Return the mean over heads of the attention weights, half of each row for the residual."""
    mean = block.weights.mean(0)
    # Abnar & Zuidema 2020 (arXiv 2005.00928): A = 0.5 W_att + 0.5 I
    return rows_of_sum_one(mean + torch.eye(len(mean), dtype=mean.dtype, device=mean.device))
