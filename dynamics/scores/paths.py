"""The path of each row over the steps of a series: how straight it is, and when it nears its end.

n rows, D hidden size, P points of a path, one for each step.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

_CHUNK_ELEMENTS = 2**18
"""Elements of the rows that are in float64 at once."""


@dataclass(frozen=True)
class RayShares:
    """Share of the variance of a path along the line from its first to its last point.

    Attributes:
        observed: Share of each row: 1 on a straight line. NaN for a row that ends where it began.
        random_walk: The same share of a random walk in many dimensions whose steps are as long as
            those of the row: 1/2 for many equal steps, more where few steps make up the path. NaN
            where `observed` is.
    """

    observed: Float[Tensor, " n"]
    random_walk: Float[Tensor, " n"]


class RowPaths:
    """Paths of some rows, added point by point; memory does not grow with the points.

    Args:
        first: The rows at the first step.
        last: The rows at the last step.
        points: P, how often `add` will be called.
    """

    def __init__(
        self, first: Float[Tensor, "n D"], last: Float[Tensor, "n D"], points: int
    ) -> None:
        self._first, self._last, self._previous = first, last, first
        self._points = points
        self._added = 0
        self._offset_sum = torch.zeros(first.shape, dtype=torch.float64)  # sum_k x_k - x_0
        # c_k = sum_{j<=k} a_j, with a_j = |x_j - x_{j-1}|^2 the squared length of step j
        self._walked = torch.zeros(len(first), dtype=torch.float64)
        # Sums over points k of |d_k|^2, <d_k, line>, <d_k, line>^2, c_k, c_k^2 with d_k = x_k - x_0
        # and line = x_P - x_0; and of a_j f_j^2 over steps
        self._sums = torch.zeros(6, len(first), dtype=torch.float64)

    def add(self, rows: Float[Tensor, "n D"]) -> Float[Tensor, " n"]:
        """Add the next point of each path, the first one included.

        Returns:
            Cosine of each row to itself at the last step: exactly 1 for equal rows, NaN where one
            of two different rows is zero and has no direction.
        """
        cosines = torch.empty(len(rows), dtype=torch.float64)
        size = max(1, _CHUNK_ELEMENTS // max(rows.shape[1], 1))
        fraction = (self._points - self._added) / self._points  # f_j, points from this one on
        for part in (slice(start, start + size) for start in range(0, len(rows), size)):
            row, first, last, previous = (
                matrix[part].double() for matrix in (rows, self._first, self._last, self._previous)
            )
            norms = torch.linalg.vector_norm(row, dim=1) * torch.linalg.vector_norm(last, dim=1)
            cosine = (row * last).sum(dim=1).div_(norms).clamp_(-1, 1)
            cosines[part] = cosine.masked_fill_((row == last).all(dim=1), 1)
            offset = row - first
            along = (offset * (last - first)).sum(dim=1)
            step = (row - previous).square_().sum(dim=1)
            walked = self._walked[part].add_(step)
            self._offset_sum[part] += offset
            self._sums[:, part] += torch.stack(
                [
                    offset.square_().sum(dim=1),
                    along,
                    along.square(),
                    walked,
                    walked.square(),
                    step * fraction**2,
                ]
            )
        self._previous = rows
        self._added += 1
        return cosines

    def ray_shares(self) -> RayShares:
        """Return the shares of variance along the line, once all points were added.

        The walk has steps of squared lengths a_j that are orthogonal, as independent steps in many
        dimensions nearly are. With c_k = sum_{j<=k} a_j, the squared distance from its start after
        k steps and, times c_P^(-1/2), the position along the line to its end; and f_j the fraction
        of its points at or after step j, the share is

            (Var_k(c_k) / c_P) / (mean_k(c_k) - sum_j a_j f_j^2),

        the denominator being mean_k |x_k - x_0|^2 - |mean_k (x_k - x_0)|^2.
        """
        squares, along, along_squares, walked, walked_squares, mean_square = self._sums
        points, line = self._points, (self._last.double() - self._first).square_().sum(dim=1)
        total = squares / points - (self._offset_sum / points).square_().sum(dim=1)
        on_line = (along_squares / points - (along / points).square()) / line
        # Var_k(c_k) / c_P over mean_k(c_k) - sum_j a_j f_j^2
        walk_on_line = (walked_squares / points - (walked / points).square()) / self._walked
        walk_total = walked / points - mean_square
        undefined = (line == 0) | (total <= 0)
        return RayShares(
            (on_line / total).clamp_(0, 1).masked_fill_(undefined, torch.nan),
            (walk_on_line / walk_total).clamp_(0, 1).masked_fill_(undefined, torch.nan),
        )
