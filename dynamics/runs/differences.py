"""Differences of two arms in one statistic over steps, with intervals.

Two single runs are compared over their tokens, each token paired with itself; arms of several seeds
over seeds. K steps, n tokens.
"""

from dataclasses import replace

import numpy as np
import pandas as pd

from dynamics.runs.arms import Arm, Quantity
from dynamics.runs.crossed import estimate_again
from dynamics.runs.trends import simultaneous_band
from dynamics.statistics.seeds import seed_difference
from dynamics.statistics.trajectory import Trajectory

OVER_TOKENS, OVER_SEEDS, NO_INTERVAL = "tokens", "seeds", ""
"""What the interval of a difference covers."""

COLUMNS = ("step", "value", "low", "high", "over")


def difference_curve(arm: Arm, baseline: Arm, quantity: Quantity) -> pd.DataFrame:
    """Difference of two arms, arm minus baseline, at each step that both have.

    Two single runs: the interval is the simultaneous 95 % band over all steps, over tokens, from
    what each token contributes to either value; a token that enters one value alone contributes to
    that alone. It says nothing of other seeds. Otherwise: a t interval at each step over seeds,
    seed by seed where both arms have the same seeds, else Welch's.

    Args:
        arm: One run or several seeds.
        baseline: The arm that is subtracted.
        quantity: A correlation, with its `given`; `at` has no meaning here.

    Returns:
        Columns `step`, `value`, `low`, `high` and `over` (`tokens` or `seeds`). Both ends are NaN
        and `over` is empty where there is no interval: one seed against several, or a run whose
        measures do not give its trends again, as those of another version. No rows where no step
        is shared, or a value is undefined.
    """
    pair = [_by_step(part, quantity) for part in (arm, baseline)]
    steps = pair[0].index.intersection(pair[1].index).sort_values()
    values, subtracted = (table.loc[steps].to_numpy().T for table in pair)
    if not len(steps):
        return pd.DataFrame(columns=COLUMNS)
    if len(arm.runs) > 1 or len(baseline.runs) > 1:
        paired = arm.seeds == baseline.seeds
        over_seeds = seed_difference(values, subtracted, paired=paired)
        ends, over = (over_seeds.low, over_seeds.high), OVER_SEEDS
        value = over_seeds.value
    else:
        value = values[0] - subtracted[0]
        ends = _band_over_tokens(arm, baseline, quantity, list(steps), value)
        over = OVER_TOKENS
    columns = {"step": steps, "value": value, "low": ends[0], "high": ends[1]}
    return pd.DataFrame(columns).assign(over=np.where(np.isnan(ends[0]), NO_INTERVAL, over))


def _by_step(arm: Arm, quantity: Quantity) -> pd.DataFrame:
    """Value of each seed (columns, in the order of the seeds) at each step that has one."""
    rows = arm.rows(quantity.measure, quantity.against, quantity.statistic, quantity.given)
    table = rows.pivot(index="step", columns="seed", values="value").reindex(columns=arm.seeds)
    return table.dropna(how="all")


def _band_over_tokens(
    arm: Arm, baseline: Arm, quantity: Quantity, steps: list[int], value: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the simultaneous band of the difference of two runs; NaN where there is none."""
    nowhere = np.full(len(steps), np.nan)
    contributions = []
    for step in steps:
        pair = [_contributions(part, quantity, step) for part in (arm, baseline)]
        if pair[0] is None or pair[1] is None:
            return nowhere, nowhere
        # The influence of a token on a difference is the difference of its influences.
        contributions.append(pair[0].sub(pair[1], fill_value=0.0))
    table = pd.concat(contributions, axis=1).fillna(0.0).to_numpy().T
    # A standard error is |influence| / n, and that of contributions |contributions|.
    trajectory = Trajectory(value, table * table.shape[1], fisher=False)
    if not table.any():  # a run against itself: nothing varies
        return value, value
    band = simultaneous_band(trajectory)
    return band.low, band.high


def _contributions(arm: Arm, quantity: Quantity, step: int) -> pd.Series | None:
    """Contribution of each token to the value of a single run; None where there are none."""
    rows = arm.rows(quantity.measure, quantity.against, quantity.statistic, quantity.given)
    row = rows[rows["step"] == step].iloc[0]
    exact = replace(quantity, given=row["given"])
    estimate = estimate_again(arm.runs[0], step, exact, row["value"])
    return None if estimate is None else estimate[1]
