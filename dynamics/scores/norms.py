"""Row norms of an embedding matrix: raw, centred, or scaled by the final norm's gain.

V tokens (rows), D hidden size. Everything runs over chunks of rows in one reused buffer, so that
memory stays constant whatever V is, and accumulates in float32 or wider whatever the dtype on disk;
in float64 where something is subtracted first, as little may be left of a row that lies near the
mean. Results are where the matrix is.
NaN and infinity are not hidden: the norm of such a row is NaN or infinite. A matrix without rows
gives an empty result.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from dynamics.axes import EmbeddingMatrix, HiddenVector, TokenScores

READ_ROWS = 1024
"""Rows read at a time from a matrix that may be on disk."""

CHUNK_ELEMENTS = 131_072
"""Elements computed with at a time on a processor.

A few such arrays of float64 fit its second-level cache, so that whatever is done to rows once they
are copied takes a fraction of the time that it takes with `READ_ROWS` rows.
"""

_CANCELLED = 1e-6
"""Share of squares that subtraction must leave for their difference to be used."""


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
    return norms_and_means(embedding, [weights])[1][0]


def norms_and_means(
    embedding: EmbeddingMatrix | Rows, weightings: Sequence[Shaped[Tensor, " V"] | None]
) -> tuple[TokenScores, Float[Tensor, "M D"]]:
    """Norm of each row, and the mean of the rows under each of M weightings, in one pass.

    Args:
        embedding: Input or output embedding.
        weightings: Weights of the rows for each mean, as in `mean_row`.

    Returns:
        Norms as `embedding_norm` gives them, and means in float64.

    Raises:
        ValueError: The weights of a mean sum to zero, or there is no row.
    """
    device = embedding[:0].device
    weights = torch.ones(len(weightings), len(embedding), dtype=torch.float64, device=device)
    for row, weighting in zip(weights, weightings, strict=True):
        if weighting is not None:
            row.copy_(weighting)
    mass = weights.sum(dim=1, keepdim=True)
    if (mass == 0).any():
        raise ValueError("the weights of the rows sum to zero: there is no mean row")
    norms = torch.empty(len(embedding), dtype=accumulator(embedding), device=device)
    totals = torch.zeros(len(weights), embedding.shape[1], dtype=torch.float64, device=device)
    for start, rows in chunks(embedding, accumulator(embedding)):
        norms[start : start + len(rows)] = torch.linalg.vector_norm(rows, dim=1)
        totals += weights[:, start : start + len(rows)] @ rows.double()
    return norms, totals / mass


@dataclass(frozen=True)
class RowProducts:
    """Products of each row, from one pass, in float64.

    Attributes:
        norms: Norm of each row.
        products: Inner products with M vectors.
        squares: Sums of squares weighted by feature; None without weights.
    """

    norms: Float[Tensor, " V"]
    products: Float[Tensor, "V M"]
    squares: Float[Tensor, " V"] | None


def row_products(
    embedding: EmbeddingMatrix | Rows,
    vectors: Float[Tensor, "M D"],
    weights: HiddenVector | None = None,
) -> RowProducts:
    """Return norms, products with vectors in float64 and, if there are weights, weighted squares.

    The norms of rows after a vector is subtracted, for many vectors, follow from these (see
    `norm_of_difference`) in a fraction of the time of subtracting each.

    Args:
        embedding: Input or output embedding.
        vectors: M vectors, in float64.
        weights: Weight of each feature, in float64.
    """
    shape = {"dtype": torch.float64, "device": embedding[:0].device}
    norms = torch.empty(len(embedding), **shape)
    products = torch.empty(len(embedding), len(vectors), **shape)
    squares = None if weights is None else torch.empty(len(embedding), **shape)
    for start, rows in chunks(embedding, torch.float64):
        positions = slice(start, start + len(rows))
        norms[positions] = torch.linalg.vector_norm(rows, dim=1)
        products[positions] = rows @ vectors.T
        if squares is not None and weights is not None:
            squares[positions] = rows.square_() @ weights
    return RowProducts(norms, products, squares)


def norm_of_difference(
    embedding: EmbeddingMatrix,
    squares: Float[Tensor, " V"],
    subtracted: Float[Tensor, " V"],
    *,
    shift: HiddenVector | None = None,
    gain: HiddenVector | None = None,
    center_features: bool = False,
) -> Float[Tensor, " V"]:
    """Norm of each row after subtraction, from squares as a^2 - b, in float64.

    A difference below a millionth of the squares has lost half of its digits; these rows are
    subtracted from directly, by `embedding_norm` with the settings.

    Args:
        embedding: Input or output embedding.
        squares: Sums of squares, a^2, before subtraction and of what is subtracted together.
        subtracted: What subtraction takes from them, b.
        shift: As in `embedding_norm`.
        gain: As in `embedding_norm`.
        center_features: As in `embedding_norm`.
    """
    left = squares - subtracted
    norms = left.clamp(min=0).sqrt()
    for ids in (left < _CANCELLED * squares).nonzero().flatten().split(READ_ROWS):
        norms[ids] = embedding_norm(
            embedding[ids].double(), shift=shift, gain=gain, center_features=center_features
        )
    return norms


class Displacement(NamedTuple):
    """Change of each row from the same row of a reference.

    Attributes:
        distances: L2 distances.
        cosines: Cosines of the rows themselves: exactly 1 for a row that has not moved, 0 for a row
            that is zero in one matrix only.
        shifted: L2 distances after the shift.
    """

    distances: TokenScores
    cosines: TokenScores
    shifted: TokenScores


def displacement(
    embedding: EmbeddingMatrix,
    reference: EmbeddingMatrix | Rows,
    shift: HiddenVector | None = None,
    norms: TokenScores | None = None,
) -> Displacement:
    """Change of each row from the same row of a reference.

    Args:
        embedding: Rows now.
        reference: The same rows at another step, which may be on disk.
        shift: Vector subtracted from each difference for `shifted`, such as the mean difference.
        norms: Norms of the rows, where they are known.

    Raises:
        ValueError: The matrices differ in shape.
    """
    distances = torch.empty(len(embedding), dtype=accumulator(embedding), device=embedding.device)
    cosines = torch.empty_like(distances)
    shifted = distances if shift is None else torch.empty_like(distances)
    dtype = torch.promote_types(distances.dtype, reference.dtype)
    for positions, rows, reference_rows in _row_pairs(embedding, reference, dtype):
        cosine = _cosines(rows, reference_rows, None if norms is None else norms[positions])
        change = rows.sub_(reference_rows)
        distances[positions] = distance = torch.linalg.vector_norm(change, dim=1)
        # Rounding leaves the cosine of equal rows beside 1, and two zero rows have one of 0.
        cosines[positions] = cosine.masked_fill_(distance == 0, 1)
        if shift is not None:
            shifted[positions] = torch.linalg.vector_norm(change.sub_(shift.to(change)), dim=1)
    return Displacement(distances, cosines, shifted)


def cosine_between(
    first: EmbeddingMatrix | Rows,
    second: EmbeddingMatrix | Rows,
    norms: Float[Tensor, " V"] | None = None,
) -> TokenScores:
    """Cosine between the rows of a token in two matrices, in float64; 0 where one is zero.

    Args:
        first: Rows of the tokens.
        second: Other rows of the same tokens.
        norms: Norms of the first rows in float64, where they are known.

    Raises:
        ValueError: The matrices differ in shape.
    """
    cosines = torch.empty(len(first), dtype=accumulator(first), device=first[:0].device)
    for positions, rows, other_rows in _row_pairs(first, second, torch.float64):
        known = None if norms is None else norms[positions]
        cosines[positions] = _cosines(rows, other_rows, known)
    return cosines


def _row_pairs(
    first: EmbeddingMatrix | Rows, second: EmbeddingMatrix | Rows, dtype: torch.dtype
) -> Iterator[tuple[slice, Float[Tensor, "rows D"], Float[Tensor, "rows D"]]]:
    """Yield the rows of the same tokens in two matrices, chunk by chunk, as `chunks` does."""
    if first.shape != second.shape:
        raise ValueError(f"shapes differ: {tuple(first.shape)}, {tuple(second.shape)}")
    device = first[:0].device
    for (start, rows), (_, other_rows) in zip(
        chunks(first, dtype), chunks(second, dtype, device=device), strict=True
    ):
        yield slice(start, start + len(rows)), rows, other_rows


def _cosines(first: Tensor, second: Tensor, norms: Tensor | None = None) -> Tensor:
    """Return the cosine of each pair of rows; 0 where one of them is zero, NaN where one has it."""
    if norms is None:
        norms = torch.linalg.vector_norm(first, dim=1)
    lengths = norms * torch.linalg.vector_norm(second, dim=1)
    cosine = (first * second).sum(dim=1).div_(lengths).clamp_(-1, 1)
    return cosine.masked_fill_(lengths == 0, 0)


def score_rows(
    matrix: EmbeddingMatrix | Rows,
    score: Callable[[Tensor], Tensor],
    dtype: torch.dtype,
    *,
    device: torch.device | None = None,
) -> TokenScores:
    """Return one number for each row of a matrix, computed chunk by chunk.

    Args:
        matrix: The rows.
        score: Maps a chunk of rows, which it may overwrite, to their numbers.
        dtype: Type in which the rows are passed; the numbers are returned in that of `accumulator`.
        device: Where rows and numbers are; where the matrix is when None.
    """
    device = device or matrix[:0].device
    scores = torch.empty(len(matrix), dtype=accumulator(matrix), device=device)
    for start, rows in chunks(matrix, dtype, device=device):
        scores[start : start + len(rows)] = score(rows)
    return scores


def accumulator(matrix: EmbeddingMatrix | Rows) -> torch.dtype:
    """Type that norms of rows come in: float32, or float64 for a float64 matrix."""
    return torch.promote_types(matrix.dtype, torch.float32)


def chunks(
    matrix: EmbeddingMatrix | Rows,
    dtype: torch.dtype,
    *,
    size: int | None = None,
    device: torch.device | None = None,
) -> Iterator[tuple[int, Float[Tensor, "rows D"]]]:
    """Start and a scratch copy, free to overwrite until the next one, of each chunk of rows.

    Args:
        matrix: The rows.
        dtype: Type of the copies.
        size: Rows of a chunk, at most `READ_ROWS`; what `CHUNK_ELEMENTS` allows when None.
        device: Where the copies are; where the matrix is when None.
    """
    height, width = matrix.shape
    device = device or matrix[:0].device
    if size is None:  # memory of other devices has no cache to fit
        size = CHUNK_ELEMENTS // max(width, 1) if device.type == "cpu" else READ_ROWS
        size = min(max(size, 1), READ_ROWS)
    buffer = torch.empty(min(size, height), width, dtype=dtype, device=device)
    for read_start in range(0, height, READ_ROWS):
        read = matrix[read_start : read_start + READ_ROWS]
        for start in range(0, len(read), size):
            part = read[start : start + size]
            yield read_start + start, buffer[: len(part)].copy_(part)
