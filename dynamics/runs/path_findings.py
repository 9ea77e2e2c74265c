"""Findings on the paths of rows: when they near their last direction, and how straight they are."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from dynamics.checkpoints.architectures import ROLES
from dynamics.runs.importance_findings import with_interval
from dynamics.runs.paths import RAY_SHARE, RAY_SHARE_MINUS_WALK, RAY_SHARE_OF_WALK, TIME_TO_HALF
from dynamics.runs.run import Run, rows_where
from dynamics.statistics.departures import MIN_COSINE


def path_findings(run: Run) -> list[str]:
    """Sentences on the paths of each embedding; none where rows were not followed.

    Args:
        run: A run with counts and trends.
    """
    if run.record.paths is None:
        return []
    return [
        sentence
        for role in ROLES
        if f"{RAY_SHARE}_{role.removesuffix('_embedding')}" in run.tokens
        for sentence in (_half_way(run, role), _straightness(run, role))
    ]


def _half_way(run: Run, role: str) -> str:
    """Sentence on the time to half of the most and the least frequent tokens."""
    kind, steps = role.removesuffix("_embedding"), run.steps
    row = _of_paths(run, f"{role}_{TIME_TO_HALF}", "median")
    way = f"from their direction at step {steps[0]:,} to that at step {steps[-1]:,}"
    left_out = int(run.kept.sum()) - (row["n"] if row else 0)
    hardly = (
        f"{left_out:,} of {run.kept.sum():,} {kind} rows have no such time, as their last "
        f"direction is within a cosine of {MIN_COSINE} of the first, or they are zero at some step"
    )
    correlation = _of_paths(run, f"{role}_{TIME_TO_HALF}", "spearman", "log_frequency")
    if row is None or correlation is None:
        return f"Too few {kind} rows turn {way} to say when they are half way: {hardly}."
    bins = rows_where(run.profile, measure=f"{role}_{TIME_TO_HALF}").sort_values("bin")
    bins = bins[bins["bin"] >= 0]
    times = f"tokens {_bin_time(bins.iloc[-1], way)}"
    if len(bins) > 1:
        times = f"the most frequent {times}, those of the rarest {_bin_time(bins.iloc[0])}"
    return (
        f"{kind.capitalize()} rows of {times} (medians over tokens with 95 % intervals; times are "
        "interpolated between measured steps); rho of this time with log frequency "
        f"{with_interval(correlation, '')} over {correlation['n']:,} tokens"
        f"{f'; {hardly}' if left_out else ''}."
    )


def _bin_time(row: pd.Series, way: str = "") -> str:
    """Occurrences of a bin of frequency, and that it has come half of the way, by its step."""
    low, high = row["count_low"], row["count_high"]
    occurrences = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    has_come = f"have come half of the way {way} " if way else ""
    low, high = row["median_low"], row["median_high"]
    interval = "" if np.isnan(low) else f" [{low:,.0f}, {high:,.0f}]"  # none of fewer than 6 tokens
    return (
        f"({occurrences} occurrences, n {row['n']:,}) {has_come}by step {row['median']:,.0f}"
        f"{interval}"
    )


def _straightness(run: Run, role: str) -> str:
    """Sentence on the ray share, and on that of a random walk."""
    kind = role.removesuffix("_embedding")
    names = (RAY_SHARE, RAY_SHARE_OF_WALK, RAY_SHARE_MINUS_WALK)
    share, walk, beyond = (_of_paths(run, f"{role}_{name}", "median") for name in names)
    correlation = _of_paths(run, f"{role}_{RAY_SHARE_MINUS_WALK}", "spearman", "log_frequency")
    if share is None or walk is None or beyond is None or correlation is None:
        return f"Too few {kind} rows move to say how straight their paths are."
    return (
        f"The path of an {kind} row lies along the line from its first to its last step by a "
        f"median share of {_plain(share)} of its variance; that of a random walk with the same "
        f"step lengths would by {_plain(walk)}. Their difference has a median of "
        f"{with_interval(beyond, '')} and, with log frequency, rho {with_interval(correlation, '')}"
        f" ({share['n']:,} tokens)."
    )


def _plain(row: Mapping[Any, Any]) -> str:
    """Value without a sign, with its interval."""
    return f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"


def _of_paths(run: Run, measure: str, statistic: str, against: str = "") -> dict[Any, Any] | None:
    """Row of the trends under the main rule; None where too few tokens have a value."""
    rows = rows_where(
        run.trends, measure=measure, statistic=statistic, against=against, rule=str(run.rule)
    )
    return None if rows.empty else rows.iloc[0].to_dict()
