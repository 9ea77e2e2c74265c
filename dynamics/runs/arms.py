"""Arms: runs of one recipe that differ in their seed, and their trends together.

Tokens of one training are not replicates of training, so that an arm's interval is over its seeds.
S seeds.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from dynamics.runs.derived import derived_rows
from dynamics.runs.importance_trends import HISTORY
from dynamics.runs.run import Run, rows_where
from dynamics.runs.trends import ONSET
from dynamics.statistics.onset import step_before
from dynamics.statistics.seeds import FEWEST_SEEDS, OverSeeds, seed_mean

CORRELATIONS = ("spearman", "partial_spearman", "within_bin_spearman")
"""Statistics that are averaged on Fisher's z scale; a disattenuated one may leave [-1, 1]."""

_NOT_THE_RECIPE = ("name", "seed", "tracking", "training.device", "training.threads")

_TRENDS: WeakKeyDictionary[Run, pd.DataFrame] = WeakKeyDictionary()

_NOTHING = pd.DataFrame(columns=["step", "value", "low", "high", "n_seeds", "descriptive"])


@dataclass(frozen=True)
class Quantity:
    """One statistic of a run: a row of its trends.

    Attributes:
        measure: As in `trends.parquet`.
        against: As in `trends.parquet`.
        statistic: As in `trends.parquet`.
        given: As in `trends.parquet`; None for whatever the statistic is given, the most controls
            where it is given several sets, without what a row has gone through.
        at: The first or the last step.
    """

    measure: str
    against: str = ""
    statistic: str = "spearman"
    given: str | None = None
    at: Literal["first", "last"] = "last"


@dataclass(frozen=True, eq=False)
class Arm:
    """Runs of one recipe that differ in their seed; a single run is an arm too.

    Attributes:
        name: Name of the runs, without the seed.
        runs: S runs.
        seeds: The seed of each.
        varies: Part of a training that differs by seed, such as `initialisation and order`; empty
            for one run.
    """

    name: str
    runs: tuple[Run, ...]
    seeds: tuple[str, ...]
    varies: str

    @property
    def descriptive(self) -> bool:
        """Return whether there are too few seeds to say anything about other seeds."""
        return len(self.runs) < FEWEST_SEEDS

    @property
    def training(self) -> Mapping[str, Any]:
        """Settings of the first seed's training; empty unless `dynamics train` made the series."""
        return self.runs[0].record.series.training or {}

    def setting(self, key: str) -> Any:
        """One setting of the training, `training.optimizer` for one; None where not known."""
        value: Any = self.training
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return value

    @property
    def recipe(self) -> Mapping[str, Any]:
        """Settings of the training by dotted key, without what makes no recipe."""
        return recipe_of(self.training)

    @cached_property
    def trends(self) -> pd.DataFrame:
        """The trends of all seeds, with a column `seed`, and what is derived from them."""
        return pd.concat(
            [
                _trends(run).assign(seed=seed)
                for run, seed in zip(self.runs, self.seeds, strict=True)
            ],
            ignore_index=True,
        )

    def rows(
        self, measure: str, against: str, statistic: str, given: str | None = None
    ) -> pd.DataFrame:
        """The rows of `trends` of one statistic under the main rule; empty if there is none.

        Args:
            measure: As in `trends.parquet`.
            against: As in `trends.parquet`.
            statistic: As in `trends.parquet`.
            given: As in `trends.parquet`; None as in `Quantity`.
        """
        rows = self._indexed.get((measure, against, statistic))
        if rows is None:
            return self.trends.iloc[:0]
        if given is None:
            sets = [names for names in rows["given"].unique() if not HISTORY & {*names.split("+")}]
            given = max(sets, key=lambda names: (names.count("+"), names), default="")
        return rows[rows["given"] == given]

    def rows_by_seed(self, quantity: Quantity) -> pd.DataFrame:
        """The row of a quantity for each seed, indexed by seed; NaN where a seed has none."""
        rows = self.rows(quantity.measure, quantity.against, quantity.statistic, quantity.given)
        by_seed = rows.sort_values("step").groupby("seed")
        row = by_seed.nth(0 if quantity.at == "first" else -1)
        return row.set_index("seed").reindex(list(self.seeds))

    def values(self, quantity: Quantity) -> pd.Series:
        """One value per seed, indexed by seed; NaN where a seed has none."""
        return self.rows_by_seed(quantity)["value"]

    def curve(
        self, measure: str, against: str, statistic: str, given: str | None = None
    ) -> pd.DataFrame:
        """One statistic over steps: mean and t interval over the seeds, with `n_seeds`."""
        rows = self.rows(measure, against, statistic, given)
        return over_seeds(rows, ["step"]).reset_index() if len(rows) else _NOTHING

    @cached_property
    def _indexed(self) -> dict[Any, pd.DataFrame]:
        """Rows under the main rule, or under none, by statistic."""
        trends = self.trends
        main = trends[trends["rule"].isin([str(self.runs[0].rule), ""])]
        return dict(iter(main.groupby(["measure", "against", "statistic"])))


