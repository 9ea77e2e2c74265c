"""Agreement of attribution methods inside inputs, with inputs as the sampling unit."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.stats import spearmanr, t

LEAST_POSITIONS = 3  # two ranks agree or not, whatever they rank


@dataclass(frozen=True)
class Agreement:
    """How well scores rank the positions of an input as a reference does.

    Attributes:
        mean: Mean over inputs of Spearman's correlation inside each; NaN without inputs.
        low: Lower end of its interval over inputs; NaN for fewer than two inputs.
        high: Upper end.
        inputs: Inputs that entered.
        left_out: Inputs with fewer than three positions that both score, or with scores or a
            reference that are all alike.
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
    input. This is the number that says whether a norm explains predictions. The interval is
    Student's. Ties have their mean rank; positions that are NaN in either are left out.

    Args:
        scores: Of the positions of each input; several draws of scores in columns, whose
            correlations are averaged inside the input.
        reference: The same, by what is trusted, such as occlusion.
        level: Of the interval.

    Raises:
        ValueError: The two differ in inputs or in positions.
    """
    if len(scores) != len(reference):
        raise ValueError(f"{len(scores)} inputs are compared with {len(reference)}")
    each = np.array([_spearman(*pair) for pair in zip(scores, reference, strict=True)])
    found = each[~np.isnan(each)]
    mean = float(found.mean()) if len(found) else np.nan
    error = found.std(ddof=1) / np.sqrt(len(found)) if len(found) > 1 else np.nan
    margin = float(error * t.ppf((1 + level) / 2, len(found) - 1)) if len(found) > 1 else np.nan
    return Agreement(mean, mean - margin, mean + margin, len(found), len(each) - len(found))


def _spearman(scores: Float[np.ndarray, "P *draws"], reference: Float[np.ndarray, " P"]) -> float:
    if len(scores) != len(reference):
        raise ValueError(f"{len(scores)} positions are compared with {len(reference)}")
    if scores.ndim == 2:
        return float(np.mean([_spearman(draw, reference) for draw in scores.T]))
    both = ~(np.isnan(scores) | np.isnan(reference))
    left, right = scores[both], reference[both]
    if len(left) < LEAST_POSITIONS or np.ptp(left) == 0 or np.ptp(right) == 0:
        return np.nan
    return float(spearmanr(left, right).statistic)
