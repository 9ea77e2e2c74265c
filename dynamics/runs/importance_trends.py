"""Correlation of norms and distances with importance over steps: each with each importance.

Tokens are those that the vocabulary rule keeps and whose importance is known at every step. What is
held fixed, where something is, are frequency, what spelling tells of a token, and what its row has
gone through: its initial norm, and its distance from the first step. K steps, n tokens.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
from jaxtyping import Bool, Float

from dynamics.runs.importance_selection import COVARIATES as COVARIATES
from dynamics.runs.importance_selection import GAUGES as GAUGES
from dynamics.runs.importance_selection import GIVEN as GIVEN
from dynamics.runs.importance_selection import Selection as _Selection
from dynamics.runs.importance_selection import (
    halves_over_steps,
    stepped_up_rows,
    steps_and_tokens,
)
from dynamics.runs.measures import is_norm, split_name
from dynamics.runs.tracked_importance import Importance, factors_of
from dynamics.runs.trends import (
    FEWEST_TOKENS,
    LEVEL,
    Row,
    TrendInput,
    change_rows,
    simultaneous_band,
    trajectory_rows,
)
from dynamics.statistics.controlled import Controls, Residual
from dynamics.statistics.correlation import Correlation, Estimate, spearman
from dynamics.statistics.decomposition import covariance_shares
from dynamics.statistics.null import NullBand, null_band
from dynamics.statistics.null_controlled import (
    null_band_of_products,
    null_products,
    within_bin_null_band,
)
from dynamics.statistics.ranks import Ranked, rank
from dynamics.statistics.reliability import (
    Reliability,
    disattenuated,
    split_half_reliability,
)
from dynamics.statistics.trajectory import Trajectory, stack
from dynamics.statistics.vocabulary import VocabularyRule

T = TypeVar("T")

HISTORY = frozenset({"initial_norm", "distance", "norm", "norm_centered"})
"""Names in `given` of what a row has gone through: a correlation given these explains another."""

DRAWS = 5_000
"""Simulations of a null band of importance, of which there are three for each importance."""


def importance_rows(
    measured: TrendInput,
    importances: Mapping[str, Importance],
    rule: VocabularyRule,
    measures: Sequence[str] = tuple(GAUGES),
    held_fixed: tuple[str, ...] | None = None,
) -> Iterator[Row]:
    """One row per step and statistic, ready for `trends.parquet`.

    For each importance: its reliability, the correlation of frequency with it, and for each gauge
    `spearman`, `spearman_disattenuated`, `partial_spearman` given `COVARIATES` and
    `within_bin_spearman` given frequency, the first and the third also as difference from the first
    step at which there is an importance (`_minus_first`) and with their onset (`_onset`, the value
    being a step). What may not be separated from frequency has no controlled rows. The factors of
    a product are not held against norms; `share_of_change` tells what each has in the product's
    change.

    Null bands are those of all gauges and steps of one importance and statistic together.

    Importances of the same steps and tokens come one after the other.

    Args:
        measured: What the trends are made of.
        importances: Importances by name. One known for fewer than 10 of the tokens that the rule
            keeps gives no rows.
        rule: Which tokens enter.
        measures: Measures that are compared with the importances.
        held_fixed: As in `Selection`.
    """
    mask = rule.mask(measured.tokens["count"].to_numpy(), measured.tokens["kind"].to_numpy())
    products = factors_of(list(importances))
    for steps, known, names in steps_and_tokens(measured, importances, mask):
        selection = _Selection(measured, steps, known, measures, held_fixed)
        for name in names:
            yield from Followed(name, importances[name], selection, str(rule)).rows()
        del selection  # its ranks take gigabytes where tokens and steps are many
    for name, pair in products.items():
        yield from _shares(name, [importances[member] for member in (name, *pair)], mask, str(rule))


@dataclass(frozen=True)
class Followed:
    """One importance over steps, and the rows that come of it.

    Attributes:
        name: Name of the importance.
        importance: Its values.
        selection: Steps and tokens that enter.
        rule: Vocabulary rule, as text.
    """

    name: str
    importance: Importance
    selection: _Selection
    rule: str

    def rows(self) -> Iterator[Row]:
        """Yield every row of this importance but the shares of its factors."""
        if self._reliability is not None:
            yield from self._reliability_rows(self._reliability)
        frequency = [self.selection.frequency] * len(self._ranked)
        yield from self._spearman_rows({"log_frequency": frequency}, self._reliability)
        yield from self.measure_rows()

    def measure_rows(self) -> Iterator[Row]:
        """Yield the rows of the measures of the selection against this importance."""
        yield from self._spearman_rows(self.selection.ranked, self._reliability)
        if self.importance.beyond_frequency:
            yield from self._partial_rows()
            yield from self._history_rows()
            yield from self._within_bin_rows()

    @cached_property
    def _values(self) -> list[Float[np.ndarray, " n"]]:
        """Values at each step; one array for an importance of the corpus."""
        rows = list(self.importance.values[:, self.selection.known])
        return rows * len(self.selection.steps) if self.importance.steps is None else rows

    @cached_property
    def _ranked(self) -> list[Ranked]:
        """Ranks of the values at each step; one object for an importance of the corpus."""
        if self.importance.steps is None:
            return [rank(self._values[0], self.name)] * len(self.selection.steps)
        return [rank(row, self.name) for row in self._values]

    def _about(self, measure: str, statistic: str, given: str = "") -> dict[str, str]:
        """Columns of a row of a trend that tell what it is."""
        keys = {"measure": measure, "against": self.name, "statistic": statistic, "given": given}
        return keys | {"rule": self.rule}

    @cached_property
    def _reliability(self) -> list[Reliability] | None:
        """Reliability at each step, over tokens with both halves at all steps; None without."""
        halves = halves_over_steps(self.importance, self.selection)
        return None if halves is None else [split_half_reliability(*pair) for pair in halves]

    def _reliability_rows(self, reliability: Sequence[Reliability]) -> Iterator[Row]:
        """Reliability over steps: correlations of the halves and their ends, stepped up."""
        keys = self._about(self.name, "reliability") | {"against": ""}
        halves = [estimate.halves for estimate in reliability]
        yield from stepped_up_rows(self.selection.steps, halves, keys)

    def _spearman_rows(
        self, ranked: Mapping[str, list[Ranked]], reliability: Sequence[Reliability] | None
    ) -> Iterator[Row]:
        """Correlations with the importance, and disattenuated where its reliability is given."""
        null = null_band(_pairs(ranked, self._ranked), LEVEL, np.random.default_rng(0), DRAWS)
        for measure, rows in ranked.items():
            correlations = list(map(spearman, rows, self._ranked))
            yield from self._followed(correlations, measure, "spearman", "", null)
            if reliability is not None:
                corrected = _stack(list(map(disattenuated, correlations, reliability)))
                keys = self._about(measure, "spearman_disattenuated")
                band = simultaneous_band(corrected)
                yield from trajectory_rows(self.selection.steps, corrected, keys, band=band)

    def _partial_rows(self) -> Iterator[Row]:
        """Correlations of norms and distances with the importance given `COVARIATES`."""
        controls = self.selection.controls
        left = {id(values): controls.residual(values, self.name) for values in self._ranked}
        pairs = {
            measure: (
                (controls.residual(row, measure), left[id(values)])
                for row, values in zip(rows, self._ranked, strict=True)
            )
            for measure, rows in self.selection.ranked.items()
        }
        correlations, null = _partial(pairs)
        for measure, estimates in correlations.items():
            given = self.selection.given
            yield from self._followed(estimates, measure, "partial_spearman", given, null)

    def _history_rows(self) -> Iterator[Row]:
        """The same given what the row has gone through: its initial norm, distance and norm.

        Given the distance, a norm is mostly its initial value, so that "given distance" alone would
        say little; the initial norm belongs among the controls.
        """
        selection, gauges = self.selection, self.selection.gauges
        indices = selection.history_indices
        steps = [selection.steps[index] for index in indices]
        for norm, distance in norms_with_distance(gauges):
            initial = [selection.initial[norm]] * len(selection.steps)
            held_fixed = {
                (norm, "initial_norm"): [initial],
                (norm, "initial_norm+distance"): [initial, gauges[distance]],
                (distance, split_name(norm)[1].suffix): [gauges[norm]],
            }
            for (measure, names), others in held_fixed.items():
                pairs = (
                    self._given(index, gauges[measure][index], [other[index] for other in others])
                    for index in indices
                )
                correlations, null = _partial({measure: pairs})
                trajectory = stack(correlations[measure])
                keys = self._about(measure, "partial_spearman", f"{selection.given}+{names}")
                band = simultaneous_band(trajectory)
                yield from trajectory_rows(steps, trajectory, keys, null=null, band=band)

    def _given(
        self,
        index: int,
        values: Float[np.ndarray, " n"],
        others: Sequence[Float[np.ndarray, " n"]],
    ) -> tuple[Residual, Residual]:
        """Return what `COVARIATES` and other variables leave of values and of the importance."""
        controls = Controls([*self.selection.covariates.values(), *others])
        return controls.residual(values), controls.residual(self._ranked[index])

    def _within_bin_rows(self) -> Iterator[Row]:
        """Correlations of norms with the importance inside bins of frequency."""
        within = self.selection.within_bins
        pairs = _pairs(self.selection.gauges, self._values)
        null = within_bin_null_band(pairs, within, LEVEL, np.random.default_rng(0), DRAWS)
        for measure, rows in self.selection.gauges.items():
            correlations = list(map(within.spearman, rows, self._values))
            trajectory = stack(correlations)
            yield from trajectory_rows(
                self.selection.steps,
                trajectory,
                self._about(measure, "within_bin_spearman", "log_frequency"),
                n=correlations[0].n,
                null=null,
                band=simultaneous_band(trajectory),
            )

    def _followed(
        self,
        correlations: Sequence[Correlation],
        measure: str,
        statistic: str,
        given: str,
        null: NullBand,
    ) -> Iterator[Row]:
        """A statistic, and where it can change its difference from the first step and its onset."""
        trajectory, steps = stack(correlations), self.selection.steps
        keys = self._about(measure, statistic, given)
        yield from trajectory_rows(
            steps, trajectory, keys, null=null, band=simultaneous_band(trajectory)
        )
        if measure == "log_frequency" and self.importance.steps is None:
            return
        yield from change_rows(steps, trajectory, keys)


def norms_with_distance(measures: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield each norm whose record names a distance, with the distance, where both are measured."""
    measures = list(measures)
    for name in filter(is_norm, measures):
        role, measure = split_name(name)
        if measure.distance and (distance := f"{role}_{measure.distance}") in measures:
            yield name, distance


