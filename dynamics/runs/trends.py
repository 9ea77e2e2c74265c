"""From the measures of a run to its trends: correlations with frequency over steps.

Every correlation is repeated under the vocabulary rules of the sweep; bands, differences, partial
and within-bin estimates are of the main rule. V tokens, K steps, n tokens that a rule keeps.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Shaped

from dynamics.runs.measures import split_name
from dynamics.statistics.bins import equal_count_bins
from dynamics.statistics.controlled import Controls, WithinBins
from dynamics.statistics.correlation import Correlation, NormalEstimate, spearman
from dynamics.statistics.intervals import NOWHERE, Band, Interval
from dynamics.statistics.null import NullBand, null_band
from dynamics.statistics.onset import onset, step_before
from dynamics.statistics.ranks import Ranked, rank
from dynamics.statistics.trajectory import Trajectory, stack
from dynamics.statistics.vocabulary import VocabularyRule, swept

LEVEL = 0.95
WITHIN_BINS = 20
OF_FREQUENCY = ("log_frequency", "log_exposure")
"""What norms are correlated with that tells how often a token occurs."""

ONSET = "_onset"
"""Ending of statistics whose value is a step, and whose interval the steps that it lies between."""

FEWEST_TOKENS = 10
"""A rule that keeps fewer tokens than this has no correlations."""

SURFACE = ("characters", "word_start", "ascii_alphabetic")
"""Properties of a token's spelling; partialled out of norm and frequency."""

TREND_COLUMNS = (
    *("step", "measure", "against", "statistic", "given", "rule"),
    *("value", "low", "high", "band_low", "band_high", "n", "null_low", "null_high"),
)

Row = Mapping[str, Any]


@dataclass(frozen=True)
class TrendInput:
    """Measures, exposures and tokens that trends are computed from.

    Attributes:
        steps: K steps, ascending.
        tokens: One row per token: `count`, `kind`, `token`, `document_count`, ...
        measures: Each measure at each step.
        exposures: For `input_embedding` and `output_embedding`, how often each token was used as
            input or as target before each step; None where the training stream is not known.
    """

    steps: Sequence[int]
    tokens: pd.DataFrame
    measures: Mapping[str, Float[np.ndarray, "K V"]]
    exposures: Mapping[str, Shaped[np.ndarray, "K V"]] | None


def trend_row(
    value: float,
    n: int,
    *,
    interval: Interval = NOWHERE,
    band: Interval = NOWHERE,
    null: Interval = NOWHERE,
    **about: Any,
) -> Row:
    """Return a row of `TREND_COLUMNS`: NaN, or an empty text, where nothing is given.

    Args:
        value: Value of the statistic.
        n: Tokens that entered; rows of a stream or inputs, where these are the sampling unit.
        interval: Interval of this value alone.
        band: Interval of this value in a band over all steps.
        null: Where the value stays without an association.
        about: `statistic`, `measure` and `step`; `against`, `given` and `rule` where there are any.
    """
    return {
        **dict.fromkeys(("against", "given", "rule"), ""),
        **about,
        "value": value,
        "low": interval.low,
        "high": interval.high,
        "band_low": band.low,
        "band_high": band.high,
        "n": n,
        "null_low": null.low,
        "null_high": null.high,
    }


def estimate_row(estimate: Correlation | NormalEstimate, **about: Any) -> Row:
    """Return the row of an estimate and its own interval; `about` as in `trend_row`."""
    interval = estimate.confidence_interval(LEVEL)
    return trend_row(estimate.statistic, estimate.n, interval=interval, **about)


def in_columns(rows: Sequence[Row], columns: Sequence[str] = TREND_COLUMNS) -> dict[str, list[Any]]:
    """The columns of a table, from its rows; those of trends by default."""
    return {column: [row[column] for row in rows] for column in columns}


