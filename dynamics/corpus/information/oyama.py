"""Information gain of the symmetric window, as Oyama et al. (2023) count and correct it."""

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float, Integer

from dynamics.corpus.information.contexts import context_sums
from dynamics.corpus.information.pairs import RunningText, reaches
from dynamics.statistics.bins import log_spaced_bins, tokens_by_bin

PERCENTILE = 3


def symmetric_columns(
    text: RunningText,
    *,
    window: int,
    shuffles: int,
    seed: int,
    on_pass: Callable[[int], None] = lambda done: None,
) -> Mapping[str, Float[np.ndarray, " V"]]:
    """Information gain of all tokens within the window to both sides, in nats, and its corrections.

    Pairs inside one word count, those across pieces of the text do not. NaN for tokens with no
    pairs. The shuffled corpora are permutations of all tokens of the text over its positions, drawn
    one after another from `seed`; their mean is subtracted (sec. 6.1 and 6.2), where a
    token has no pairs in one of them, that of the others.

    Args:
        text: The corpus.
        window: Tokens to each side.
        shuffles: R.
        seed: Of the shuffles.
        on_pass: Called with how many passes are done.
    """
    sides = reaches(text, window)
    on_pass(0)
    gain = context_sums(text, sides).gain
    rng = np.random.default_rng(seed)
    total = np.zeros(text.vocab_size)
    shuffled_times = np.zeros(text.vocab_size)
    for done in range(1, shuffles + 1):
        on_pass(done)
        shuffled = RunningText(rng.permutation(text.ids), text.starts, text.vocab_size)
        of_shuffled = context_sums(shuffled, sides).gain
        total += np.nan_to_num(of_shuffled)
        shuffled_times += ~np.isnan(of_shuffled)
    mean = total / np.where(shuffled_times > 0, shuffled_times, np.nan)
    return {
        "information_gain_symmetric": gain,
        "information_gain_symmetric_shuffle_corrected": gain - mean,
        "information_gain_symmetric_percentile_corrected": percentile_corrected(gain, text.count),
    }


def percentile_corrected(
    values: Float[np.ndarray, " V"], counts: Integer[np.ndarray, " V"]
) -> Float[np.ndarray, " V"]:
    """Less the third percentile among tokens of about the same count.

    Bins of count are `statistics.bins.log_spaced_bins`: 200, merged from the top until each has 50
    tokens (sec. 6.1 of the paper). Quantiles are linear between order statistics.

    Args:
        values: A quantity of each token; NaN stays and is no part of its bin.
        counts: Occurrences, at least one where the value is not NaN.
    """
    corrected = np.full(len(values), np.nan)
    known = np.flatnonzero(~np.isnan(values))
    for tokens in tokens_by_bin(log_spaced_bins(counts[known], bins=200, minimum=50)):
        chosen = known[tokens]
        corrected[chosen] = values[chosen] - np.percentile(values[chosen], PERCENTILE)
    return corrected
