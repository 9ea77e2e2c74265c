"""Distance of each row from rows that are never used: indicators of an under-trained token.

The indicators of Land & Bartolo (2024). V tokens (rows), D hidden size.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from dynamics.axes import EmbeddingMatrix, HiddenVector, TokenScores
from dynamics.scores.norms import score_rows


def unit(vector: HiddenVector) -> HiddenVector:
    """Return the vector at length 1, in float64; zeros stay zeros."""
    vector = vector.double()
    return vector / (torch.linalg.vector_norm(vector) or 1)


def cosine_distances(
    products: Float[Tensor, " V"], norms: Float[Tensor, " V"]
) -> Float[Tensor, " V"]:
    """1 - cosine, between 0 and 2, from products with a unit vector and norms; 1 for norm 0."""
    return 1 - (products / norms).masked_fill_(norms == 0, 0).clamp_(-1, 1)


def cosine_distance_without(
    embedding: EmbeddingMatrix, target: HiddenVector, direction: HiddenVector
) -> TokenScores:
    """1 - cosine of each row and a vector, both without a direction of length 1.

    Land & Bartolo (2024) take out the first principal component, which all rows have in common.
    """

    def without(rows: Float[Tensor, "*rows D"]) -> Float[Tensor, "*rows D"]:
        return rows - (rows @ direction)[..., None] * direction

    unit_target = unit(without(target.double()))

    def distance(rows: Tensor) -> Tensor:
        rows = without(rows)
        return cosine_distances(rows @ unit_target, torch.linalg.vector_norm(rows, dim=1))

    return score_rows(embedding, distance, torch.float64)
