"""Second moments of an embedding matrix, and its effective rank and directions from them.

V tokens (rows), D hidden size. Products of chunks of rows are in float32 or wider, sums
of chunks in float64.
"""

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from dynamics.axes import EmbeddingMatrix, HiddenVector, TokenScores
from dynamics.scores.norms import READ_ROWS, Rows, accumulator, chunks, score_rows

SecondMoment = Float[Tensor, "D D"]


def second_moment(
    embedding: EmbeddingMatrix | Rows,
    *,
    shift: HiddenVector | None = None,
    weights: Shaped[Tensor, " V"] | None = None,
) -> SecondMoment:
    """Mean of (v - shift)(v - shift)' over the rows v, uniform or weighted, in float64.

    Args:
        embedding: Input or output embedding.
        shift: Vector subtracted first, such as the mean row; none when None.
        weights: Weight of each row, not negative, of any scale. None weighs all alike.
    """
    width, device = embedding.shape[1], embedding[:0].device
    total = torch.zeros(width, width, dtype=torch.float64, device=device)
    mass = float(len(embedding)) if weights is None else weights.double().sum().item()
    dtype = accumulator(embedding)
    product = torch.empty(width, width, dtype=dtype, device=device)
    for start, rows in chunks(embedding, dtype, size=READ_ROWS):  # fewer, larger products
        if shift is not None:
            rows.sub_(shift.to(dtype))
        if weights is not None:
            # The square root: each row stands on both sides of the product.
            rows.mul_(weights[start : start + len(rows), None].to(dtype).sqrt())
        if device.type == "cpu":
            array = rows.numpy()  # numpy computes one triangle of the product, torch both
            np.matmul(array.T, array, out=product.numpy())
        else:
            torch.matmul(rows.T, rows, out=product)
        total += product
    return total / mass


def effective_rank(moment: SecondMoment) -> float:
    """Effective rank of a matrix from the mean of its rows' outer products.

    exp of the entropy of the singular values, normalised to sum 1 (Roy & Vetterli 2007, definition
    1): between 1 and the rank, D where all are equal. NaN for a matrix of zeros.
    """
    singular = torch.linalg.eigvalsh(moment).clamp_(min=0).sqrt_()
    # Roy & Vetterli 2007, definition 1: exp(-sum p_k log p_k)
    share = singular / singular.sum()
    return torch.special.entr(share).sum().exp().item()


def first_component(moment: SecondMoment) -> HiddenVector:
    """Direction in which the rows vary most, of length 1: the last eigenvector of their moment."""
    return torch.linalg.eigh(moment).eigenvectors[:, -1]


def norm_under(
    embedding: EmbeddingMatrix | Rows, moment: SecondMoment, *, shift: HiddenVector
) -> TokenScores:
    """Norm of G^(1/2)(u - shift) for each row u, G the moment.

    With G the covariance of the output rows under token probabilities p, and shift the mean input
    row under p, its square is twice the Kullback-Leibler divergence of p(. | u) from p to second
    order (Oyama et al. 2023, eq. 12-14).

    Returns:
        Norms in float32, or float64 for float64 rows.
    """

    def norm(rows: Tensor) -> Tensor:
        rows.sub_(shift)
        # Oyama et al. 2023, eq. 12-14: (u - shift)' G (u - shift); rounding may leave it below 0
        return ((rows @ moment) * rows).sum(dim=1).clamp_(min=0).sqrt_()

    return score_rows(embedding, norm, torch.float64, device=moment.device)
