"""Slopes of log norm on log frequency over steps: over tokens, and within twins if there are any.

Tokens differ in frequency and in all that goes with it; a token and its twin differ in frequency by
chance (precedent: Wilson & Schakel 2015, arXiv:1510.02675). The two are compared where they are
about the same counts: pairs against a curve over ordinary tokens at the counts of each pair.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Integer

from dynamics.runs.measures import is_norm, split_name
from dynamics.runs.trends import FEWEST_TOKENS, LEVEL, Row, TrendInput, estimate_row, trend_row
from dynamics.statistics.intervals import Interval
from dynamics.statistics.slopes import log_slope, twin_log_slope
from dynamics.statistics.twin_curve import TwinCurve, twin_curve
from dynamics.statistics.vocabulary import KINDS, VocabularyRule

OBSERVED, CAUSAL = "log_slope", "twin_log_slope"
"""Over the tokens of a rule; within a token and its twin."""

MINUS_CURVE = "twin_minus_curve"
PSEUDO_PAIRS = "twin_minus_curve_pseudo_pairs"
MEAN_OF_PAIRS = "twin_mean_minus_curve"

THIRDS = ("rarest third", "middle third", "most frequent third")
"""Thirds of the tokens with a twin, by frequency; `given` of the rows about them."""

PSEUDO_DRAWS = 200
_EQUAL_SHARES = 0.1
"""Log ratio of the shares of a token and its twin below which they are equally likely."""


def slope_rows(measured: TrendInput, rule: VocabularyRule) -> Iterator[Row]:
    """One row per norm, step and slope, ready for `trends.parquet`.

    `log_slope` is over the tokens that the rule keeps, if they are 10. With twins there are also
    `twin_log_slope`, within the pairs of a token and its twin; `twin_minus_curve`, the same minus
    the slope of the curve over ordinary tokens at the counts of each pair, over all pairs and each
    third of frequency; and `twin_minus_curve_pseudo_pairs`, what pairs of ordinary tokens give
    instead (mean over draws, and the 95 % of the draws), whose truth is 0. Where token and twin are
    equally likely, counts differ by chance alone and the slope has no leverage: then the mean over
    pairs, `twin_mean_minus_curve`, whose truth is 0, stands in its place. The rule has no say in
    these.

    Against `log_frequency`, counts are those of the whole stream; against `log_exposure` those up
    to the step, where known. Tokens without a count or a norm have no logarithm and do not enter:
    a slope with nothing to enter, as of exposure at step 0, is NaN with n = 0.
    """
    counts = measured.tokens["count"].to_numpy()
    originals, twins = twin_pairs(measured.tokens)
    kinds = measured.tokens["kind"].to_numpy()
    mask, ordinary = rule.mask(counts, kinds), np.isin(kinds, KINDS)
    for measure, norms in measured.measures.items():
        if not is_norm(measure):
            continue
        for against, occurrences in _against(measured, measure, counts).items():
            for index, step in enumerate(measured.steps):
                norm, frequency = norms[index].astype(np.float64), occurrences[index]
                keys = {"step": step, "measure": measure, "against": against, "rule": str(rule)}
                if mask.sum() >= FEWEST_TOKENS:
                    slope = log_slope(norm[mask], frequency[mask])
                    yield estimate_row(slope, **keys, statistic=OBSERVED)
                if len(twins):
                    within = twin_log_slope(
                        norm[originals],
                        norm[twins],
                        frequency[originals],
                        frequency[twins],
                        originals,
                    )
                    yield estimate_row(within, **keys, statistic=CAUSAL)
                    curve = curve_of(norm, frequency, (originals, twins), ordinary)
                    if curve is not None:
                        yield from _curve_rows(curve, norm, measured.tokens, keys)


def _curve_rows(
    curve: TwinCurve, norm: Float[np.ndarray, " V"], tokens: pd.DataFrame, keys: Row
) -> Iterator[Row]:
    """Rows of twins held against the curve at one step."""
    equal = _equally_likely(curve, tokens)
    if equal.any():
        yield estimate_row(curve.mean(norm, equal), **keys, statistic=MEAN_OF_PAIRS)
    for given, third in pairs_by_third(curve, tokens).items():
        about = {**keys, "given": given}
        estimate = curve.slope(norm, third)
        yield estimate_row(estimate, **about, statistic=MINUS_CURVE)
        draws = curve.pseudo_pairs(norm, np.random.default_rng(0), PSEUDO_DRAWS, third)
        ends = Interval(*map(float, np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])))
        mean = float(draws.mean())
        yield trend_row(mean, estimate.n, interval=ends, **about, statistic=PSEUDO_PAIRS)


def curve_of(
    norm: Float[np.ndarray, " V"],
    frequency: Integer[np.ndarray, " V"],
    pairs: tuple[Integer[np.ndarray, " m"], Integer[np.ndarray, " m"]],
    ordinary: Bool[np.ndarray, " V"],
) -> TwinCurve | None:
    """Prepare `twin_curve` for the tokens and pairs whose norms have a logarithm.

    Args:
        norm: Norm at every place.
        frequency: Occurrences at every place.
        pairs: Places of tokens with a twin, and of their twins.
        ordinary: Mask of the ordinary tokens.
    """
    originals, twins = pairs
    positive = (norm[originals] > 0) & (norm[twins] > 0)
    return twin_curve(frequency, originals[positive], twins[positive], ordinary & (norm > 0))


def pairs_by_third(curve: TwinCurve, tokens: pd.DataFrame) -> dict[str, Bool[np.ndarray, " m"]]:
    """Mask of the pairs of unequal shares, all under '' and those of each third of frequency."""
    unequal = ~_equally_likely(curve, tokens)
    thirds = _thirds(curve, tokens["count"].to_numpy(), unequal)
    return {"": unequal, **thirds} if unequal.any() else {}


def _equally_likely(curve: TwinCurve, tokens: pd.DataFrame) -> Bool[np.ndarray, " m"]:
    """Mask of pairs whose two ids are equally likely at an occurrence of their token.

    Tables that do not state the shares are older: every token has one twin, all of one share,
    which is then told from the counts of all pairs.
    """
    sides = curve.originals, curve.twins
    if "occurrence_share" in tokens:
        token, twin = (tokens["occurrence_share"].to_numpy()[side] for side in sides)
    else:
        token, twin = (np.full(len(side), tokens["count"].to_numpy()[side].sum()) for side in sides)
    return np.abs(np.log(token / twin)) < _EQUAL_SHARES


def _thirds(
    curve: TwinCurve, counts: Integer[np.ndarray, " V"], pairs: Bool[np.ndarray, " m"]
) -> dict[str, Bool[np.ndarray, " m"]]:
    """Mask of the pairs in each third of the tokens with a twin, by the count of the token."""
    originals = np.unique(curve.originals[pairs])
    ranked = originals[np.argsort(counts[originals], kind="stable")]
    return {
        name: pairs & np.isin(curve.originals, third)
        for name, third in zip(THIRDS, np.array_split(ranked, len(THIRDS)), strict=True)
        if len(third)
    }


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
