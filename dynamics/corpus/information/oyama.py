"""Information gain of the symmetric window, as Oyama et al. (2023) count and correct it."""

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float, Integer

from dynamics.corpus.information.contexts import context_sums
from dynamics.corpus.information.pairs import RunningText, reaches
from dynamics.corpus.information.settings import InformationSettings
from dynamics.statistics.bins import log_spaced_bins, tokens_by_bin

PERCENTILE = 3


def symmetric_columns(
    text: RunningText,
    settings: InformationSettings,
    on_pass: Callable[[int], None] = lambda done: None,
) -> Mapping[str, Float[np.ndarray, " V"]]:
    """Information gain within the window to both sides, in nats, raw and with both corrections.

    Pairs inside one word count, those across pieces of the text do not. NaN for tokens with no
    pairs. The shuffled corpora are permutations of all tokens of the text over its positions, drawn
    one after another from the seed; their mean is subtracted (sec. 6.1 and 6.2), over those corpora
    in which the token has pairs.

    Args:
        text: The corpus.
        settings: Window, number R of shuffled corpora, and their seed.
        on_pass: Called with the number of passes that are done.
    """
    sides = reaches(text, settings.window)
    on_pass(0)
    gain = context_sums(text, sides).gain
    rng = np.random.default_rng(settings.seed)
    total = np.zeros(text.vocab_size)
    shuffled_times = np.zeros(text.vocab_size)
    for done in range(1, settings.shuffles + 1):
        on_pass(done)
        shuffled = RunningText(rng.permutation(text.ids), text.starts, text.vocab_size)
        shuffled_gain = context_sums(shuffled, sides).gain
        total += np.nan_to_num(shuffled_gain)
        shuffled_times += ~np.isnan(shuffled_gain)
    # Oyama et al. 2023, sec. 6.1 and 6.2: subtract the mean over shuffled corpora
    mean = total / np.where(shuffled_times > 0, shuffled_times, np.nan)
    return {
        "information_gain_symmetric": gain,
        "information_gain_symmetric_shuffle_corrected": gain - mean,
        "information_gain_symmetric_percentile_corrected": percentile_corrected(gain, text.count),
    }


def percentile_corrected(
    values: Float[np.ndarray, " V"], counts: Integer[np.ndarray, " V"]
) -> Float[np.ndarray, " V"]:
    """Subtract the third percentile among tokens of about the same count.

    Bins of count are `statistics.bins.log_spaced_bins`: 200, merged from the top until each has 50
    tokens (sec. 6.1 of the paper). Quantiles are linear between order statistics.

    Args:
        values: A quantity of each token; NaN stays NaN and is left out of its bin.
        counts: Occurrences, at least one where the value is not NaN.
    """
    corrected = np.full(len(values), np.nan)
    measured = np.flatnonzero(~np.isnan(values))
    # Oyama et al. 2023, sec. 6.1: 200 bins of log count, merged until each has 50 tokens
    for bin_tokens in tokens_by_bin(log_spaced_bins(counts[measured], bins=200, minimum=50)):
        tokens = measured[bin_tokens]
        corrected[tokens] = values[tokens] - np.percentile(values[tokens], PERCENTILE)
    return corrected
