"""Distance of each row from rows that are never used: indicators of an under-trained token.

The indicators of Land & Bartolo (2024). V tokens (rows), D hidden size.
"""

import torch

from dynamics.axes import EmbeddingMatrix, HiddenVector, TokenScores
from dynamics.scores.norms import accumulator, chunks


def distance_to(embedding: EmbeddingMatrix, target: HiddenVector) -> TokenScores:
    """L2 distance of each row to a vector, in the units of the weights."""
    distances = torch.empty(len(embedding), dtype=accumulator(embedding), device=embedding.device)
    for start, rows in chunks(embedding, torch.float64):
        positions = slice(start, start + len(rows))
        distances[positions] = torch.linalg.vector_norm(rows.sub_(target), dim=1)
    return distances


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

    def transformed(rows: torch.Tensor) -> torch.Tensor:
        if shift is not None:
            rows = rows - shift
        if without is not None:
            rows = rows - (rows @ without)[..., None] * without
        return rows

    unit_target = transformed(target.double())
    unit_target = unit_target / (torch.linalg.vector_norm(unit_target) or 1)
    distances = torch.empty(len(embedding), dtype=accumulator(embedding), device=embedding.device)
    for start, rows in chunks(embedding, torch.float64):
        rows = transformed(rows)
        norms = torch.linalg.vector_norm(rows, dim=1)
        cosines = (rows @ unit_target / norms).masked_fill_(norms == 0, 0).clamp_(-1, 1)
        distances[start : start + len(rows)] = 1 - cosines
    return distances