def recipe_of(training: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a training by dotted key, without what makes no recipe."""
    return dict(_flat(training))


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and values, without what makes no recipe."""
    for key, value in settings.items():
        name = prefix + key
        if name in _NOT_THE_RECIPE:
            continue
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}.")
        else:
            yield name, value


def over_seeds(rows: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Mean and t interval over seeds for each key; `rows` are of one statistic unless it is a key.

    Correlations are averaged on Fisher's z scale. An onset lies after the step before it, by which
    its interval is wider.
    """
    tables = []
    correlations = rows["statistic"].isin(CORRELATIONS)
    onsets = rows["statistic"].str.endswith(ONSET)
    for average, part in (
        (lambda column: seed_mean(column("value"), fisher=True), rows[correlations]),
        (lambda column: seed_mean(column("value")), rows[~(correlations | onsets)]),
        (partial(_onset_mean_of, last=rows["step"].max()), rows[onsets]),
    ):
        if len(part):
            wide = part.set_index([*keys, "seed"])[["value", "low", "high"]].unstack("seed")
            mean = average(lambda name, wide=wide: wide[name].to_numpy().T)
            columns = {"value": mean.value, "low": mean.low, "high": mean.high}
            counted = {"n_seeds": mean.n, "descriptive": mean.descriptive}
            tables.append(pd.DataFrame(columns | counted, index=wide.index))
    return pd.concat(tables).sort_index()


def onset_mean(
    value: ArrayLike,
    earliest: ArrayLike,
    latest: ArrayLike,
    within: tuple[float, float] = (-np.inf, np.inf),
) -> OverSeeds:
    """Mean over seeds of onsets, each known up to the steps that were looked at.

    The interval reaches from the t interval's lower end for the earliest that each can have been to
    the upper end for the latest.

    Args:
        value: Step of each seed's onset, seeds along the first axis; NaN where a seed has none.
        earliest: Step after which it lies.
        latest: Step at which it lies at the latest.
        within: Steps that the interval cannot leave.
    """
    mean = seed_mean(value)
    low, high = np.clip([seed_mean(earliest).low, seed_mean(latest).high], *within)
    return OverSeeds(mean.value, low, high, mean.n)


def _onset_mean_of(column: Callable[[str], np.ndarray], last: float) -> OverSeeds:
    """Return the mean over seeds of columns of onsets in a training of `last` steps."""
    value, earliest, latest = map(column, ("value", "low", "high"))
    return onset_mean(value, earliest, latest, within=(0, last))


def _trends(run: Run) -> pd.DataFrame:
    """The trends of a run and what is derived from them, once for each run."""
    if run not in _TRENDS:
        derived = pd.DataFrame(list(derived_rows(run)))
        _TRENDS[run] = _with_steps_before(pd.concat([run.trends, derived], ignore_index=True))
    return _TRENDS[run]


def _with_steps_before(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows in which each onset has its ends, which runs did not store before.

    Where step 0 was not looked at, these had only the change since the first step, so that an onset
    may be any earlier step.
    """
    onsets = rows["statistic"].str.endswith(ONSET) & rows["value"].notna()
    for index, onset in rows[onsets & (rows["high"] != rows["value"])].iterrows():
        about = {key: onset[key] for key in ("measure", "against", "given", "rule")}
        base = rows_where(rows, **about, statistic=onset["statistic"].removesuffix(ONSET))
        steps = sorted(base.loc[base["value"].notna(), "step"])
        earliest = step_before(steps, onset["value"]) if steps and steps[0] == 0 else 0
        rows.loc[index, "low"] = earliest if steps else onset["value"]
        rows.loc[index, "high"] = onset["value"]
    return rows
