"""Intervals of an arm over seeds and tokens together, from the measures of its runs.

Trends hold values and intervals, and not what each token contributes to them; here the estimates of
a step are made again from the measures, for correlations and for slopes within twins.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from dynamics.runs.arms import CORRELATIONS, Arm, Quantity
from dynamics.runs.covariate_trends import read_covariates
from dynamics.runs.importance_trends import HISTORY
from dynamics.runs.measures import EXPOSURE, split_name
from dynamics.runs.run import Run
from dynamics.runs.slope_trends import CAUSAL, MINUS_CURVE, curve_of, pairs_by_third, twin_pairs
from dynamics.runs.tracked_importance import Importance, read_importances
from dynamics.runs.trends import WITHIN_BINS
from dynamics.statistics.bins import equal_count_bins
from dynamics.statistics.controlled import Controls, WithinBins
from dynamics.statistics.correlation import Estimate
from dynamics.statistics.crossed import crossed_mean
from dynamics.statistics.ranks import rank
from dynamics.statistics.seeds import OverSeeds
from dynamics.statistics.slopes import twin_log_slope
from dynamics.statistics.vocabulary import KINDS

CROSSED = (*CORRELATIONS, CAUSAL, MINUS_CURVE)
"""Statistics that have an interval over seeds and tokens."""

_SAME = 1e-6
"""Largest difference between a value of the trends and the one made again from the measures."""

_ESTIMATES: WeakKeyDictionary[Run, dict[int, "_Step"]] = WeakKeyDictionary()


def crossed_over(statistic: str) -> str:
    """Return what an interval of `crossed` covers."""
    return "seeds and tokens with a twin" if "twin" in statistic else "seeds and tokens"


def crossed(arm: Arm, quantity: Quantity) -> OverSeeds | None:
    """Mean over seeds of a quantity with an interval over seeds and tokens.

    Returns:
        None where there is no such interval: of other statistics than `CROSSED`, for one seed, or
        where the measures do not give the values of the trends again, as those of another version.
    """
    rows = arm.rows_by_seed(quantity)
    if quantity.statistic not in CROSSED or rows["value"].notna().sum() < 2:
        return None
    values, contributions = [], []
    for run, (_, row) in zip(arm.runs, rows.iterrows(), strict=True):
        if np.isnan(row["value"]):
            continue
        exact = replace(quantity, given=row["given"])
        again = estimate_again(run, int(row["step"]), exact, row["value"])
        if again is None:
            return None
        values.append(again[0])
        contributions.append(again[1])
    fisher = quantity.statistic in CORRELATIONS
    fewest = int(rows["n"].min())
    return crossed_mean(np.array(values), _aligned(contributions), sampled=fewest, fisher=fisher)


def estimate_again(
    run: Run, step: int, quantity: Quantity, stored: float
) -> tuple[float, pd.Series] | None:
    """Make a value of the trends again from the measures, with each token's contribution to it.

    Args:
        run: The run.
        step: The step.
        quantity: One of `CROSSED`, with its `given`.
        stored: The value in the trends.

    Returns:
        The value, and contributions by token id, the root of whose sum of squares is its standard
        error; None where the measures do not give `stored`, as those of another version.
    """
    try:
        value, contributions = _step(run, step).estimate(quantity)
    except KeyError:  # tables of another version lack a column
        return None
    return (value, contributions) if abs(value - stored) <= _SAME else None


def crossed_rows(arm: Arm) -> Iterator[dict[str, Any]]:
    """Rows of `compare` for the last step of an arm of several seeds, under the main rule."""
    if len(arm.runs) < 2:
        return
    trends = arm.trends
    last = arm.runs[0].steps[-1]
    rows = trends[trends["statistic"].isin(CROSSED) & (trends["step"] == last)]
    rows = rows[rows["rule"] == str(arm.runs[0].rule)]
    keys = ["step", "measure", "against", "statistic", "given", "rule"]
    for _, row in rows[keys].drop_duplicates().iterrows():
        quantity = Quantity(row["measure"], row["against"], row["statistic"], row["given"])
        if (mean := crossed(arm, quantity)) is not None:
            yield {
                **row,
                "value": float(mean.value),
                "low": float(mean.low),
                "high": float(mean.high),
                "n_seeds": int(mean.n),
                "descriptive": bool(mean.descriptive),
                "over": crossed_over(row["statistic"]),
            }


def _aligned(contributions: list[pd.Series]) -> Float[np.ndarray, "S n"]:
    """Contributions of each seed over the tokens of all; 0 where a token did not enter."""
    table = pd.concat(contributions, axis=1)
    return table.fillna(0.0).to_numpy().T


def _step(run: Run, step: int) -> "_Step":
    """Return the tables of a step, read once for each run."""
    steps = _ESTIMATES.setdefault(run, {})
    if step not in steps:
        steps[step] = _Step(run, step)
    return steps[step]


@dataclass(frozen=True, eq=False)
class _Step:
    """Estimates of one run at one step, made from its measures.

    Attributes:
        run: The run.
        step: The step.
    """

    run: Run
    step: int

    def estimate(self, quantity: Quantity) -> tuple[float, pd.Series]:
        """Value of a quantity, and the contribution of each token to it by token id.

        Raises:
            KeyError: A column that it needs is not in the tables.
        """
        if quantity.statistic in CORRELATIONS:
            estimate, places = self._correlation(quantity)
        else:
            estimate, places = self._twins(quantity)
        ids = self.run.tokens["token_id"].to_numpy()[places]
        return estimate.statistic, pd.Series(estimate.contributions).groupby(ids).sum()

    def _correlation(self, quantity: Quantity) -> tuple[Estimate, np.ndarray]:
        """Correlation and the places of its tokens."""
        given = quantity.given or ""
        mask = self._entering(quantity)
        x, y = (
            self._variable(name, quantity)[mask] for name in (quantity.measure, quantity.against)
        )
        if quantity.statistic == "within_bin_spearman":
            count = self._variable(given, quantity)[mask]
            within = WithinBins(equal_count_bins(rank(count), WITHIN_BINS), count)
            return within.spearman(x, y), np.flatnonzero(mask)
        controls = self._controls(given, mask, quantity)
        return controls.spearman(x, y), np.flatnonzero(mask)

    def _controls(self, given: str, mask: Bool[np.ndarray, " V"], quantity: Quantity) -> Controls:
        """Return the controls named in `given`, prepared; the last ones stay for other measures."""
        names = given.split("+") if given else []
        values = {name: self._variable(name, quantity)[mask] for name in names}
        if HISTORY & {*names}:  # they differ by measure
            return Controls(values, int(mask.sum()))
        key = (given, mask.tobytes())
        if key not in self._prepared:
            self._prepared.clear()
            self._prepared[key] = Controls(values, int(mask.sum()))
        return self._prepared[key]

    def _entering(self, quantity: Quantity) -> Bool[np.ndarray, " V"]:
        """Mask of the tokens of the rule for which importance and covariate are always known."""
        mask = self.run.kept
        for name in (quantity.measure, quantity.against):
            if (importance := self._importances.get(name)) is not None:
                mask = mask & np.isfinite(importance.values).all(axis=0)
        return mask

    def _variable(self, name: str, quantity: Quantity) -> Float[np.ndarray, " V"]:
        """Values of a measure, an importance or a control for all tokens."""
        tokens = self.run.tokens
        if name in self._measures:
            return self._measures[name].to_numpy()
        if name in self._importances:
            importance = self._importances[name]
            steps = importance.steps
            return importance.values[0 if steps is None else list(steps).index(self.step)]
        if name == "log_exposure":
            return self._measures[EXPOSURE[split_name(quantity.measure)[0]]].to_numpy()
        columns = {
            "log_frequency": "count",
            "merge_rank": "token_id",
            "log_document_frequency": "document_count",
        }
        if (column := columns.get(name, name)) in tokens:
            return tokens[column].to_numpy()
        if quantity.measure not in self._measures:
            raise KeyError(name)
        role, measure = split_name(quantity.measure)
        if name == "initial_norm":
            return self._first[quantity.measure].to_numpy()
        suffix = measure.distance if name == "distance" else name
        return self._measures[f"{role}_{suffix}"].to_numpy()

    def _twins(self, quantity: Quantity) -> tuple[Estimate, np.ndarray]:
        """Slope within twins, and the places of the tokens that act on it."""
        tokens = self.run.tokens
        norm = self._variable(quantity.measure, quantity).astype(np.float64)
        frequency = self._variable(quantity.against, quantity)
        originals, twins = twin_pairs(tokens)
        if quantity.statistic == CAUSAL:
            slope = twin_log_slope(
                norm[originals], norm[twins], frequency[originals], frequency[twins]
            )
            return slope, originals
        ordinary = np.isin(tokens["kind"], KINDS)
        curve = curve_of(norm, frequency, (originals, twins), ordinary)
        if curve is None:
            raise KeyError(MINUS_CURVE)
        pairs = pairs_by_third(curve, tokens)[quantity.given or ""]
        return curve.slope(norm, pairs), curve.places(pairs)

    @cached_property
    def _prepared(self) -> dict[tuple[str, bytes], Controls]:
        """Controls that were prepared last, by their names and tokens."""
        return {}

    @cached_property
    def _measures(self) -> pd.DataFrame:
        """Measures of the step."""
        return self.run.measures(self.step)

    @cached_property
    def _first(self) -> pd.DataFrame:
        """Measures of the first step."""
        return self.run.measures(self.run.steps[0])

    @cached_property
    def _importances(self) -> dict[str, Importance]:
        """Importances and covariates of the run by name."""
        run = self.run
        importances = read_importances(run.path, run.record.live_checkpoints, run.tokens)
        return importances | read_covariates(run.path, run.record.covariates, run.tokens)
