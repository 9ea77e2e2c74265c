"""Several runs as arms: seeds of one recipe together, and what their spread says.

Tokens of one training are not replicates of training, so that an arm's interval is over its seeds.
S seeds.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd

from dynamics.errors import MismatchError
from dynamics.runs.derived import derived_rows
from dynamics.runs.importance_trends import HISTORY
from dynamics.runs.run import Run
from dynamics.statistics.seeds import FEWEST_SEEDS, OverSeeds, seed_difference, seed_mean

KEYS = ["step", "measure", "against", "statistic", "given", "rule"]
COMPARISON_COLUMNS = ("arm", *KEYS, "value", "low", "high", "n_seeds", "descriptive")

CORRELATIONS = ("spearman", "partial_spearman", "within_bin_spearman")
"""Statistics that are averaged on Fisher's z scale; a disattenuated one may leave [-1, 1]."""

ONSET = "_onset"
"""Ending of statistics whose value is a step."""

_TRENDS: WeakKeyDictionary[Run, pd.DataFrame] = WeakKeyDictionary()

_SEED = re.compile(r"[-_](data-|weight-)?seed[-_]?(\d+)$")
_VARIES = {None: "initialisation and order", "data-": "order", "weight-": "initialisation"}
_NOT_THE_RECIPE = ("name", "seed", "tracking", "training.device", "training.threads")


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
        return dict(_flat(self.training))

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
        """Return the rows of `trends` of one statistic, of all seeds; empty if there are none.

        Only rows under the main rule of their run, or under no rule.

        Args:
            measure: As in `trends.parquet`.
            against: As in `trends.parquet`.
            statistic: As in `trends.parquet`.
            given: Controls, joined by `+`; None for the largest set that has none of `HISTORY`.
        """
        rows = self._indexed.get((measure, against, statistic))
        if rows is None:
            return self.trends.iloc[:0]
        if given is None:
            sets = [names for names in rows["given"].unique() if not HISTORY & {*names.split("+")}]
            given = max(sets, key=lambda names: (names.count("+"), names), default="")
        return rows[rows["given"] == given]

    def values(self, quantity: Quantity) -> pd.Series:
        """One value per seed, indexed by seed; NaN where a seed has none."""
        rows = self.rows(
            quantity.measure, quantity.against, quantity.statistic, quantity.given
        ).sort_values("step")
        by_seed = rows.groupby("seed")["value"]
        value = by_seed.nth(0 if quantity.at == "first" else -1)
        return pd.Series(value.to_numpy(), rows.loc[value.index, "seed"]).reindex(list(self.seeds))

    def curve(
        self, measure: str, against: str, statistic: str, given: str | None = None
    ) -> pd.DataFrame:
        """One statistic over steps: mean and t interval over the seeds, with `n_seeds`."""
        rows = self.rows(measure, against, statistic, given)
        return _over_seeds(rows, ["step"]).reset_index() if len(rows) else _NOTHING

    @cached_property
    def _indexed(self) -> dict[Any, pd.DataFrame]:
        """Rows under the main rule of their run, or under none, by statistic."""
        rules = dict(zip(self.seeds, (str(run.rule) for run in self.runs), strict=True))
        trends = self.trends
        main = trends[(trends["rule"] == trends["seed"].map(rules)) | (trends["rule"] == "")]
        return dict(iter(main.groupby(["measure", "against", "statistic"])))


_NOTHING = pd.DataFrame(columns=["step", "value", "low", "high", "n_seeds", "descriptive"])


def arms_of(runs: Sequence[Run]) -> list[Arm]:
    """Runs grouped as seeds of one recipe, in the order in which recipes first appear.

    Trainings of `dynamics train` are of one recipe when their settings are equal but for name,
    seed, device, threads and tracking; public series when their names are equal but for `-seedN`.
    Runs of one recipe with the same seed are each an arm of its own.

    Raises:
        MismatchError: Two runs are of different tokenizers; both are named.
    """
    check_vocabularies(runs)
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(_recipe(run), []).append(run)
    arms = []
    for group in groups.values():
        seeds = [_seed(run) for run in group]
        if len(set(seeds)) == len(seeds):
            arms.append(_arm(group, seeds))
        else:
            arms += [_arm([run], [seed]) for run, seed in zip(group, seeds, strict=True)]
    return _with_distinct_names(arms)


def compare(runs: Sequence[Run]) -> pd.DataFrame:
    """Every statistic of every arm: mean over seeds and t interval, columns `COMPARISON_COLUMNS`.

    Correlations are averaged on Fisher's z scale, everything else as it is. With one seed there is
    a value and no interval; with fewer than 5 `descriptive` is set.

    Raises:
        MismatchError: Two runs are of different tokenizers; both are named.
    """
    tables = [
        _over_seeds(arm.trends, KEYS).reset_index().assign(arm=arm.name) for arm in arms_of(runs)
    ]
    return pd.concat(tables, ignore_index=True)[list(COMPARISON_COLUMNS)]


