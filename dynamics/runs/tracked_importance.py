"""The importances that a run holds: from its corpus, and from its model at some steps.

V tokens, K steps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float, Integer

from dynamics.runs.record import LiveCheckpointRecord
from dynamics.runs.run import IMPORTANCE, read_importance, spread

CORPUS = {
    "information_gain_right": True,
    "information_gain_left": True,
    "information_gain_symmetric_shuffle_corrected": True,
    "information_gain_symmetric_percentile_corrected": False,
    "information_gain_right_all": False,
    "information_gain_left_all": False,
    "information_gain_symmetric": False,
    "entropy_right": False,
    "self_information": False,
}
"""Importances that counting gives, and whether frequency may be partialled out of them.

What is estimated from as many pairs as a token has is computed from its frequency, bias included;
partialling frequency out of it finds that bias. Frequency may be held fixed where each token has
equally many pairs, or where what shuffled corpora give is subtracted.
"""

HALVES = ("_half_1", "_half_2")

COVARIATE = "covariate:"
"""Beginning of the names of covariates in trends, where importances stand beside them."""


@dataclass(frozen=True, eq=False)
class Importance:
    """One importance of every token, at some steps or once and for all.

    Attributes:
        steps: K steps at which it was measured, ascending; None where it is the same at all.
        values: A row per step, one row without steps; NaN for tokens that were not measured.
        halves: The same from each half of the contexts, or None where there are no halves.
        beyond_frequency: Whether frequency may be partialled out of it.
    """

    steps: Sequence[int] | None
    values: Float[np.ndarray, "K V"]
    halves: tuple[Float[np.ndarray, "K V"], Float[np.ndarray, "K V"]] | None = None
    beyond_frequency: bool = True

    @property
    def at_last_step(self) -> "Importance":
        """The values at the last step alone, without halves."""
        steps = None if self.steps is None else self.steps[-1:]
        return Importance(steps, self.values[-1:], beyond_frequency=self.beyond_frequency)


def read_importances(
    run: Path, live_checkpoints: Sequence[LiveCheckpointRecord], tokens: pd.DataFrame
) -> dict[str, Importance]:
    """Every importance of a run by name, those of the corpus first; none gives an empty dictionary.

    Args:
        run: The run folder, finished or not.
        live_checkpoints: The steps whose model was run.
        tokens: Its tokens, one row for each token that is tracked.

    Raises:
        OutputError: A table is missing or damaged.
    """
    return _of_corpus(tokens) | _of_model(run, live_checkpoints, tokens["token_id"].to_numpy())


def factors_of(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Importances that are a product, each with the names of its norm factor and its logit factor.

    Example:
        >>> factors_of(["attribution_x", "attribution_x_logit", "attribution_x_norm", "occlusion"])
        {'attribution_x': ('attribution_x_norm', 'attribution_x_logit')}
    """
    return {
        name: (f"{name}_norm", f"{name}_logit")
        for name in names
        if f"{name}_norm" in names and f"{name}_logit" in names and not is_covariate(name)
    }


def is_covariate(name: str) -> bool:
    """Return whether a name in trends is that of a covariate, not of a measure or an importance."""
    return name.startswith(COVARIATE)


def _of_corpus(tokens: pd.DataFrame) -> dict[str, Importance]:
    """Importances among the columns of tokens that have a value for any token."""
    columns = {
        str(name): tokens[name].to_numpy(np.float64, na_value=np.nan)[np.newaxis]
        for name in tokens
        if str(name).removesuffix(HALVES[0]).removesuffix(HALVES[1]) in CORPUS
    }
    return {
        name: Importance(None, columns[name], _halves_of(columns, name), beyond_frequency)
        for name, beyond_frequency in CORPUS.items()
        if name in columns and np.isfinite(columns[name]).any()
    }


def _of_model(
    run: Path,
    live_checkpoints: Sequence[LiveCheckpointRecord],
    token_ids: Integer[np.ndarray, " V"],
) -> dict[str, Importance]:
    """Importances of the tables of live steps, with their halves where these are stored."""
    tables = {
        checkpoint.step: read_importance(run, checkpoint)
        for checkpoint in live_checkpoints
        if IMPORTANCE in checkpoint.tables
    }
    if not tables:
        return {}
    steps = sorted(tables)
    columns = {
        column: np.stack([spread(tables[step], column, token_ids) for step in steps])
        for column in tables[steps[0]].columns
        if column not in ("token_id", "contexts")
    }
    return {
        name: Importance(steps, values, _halves_of(columns, name))
        for name, values in columns.items()
        if not name.endswith(HALVES)
    }


def _halves_of(
    columns: Mapping[str, Float[np.ndarray, "K V"]], name: str
) -> tuple[Float[np.ndarray, "K V"], Float[np.ndarray, "K V"]] | None:
    """Return the columns of both halves of an importance; None where no token has both."""
    first, second = (columns.get(name + half) for half in HALVES)
    if first is None or second is None or not (np.isfinite(first) & np.isfinite(second)).any():
        return None
    return first, second
