"""Twins against the curve of norm on frequency: what random frequency does beyond what is seen.

A token and its twin differ in frequency by chance. Ordinary tokens differ in frequency and in all
that goes with it; a curve of log norm on log count over them says how far two norms differ at the
two counts of a pair. Where the pair differs by as much as the curve, random and observed frequency
go with norms alike. A slope over all tokens would compare other counts, on a curve that bends.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Integer
from scipy.interpolate import BSpline

from dynamics.statistics.correlation import NormalEstimate
from dynamics.statistics.intervals import Interval, normal_quantile
from dynamics.statistics.student import student_quantile

FEWEST_CURVE_TOKENS = 100
"""Ordinary tokens that a curve needs at least."""

FEWEST_ORIGINALS = 4
"""Tokens with a twin that an interval needs at least."""

_DEGREES = 8
_CUBIC = 3
_NEIGHBOURS = 10
"""Ordinary tokens of the nearest counts that one side of a pseudo-pair is drawn from."""


class OverOriginals(NormalEstimate):
    """An estimate over tokens with a twin; its error holds that of the curve too.

    `n` is the number of these tokens. Influence values are those of the tokens with a twin, then
    those of the curve's tokens.
    """

    def confidence_interval(self, level: float = 0.95) -> Interval:
        """Student's interval of n - 1 degrees of freedom; NaN below 4 tokens with a twin.

        Raises:
            ValueError: `level` does not lie between 0 and 1.
        """
        normal_quantile(level)  # raises for a level outside (0, 1)
        if self.n < FEWEST_ORIGINALS:
            return Interval(float("nan"), float("nan"))
        reach = float(student_quantile(level, self.n - 1)) * self.standard_error
        return Interval(self.statistic - reach, self.statistic + reach)


@dataclass(frozen=True, eq=False)
class TwinCurve:
    """Pairs of a token and its twin, and the ordinary tokens whose norms they are held against.

    Make it with `twin_curve`.

    Attributes:
        originals: Place of the token of each of m pairs; a token with several twins recurs.
        twins: Place of the twin of each pair.
        ordinary: Places of the c tokens of the curve.
        log_count: Logarithm of the count at every place; -inf for 0.
        pair_basis: Spline functions at the token's count minus those at the twin's.
        curve_basis: Spline functions at the counts of the curve's tokens.
        solver: Coefficients of the curve for c log norms, by least squares.
    """

    originals: Integer[np.ndarray, " m"]
    twins: Integer[np.ndarray, " m"]
    ordinary: Integer[np.ndarray, " c"]
    log_count: Float[np.ndarray, " V"]
    pair_basis: Float[np.ndarray, "m degrees"]
    curve_basis: Float[np.ndarray, "c degrees"]
    solver: Float[np.ndarray, "degrees c"]

    @property
    def log_ratio(self) -> Float[np.ndarray, " m"]:
        """Logarithm of the token's count over that of its twin."""
        return self.log_count[self.originals] - self.log_count[self.twins]

    def slope(
        self, norm: Float[np.ndarray, " V"], pairs: Bool[np.ndarray, " m"] | None = None
    ) -> OverOriginals:
        """Slope of log norm on log count within pairs, minus that of the curve at their counts.

        With d_i the log ratio of the counts of pair i, and r_i the log ratio of its norms minus
        that of the curve at its two counts, delta = sum d_i r_i / sum d_i^2. Its error is that of
        the pairs, each token with its twins being one unit, and of the curve (White 1980).

        Args:
            norm: A norm at every place, positive where it enters.
            pairs: Mask of the pairs that enter; all when None.

        Returns:
            The difference; NaN where no pair enters or counts do not differ.
        """
        weights = self.log_ratio if pairs is None else self.log_ratio * pairs
        return self._weighted_sum(norm, weights, float(weights @ weights))

    def places(self, pairs: Bool[np.ndarray, " m"] | None = None) -> Integer[np.ndarray, " units"]:
        """Place of each token that has an influence value in `slope`, in their order."""
        weights = self.log_ratio if pairs is None else self.log_ratio * pairs
        return np.append(np.unique(self.originals[weights != 0]), self.ordinary)

    def mean(
        self, norm: Float[np.ndarray, " V"], pairs: Bool[np.ndarray, " m"] | None = None
    ) -> OverOriginals:
        """Mean over pairs of the log ratio of norms minus that of the curve at their counts.

        0 where the two ids of a pair are equally likely at each occurrence: which of them is the
        token is then chance.

        Args:
            norm: A norm at every place, positive where it enters.
            pairs: Mask of the pairs that enter; all when None.
        """
        weights = np.ones(len(self.twins)) if pairs is None else pairs.astype(float)
        return self._weighted_sum(norm, weights, float(weights.sum()))

    def pseudo_pairs(
        self,
        norm: Float[np.ndarray, " V"],
        rng: np.random.Generator,
        draws: int = 200,
        pairs: Bool[np.ndarray, " m"] | None = None,
    ) -> Float[np.ndarray, " draws"]:
        """`slope` of pairs of ordinary tokens of the same counts, whose truth is 0.

        Each side of a pair is replaced by one of the 10 ordinary tokens of the nearest counts. The
        mean over draws shows the bias of the curve, as that of a curve that cannot bend enough.

        Args:
            norm: A norm at every place, positive where it enters.
            rng: Draws the tokens.
            draws: Number of draws.
            pairs: Mask of the pairs that are imitated; all when None.
        """
        entering = np.flatnonzero(np.ones(len(self.twins), bool) if pairs is None else pairs)
        order = self.ordinary[np.argsort(self.log_count[self.ordinary], kind="stable")]
        sorted_counts, log_norm = self.log_count[order], np.log(norm[self.ordinary])
        residual = np.full(len(norm), np.nan)
        residual[self.ordinary] = log_norm - self.curve_basis @ (self.solver @ log_norm)
        last = len(order) - _NEIGHBOURS
        sides = []
        for places in (self.originals[entering], self.twins[entering]):
            at = np.searchsorted(sorted_counts, self.log_count[places]) - _NEIGHBOURS // 2
            first = np.clip(at, 0, last)
            sides.append(order[first + rng.integers(0, _NEIGHBOURS, (draws, len(places)))])
        ratio = self.log_count[sides[0]] - self.log_count[sides[1]]
        left = residual[sides[0]] - residual[sides[1]]
        with np.errstate(invalid="ignore"):  # NaN without pairs, or where no two sides differ
            return (ratio * left).sum(axis=1) / (ratio * ratio).sum(axis=1)

    def _weighted_sum(
        self, norm: Float[np.ndarray, " V"], weights: Float[np.ndarray, " m"], total: float
    ) -> OverOriginals:
        """Return sum_i w_i r_i / total with the influence of pairs and curve on it."""
        tokens, of_pair = np.unique(self.originals[weights != 0], return_inverse=True)
        units = len(tokens) + len(self.ordinary)
        if total == 0 or len(tokens) == 0:
            return OverOriginals(float("nan"), 0, np.full(units, np.nan))
        log_norm = np.log(norm[self.ordinary])
        curve = self.solver @ log_norm
        ratio = np.log(norm[self.originals]) - np.log(norm[self.twins]) - self.pair_basis @ curve
        statistic = float(weights @ ratio / total)
        scores = (weights * (ratio - statistic * weights))[weights != 0]
        per_token = np.bincount(of_pair, scores) / total
        per_token *= np.sqrt(len(tokens) / max(len(tokens) - 1, 1))
        residual = log_norm - self.curve_basis @ curve
        freedom = len(self.ordinary) / (len(self.ordinary) - self.curve_basis.shape[1])
        # White 1980 (HC1): the curve's part of the error, through its coefficients
        of_curve = -(weights @ self.pair_basis @ self.solver) * residual / total * np.sqrt(freedom)
        return OverOriginals(statistic, len(tokens), units * np.append(per_token, of_curve))


