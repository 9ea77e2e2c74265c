"""Results that follow from the tables of a run and do not stand in them.

Input rows that never occur are held against what learning rates and weight decay predict, and the
read-out of frequency gets an onset as correlations have one.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from pydantic import ValidationError

from dynamics.config import TrainingSettings
from dynamics.runs.run import Run
from dynamics.runs.trends import LEVEL, ONSET, Row, onset_row, trend_row
from dynamics.statistics.onset import onset, step_before
from dynamics.statistics.readout import change_from_first
from dynamics.training.rates import unused_row_factor


@dataclass(frozen=True)
class UnseenRows:
    """Change of the input rows whose token never occurs.

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
    predicted = untouched_row_factor(run)
    if predicted is None or run.rule is None or run.record.series.tied or run.steps[0] != 0:
        return None
    return against_decay(run, predicted)


def against_decay(run: Run, predicted: float) -> UnseenRows | None:
    """Compare the rows that never occur with the factor predicted for them; None without any."""
    never = run.never_seen
    if not never.any():
        return None
    first, last = (
        run.measures(step)["input_embedding_norm"].to_numpy(np.float64)[never]
        for step in (run.steps[0], run.steps[-1])
    )
    ratio = last / first
    return UnseenRows(
        int(never.sum()), float(ratio.mean()), predicted, float(np.abs(ratio / predicted - 1).max())
    )


def untouched_row_factor(run: Run) -> float | None:
    """Factor that weight decay leaves, at the last step, of the norm of a row without a gradient.

    Returns:
        None where nothing is predicted: the run was not made by one of our trainings (or by one
        whose settings this version does not know), or decays otherwise than AdamW.
    """
    recorded = run.record.series.training
    if recorded is None:
        return None
    try:
        training = TrainingSettings.model_validate(recorded["training"])
    except ValidationError:
        return None
    if training.optimizer != "adamw" and training.weight_decay > 0:
        return None
    return unused_row_factor(training, run.steps[-1])


def derived_rows(run: Run) -> Iterator[Row]:
    """Rows as in `trends.parquet`: error of the unseen-row law, onsets of the frequency read-out.

    An onset is undefined (NaN) where the change of R2 from the first to the last step is within the
    error of both, allowing for the number of steps (`statistics.readout.change_from_first`). Where
    step 0 was not looked at, the change is that from 0: before training rows tell nothing of
    frequency.
    """
    unseen = unseen_rows(run)
    if unseen is not None:
        yield trend_row(
            unseen.error,
            unseen.n,
            step=run.steps[-1],
            measure="input_embedding_norm",
            statistic="unseen_row_error",
        )
    read_outs = run.trends[run.trends["statistic"] == "readout_r2"].sort_values("step")
    for (role, given), rows in read_outs.groupby(["measure", "given"]):
        steps, value, low, high = (
            [0, *rows[column]] if rows["step"].iloc[0] > 0 else rows[column].tolist()
            for column in ("step", "value", "low", "high")
        )
        band = change_from_first(np.array(low), np.array(high), LEVEL)
        begun = onset(steps, np.array(value) - value[0], band)
        yield onset_row(
            begun,
            0 if begun is None else step_before(steps, begun),
            int(rows["n"].iloc[-1]),
            step=run.steps[-1],
            measure=role,
            against="log_frequency",
            statistic=f"readout_r2{ONSET}",
            given=given,
            rule=str(run.rule),
        )
