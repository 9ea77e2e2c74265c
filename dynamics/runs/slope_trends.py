"""Slopes of log norm on log frequency over steps: over tokens, and within twins if there are any.

Of a training with twins (`corpus.twins`) both are given, because they answer different questions:
how norms differ between rare and frequent tokens, and what frequency itself does to a norm
(precedent: Wilson & Schakel 2015, arXiv:1510.02675).
"""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from dynamics.runs.measures import is_norm, split_name
from dynamics.runs.trends import FEWEST_TOKENS, Row, TrendInput, estimate_row
from dynamics.statistics.slopes import Slope, log_slope, twin_log_slope
from dynamics.statistics.vocabulary import VocabularyRule

OBSERVED, AMONG_TWINNED, CAUSAL = "log_slope", "log_slope_of_twinned", "twin_log_slope"
"""Over the tokens of a rule; over the tokens that have a twin; within a token and its twin."""


def slope_rows(measured: TrendInput, rule: VocabularyRule) -> Iterator[Row]:
    """One row per norm gauge, step and slope, ready for `trends.parquet`.

    `log_slope` is over the tokens that the rule keeps, if they are 10; `twin_log_slope` is within
    the pairs of a token and its twin, and `log_slope_of_twinned` over the first of each pair, so
    that these two differ in what is compared but not in the tokens. The rule has no say in them.

    Against `log_frequency`, counts are those of the whole stream; against `log_exposure` those up
    to the step, where known. Tokens without a count or a norm have no logarithm and do not enter:
    a slope with nothing to enter, as of exposure at step 0, is NaN with n = 0.
    """
    counts = measured.tokens["count"].to_numpy()
    originals, twins = twin_pairs(measured.tokens)
    mask = rule.mask(counts, measured.tokens["kind"])
    for measure, norms in measured.measures.items():
        if not is_norm(measure):
            continue
        for against, occurrences in _against(measured, measure, counts).items():
            for index, step in enumerate(measured.steps):
                norm, frequency = norms[index].astype(np.float64), occurrences[index]
                slopes: dict[str, Slope] = {}
                if mask.sum() >= FEWEST_TOKENS:
                    slopes[OBSERVED] = log_slope(norm[mask], frequency[mask])
                if len(twins):
                    slopes[AMONG_TWINNED] = log_slope(norm[originals], frequency[originals])
                    slopes[CAUSAL] = twin_log_slope(
                        norm[originals], norm[twins], frequency[originals], frequency[twins]
                    )
                keys = {"step": step, "measure": measure, "against": against, "rule": str(rule)}
                for statistic, slope in slopes.items():
                    yield estimate_row(slope, **keys, statistic=statistic)


def twin_pairs(tokens: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Places of tokens that have a twin, and of these twins; pairs not wholly there are left out.

    Args:
        tokens: One row per token, all or some, with `token_id` and, where there are twins,
            `twin_of`.
    """
    if "twin_of" not in tokens:
        return np.array([], np.int64), np.array([], np.int64)
    twins = np.flatnonzero(tokens["twin_of"] >= 0)
    originals = pd.Index(tokens["token_id"]).get_indexer(tokens["twin_of"].to_numpy()[twins])
    return originals[originals >= 0], twins[originals >= 0]


def _against(
    measured: TrendInput, measure: str, counts: np.ndarray
) -> Mapping[str, list[np.ndarray] | np.ndarray]:
    """Counts at each step that log norms are regressed on the logarithm of, by name."""
    against: dict[str, list[np.ndarray] | np.ndarray] = {
        "log_frequency": [counts] * len(measured.steps)
    }
    if measured.exposures is not None:
        against["log_exposure"] = measured.exposures[split_name(measure)[0]]
    return against