def curve_tokens(
    count: Integer[np.ndarray, " V"],
    originals: Integer[np.ndarray, " m"],
    twins: Integer[np.ndarray, " m"],
    ordinary: Bool[np.ndarray, " V"],
) -> Bool[np.ndarray, " V"]:
    """Return the mask of the ordinary tokens that a curve for these pairs is of.

    Their counts lie between half the smallest and twice the largest count of a pair, of those that
    are not 0; none of them is a twin or has one. None where there is no such pair.

    Args:
        count: Occurrences at every place.
        originals: Place of the token of each of m pairs.
        twins: Place of the twin of each pair.
        ordinary: Mask of the ordinary tokens.
    """
    seen = (count[originals] > 0) & (count[twins] > 0)
    if not seen.any():
        return np.zeros(len(count), bool)
    of_pairs = count[np.concatenate([originals[seen], twins[seen]])]
    mask = ordinary & (count >= of_pairs.min() / 2) & (count <= of_pairs.max() * 2)
    mask[originals] = mask[twins] = False
    return mask


def between_counts(
    count: Integer[np.ndarray, " V"],
    curve: Bool[np.ndarray, " V"],
    originals: Integer[np.ndarray, " m"],
    twins: Integer[np.ndarray, " m"],
) -> Bool[np.ndarray, " m"]:
    """Return the mask of the pairs whose counts both lie between those of the curve's tokens.

    Args:
        count: Occurrences at every place.
        curve: Mask of the curve's tokens, at least one.
        originals: Place of the token of each of m pairs.
        twins: Place of the twin of each pair.
    """
    sides, of_curve = count[np.stack([originals, twins])], count[curve]
    return ((of_curve.min() <= sides) & (sides <= of_curve.max())).all(axis=0)


