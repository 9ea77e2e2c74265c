"""Distance of each row from rows that are never used: indicators of an under-trained token.

The indicators of Land & Bartolo (2024). V tokens (rows), D hidden size.
"""

import torch
from torch import Tensor

from dynamics.axes import EmbeddingMatrix, HiddenVector, TokenScores
from dynamics.scores.norms import embedding_norm, score_rows


def distance_to(embedding: EmbeddingMatrix, target: HiddenVector) -> TokenScores:
    """L2 distance of each row to a vector, in the units of the weights."""
    return embedding_norm(embedding, shift=target)


def cosine_distance_to(
    embedding: EmbeddingMatrix,
    target: HiddenVector,
    *,
    shift: HiddenVector | None = None,
    without: HiddenVector | None = None,
) -> TokenScores:
    """1 - cosine of each row and a vector, after the same shift and projection of both.

    Args:
        embedding: Input or output embedding.
        target: The vector.
        shift: Subtracted from rows and vector.
        without: Direction of length 1 that is taken out of rows and vector.

    Returns:
        Distances between 0 and 2; 1 where the row or the vector is zero.
    """

    # Land & Bartolo 2024 take out the first principal component, which all rows have in common.
    def transformed(rows: Tensor) -> Tensor:
        if shift is not None:
            rows = rows - shift
        if without is not None:
            rows = rows - (rows @ without)[..., None] * without
        return rows

    def distance(rows: Tensor) -> Tensor:
        rows = transformed(rows)
        norms = torch.linalg.vector_norm(rows, dim=1)
        return 1 - (rows @ unit_target / norms).masked_fill_(norms == 0, 0).clamp_(-1, 1)

    unit_target = transformed(target.double())
    unit_target = unit_target / (torch.linalg.vector_norm(unit_target) or 1)
    return score_rows(embedding, distance, torch.float64)
