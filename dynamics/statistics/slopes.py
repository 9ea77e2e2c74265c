"""Slopes of log norm on log frequency: over tokens, and within pairs of a token and its twin.

The first compares tokens that differ in everything; what goes with frequency is in it. The second
compares a token with its twin, of which only the frequency differs (precedent: Wilson & Schakel
2015, arXiv:1510.02675). A slope of 0.1 means that ten times the frequency makes the norm 10^0.1
times as large.
"""

import numpy as np
from numpy.typing import ArrayLike

from dynamics.statistics.correlation import NormalEstimate
from dynamics.statistics.intervals import FEWEST_TOKENS, Interval, normal_quantile
from dynamics.statistics.line import least_squares_line
from dynamics.statistics.ranks import finite
from dynamics.statistics.student import student_quantile


class Slope(NormalEstimate):
    """A slope over tokens."""

    @property
    def standard_error(self) -> float:
        """Standard deviation of `statistic` over resampled tokens; NaN where fewer than 4 enter."""
        return super().standard_error if self.n >= FEWEST_TOKENS else float("nan")


class TwinSlope(Slope):
    """A slope within pairs; `n` and the influence values are of tokens that have twins."""

    @property
    def standard_error(self) -> float:
        """The same over these tokens, with n - 1 in place of n; NaN below 4 of them."""
        return super().standard_error * float(np.sqrt(self.n / max(self.n - 1, 1)))

    def confidence_interval(self, level: float = 0.95) -> Interval:
        """Student's interval of n - 1 degrees of freedom; NaN where the slope is or n is below 4.

        Raises:
            ValueError: `level` does not lie between 0 and 1.
        """
        normal_quantile(level)  # raises for a level outside (0, 1)
        reach = float(student_quantile(level, self.n - 1)) * self.standard_error
        return Interval(self.statistic - reach, self.statistic + reach)


def log_slope(norm: ArrayLike, frequency: ArrayLike) -> Slope:
    """Least-squares slope of log norm on log frequency over tokens, with an intercept.

    With x = log frequency, y = log norm, and residuals e_i of the fit, the influence of a token is

        psi_i = (x_i - mean x) e_i / var x,

    so that the standard error is White's (1980, HC0), which lets the spread of norms change with
    frequency, as it does.

    Args:
        norm: n norms, in the units of the weights.
        frequency: n counts or frequencies of the same tokens, in any unit.

    Returns:
        The slope. Tokens whose norm or frequency is not positive have no logarithm and do not
        enter; NaN if fewer than 2 do, or all that do are equally frequent.

    Raises:
        MeasureError: A value is NaN or infinite.
        ValueError: norm and frequency differ in length.

    Example:
        >>> round(log_slope([1, 2, 4, 8], [1, 4, 16, 64]).statistic, 12)
        0.5
    """
    entering, (y, x) = _logs(norm=norm, frequency=frequency)
    return Slope(*_over_all(least_squares_line(x, y)[0], entering))


def twin_log_slope(
    norm_original: ArrayLike,
    norm_twin: ArrayLike,
    frequency_original: ArrayLike,
    frequency_twin: ArrayLike,
    token: ArrayLike | None = None,
) -> TwinSlope:
    """Slope of log norm on log frequency within pairs of a token and its twin.

    The differences of log norms regressed on those of log frequencies, through the origin: two ids
    of one frequency would have one norm but for noise. Everything that a token and its twin have in
    common cancels. Influence values and error are as in `log_slope`; where all pairs differ equally
    in frequency, the interval is Student's of the mean of the pairs' slopes.

    Args:
        norm_original: n norms of tokens.
        norm_twin: Norms of their twins.
        frequency_original: Counts or frequencies of the tokens.
        frequency_twin: Counts or frequencies of their twins, in the same unit.
        token: Any number that names the token of each pair, where a token may have several twins:
            its pairs share the token's norm and are then one unit of the error.

    Returns:
        The slope. Pairs of which a norm or a frequency is not positive do not enter; NaN if none
        does, or none that does differs in frequency.

    Raises:
        MeasureError: A value is NaN or infinite.
        ValueError: The arguments differ in length.

    Example:
        >>> round(twin_log_slope([7, 70, 1], [1, 10, 1 / 7], [7, 14, 21], [1, 2, 3]).statistic, 12)
        1.0
    """
    entering, (y, y_twin, x, x_twin) = _logs(
        norm_original=norm_original,
        norm_twin=norm_twin,
        frequency_original=frequency_original,
        frequency_twin=frequency_twin,
    )
    slope, _ = least_squares_line(x - x_twin, y - y_twin, through_origin=True)
    value, n, influence = _over_all(slope, entering)
    if token is None:
        return TwinSlope(value, n, influence)
    tokens, of_pair = np.unique(token, return_inverse=True)
    per_token = np.bincount(of_pair, influence, len(tokens)) * len(tokens) / max(len(influence), 1)
    return TwinSlope(value, len(np.unique(of_pair[entering])), per_token)


def _logs(**variables: ArrayLike) -> tuple[np.ndarray, list[np.ndarray]]:
    """Mask of the tokens that have a logarithm of every variable, and these logarithms."""
    arrays = [finite(values, name) for name, values in variables.items()]
    if len({len(array) for array in arrays}) > 1:
        lengths = ", ".join(
            f"{name} {len(array)}" for name, array in zip(variables, arrays, strict=True)
        )
        raise ValueError(f"values of the same tokens differ in number: {lengths}")
    entering = np.all([array > 0 for array in arrays], axis=0)
    return entering, [np.log(array[entering]) for array in arrays]


def _over_all(slope: NormalEstimate, entering: np.ndarray) -> tuple[float, int, np.ndarray]:
    """Value, n and influence values of a slope, with 0 for tokens that did not enter."""
    influence = np.zeros(len(entering))
    influence[entering] = slope.influence * len(entering) / max(slope.n, 1)
    if np.isnan(slope.statistic):
        influence[:] = np.nan
    return slope.statistic, slope.n, influence
