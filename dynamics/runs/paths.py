"""Paths of rows over the steps of a run: their tables, and columns and rows that follow from them.

V tokens, K steps.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from dynamics.checkpoints.architectures import ROLES, Role
from dynamics.runs.profile import bin_rows, frequency_bins
from dynamics.runs.record import RunRecord
from dynamics.runs.run import paths_path, read_table
from dynamics.runs.trends import (
    FEWEST_TOKENS,
    LEVEL,
    Row,
    TrendInput,
    estimate_row,
    rule_mask,
    trend_row,
)
from dynamics.statistics.bins import binned_profile
from dynamics.statistics.correlation import spearman
from dynamics.statistics.halfway import times_to_half
from dynamics.statistics.intervals import Interval
from dynamics.statistics.vocabulary import VocabularyRule, swept

LAST_COSINE, RAY_SHARE, RAY_SHARE_OF_WALK = "cosine_to_last", "ray_share", "ray_share_of_walk"
"""Columns of the tables of paths, after the role: K values per row, one, and one."""

TIME_TO_HALF, RAY_SHARE_MINUS_WALK = "time_to_half", "ray_share_minus_walk"
"""What is computed from these columns, and correlated with frequency."""

OF_TOKEN = (TIME_TO_HALF, RAY_SHARE, RAY_SHARE_OF_WALK)
"""Columns of `tokens.parquet`, before the embedding."""


@dataclass(frozen=True, eq=False)
class RolePaths:
    """Paths of the rows of one embedding.

    Attributes:
        steps: K steps, ascending.
        cosine_to_last: Cosine of each row to itself at the last step.
        ray_share: Share of the variance of each path along the line from first to last step.
        ray_share_of_walk: The same share of a random walk with steps of the same lengths.
    """

    steps: Sequence[int]
    cosine_to_last: Float[np.ndarray, "K V"]
    ray_share: Float[np.ndarray, " V"]
    ray_share_of_walk: Float[np.ndarray, " V"]

    @cached_property
    def per_token(self) -> dict[str, Float[np.ndarray, " V"]]:
        """One value per token, NaN for a row without a path or without a way to go, by name."""
        return {
            TIME_TO_HALF: times_to_half(self.steps, self.cosine_to_last),
            RAY_SHARE: self.ray_share,
            RAY_SHARE_OF_WALK: self.ray_share_of_walk,
            RAY_SHARE_MINUS_WALK: self.ray_share - self.ray_share_of_walk,
        }


def weights_digest(record: RunRecord) -> str:
    """Return the SHA-256 over all measured steps and the digests of their embeddings.

    Args:
        record: Contents of `run.json` with every step measured.
    """
    content = [
        [checkpoint.step, checkpoint.tensor_sha256 or checkpoint.rows_sha256]
        for checkpoint in record.checkpoints
    ]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_paths(run: Path, record: RunRecord) -> dict[Role, RolePaths]:
    """Read the paths of the rows of a run by embedding; none where they were not followed.

    A tied matrix has paths as the input embedding alone.

    Raises:
        OutputError: A table is missing or its bytes have changed.
    """
    if record.paths is None:
        return {}
    tables = [
        read_table(paths_path(run, table.start), table.sha256) for table in record.paths.tables
    ]
    table = pd.concat(tables, ignore_index=True)
    return {
        role: RolePaths(
            record.steps,
            np.stack(table[f"{role}_{LAST_COSINE}"].to_list(), axis=1),
            table[f"{role}_{RAY_SHARE}"].to_numpy(),
            table[f"{role}_{RAY_SHARE_OF_WALK}"].to_numpy(),
        )
        for role in ROLES
        if f"{role}_{RAY_SHARE}" in table
    }


def path_columns(paths: Mapping[Role, RolePaths]) -> dict[str, Float[np.ndarray, " V"]]:
    """Return the columns of `tokens.parquet`, such as `time_to_half_input`, `ray_share_input`."""
    return {
        f"{name}_{role.removesuffix('_embedding')}": role_paths.per_token[name].astype(np.float32)
        for role, role_paths in paths.items()
        for name in OF_TOKEN
    }


def path_trend_rows(
    paths: Mapping[Role, RolePaths], measured: TrendInput, rule: VocabularyRule
) -> Iterator[Row]:
    """One row per statistic of the paths, at the last step, ready for `trends.parquet`.

    Under each rule of the sweep, medians over the tokens whose value is defined (with order
    statistics that cover them), and rank correlations with frequency of the time to half and of the
    ray share beyond that of a random walk. A rule that keeps fewer than 10 such tokens gives none.
    """
    counts = measured.tokens["count"].to_numpy()
    for variant in swept(rule):
        mask = rule_mask(measured, variant)
        for role, role_paths in paths.items():
            for name, values in role_paths.per_token.items():
                tokens = np.flatnonzero(mask & np.isfinite(values))
                if len(tokens) < FEWEST_TOKENS:
                    continue
                about = {
                    "measure": f"{role}_{name}",
                    "step": measured.steps[-1],
                    "rule": str(variant),
                }
                center = binned_profile(values[tokens], np.zeros(len(tokens), int), LEVEL)
                yield trend_row(
                    center.median[0],
                    len(tokens),
                    interval=Interval(center.median_low[0], center.median_high[0]),
                    statistic="median",
                    **about,
                )
                if name in (TIME_TO_HALF, RAY_SHARE_MINUS_WALK):
                    about |= {"against": "log_frequency", "statistic": "spearman"}
                    yield estimate_row(spearman(values[tokens], counts[tokens]), **about)


def path_profile_rows(
    paths: Mapping[Role, RolePaths], measured: TrendInput, rule: VocabularyRule
) -> Iterator[Row]:
    """One row per measure of the paths and bin of frequency, ready for `profile.parquet`.

    The cosine to the last step is given at every step, the others at the last. Tokens without a
    value are left out of their bin, which `n` shows; a bin without any token is left out.
    """
    for bins in frequency_bins(measured, rule):
        for role, role_paths in paths.items():
            for step, cosines in zip(measured.steps, role_paths.cosine_to_last, strict=True):
                yield from bin_rows(bins, f"{role}_{LAST_COSINE}", step, cosines)
            for name, values in role_paths.per_token.items():
                yield from bin_rows(bins, f"{role}_{name}", measured.steps[-1], values)
