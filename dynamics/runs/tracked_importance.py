"""The importances that a run holds: from its corpus, and from its model at some steps.

V tokens, K steps.
"""

from collections.abc import Sequence
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
        if f"{name}_norm" in names and f"{name}_logit" in names
    }


def _of_corpus(tokens: pd.DataFrame) -> dict[str, Importance]:
    """Importances among the columns of tokens that have a value for any token."""
    return {
        name: Importance(None, values[np.newaxis], beyond_frequency=beyond_frequency)
        for name, beyond_frequency in CORPUS.items()
        if name in tokens
        and np.isfinite(values := tokens[name].to_numpy(np.float64, na_value=np.nan)).any()
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
        name: Importance(
            steps,
            values,
            (columns[name + HALVES[0]], columns[name + HALVES[1]])
            if name + HALVES[0] in columns
            else None,
        )
        for name, values in columns.items()
        if not name.endswith(HALVES)
    }