def trend_rows(measured: TrendInput, rule: VocabularyRule) -> Iterator[Row]:
    """One row per step and statistic, ready for `trends.parquet`.

    A correlation is NaN where the measure or what it is held against is constant, as distances are
    at the first step and exposure is at step 0. A rule that keeps fewer than 10 tokens gives no
    rows.
    """
    for variant in swept(rule):
        mask = rule_mask(measured, variant)
        if mask.sum() < FEWEST_TOKENS:
            continue
        against = list(_against(measured, mask))
        main = variant == rule
        nulls = {name: _nulls(measured, mask, ranks) if main else {} for name, ranks in against}
        controls = _controls(measured, mask) if main else ()
        for measure, array in measured.measures.items():
            ranked = [rank(values, measure) for values in array[:, mask]]
            for name, ranks in against:
                keys = {"measure": measure, "against": name, "rule": str(variant)}
                trajectory = stack(list(map(spearman, ranked, ranks[split_name(measure)[0]])))
                null = nulls[name].get(split_name(measure)[1].family)
                band = simultaneous_band(trajectory) if main else None
                yield from trajectory_rows(measured.steps, trajectory, keys, null=null, band=band)
                if main and np.isfinite(trajectory.values[0]):
                    yield from change_rows(measured.steps, trajectory, keys)
            for keys, estimate in controls:
                correlations = [
                    estimate(x, values) for x, values in zip(ranked, array[:, mask], strict=True)
                ]
                keys = {"measure": measure, "rule": str(variant), **keys}
                trajectory, n = stack(correlations), correlations[0].n
                band = simultaneous_band(trajectory)
                yield from trajectory_rows(measured.steps, trajectory, keys, n=n, band=band)


def rule_mask(measured: TrendInput, rule: VocabularyRule) -> Bool[np.ndarray, " V"]:
    """Mask of the tokens that a rule keeps."""
    return rule.mask(measured.tokens["count"].to_numpy(), measured.tokens["kind"].to_numpy())


def _against(
    measured: TrendInput, kept: Bool[np.ndarray, " V"]
) -> Iterator[tuple[str, Mapping[str, list[Ranked]]]]:
    """Name, and per role the ranks at each step, of what measures are correlated with."""
    frequency = rank(measured.tokens["count"].to_numpy()[kept])
    everywhere = [frequency] * len(measured.steps)
    yield "log_frequency", dict.fromkeys(("input_embedding", "output_embedding"), everywhere)
    if measured.exposures is not None:
        yield (
            "log_exposure",
            {
                role: [rank(used) for used in exposure[:, kept]]
                for role, exposure in measured.exposures.items()
            },
        )


def _controls(
    measured: TrendInput, kept: Bool[np.ndarray, " V"]
) -> list[tuple[Row, Callable[[Ranked, Float[np.ndarray, " n"]], Correlation]]]:
    """Frequency beyond spelling, if known; where documents are counted, spread beyond frequency.

    The last is a partial and a within-bin correlation. Each comes as its columns of a trend and
    a function of a measure, ranked and unranked.
    """
    tokens = measured.tokens[kept]
    frequency = rank(tokens["count"].to_numpy())
    controls = []
    if {*SURFACE} <= {*tokens}:
        surface = Controls([tokens[column].to_numpy() for column in SURFACE])
        frequency_left = surface.residual(frequency)
        controls += [
            (
                _about("log_frequency", "partial_spearman", "+".join(SURFACE)),
                lambda ranked, values: surface.spearman(ranked, frequency_left),
            )
        ]
    documents = tokens["document_count"].to_numpy(dtype=float, na_value=np.nan)
    if np.isfinite(documents).all():
        given_frequency = Controls([frequency])
        spread_left = given_frequency.residual(documents)
        within = WithinBins(equal_count_bins(frequency, WITHIN_BINS), tokens["count"])
        controls += [
            (
                _about("log_document_frequency", "partial_spearman", "log_frequency"),
                lambda ranked, values: given_frequency.spearman(ranked, spread_left),
            ),
            (
                _about("log_document_frequency", "within_bin_spearman", "log_frequency"),
                lambda ranked, values: within.spearman(values, documents),
            ),
        ]
    return controls


