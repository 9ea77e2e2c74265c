"""Several runs compared: what the spread over the seeds of each arm says.

The interval of an arm is over its seeds, which share their tokens; one that covers other tokens
too is in `runs.crossed`.
"""

from collections.abc import Sequence

import pandas as pd

from dynamics.progress import Report, no_report
from dynamics.runs.arms import CORRELATIONS as CORRELATIONS
from dynamics.runs.arms import Arm as Arm
from dynamics.runs.arms import Quantity as Quantity
from dynamics.runs.arms import onset_mean, over_seeds
from dynamics.runs.crossed import crossed_rows
from dynamics.runs.grouping import Arms, grouping_lines
from dynamics.runs.grouping import arms_of as arms_of
from dynamics.runs.grouping import check_vocabularies as check_vocabularies
from dynamics.runs.run import Run
from dynamics.runs.trends import ONSET as ONSET
from dynamics.statistics.seeds import OverSeeds, seed_difference, seed_mean

KEYS = ["step", "measure", "against", "statistic", "given", "rule"]
COMPARISON_COLUMNS = ("arm", *KEYS, "value", "low", "high", "n_seeds", "descriptive", "over")

SEEDS = "seeds"
"""What the interval of an arm covers; that of an onset also the steps between those looked at."""


def compare(
    runs: Sequence[Run],
    *,
    arms: Arms | None = None,
    crossed: bool = False,
    report: Report = no_report,
) -> pd.DataFrame:
    """Every statistic of every arm: mean over seeds and interval, columns `COMPARISON_COLUMNS`.

    Correlations are averaged on Fisher's z scale, everything else as it is. With one seed there is
    a value and no interval; with fewer than 5 `descriptive` is set. The column `over` says what the
    interval covers: `seeds`, a t interval for other seeds over the same tokens; for an onset also
    the steps between those looked at; and with `crossed`, in rows of their own, `seeds and tokens`
    or `seeds and tokens with a twin`, for other seeds and other tokens.

    Args:
        runs: Runs of one tokenizer.
        arms: Runs of each arm by its name, where the grouping is set; see `arms_of`.
        crossed: Add the intervals over seeds and tokens, of correlations and of slopes within twins
            at the last step, for arms of several seeds; they are computed from the measures.
        report: Receives a line for each arm, and for what keeps it apart from the most similar.

    Raises:
        MismatchError: Two runs are of different tokenizers, or cannot be of one arm as it is set;
            both are named.
        OutputError: An arm names a run that is not there; or a table of measures is damaged.
    """
    grouped = arms_of(runs, arms)
    for line in grouping_lines(grouped):
        report(line)
    tables = []
    for arm in grouped:
        table = over_seeds(arm.trends, KEYS).reset_index()
        onsets = table["statistic"].str.endswith(ONSET)
        table["over"] = onsets.map({True: f"{SEEDS} and steps between", False: SEEDS})
        tables.append(table.assign(arm=arm.name))
        if crossed:
            tables.append(pd.DataFrame(crossed_rows(arm)).assign(arm=arm.name))
    return pd.concat(tables, ignore_index=True)[list(COMPARISON_COLUMNS)]


def arm_mean(
    arm: Arm, quantity: Quantity, minus: Quantity | None = None, minus_times: float = 1.0
) -> OverSeeds:
    """Mean over seeds of a quantity, or of its difference from `minus_times` another of the seed.

    An onset is known up to the steps that were looked at: it lies after the step before. Its
    interval, and that of a difference, reach from the t interval's lower end for the earliest that
    it can have been to the upper end for the latest; that of an onset stays within the training.
    """
    value, earliest, latest = _ends(arm, quantity)
    is_onset = quantity.statistic.endswith(ONSET)
    if minus is None and is_onset:
        return onset_mean(value, earliest, latest, within=(0, arm.runs[0].steps[-1]))
    if minus is None:
        return seed_mean(value, fisher=quantity.statistic in CORRELATIONS)
    subtracted, least, most = (minus_times * end for end in _ends(arm, minus))
    if not is_onset and not minus.statistic.endswith(ONSET):
        return seed_mean(value - subtracted)
    return onset_mean(value - subtracted, earliest - most, latest - least)


def arm_difference(arm: Arm, baseline: Arm, quantity: Quantity) -> OverSeeds:
    """Difference of two arms in a quantity, seed by seed where both have the same seeds."""
    paired = set(arm.seeds) == set(baseline.seeds)
    values, subtracted = arm.values(quantity), baseline.values(quantity)
    return seed_difference(
        values, subtracted.reindex(values.index) if paired else subtracted, paired=paired
    )


def _ends(arm: Arm, quantity: Quantity) -> tuple[pd.Series, pd.Series, pd.Series]:
    """Value of each seed, and the ends of what is known of it; only those of onsets differ."""
    rows = arm.rows_by_seed(quantity)
    if not quantity.statistic.endswith(ONSET):
        return rows["value"], rows["value"], rows["value"]
    return rows["value"], rows["low"], rows["high"]
