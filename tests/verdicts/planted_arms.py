"""Arms whose values are given, without runs: what verdicts need of an arm and nothing else."""

from types import SimpleNamespace

import pandas as pd

from dynamics.runs.compare import Arm
from tests.tracking.arms import settings_of, trend_row

RULE = "count>=10"


def planted_arm(name, values, *, seeds=None, rule=RULE, **changes):
    """An arm with one value for each seed of every quantity, at step 8.

    `values` are by quantity; `changes` are settings of the training such as `model__tied`.
    """
    seeds = seeds or [str(seed) for seed in range(len(next(iter(values.values()))))]
    training = settings_of(0, **changes)
    run = SimpleNamespace(
        rule=rule, steps=[0, 8], record=SimpleNamespace(series=SimpleNamespace(training=training))
    )
    arm = Arm(name, (run,) * len(seeds), tuple(seeds), "initialisation and order")
    rows = [
        trend_row(
            *(0 if quantity.at == "first" else 8, quantity.measure, quantity.against),
            *(quantity.statistic, value),
            given=quantity.given or "",
            rule=rule,
        )
        | {"seed": seed}
        for quantity, by_seed in values.items()
        for seed, value in zip(seeds, by_seed, strict=True)
    ]
    arm.__dict__["trends"] = pd.DataFrame(rows)  # in place of the tables of runs
    return arm