def arm_mean(
    arm: Arm, quantity: Quantity, minus: Quantity | None = None, minus_times: float = 1.0
) -> OverSeeds:
    """Mean over seeds of a quantity, or of its difference from `minus_times` another of the seed.

    An onset is known up to the steps that were looked at: it lies after the step before. Its
    interval, and that of a difference, reach from the t interval's lower end for the earliest that
    it can have been to the upper end for the latest; that of an onset stays within the steps.
    """
    values = arm.values(quantity) - (0 if minus is None else minus_times * arm.values(minus))
    mean = seed_mean(values, fisher=minus is None and quantity.statistic in CORRELATIONS)
    terms = [term for term in (quantity, minus) if term is not None]
    if not any(term.statistic.endswith(ONSET) for term in terms):
        return mean
    earliest = seed_mean(values - _grid(arm, quantity))
    latest = seed_mean(values + (0 if minus is None else minus_times * _grid(arm, minus)))
    if minus is not None:
        return OverSeeds(mean.value, earliest.low, latest.high, mean.n)
    steps = arm.runs[0].steps
    low, high = (np.clip(end, steps[0], steps[-1]) for end in (earliest.low, latest.high))
    return OverSeeds(mean.value, low, high, mean.n)


def _grid(arm: Arm, quantity: Quantity) -> pd.Series:
    """Steps from the one before an onset to the onset, by seed; 0 of what is no onset."""
    onsets = arm.values(quantity)
    if not quantity.statistic.endswith(ONSET):
        return onsets * 0
    base = quantity.statistic.removesuffix(ONSET)
    rows = arm.rows(quantity.measure, quantity.against, base, quantity.given)
    onset = rows["seed"].map(onsets).astype(float)
    earlier = rows["step"][rows["value"].notna() & (rows["step"] < onset)]
    previous = earlier.groupby(rows["seed"]).max().reindex(onsets.index)
    return (onsets - previous).where(previous.notna(), onsets * 0)


def arm_difference(arm: Arm, baseline: Arm, quantity: Quantity) -> OverSeeds:
    """Difference of two arms in a quantity, seed by seed where both have the same seeds."""
    paired = set(arm.seeds) == set(baseline.seeds)
    values, subtracted = arm.values(quantity), baseline.values(quantity)
    return seed_difference(
        values, subtracted.reindex(values.index) if paired else subtracted, paired=paired
    )


def check_vocabularies(runs: Sequence[Run]) -> None:
    """Check that all runs are of one tokenizer; runs without counts have none to compare.

    Raises:
        MismatchError: Two are not; both are named.
    """
    tokenizers = {run: run.record.counts["tokenizer_sha256"] for run in runs if run.record.counts}
    first = next(iter(tokenizers), None)
    for run, tokenizer in tokenizers.items():
        assert first is not None
        if tokenizer != tokenizers[first]:
            raise MismatchError(
                f"{first.path} ({first.name}) and {run.path} ({run.name}) are of different "
                f"tokenizers ({tokenizers[first][:12]} and {tokenizer[:12]}), so that their tokens "
                "are not the same; compare runs of one vocabulary"
            )


def _over_seeds(rows: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Mean over seeds for each key; `rows` are of one kind of statistic unless it is a key."""
    tables = []
    correlations = rows["statistic"].isin(CORRELATIONS)
    for fisher, part in ((True, rows[correlations]), (False, rows[~correlations])):
        if len(part):
            wide = part.set_index([*keys, "seed"])["value"].unstack("seed")
            mean = seed_mean(wide.to_numpy().T, fisher=fisher)
            columns = {"value": mean.value, "low": mean.low, "high": mean.high}
            counted = {"n_seeds": mean.n, "descriptive": mean.descriptive}
            tables.append(pd.DataFrame(columns | counted, index=wide.index))
    return pd.concat(tables).sort_index()


def _trends(run: Run) -> pd.DataFrame:
    """The trends of a run and what is derived from them, once for each run."""
    if run not in _TRENDS:
        derived = pd.DataFrame(list(derived_rows(run)))
        _TRENDS[run] = pd.concat([run.trends, derived], ignore_index=True)
    return _TRENDS[run]


def _recipe(run: Run) -> str:
    """Text that runs of one recipe share, and no others."""
    settings = run.record.series.training
    if settings is None:
        kind = _SEED.search(run.name)
        return _SEED.sub("", run.name) + ((kind and kind[1]) or "")
    return json.dumps(dict(_flat(settings)), sort_keys=True)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Dotted keys and values, without what makes no recipe."""
    flat: list[tuple[str, Any]] = []
    for key, value in settings.items():
        name = prefix + key
        if name in _NOT_THE_RECIPE:
            continue
        flat += _flat(value, f"{name}.") if isinstance(value, Mapping) else [(name, value)]
    return flat


def _seed(run: Run) -> str:
    """Seed of a run, as text: from its training's settings, or from its name; empty for none."""
    settings = run.record.series.training
    if settings is not None:
        return str(settings.get("seed", ""))
    suffix = _SEED.search(run.name)
    return suffix[2] if suffix else ""


def _arm(runs: Sequence[Run], seeds: Sequence[str]) -> Arm:
    """Arm of runs of one recipe, named without the seed where there are several."""
    suffix = _SEED.search(runs[-1].name)
    varies = _VARIES[suffix[1] if suffix else None] if len(runs) > 1 else ""
    name = _SEED.sub("", runs[0].name) if len(runs) > 1 else runs[0].name
    return Arm(name, tuple(runs), tuple(seeds), varies)


def _with_distinct_names(arms: list[Arm]) -> list[Arm]:
    """Arms of one name get the folder of their first run beside it."""
    names = [arm.name for arm in arms]
    return [
        arm
        if names.count(arm.name) == 1
        else Arm(f"{arm.name} ({_folder(arm.runs[0])})", arm.runs, arm.seeds, arm.varies)
        for arm in arms
    ]


def _folder(run: Run) -> str:
    """Last two parts of the path of a run."""
    return "/".join(run.path.resolve().parts[-2:])