def twin_curve(
    count: Integer[np.ndarray, " V"],
    originals: Integer[np.ndarray, " m"],
    twins: Integer[np.ndarray, " m"],
    ordinary: Bool[np.ndarray, " V"],
) -> TwinCurve | None:
    """Prepare the curve of log norm on log count, a cubic B-spline of 8 degrees of freedom.

    The curve is of `curve_tokens`. Knots lie at quantiles of their counts. Pairs with a count of 0,
    or beyond the counts of these tokens, do not enter.

    Args:
        count: Occurrences at every place.
        originals: Place of the token of each of m pairs.
        twins: Place of the twin of each pair.
        ordinary: Mask of the ordinary tokens; those with a twin, and twins, are left out.

    Returns:
        Pairs and curve; None where fewer than 100 ordinary tokens are left, or no pair.
    """
    mask = curve_tokens(count, originals, twins, ordinary)
    if mask.sum() < FEWEST_CURVE_TOKENS or np.ptp(count[mask]) == 0:
        return None
    inside = between_counts(count, mask, originals, twins)
    if not inside.any():
        return None
    originals, twins = originals[inside], twins[inside]
    places = np.flatnonzero(mask)
    with np.errstate(divide="ignore"):
        log_count = np.log(count)
    at = log_count[places]
    inner = np.unique(np.quantile(at, np.linspace(0, 1, _DEGREES - _CUBIC + 2)[1:-1]))
    inner = inner[(inner > at.min()) & (inner < at.max())]
    knots = np.concatenate([[at.min()] * (_CUBIC + 1), inner, [at.max()] * (_CUBIC + 1)])

    def basis(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n degrees"]:
        return BSpline.design_matrix(values, knots, _CUBIC).toarray()

    curve_basis = basis(at)
    return TwinCurve(
        originals,
        twins,
        places,
        log_count,
        basis(log_count[originals]) - basis(log_count[twins]),
        curve_basis,
        np.linalg.pinv(curve_basis),
    )
