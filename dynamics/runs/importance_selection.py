"""Tokens and steps of an importance: the norms, ranks and covariates of these tokens, its halves.

K steps, n tokens.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from dynamics.runs.measures import is_norm, measures_with_importance
from dynamics.runs.tracked_importance import Importance, factors_of
from dynamics.runs.trends import (
    FEWEST_TOKENS,
    SURFACE,
    WITHIN_BINS,
    Row,
    TrendInput,
    simultaneous_band,
    trajectory_rows,
)
from dynamics.statistics.bins import equal_count_bins
from dynamics.statistics.controlled import Controls, WithinBins
from dynamics.statistics.correlation import Correlation
from dynamics.statistics.ranks import Ranked, rank
from dynamics.statistics.reliability import spearman_brown
from dynamics.statistics.trajectory import stack

GAUGES = measures_with_importance()

COVARIATES = ("log_frequency", *SURFACE, "merge_rank")
"""Controls of the partial correlations; the merge rank is the token id, the order in which byte
pair encoding made its tokens."""

GIVEN = "+".join(COVARIATES)

STEPS_WITH_HISTORY = 20
"""Most steps at which what a row has gone through is held fixed: its controls differ by step."""


def known_controls(tokens: pd.DataFrame) -> tuple[str, ...]:
    """Return the names of `COVARIATES` that are known of tokens: spelling needs a tokenizer."""
    return tuple(name for name in COVARIATES if name not in SURFACE or name in tokens)


@dataclass(frozen=True, eq=False)
class Selection:
    """Steps and tokens of an importance, with the norms, ranks and covariates of these tokens.

    Attributes:
        measured: What the trends are made of.
        steps: Steps at which there is an importance.
        known: Mask of the n tokens that the rule keeps and whose importance is known.
        measures: Measures that are compared with the importance.
        held_fixed: Names of what is held fixed: columns of tokens, `log_frequency`, `merge_rank`;
            all of `COVARIATES` that are known when None.
    """

    measured: TrendInput
    steps: Sequence[int]
    known: Bool[np.ndarray, " V"]
    measures: Sequence[str] = tuple(GAUGES)
    held_fixed: tuple[str, ...] | None = None

    @cached_property
    def tokens(self) -> pd.DataFrame:
        """One row per selected token."""
        return self.measured.tokens[self.known]

    @cached_property
    def gauges(self) -> dict[str, Float[np.ndarray, "K n"]]:
        """Each norm at the selected steps, by name."""
        indices = [list(self.measured.steps).index(step) for step in self.steps]
        measures = self.measured.measures
        names = [name for name in self.measures if name in measures]
        return {name: measures[name][indices][:, self.known] for name in names}

    @cached_property
    def initial(self) -> dict[str, Float[np.ndarray, " n"]]:
        """Each norm at the first step of the run, by name."""
        measures = self.measured.measures
        return {name: measures[name][0][self.known] for name in self.gauges if is_norm(name)}

    @cached_property
    def ranked(self) -> dict[str, list[Ranked]]:
        """Ranks of each norm at each step, by name."""
        return {name: [rank(row, name) for row in rows] for name, rows in self.gauges.items()}

    @cached_property
    def frequency(self) -> Ranked:
        """Ranks of the counts, which are those of log frequency."""
        return rank(self.tokens["count"].to_numpy())

    @cached_property
    def covariates(self) -> dict[str, Ranked]:
        """Ranks of what is held fixed; those of the count stand for log frequency."""
        names = known_controls(self.tokens) if self.held_fixed is None else self.held_fixed
        columns = {"merge_rank": "token_id"}
        return {
            name: self.frequency
            if name == "log_frequency"
            else rank(self.tokens[columns.get(name, name)].to_numpy(), name)
            for name in names
        }

    @cached_property
    def given(self) -> str:
        """What is held fixed, as in the column `given` of trends."""
        return "+".join(self.covariates)

    @cached_property
    def controls(self) -> Controls:
        """What is held fixed, prepared."""
        return Controls(self.covariates)

    @cached_property
    def within_bins(self) -> WithinBins:
        """Bins of frequency."""
        bins = equal_count_bins(self.frequency, WITHIN_BINS)
        return WithinBins(bins, self.tokens["count"])

    @cached_property
    def history_indices(self) -> list[int]:
        """Places of the steps at which what a row has gone through is held fixed, the last too."""
        places = np.linspace(0, len(self.steps) - 1, min(len(self.steps), STEPS_WITH_HISTORY))
        return [int(place) for place in places.round()]


def steps_and_tokens(
    measured: TrendInput, importances: Mapping[str, Importance], mask: Bool[np.ndarray, " V"]
) -> Iterator[tuple[tuple[int, ...], Bool[np.ndarray, " V"], list[str]]]:
    """Yield steps and a mask of tokens with the importances that are known there.

    A factor of a product has none, and an importance known for fewer than 10 of the tokens.

    Args:
        measured: What the trends are made of.
        importances: Importances by name.
        mask: Tokens that a vocabulary rule keeps.
    """
    factors = {name for pair in factors_of(list(importances)).values() for name in pair}
    names_by_selection: dict[tuple[tuple[int, ...], bytes], list[str]] = {}
    for name, importance in importances.items():
        defined = mask & np.isfinite(importance.values).all(axis=0)
        if name in factors or defined.sum() < FEWEST_TOKENS:
            continue
        steps = tuple(measured.steps if importance.steps is None else importance.steps)
        names_by_selection.setdefault((steps, defined.tobytes()), []).append(name)
    for (steps, defined), names in names_by_selection.items():
        yield steps, np.frombuffer(defined, dtype=bool), names


def halves_over_steps(
    importance: Importance, selection: Selection
) -> list[tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]] | None:
    """Both halves of an importance at each step, NaN for tokens without both at all steps.

    Those of an importance of the corpus are the same at every step; None where there are no halves.
    """
    if importance.halves is None:
        return None
    halves = [half[:, selection.known] for half in importance.halves]
    in_both = np.isfinite(halves).all(axis=(0, 1))
    pairs = list(zip(*(np.where(in_both, half, np.nan) for half in halves), strict=True))
    return pairs * (len(selection.steps) // len(pairs))


def stepped_up_rows(
    steps: Sequence[int], halves: Sequence[Correlation], keys: Row
) -> Iterator[Row]:
    """Rows of a reliability over steps: correlations of halves and their ends, stepped up.

    Args:
        steps: K steps.
        halves: Correlation of the halves at each.
        keys: As in `trajectory_rows`.
    """
    trajectory = stack(halves)
    for row in trajectory_rows(steps, trajectory, keys, band=simultaneous_band(trajectory)):
        ends = ("value", "low", "high", "band_low", "band_high")
        yield {**row, **{end: float(spearman_brown(np.array(row[end]))) for end in ends}}
