"""How much of a number a linear read-out of vectors predicts: cross-validated ridge regression.

K folds, F features, L penalties.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer
from scipy.special import stdtrit

from dynamics.statistics.intervals import Interval

FOLDS = 10
PENALTIES = 10.0 ** np.arange(-5, 3)
"""Penalties that are tried, relative to the mean variance of the features."""

_TO_CHOOSE, _TO_PREDICT = 1e-7, 1e-14
"""Share of a fit's squared error at which conjugate gradients stop."""


Solutions = Float[np.ndarray, "fits F L"]


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over the tokens of each fold, of features x and a target y.

    Attributes:
        n: Tokens.
        x: Sums of x.
        y: Sums of y.
        xx: Sums of x x'.
        xy: Sums of x y.
        yy: Sums of y y.
    """

    n: Integer[np.ndarray, " K"]
    x: Float[np.ndarray, "K F"]
    y: Float[np.ndarray, " K"]
    xx: Float[np.ndarray, "K F F"]
    xy: Float[np.ndarray, "K F"]
    yy: Float[np.ndarray, " K"]

    def of(self, features: slice) -> "Moments":
        """The moments of some of the features, as views."""
        return Moments(
            self.n,
            self.x[:, features],
            self.y,
            self.xx[:, features, features],
            self.xy[:, features],
            self.yy,
        )


@dataclass(frozen=True)
class Readout:
    """Share of the variance of a target that is predicted for tokens that were not fitted.

    Attributes:
        r2: The share; at most 1, negative where the mean predicts better, NaN for a constant.
        n: Tokens.
        fold_influence: Influence of each fold on `r2`, mean 0.
    """

    r2: float
    n: int
    fold_influence: Float[np.ndarray, " K"]

    def confidence_interval(self, level: float = 0.95) -> Interval:
        """Student's t over folds (K - 1 degrees of freedom), from their influence on the share.

        It is about the tokens that are predicted. Folds share most of what they are fitted on,
        which it does not know of.
        """
        folds = len(self.fold_influence)
        error = np.sqrt(np.sum(self.fold_influence**2) / (folds * (folds - 1)))
        reach = float(stdtrit(folds - 1, (1 + level) / 2) * error)
        return Interval(self.r2 - reach, self.r2 + reach)


def fold_of(n: int) -> Integer[np.ndarray, " n"]:
    """Fold of each of n tokens: the same for the same n, sizes differing by one at most."""
    return np.random.default_rng(0).permutation(np.arange(n) % FOLDS)


def moments(folds: Iterable[tuple[Float[np.ndarray, "n F"], Float[np.ndarray, " n"]]]) -> Moments:
    """The moments of folds, given as features and target of their tokens.

    Products of features are summed in the features' precision, everything else in float64. Give
    features near mean 0, so that nothing cancels.
    """
    n, x, y, xx, xy, yy = [], [], [], [], [], []
    for features, target in folds:
        n.append(len(target))
        x.append(features.sum(axis=0, dtype=np.float64))
        y.append(target.sum())
        xx.append((features.T @ features).astype(np.float64))
        xy.append(target @ features.astype(np.float64))
        yy.append(target @ target)
    return Moments(*map(np.array, (n, x, y)), np.stack(xx), np.array(xy), np.array(yy))


def cross_validated_ridge(folds: Moments) -> Readout:
    """Predict each fold by ridge regression on the others, and say how well.

    With a, w the minimum of sum (y - a - w'x)^2 + n penalty |w|^2 over the tokens of the other
    folds, the share is 1 - sum (y - a - w'x)^2 / sum (y - b)^2 over the tokens of all folds, b the
    mean of the other folds, so that knowing nothing gives 0. The penalty for fold k is that of
    `PENALTIES` which predicts fold k + 1 best from the remaining K - 2: fold k has no say in it.
    Penalties are as many variances as x has in the mean over features, and a rotation of x changes
    nothing; bring features of different kinds to a common scale first.

    All fits are solved at once by conjugate gradients, preconditioned by the eigenvectors of all
    tokens' covariance: one decomposition in place of K for every penalty.
    """
    count = len(folds.n)
    system = _System(folds)
    next_fold = (np.arange(count) + 1) % count
    inner = system.fit([(k, after) for k, after in enumerate(next_fold)], PENALTIES, _TO_CHOOSE)
    errors = np.stack(
        [_squared_error(folds, *each) for each in zip(next_fold, *inner, strict=True)]
    )
    chosen = PENALTIES[errors.argmin(axis=1)]
    outer = [(k,) for k in range(count)]
    intercepts, weights = system.fit(outer, chosen[:, np.newaxis], _TO_PREDICT)
    left = np.array(
        [_squared_error(folds, k, intercepts[k], weights[k]).item() for k in range(count)]
    )
    means = (folds.y.sum() - folds.y) / (folds.n.sum() - folds.n)
    whole = folds.yy - 2 * means * folds.y + folds.n * means**2
    total = whole.sum() if whole.sum() > 0 else np.nan
    r2 = 1 - left.sum() / total
    influence = -(left - (1 - r2) * whole) / (total / count)
    return Readout(float(r2), int(folds.n.sum()), influence)


class _System:
    """The normal equations of ridge regressions that leave folds out."""

    def __init__(self, folds: Moments) -> None:
        self._folds = folds
        self._n = folds.n.sum()
        self._xx = folds.xx.sum(axis=0)
        mean = folds.x.sum(axis=0) / self._n
        covariance = self._xx / self._n - np.outer(mean, mean)
        self._scale = np.trace(covariance) / len(covariance) or 1.0
        self._variances, self._axes = np.linalg.eigh(covariance)

    def fit(
        self,
        left_out: Sequence[tuple[int, ...]],
        penalties: Float[np.ndarray, "..."],
        precision: float,
    ) -> tuple[Float[np.ndarray, "fits L"], Solutions]:
        """Intercepts and weights, for each choice of folds to leave out and each penalty.

        Args:
            left_out: The folds that each fit leaves out.
            penalties: L penalties for all fits, or a row of them for each.
            precision: Share of the squared error at which a fit counts as solved.
        """
        folds, out = self._folds, np.zeros((len(left_out), len(self._folds.n)))
        for at, those in enumerate(left_out):
            out[at, list(those)] = 1
        n = self._n - out @ folds.n
        mean = (folds.x.sum(axis=0) - out @ folds.x) / n[:, np.newaxis]
        mean_y = (folds.y.sum() - out @ folds.y) / n
        xy = folds.xy.sum(axis=0) - out @ folds.xy - mean * (n * mean_y)[:, np.newaxis]
        ridge = n[:, np.newaxis, np.newaxis] * self._scale * np.atleast_2d(penalties)[:, np.newaxis]
        diagonal = n[:, np.newaxis, np.newaxis] * self._variances[:, np.newaxis] + ridge

        def times_matrix(w: Solutions) -> Solutions:
            product = self._xx @ w + ridge * w
            for at, those in enumerate(left_out):
                product[at] -= n[at] * np.outer(mean[at], mean[at] @ w[at])
                for fold in those:
                    product[at] -= folds.xx[fold] @ w[at]
            return product

        def nearly_solved(rest: Solutions) -> Solutions:
            return self._axes @ ((self._axes.T @ rest) / diagonal)

        rest = np.repeat(xy[:, :, np.newaxis], ridge.shape[-1], axis=2)
        weights = _conjugate_gradients(times_matrix, nearly_solved, rest, precision)
        return mean_y[:, np.newaxis] - np.einsum("kf,kfl->kl", mean, weights), weights


def _conjugate_gradients(
    times_matrix: Callable[[Solutions], Solutions],
    nearly_solved: Callable[[Solutions], Solutions],
    rest: Solutions,
    precision: float,
) -> Solutions:
    """Solve `times_matrix(w) = rest` for every fit (axis 0) and penalty (axis 2) at once."""
    solution = np.zeros_like(rest)
    towards = direction = nearly_solved(rest)
    energy = (rest * towards).sum(axis=1, keepdims=True)
    enough = precision * energy
    for _ in range(2 * rest.shape[1] + 10):  # exact arithmetic needs as many as there are features
        if (energy <= enough).all():
            break
        product = times_matrix(direction)
        step = _ratio(energy, (direction * product).sum(axis=1, keepdims=True))
        solution = solution + step * direction
        rest = rest - step * product
        towards = nearly_solved(rest)
        before, energy = energy, (rest * towards).sum(axis=1, keepdims=True)
        direction = towards + _ratio(energy, before) * direction
    return solution


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Their ratio, 0 where a system is solved and both are."""
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


def _squared_error(
    folds: Moments, fold: int, intercept: Float[np.ndarray, " L"], w: Float[np.ndarray, "F L"]
) -> Float[np.ndarray, " L"]:
    """Sum of squared errors over a fold, for each of L fits."""
    x = folds.x[fold] @ w
    squared = folds.n[fold] * intercept**2 + 2 * intercept * x + (w * (folds.xx[fold] @ w)).sum(0)
    return folds.yy[fold] - 2 * (intercept * folds.y[fold] + folds.xy[fold] @ w) + squared
