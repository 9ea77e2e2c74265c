"""Agreement of attribution methods inside inputs, with inputs as the sampling unit."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.stats import spearmanr

from dynamics.statistics.student import student_quantile

LEAST_POSITIONS = 3  # two positions have a correlation of -1 or 1, whatever the scores


@dataclass(frozen=True)
class Agreement:
    """Agreement of scores with a reference on the order of the positions of an input.

    Attributes:
        mean: Mean over inputs of Spearman's correlation inside an input; NaN without inputs.
        low: Lower end of its interval over inputs; NaN for fewer than two inputs.
        high: Upper end.
        inputs: Inputs that entered.
        left_out: Inputs with fewer than three positions that both score, or with constant scores or
            a constant reference.
    """

    mean: float
    low: float
    high: float
    inputs: int
    left_out: int


def within_input_agreement(
    scores: Sequence[Float[np.ndarray, "P draws"] | Float[np.ndarray, " P"]],
    reference: Sequence[Float[np.ndarray, " P"]],
    *,
    level: float = 0.95,
) -> Agreement:
    """Mean over inputs of the Spearman correlation between two scores of its positions.

    Tracking correlates token types over a vocabulary; an attribution ranks the tokens of one
    input. This number shows whether a norm explains predictions. The interval is
    Student's. Ties have their mean rank; positions that are NaN in either are left out.

    Args:
        scores: Scores of the positions of each input; several draws in columns, whose correlations
            are averaged inside the input.
        reference: Scores of the same positions by a trusted method, such as occlusion.
        level: Coverage of the interval.

    Raises:
        ValueError: The two differ in inputs or in positions.
    """
    if len(scores) != len(reference):
        raise ValueError(f"{len(scores)} inputs are compared with {len(reference)}")
    correlations = np.array([_spearman(*pair) for pair in zip(scores, reference, strict=True)])
    defined = correlations[~np.isnan(correlations)]
    n = len(defined)
    mean = float(defined.mean()) if n else np.nan
    error = defined.std(ddof=1) / np.sqrt(n) if n > 1 else np.nan
    margin = float(error * student_quantile(level, n - 1))
    return Agreement(mean, mean - margin, mean + margin, n, len(correlations) - n)


def _spearman(scores: Float[np.ndarray, "P *draws"], reference: Float[np.ndarray, " P"]) -> float:
    """Spearman correlation inside one input; the mean over draws if there are several.

    Positions that are NaN in either are left out. NaN for fewer than `LEAST_POSITIONS` positions,
    and where one of the two is constant; one such draw makes the mean NaN.

    Raises:
        ValueError: The two differ in positions.
    """
    if len(scores) != len(reference):
        raise ValueError(f"{len(scores)} positions are compared with {len(reference)}")
    if scores.ndim == 2:
        return float(np.mean([_spearman(draw, reference) for draw in scores.T]))
    scored = ~(np.isnan(scores) | np.isnan(reference))
    left, right = scores[scored], reference[scored]
    if len(left) < LEAST_POSITIONS or np.ptp(left) == 0 or np.ptp(right) == 0:
        return np.nan
    return float(spearmanr(left, right).statistic)
