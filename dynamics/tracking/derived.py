"""Input rows that never occur, held against what learning rates and weight decay predict."""

from dataclasses import dataclass

import numpy as np
from pydantic import ValidationError

from dynamics.config import TrainingSettings
from dynamics.tracking.run import Run
from dynamics.training.rates import unused_row_factor


@dataclass(frozen=True)
class UnseenRows:
    """What became of the input rows whose token never occurs.

    Attributes:
        n: How many rows.
        ratio: Mean of their norms at the last step over those at step 0.
        predicted: What the schedule predicts for it.
        error: Largest relative deviation of a row from the prediction.
    """

    n: int
    ratio: float
    predicted: float
    error: float


def unseen_rows(run: Run) -> UnseenRows | None:
    """The law of unused rows, norm(t) = norm(0) prod (1 - learning rate x weight decay).

    Returns:
        None where nothing is predicted: the run does not begin at step 0, was not made by one of
        our trainings (or by one whose settings this version does not know), is tied, decays
        otherwise than AdamW, or has no row that never occurs.
    """
    recorded = run.info["series"].get("training")
    if recorded is None or run.rule is None or run.info["series"]["tied"] or run.steps[0] != 0:
        return None
    try:
        training = TrainingSettings.model_validate(recorded["training"])
    except ValidationError:
        return None
    never = run.never_seen
    if not never.any() or (training.optimizer != "adamw" and training.weight_decay > 0):
        return None
    first, last = (
        run.measures(step)["input_embedding_norm"].to_numpy(np.float64)[never]
        for step in (run.steps[0], run.steps[-1])
    )
    predicted = unused_row_factor(training, run.steps[-1])
    ratio = last / first
    return UnseenRows(
        int(never.sum()), float(ratio.mean()), predicted, float(np.abs(ratio / predicted - 1).max())
    )