def _partial(
    pairs_by_measure: Mapping[str, Iterable[tuple[Residual, Residual]]],
) -> tuple[dict[str, list[Correlation]], NullBand]:
    """Return the partial correlations of pairs, and the null band of all of them together."""
    correlations: dict[str, list[Correlation]] = {}
    products = []
    for measure, pairs in pairs_by_measure.items():
        correlations[measure] = []
        for x, y in pairs:
            correlations[measure].append(x.controls.spearman(x, y))
            products.append(null_products(x, y))
    return correlations, null_band_of_products(products, LEVEL, np.random.default_rng(0), DRAWS)


def _pairs(
    rows_by_measure: Mapping[str, Iterable[T]], importance: Sequence[T]
) -> Iterator[tuple[T, T]]:
    """Yield each measure with the importance of the same step, measure after measure."""
    for rows in rows_by_measure.values():
        yield from zip(rows, importance, strict=True)


def _shares(
    name: str, product: Sequence[Importance], mask: Bool[np.ndarray, " V"], rule: str
) -> Iterator[Row]:
    """Share of each factor of a product in the change of the product since the first step.

    With A the product's mean over contexts, N and L those of its factors, and d the difference of
    logarithms from the first step,

        d log A = d log N + d log L + d log (A / (N L)),

    the last, `_interaction`, because a mean of products is no product of means. The share of each
    is its covariance over tokens with d log A, divided by the variance of d log A. Tokens with a 0
    anywhere are left out.
    """
    positive = mask & np.all([factor.values > 0 for factor in product], axis=(0, 1))
    steps = product[0].steps
    if steps is None or positive.sum() < FEWEST_TOKENS:
        return
    total, norm, logit = (np.log(factor.values[:, positive]) for factor in product)
    parts = {"norm": norm, "logit": logit, "interaction": total - norm - logit}
    shares = [
        covariance_shares([part[index] - part[0] for part in parts.values()])
        for index in range(len(steps))
    ]
    for index, part in enumerate(parts):
        trajectory = _stack([step_shares[index] for step_shares in shares])
        keys = {"measure": f"{name}_{part}", "against": name, "statistic": "share_of_change"}
        keys["rule"] = rule
        band = simultaneous_band(trajectory)
        yield from trajectory_rows(steps, trajectory, keys, band=band)


def _stack(estimates: Sequence[Estimate]) -> Trajectory:
    """The trajectory of estimates that are no correlations: their intervals are symmetric."""
    return Trajectory(
        np.array([estimate.statistic for estimate in estimates]),
        np.stack([estimate.influence for estimate in estimates]),
        fisher=False,
    )
