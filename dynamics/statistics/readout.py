"""Linear read-out of a number from vectors: cross-validated ridge regression.

K folds, F features, L penalties.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Integer

from dynamics.statistics.intervals import Band, Interval
from dynamics.statistics.student import student_quantile

FOLDS = 10
PENALTIES = 10.0 ** np.arange(-4, 2)
"""Penalties that are tried, relative to the mean variance of the features."""

_TO_SELECT, _TO_PREDICT = 1e-10, 1e-17
"""Tolerances of conjugate gradients: the share of every fit's squared error that may remain."""


Solutions = Float[np.ndarray, "F fits L"]


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

        The interval is about the predicted tokens. It ignores that folds share most of the tokens
        they are fitted on.
        """
        folds = len(self.fold_influence)
        error = np.sqrt(np.sum(self.fold_influence**2) / (folds * (folds - 1)))
        reach = float(student_quantile(level, folds - 1) * error)
        return Interval(self.r2 - reach, self.r2 + reach)


def change_from_first(
    low: Float[np.ndarray, " S"], high: Float[np.ndarray, " S"], level: float = 0.95
) -> Band:
    """Band of the differences of S shares from the first of them, from their own intervals.

    The standard errors are those of both shares, as if they were independent. They have their folds
    in common and vary together, so that the band is too wide rather than too narrow. Bonferroni
    over the S steps: all differences lie in the band at once with the probability `level`.

    Args:
        low: Lower ends of the intervals of `Readout.confidence_interval`.
        high: Upper ends of these intervals.
        level: Coverage of these intervals, and of the band.

    Returns:
        The band; NaN where an interval is, and everywhere where the first is.
    """
    value = (low + high) / 2
    error = (high - low) / 2 / student_quantile(level, FOLDS - 1)
    change = value - value[0]
    quantile = student_quantile(1 - (1 - level) / len(value), FOLDS - 1)  # Bonferroni over S
    reach = quantile * np.hypot(error, error[0])
    return Band(change - reach, change + reach)


def fold_of(n: int) -> Integer[np.ndarray, " n"]:
    """Fold of each of n tokens: the same for the same n, sizes differing by one at most."""
    return np.random.default_rng(0).permutation(np.arange(n) % FOLDS)


def moments(
    folds: Iterable[tuple[Float[np.ndarray, "n F"], Float[np.ndarray, " n"]]],
    features: Sequence[slice] = (slice(None),),
) -> list[Moments]:
    """The moments of folds, given as features and target of their tokens.

    Products with features are summed in the features' precision, everything else in float64. Give
    features and target near mean 0, so that nothing cancels.

    Args:
        folds: Features and target of each fold.
        features: The sets of features to take moments of.
    """
    sums = [[] for _ in features]
    for all_features, target in folds:
        for columns, fold_sums in zip(features, sums, strict=True):
            x = all_features[:, columns]
            fold_sums.append(
                (
                    len(target),
                    x.sum(axis=0, dtype=np.float64),
                    target.sum(),
                    (x.T @ x).astype(np.float64),
                    (target.astype(x.dtype) @ x).astype(np.float64),
                    target @ target,
                )
            )
    return [_stacked(fold_sums) for fold_sums in sums]


def _stacked(folds: Sequence[tuple[Any, ...]]) -> Moments:
    """Moments from the sums of each fold."""
    n, x, y, xx, xy, yy = (np.array(sums) for sums in zip(*folds, strict=True))
    return Moments(n, x, y, xx, xy, yy)


def cross_validated_ridge(folds: Moments) -> Readout:
    """Predict each fold by ridge regression on the other folds, and return the share predicted.

    With a, w the minimum of sum (y - a - w'x)^2 + n penalty |w|^2 over the tokens of the other
    folds, the share is 1 - sum (y - a - w'x)^2 / sum (y - b)^2 over the tokens of all folds, b the
    mean of the other folds, so that predicting the mean gives 0. The penalty for fold k is that of
    `PENALTIES` which predicts fold k + 1 best from the remaining K - 2, without fold k.
    Penalties are in units of the mean variance of the features, and a rotation of x changes
    nothing; bring features of different kinds to a common scale first.

    All fits are solved at once by conjugate gradients, preconditioned by the eigenvectors of all
    tokens' covariance: one decomposition in place of K for every penalty.
    """
    count = len(folds.n)
    system = _System(folds)
    pairs = [(k, (k + 1) % count) for k in range(count)]
    validation_folds = np.array([k for _, k in pairs])
    fitted = system.fit(pairs, PENALTIES[np.newaxis], _TO_SELECT)
    validation_errors = _squared_errors(folds, validation_folds, *fitted)
    penalties = PENALTIES[validation_errors.argmin(axis=1), np.newaxis]
    fitted = system.fit([(k,) for k in range(count)], penalties, _TO_PREDICT)
    errors = _squared_errors(folds, np.arange(count), *fitted)[:, 0]
    means = (folds.y.sum() - folds.y) / (folds.n.sum() - folds.n)
    baseline_errors = folds.yy - 2 * means * folds.y + folds.n * means**2
    total = baseline_errors.sum() if baseline_errors.sum() > 0 else np.nan
    r2 = 1 - errors.sum() / total
    # Influence of a fold on the ratio of two sums over folds.
    influence = -(errors - (1 - r2) * baseline_errors) / (total / count)
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
        penalties: Float[np.ndarray, "#fits L"],
        tolerance: float,
    ) -> tuple[Float[np.ndarray, "fits L"], Solutions]:
        """Intercepts and weights, for each choice of folds to leave out and each penalty.

        Args:
            left_out: The folds that each fit leaves out.
            penalties: A row of L penalties for each fit, or one for all.
            tolerance: Share of the squared error that may remain.
        """
        folds = self._folds
        excluded = np.zeros((len(left_out), len(folds.n)))
        for fit, fold_ids in enumerate(left_out):
            excluded[fit, list(fold_ids)] = 1
        n = self._n - excluded @ folds.n
        mean = ((folds.x.sum(axis=0) - excluded @ folds.x) / n[:, np.newaxis]).T
        mean_y = (folds.y.sum() - excluded @ folds.y) / n
        xy = (folds.xy.sum(axis=0) - excluded @ folds.xy).T - mean * (n * mean_y)
        # Centred normal equations (X'X - n mean mean' + ridge) w = X'y - n mean mean_y
        ridge = n[:, np.newaxis] * self._scale * penalties
        diagonal = n[:, np.newaxis] * self._variances[:, np.newaxis, np.newaxis] + ridge

        def times_matrix(w: Solutions) -> Solutions:
            product = _times(self._xx, w) + ridge * w
            product -= (n * mean)[:, :, np.newaxis] * np.einsum("fk,fkl->kl", mean, w)
            for fold, fits in enumerate(excluded.T == 1):
                if fits.any():
                    product[:, fits] -= _times(folds.xx[fold], w[:, fits])
            return product

        def precondition(residual: Solutions) -> Solutions:
            return _times(self._axes, _times(self._axes.T, residual) / diagonal)

        right_side = np.repeat(xy[:, :, np.newaxis], ridge.shape[-1], axis=2)
        weights = _conjugate_gradients(times_matrix, precondition, right_side, tolerance)
        return mean_y[:, np.newaxis] - np.einsum("fk,fkl->kl", mean, weights), weights


def _times(matrix: Float[np.ndarray, "F F"], w: Solutions) -> Solutions:
    """Matrix times the weights of every fit and penalty."""
    return (matrix @ w.reshape(len(w), -1)).reshape(w.shape)


def _conjugate_gradients(
    times_matrix: Callable[[Solutions], Solutions],
    precondition: Callable[[Solutions], Solutions],
    right_side: Solutions,
    tolerance: float,
) -> Solutions:
    """Solve `times_matrix(w) = right_side` for every fit and penalty at once."""
    # Conjugate gradients (Hestenes & Stiefel 1952), with preconditioned residuals in the products.
    solution, residual = np.zeros_like(right_side), right_side
    preconditioned = direction = precondition(residual)
    energy = (residual * preconditioned).sum(axis=0)
    smallest_energy = tolerance * energy
    for _ in range(2 * len(residual) + 10):  # exact arithmetic needs one for each feature
        if (energy <= smallest_energy).all():
            break
        product = times_matrix(direction)
        step = _ratio(energy, (direction * product).sum(axis=0))
        solution = solution + step * direction
        residual = residual - step * product
        preconditioned = precondition(residual)
        previous_energy, energy = energy, (residual * preconditioned).sum(axis=0)
        direction = preconditioned + _ratio(energy, previous_energy) * direction
    return solution


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Elementwise ratio; 0 where the denominator is, as in a system that is solved."""
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)


def _squared_errors(
    folds: Moments,
    fold_ids: Integer[np.ndarray, " fits"],
    intercepts: Float[np.ndarray, "fits L"],
    weights: Solutions,
) -> Float[np.ndarray, "fits L"]:
    """Sum of squared errors of each fit over the tokens of one fold."""
    errors = np.empty_like(intercepts)
    for fit, (fold, a) in enumerate(zip(fold_ids, intercepts, strict=True)):
        w = weights[:, fit]
        cross = a * folds.y[fold] + folds.xy[fold] @ w
        squared = folds.n[fold] * a**2 + 2 * a * (folds.x[fold] @ w) + _quadratic(folds.xx[fold], w)
        errors[fit] = folds.yy[fold] - 2 * cross + squared
    return errors


def _quadratic(matrix: Float[np.ndarray, "F F"], w: Float[np.ndarray, "F L"]) -> np.ndarray:
    """W' matrix w for each column w."""
    return (w * (matrix @ w)).sum(axis=0)
