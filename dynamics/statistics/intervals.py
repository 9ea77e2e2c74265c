"""Standard errors, intervals and bands from influence values."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import ndtri

FEWEST_TOKENS = 4
"""Below this no interval is given: Fisher's z has variance 1 / (n - 3)."""


@dataclass(frozen=True)
class Interval:
    """Two ends; both NaN where there is no interval."""

    low: float
    high: float


NOWHERE = Interval(float("nan"), float("nan"))
"""No interval."""


@dataclass(frozen=True, eq=False)
class Band:
    """One interval per step; NaN where there is none."""

    low: Float[np.ndarray, " K"]
    high: Float[np.ndarray, " K"]

    def at(self, index: int) -> Interval:
        """Return the interval of one step."""
        return Interval(self.low[index], self.high[index])


def standard_errors(influence: Float[np.ndarray, "K n"]) -> Float[np.ndarray, " K"]:
    """Infinitesimal jackknife: root mean square of the influence values over sqrt(n).

    The bootstrap's standard error to first order (Efron 1982, ch. 6), without resampling. NaN
    where influence values are NaN, and for fewer than 4 tokens.
    """
    n = influence.shape[-1]
    # Efron 1982, ch. 6: sqrt(mean psi^2) / sqrt(n) = |psi| / n
    return np.linalg.norm(influence, axis=-1) / (n if n >= FEWEST_TOKENS else np.nan)


def normal_quantile(level: float) -> float:
    """Half-width, in standard errors, of an interval that covers with probability `level`.

    Raises:
        ValueError: `level` does not lie between 0 and 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, not {level}")
    return float(ndtri((1 + level) / 2))


def fisher_limits(
    correlations: Float[np.ndarray, " K"], errors: Float[np.ndarray, " K"], quantile: float
) -> tuple[Float[np.ndarray, " K"], Float[np.ndarray, " K"]]:
    """Ends of tanh(z -+ quantile * error / (1 - rho^2)), z = atanh(rho), rho = `correlations`.

    At rho = -1 and 1, where z is infinite, both ends are rho: no resample could move it. NaN
    where the correlation or its error is.
    """
    perfect = np.abs(correlations) == 1
    rho = np.where(perfect, 0.0, correlations)
    # d atanh(rho) / d rho = 1 / (1 - rho^2)
    z, reach = np.arctanh(rho), quantile * errors / (1 - rho**2)
    low, high = np.tanh(z - reach), np.tanh(z + reach)
    fixed = correlations + 0 * errors  # NaN where the error is
    return np.where(perfect, fixed, low), np.where(perfect, fixed, high)


def largest_deviation(
    correlation: Float[np.ndarray, "K K"],
    level: float,
    rng: np.random.Generator,
    draws: int = 20_000,
) -> float:
    """The `level` quantile of max_k |Z_k|, Z normal with mean 0, variances 1 and `correlation`.

    Half-width, in standard errors, of a band that covers everywhere with probability `level`
    (the plug-in sup-t band of Montiel Olea & Plagborg-Moller 2019). Simulated, so good to about two
    decimals, but never below the pointwise quantile. NaN for K = 0.

    Raises:
        ValueError: `level` does not lie between 0 and 1.
    """
    pointwise = normal_quantile(level)
    if len(correlation) == 0:
        return float("nan")
    eigenvalues, vectors = np.linalg.eigh(correlation)
    root = vectors * np.sqrt(np.clip(eigenvalues, 0, None))
    # Montiel Olea & Plagborg-Moller 2019: plug-in sup-t quantile, simulated
    normal = rng.standard_normal((draws, len(correlation))) @ root.T
    return max(pointwise, float(np.quantile(np.abs(normal).max(axis=1), level)))
