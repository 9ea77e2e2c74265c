"""A correlation followed over checkpoints: pointwise intervals and bands that hold everywhere."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from dynamics.statistics.correlation import Correlation
from dynamics.statistics.intervals import (
    Band,
    fisher_limits,
    largest_deviation,
    normal_quantile,
    standard_errors,
)

_NOISE = 1e-12
"""Standard errors below this are rounding errors of a fixed value (a correlation of 1, a - a)."""


@dataclass(frozen=True, eq=False)
class Trajectory:
    """K correlations over the same n tokens, or K differences of such.

    Attributes:
        values: One value per step; NaN where it is undefined.
        influence: Influence of every token at every step.
        fisher: True if intervals are symmetric on Fisher's z scale (correlations), False if on
            that of the values (differences).
    """

    values: Float[np.ndarray, " K"]
    influence: Float[np.ndarray, "K n"]
    fisher: bool = True

    @property
    def standard_errors(self) -> Float[np.ndarray, " K"]:
        """Standard error of each value; NaN where it is undefined or n < 4."""
        return standard_errors(self.influence)

    def confidence_intervals(self, level: float = 0.95) -> Band:
        """Pointwise intervals, as `Correlation.confidence_interval` gives them.

        Each covers its own step; over many steps some will miss. See `simultaneous_band`.

        Raises:
            ValueError: `level` does not lie between 0 and 1.
        """
        return self._band(normal_quantile(level))

    def simultaneous_band(
        self, level: float, rng: np.random.Generator, draws: int = 20_000
    ) -> Band:
        """Band that covers the whole trajectory at once with probability `level`.

        The sup-t band: as many standard errors at every step as the largest of K normal deviates
        reaches, correlated like the influence values (Montiel Olea & Plagborg-Moller 2019). Steps
        that share tokens move together, so it is narrower than Bonferroni's.

        Steps whose value is undefined get NaN, steps whose value cannot vary (exactly 1, or a
        difference from itself) get their value; neither counts towards the largest.

        Raises:
            ValueError: `level` does not lie between 0 and 1.
        """
        unit = self.influence[self.standard_errors > _NOISE]
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        # Montiel Olea & Plagborg-Moller 2019: sup-t band
        return self._band(largest_deviation(unit @ unit.T, level, rng, draws))

    def differences(self, from_index: int = 0) -> "Trajectory":
        """Each value minus that at one step, tokens paired; 0 with a band of 0 at that step.

        All NaN if the value at that step is.
        """
        return Trajectory(
            self.values - self.values[from_index],
            self.influence - self.influence[from_index],
            fisher=False,
        )

    def _band(self, quantile: float) -> Band:
        """Band of so many standard errors at each step."""
        if self.fisher:
            return Band(*fisher_limits(self.values, self.standard_errors, quantile))
        reach = quantile * self.standard_errors
        return Band(self.values - reach, self.values + reach)


def stack(correlations: Sequence[Correlation]) -> Trajectory:
    """Stack correlations over the same tokens, one per step in order, into a trajectory.

    Raises:
        ValueError: There are none, or they are not over equally many tokens.
    """
    lengths = {len(correlation.influence) for correlation in correlations}
    if len(lengths) != 1:
        raise ValueError(
            f"a trajectory needs correlations over the same tokens, found {sorted(lengths)} tokens"
        )
    return Trajectory(
        np.array([correlation.statistic for correlation in correlations]),
        np.stack([correlation.influence for correlation in correlations]),
    )
