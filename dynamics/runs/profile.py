"""Profiles of measures over bins of frequency, at each step. V tokens, n of them in bins."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Integer

from dynamics.runs.trends import FEWEST_TOKENS, LEVEL, Row, TrendInput, rule_mask
from dynamics.statistics.bins import binned_profile, log_spaced_bins
from dynamics.statistics.vocabulary import VocabularyRule, placebo_mask

PROFILE_COLUMNS = (
    *("step", "measure", "bin", "count_low", "count_median", "count_high", "n"),
    *("mean", "mean_low", "mean_high", "median", "median_low", "median_high"),
)

NEVER_SEEN = -1
"""Label of the bin of tokens that never occur."""

_BINS = 30


@dataclass(frozen=True, eq=False)
class FrequencyBins:
    """Bins of some tokens by how often they occur.

    Attributes:
        tokens: Places of the n tokens.
        labels: Bin of each, 0 for the rarest, or `NEVER_SEEN` for tokens that do not occur.
        counts: Smallest, median and largest count (`min`, `median`, `max`) of each bin.
    """

    tokens: Integer[np.ndarray, " n"]
    labels: Integer[np.ndarray, " n"]
    counts: pd.DataFrame


def frequency_bins(measured: TrendInput, rule: VocabularyRule) -> list[FrequencyBins]:
    """Return the bin of the tokens that never occur, then the bins of those that a rule keeps.

    The latter are equally wide in log count, merged until each has 50 tokens. Either may be
    missing: where every token occurs, or the rule keeps fewer than 10 tokens.
    """
    mask = rule_mask(measured, rule)
    counts = measured.tokens["count"].to_numpy()
    never = np.flatnonzero(placebo_mask(counts, measured.tokens["kind"]))
    groups = [(never, np.full(len(never), NEVER_SEEN))]
    if mask.sum() >= FEWEST_TOKENS:
        groups.append((np.flatnonzero(mask), log_spaced_bins(counts[mask], _BINS)))
    return [
        FrequencyBins(
            tokens,
            labels,
            pd.Series(counts[tokens]).groupby(labels).agg(["min", "median", "max"]),
        )
        for tokens, labels in groups
        if len(tokens)
    ]


def profile_rows(measured: TrendInput, rule: VocabularyRule) -> Iterator[Row]:
    """One row per step, measure and bin of frequency, ready for `profile.parquet`."""
    for bins in frequency_bins(measured, rule):
        for name, array in measured.measures.items():
            for step, values in zip(measured.steps, array, strict=True):
                yield from bin_rows(bins, name, step, values)


def bin_rows(
    bins: FrequencyBins, measure: str, step: int, values: Float[np.ndarray, " V"]
) -> Iterator[Row]:
    """One row of `PROFILE_COLUMNS` per bin, of the tokens whose value is not NaN.

    Args:
        bins: The bins.
        measure: Name of the measure.
        step: Step at which it has these values.
        values: A value at every place.
    """
    defined = ~np.isnan(values[bins.tokens])
    profile = binned_profile(values[bins.tokens[defined]], bins.labels[defined], LEVEL)
    for index, label in enumerate(profile.label):
        yield {
            "step": step,
            "measure": measure,
            "bin": int(label),
            "count_low": int(bins.counts["min"][label]),
            "count_median": float(bins.counts["median"][label]),
            "count_high": int(bins.counts["max"][label]),
            "n": int(profile.n[index]),
            "mean": profile.mean[index],
            "mean_low": profile.mean_low[index],
            "mean_high": profile.mean_high[index],
            "median": profile.median[index],
            "median_low": profile.median_low[index],
            "median_high": profile.median_high[index],
        }