def _about(against: str, statistic: str, given: str) -> Row:
    """Columns of a trend that its control sets."""
    return {"against": against, "statistic": statistic, "given": given}


def simultaneous_band(trajectory: Trajectory) -> Band:
    """The 95 % band of a trajectory over all its steps; NaN where none of its values is defined."""
    if np.isfinite(trajectory.values).any():
        return trajectory.simultaneous_band(LEVEL, np.random.default_rng(0))
    return Band(trajectory.values, trajectory.values)


def trajectory_rows(
    steps: Sequence[int],
    trajectory: Trajectory,
    keys: Row,
    *,
    n: int | None = None,
    null: NullBand | None = None,
    band: Band | None = None,
) -> Iterator[Row]:
    """A row of `TREND_COLUMNS` for each step of a trajectory.

    Args:
        steps: Its K steps.
        trajectory: Values and their influence.
        keys: What it is: `measure`, `against`, `given`, `rule`; `statistic` if not `spearman`.
        n: Tokens that entered, where that is not all of the trajectory's.
        null: Where values stay without an association; none when None.
        band: Its simultaneous band; none when None.
    """
    pointwise = trajectory.confidence_intervals(LEVEL)
    reach = np.nan if null is None else null.simultaneous
    for index, step in enumerate(steps):
        yield trend_row(
            trajectory.values[index],
            trajectory.influence.shape[1] if n is None else n,
            interval=pointwise.at(index),
            band=NOWHERE if band is None else band.at(index),
            null=Interval(-reach, reach),
            **{"statistic": "spearman", **keys, "step": step},
        )


def change_rows(steps: Sequence[int], trajectory: Trajectory, keys: Row) -> Iterator[Row]:
    """Rows of the difference from the first step, if defined, and of the onset of the change.

    The value of the onset is a step, NaN where there is no onset; its interval begins at the step
    before, after which it lies, and at 0 where no step before is known. Rows know nothing of
    frequency before training: where step 0 is not among the steps, the onset of a correlation with
    frequency is that of its difference from 0. `keys` as in `trajectory_rows`.
    """
    change, statistic = trajectory.differences(), keys.get("statistic", "spearman")
    band = simultaneous_band(change)
    if np.isfinite(trajectory.values[0]):
        differs = {**keys, "statistic": f"{statistic}_minus_first"}
        yield from trajectory_rows(steps, change, differs, band=band)
    from_zero = steps[0] > 0 and keys["against"] in OF_FREQUENCY
    if from_zero:
        change, band = trajectory, simultaneous_band(trajectory)
    begun = onset(steps, change.values, band)
    begins_unseen = steps[0] > 0 and not from_zero
    yield onset_row(
        begun,
        0 if begun is None or begins_unseen else step_before(steps, begun),
        change.influence.shape[1],
        **{**keys, "statistic": f"{statistic}{ONSET}", "step": steps[-1]},
    )


def onset_row(begun: int | None, after: int, n: int, **about: Any) -> Row:
    """Return the row of an onset.

    Args:
        begun: Step of the onset, None where there is none.
        after: Step after which it lies.
        n: Tokens that entered.
        about: As in `trend_row`.
    """
    if begun is None:
        return trend_row(np.nan, n, **about)
    return trend_row(float(begun), n, interval=Interval(float(after), float(begun)), **about)


def _nulls(
    measured: TrendInput, kept: Bool[np.ndarray, " V"], ranks: Mapping[str, list[Ranked]]
) -> dict[str, NullBand]:
    """A band per family of measures, over all its measures and steps together."""
    families: dict[str, list[str]] = {}
    for name in measured.measures:
        families.setdefault(split_name(name)[1].family, []).append(name)
    return {
        family: null_band(
            (
                (rank(values, name), against)
                for name in names
                for values, against in zip(
                    measured.measures[name][:, kept], ranks[split_name(name)[0]], strict=True
                )
            ),
            LEVEL,
            np.random.default_rng(0),
        )
        for family, names in families.items()
    }
