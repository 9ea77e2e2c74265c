"""Means and differences over trainings: the seed is the unit of inference, not the token.

S seeds along the first axis; entries along further axes are independent problems.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from dynamics.statistics.student import student_quantile

FEWEST_SEEDS = 5
"""With fewer, the spread over seeds describes these seeds and supports no claim about others."""

LEVEL = 0.95


@dataclass(frozen=True, eq=False)
class OverSeeds:
    """An estimate over seeds with its interval.

    Attributes:
        value: The mean, or the difference of two; NaN where no seed has a value.
        low: Lower end of the interval; NaN for fewer than 2 seeds.
        high: Upper end.
        n: Seeds that entered; of a difference of unpaired arms those of the smaller arm.
    """

    value: Float[np.ndarray, "..."]
    low: Float[np.ndarray, "..."]
    high: Float[np.ndarray, "..."]
    n: Int[np.ndarray, "..."]

    @property
    def descriptive(self) -> np.ndarray:
        """Return whether fewer than 5 seeds entered, so that the interval only describes them."""
        return self.n < FEWEST_SEEDS


def seed_mean(values: ArrayLike, *, fisher: bool = False, level: float = LEVEL) -> OverSeeds:
    """Mean over seeds with Student's t interval on S - 1 degrees of freedom.

    Args:
        values: One value per seed along the first axis; NaN where a seed has none, which is then
            left out.
        fisher: Average correlations on Fisher's scale z = atanh(rho) and transform back. z is
            infinite at -1 and 1: where a seed lies there, there is no interval.
        level: Coverage of the interval.

    Raises:
        ValueError: `level` does not lie between 0 and 1, or a correlation beyond -1 or 1.

    Example:
        >>> mean = seed_mean([1.0, 2.0, 3.0])
        >>> round(float(mean.value), 3), round(float(mean.low), 3), round(float(mean.high), 3)
        (2.0, -0.484, 4.484)
    """
    values = np.asarray(values, dtype=float)
    if not fisher:
        return _student(*_moments(values), level)
    if (np.abs(values) > 1).any():
        raise ValueError("a correlation lies beyond -1 or 1 and has no Fisher's z")
    with np.errstate(divide="ignore", invalid="ignore"):
        on_z = _student(*_moments(np.arctanh(values)), level)
    return OverSeeds(np.tanh(on_z.value), np.tanh(on_z.low), np.tanh(on_z.high), on_z.n)


def seed_difference(a: ArrayLike, b: ArrayLike, *, paired: bool, level: float = LEVEL) -> OverSeeds:
    """Difference of two arms' means, a - b, on the scale of the values, with its t interval.

    Args:
        a: One value per seed along the first axis; NaN where a seed has none.
        b: Values of the other arm; of the same seeds in the same order when `paired`.
        paired: If True, both arms share their seeds: the difference is taken seed by seed, and a
            seed without a value in either arm is left out. If False, the interval is Welch's
            (1947), whose variances need not be equal.
        level: Coverage of the interval.

    Raises:
        ValueError: `level` does not lie between 0 and 1, or paired arms differ in seeds.
    """
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if paired:
        if len(a) != len(b):
            raise ValueError(f"{len(a)} and {len(b)} seeds cannot be paired")
        return _student(*_moments(a - b), level)
    (mean_a, error_a, n_a), (mean_b, error_b, n_b) = _moments(a), _moments(b)
    with np.errstate(divide="ignore", invalid="ignore"):
        # Welch 1947: degrees of freedom
        freedom = (error_a**2 + error_b**2) ** 2 / (error_a**4 / (n_a - 1) + error_b**4 / (n_b - 1))
    # Arms that do not vary at all have an interval of width 0, whatever the degrees of freedom.
    freedom = np.where(error_a + error_b == 0, n_a + n_b - 2, freedom)
    reach = student_quantile(level, freedom) * np.hypot(error_a, error_b)
    value = mean_a - mean_b
    return OverSeeds(value, value - reach, value + reach, np.minimum(n_a, n_b))


def _moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, its standard error and the number of values, NaN left out."""
    present = ~np.isnan(values)
    n = present.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(present, values, 0.0).sum(axis=0) / n
        squares = np.where(present, (values - mean) ** 2, 0.0).sum(axis=0)
        return mean, np.sqrt(squares / (n - 1) / n), n


def _student(mean: np.ndarray, error: np.ndarray, n: np.ndarray, level: float) -> OverSeeds:
    """Mean with Student's t interval on n - 1 degrees of freedom."""
    reach = student_quantile(level, n - 1.0) * error
    return OverSeeds(mean, mean - reach, mean + reach, n)
