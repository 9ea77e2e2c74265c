"""Value Zeroing: how far the output of a block turns without the value of one position.

P positions, N copies of an input, D hidden size.
"""

import torch

from dynamics.attribution.batch import AttributionBatch, Scores
from dynamics.attribution.mixing import Mixing, mixing_scores, rows_of_sum_one
from dynamics.models.block_parts import BlockParts

POSITIONS_AT_ONCE = 2048  # positions of all copies that a block runs together


def value_zeroing(batch: AttributionBatch) -> Scores:
    """Cosine distance of each position's new state without the value of another; rows sum to 1.

    Each block runs on its own input, once for each position whose value is zero in all heads.
    """
    return mixing_scores(batch, "value_zeroing", _distances)


def _distances(block: BlockParts) -> tuple[Mixing, int]:
    """Return how far the output at each position turns without the value of each other one."""
    count = len(block.input)
    positions = torch.arange(count, device=block.input.device)
    distances = []
    # Position -1 is that of the copy whose values all stay.
    chunks = positions.split(max(1, POSITIONS_AT_ONCE // count - 1))
    for chunk in chunks:
        clean, *changed = block.with_values_zeroed(torch.cat([chunk.new_tensor([-1]), chunk]))
        # Mohebbi et al. 2023 (arXiv 2301.12971): C_ij = 1 - cos(changed_i, clean_i)
        cosine = torch.cosine_similarity(torch.stack(changed), clean[None], dim=-1)
        distances.append(1 - cosine)
    by_position = torch.cat(distances).T
    # Without attention weight there is no effect; what is left there is rounding.
    attends = (block.weights > 0).any(0)
    return rows_of_sum_one(by_position.clamp_min(0).where(attends, 0))
