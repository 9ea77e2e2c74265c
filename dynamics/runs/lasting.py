"""The step from which on a norm correlates with frequency beyond chance, up to the last step."""

from dataclasses import dataclass

import numpy as np

from dynamics.runs.run import Run
from dynamics.runs.sweep_findings import band_scale
from dynamics.statistics.vocabulary import VocabularyRule


@dataclass(frozen=True)
class Lasting:
    """A correlation that lies beyond its null band, on one side, from a step to the last.

    Attributes:
        sign: 1 or -1; 0 where the correlation at the last step lies inside its null band.
        step: First step of those at which it lies beyond; the last step where `sign` is 0.
        step_before: Step before it of those that were measured; None where there is none.
    """

    sign: int
    step: int
    step_before: int | None

    def __str__(self) -> str:
        if self.sign == 0:
            return "not by the end"
        if self.step_before is not None:
            return f"from step {self.step:,} on, not yet at step {self.step_before:,}"
        began = f", so that it began at or before step {self.step:,}" if self.step else ""
        return f"at every measured step, the first of which is {self.step:,}{began}"


def lasting_correlation(run: Run, measure: str, rule: VocabularyRule) -> Lasting:
    """Return since when a measure correlates with frequency under a vocabulary rule.

    The null band is that of the main rule, scaled to the tokens of `rule`. A correlation that is
    undefined at a step (NaN) does not lie beyond it.

    Raises:
        OutputError: The run holds no correlation of the measure with frequency under the rule.
    """
    main, rows = run.trend(measure), run.trend(measure, rule=rule)
    reach = main["null_high"].to_numpy() * band_scale(main["n"].iloc[0], rows["n"].iloc[0])
    value, steps = rows["value"].to_numpy(), [int(step) for step in rows["step"]]
    side = np.where(np.abs(value) > reach, np.sign(value), 0)
    if side[-1] == 0:
        return Lasting(0, steps[-1], None)
    elsewhere = np.flatnonzero(side != side[-1])
    first = int(elsewhere[-1]) + 1 if len(elsewhere) else 0
    return Lasting(int(side[-1]), steps[first], steps[first - 1] if first else None)
