"""Row norms of an embedding matrix: raw, centred, or scaled by the final norm's gain.

V tokens (rows), D hidden size. Everything runs over chunks of rows in one reused buffer, so that
memory stays constant whatever V is, and accumulates in float32 or wider whatever the dtype on disk;
in float64 where something is subtracted first, as little may be left of a row that lies near the
mean.
NaN and infinity are not hidden: the norm of such a row is NaN or infinite. A matrix without rows
gives an empty result.
"""

from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from dynamics.axes import EmbeddingMatrix, HiddenVector, TokenScores

CHUNK_ROWS = 1024


class Rows(Protocol):
    """A matrix that need not be in memory: it hands out consecutive rows."""

    @property
    def shape(self) -> tuple[int, ...]:
        """V and D."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Type of the elements."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> Tensor: ...


def embedding_norm(
    embedding: EmbeddingMatrix,
    *,
    shift: HiddenVector | None = None,
    gain: HiddenVector | None = None,
    center_features: bool = False,
) -> TokenScores:
    """L2 norm of each token's row, in the units of the weights.

    Args:
        embedding: Input or output embedding, one row per token id.
        shift: Vector subtracted from every row first; `mean_row` gives the two centrings. Adding
            one vector to every output row changes no prediction, so that only norms which ignore
            it are identifiable (Coupled Adam, arXiv 2502.08441).
        gain: Final norm's weight, multiplied into every feature after the shift: what the output
            row does to a normalised representation.
        center_features: Remove from each row its own mean over features, after the gain. Under
            LayerNorm this mean is free; under RMSNorm it is not.

    Returns:
        Norms in float32, or float64 for a float64 matrix.

    Example:
        >>> embedding_norm(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([5., 0.])
        >>> embedding_norm(torch.tensor([[3.0, 4.0], [1.0, 1.0]]), center_features=True)
        tensor([0.7071, 0.0000])
    """

    def norm(rows: Tensor) -> Tensor:
        if shift is not None:
            rows.sub_(shift.to(rows.dtype))
        if gain is not None:
            rows.mul_(gain.to(rows.dtype))
        if center_features:
            rows.sub_(rows.mean(dim=1, keepdim=True))
        return torch.linalg.vector_norm(rows, dim=1)

    subtracts = shift is not None or center_features
    return score_rows(embedding, norm, torch.float64 if subtracts else accumulator(embedding))


def rows_not_finite(embedding: EmbeddingMatrix) -> list[int]:
    """Ids of the rows that hold NaN or infinity, ascending.

    Example:
        >>> rows_not_finite(torch.tensor([[1.0, 2.0], [torch.nan, 0.0]]))
        [1]
    """
    return [
        row
        for start, rows in chunks(embedding, accumulator(embedding))
        for row in (start + (~rows.isfinite().all(dim=1)).nonzero().flatten()).tolist()
    ]


def mean_row(
    embedding: EmbeddingMatrix | Rows, weights: Shaped[Tensor, " V"] | None = None
) -> HiddenVector:
    """Mean of the rows: uniform, or weighted (by counts: the unigram mean), in float64.

    Args:
        embedding: Input or output embedding.
        weights: Weight of each row, not negative, of any scale. None weighs all alike.

    Raises:
        ValueError: The weights sum to zero, or there is no row.
    """
    device = embedding[:0].device
    total = torch.zeros(embedding.shape[1], dtype=torch.float64, device=device)
    share = torch.ones(len(embedding), device=device) if weights is None else weights
    mass = share.double().sum().item()
    if mass == 0:
        raise ValueError("the weights of the rows sum to zero: there is no mean row")
    for start, rows in chunks(embedding, torch.float64):
        total += share[start : start + len(rows)].double() @ rows
    return total / mass


def displacement(
    embedding: EmbeddingMatrix,
    reference: EmbeddingMatrix | Rows,
    shift: HiddenVector | None = None,
) -> tuple[TokenScores, TokenScores]:
    """Distance of each row from the same row of a reference, and the cosine between the two.

    Args:
        embedding: Rows now.
        reference: The same rows at another step, which may be on disk.
        shift: Vector subtracted from each difference before its length is taken, such as the mean
            difference.

    Returns:
        L2 distances, and cosines of the rows themselves: exactly 1 for a row that has not moved, 0
        for a row that is zero in one matrix only.

    Raises:
        ValueError: The matrices differ in shape.
    """
    distances = torch.empty(len(embedding), dtype=accumulator(embedding), device=embedding.device)
    cosines = torch.empty_like(distances)
    dtype = torch.promote_types(distances.dtype, reference.dtype)
    for positions, rows, reference_rows in _row_pairs(embedding, reference, dtype):
        cosine = _cosines(rows, reference_rows)
        change = rows.sub_(reference_rows)
        # Rounding leaves the cosine of equal rows beside 1, and two zero rows have one of 0.
        cosines[positions] = cosine.masked_fill((change == 0).all(dim=1), 1)
        if shift is not None:
            change.sub_(shift.to(change))
        distances[positions] = torch.linalg.vector_norm(change, dim=1)
    return distances, cosines


def cosine_between(first: EmbeddingMatrix | Rows, second: EmbeddingMatrix | Rows) -> TokenScores:
    """Cosine between the rows of a token in two matrices, in float64; 0 where one is zero.

    Raises:
        ValueError: The matrices differ in shape.
    """
    cosines = torch.empty(len(first), dtype=accumulator(first))
    for positions, rows, other_rows in _row_pairs(first, second, torch.float64):
        cosines[positions] = _cosines(rows, other_rows)
    return cosines


def _row_pairs(
    first: EmbeddingMatrix | Rows, second: EmbeddingMatrix | Rows, dtype: torch.dtype
) -> Iterator[tuple[slice, Float[Tensor, "rows D"], Float[Tensor, "rows D"]]]:
    """Yield the rows of the same tokens in two matrices, chunk by chunk, as `chunks` does."""
    if first.shape != second.shape:
        raise ValueError(f"shapes differ: {tuple(first.shape)}, {tuple(second.shape)}")
    for (start, rows), (_, other_rows) in zip(
        chunks(first, dtype), chunks(second, dtype), strict=True
    ):
        yield slice(start, start + len(rows)), rows, other_rows


def _cosines(first: Tensor, second: Tensor) -> Tensor:
    """Return the cosine of each pair of rows; 0 where one of them is zero, NaN where one has it."""
    norms = torch.linalg.vector_norm(first, dim=1) * torch.linalg.vector_norm(second, dim=1)
    cosine = (first * second).sum(dim=1).div_(norms).clamp_(-1, 1)
    return cosine.masked_fill_(norms == 0, 0)


def score_rows(
    matrix: EmbeddingMatrix | Rows, score: Callable[[Tensor], Tensor], dtype: torch.dtype
) -> TokenScores:
    """Return one number for each row of a matrix, computed chunk by chunk.

    Args:
        matrix: The rows.
        score: Maps a chunk of rows, which it may overwrite, to their numbers.
        dtype: Type in which the rows are passed; the numbers are returned in that of `accumulator`.
    """
    scores = torch.empty(len(matrix), dtype=accumulator(matrix), device=matrix[:0].device)
    for start, rows in chunks(matrix, dtype):
        scores[start : start + len(rows)] = score(rows)
    return scores


def accumulator(matrix: EmbeddingMatrix | Rows) -> torch.dtype:
    """Type that norms of rows come in: float32, or float64 for a float64 matrix."""
    return torch.promote_types(matrix.dtype, torch.float32)


def chunks(
    matrix: EmbeddingMatrix | Rows, dtype: torch.dtype
) -> Iterator[tuple[int, Float[Tensor, "rows D"]]]:
    """Start and a scratch copy, free to overwrite until the next one, of each chunk of rows."""
    shape = (min(CHUNK_ROWS, len(matrix)), *matrix.shape[1:])
    buffer = torch.empty(shape, dtype=dtype, device=matrix[:0].device)
    for start in range(0, len(matrix), CHUNK_ROWS):
        rows = buffer[: min(CHUNK_ROWS, len(matrix) - start)]
        yield start, rows.copy_(matrix[start : start + CHUNK_ROWS])
