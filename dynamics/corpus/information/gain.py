"""Information gain of a token about the tokens near it, from pair counts, in nats.

For a token w whose contexts w' occur n_ww' times, n_w in all,

    information gain   KL(w) = sum_w' p(w'|w) ln( p(w'|w) / p(w') )   with p(w'|w) = n_ww' / n_w

(Oyama et al. 2023, sec. 3.2), p(w') being the share of w' in the corpus. Counted from few pairs it
is too large, most for rare tokens, which looks like an effect of frequency. For comparisons across
frequency every token therefore gets equally many pairs m: the mean over all ways to take m of its
n_w pairs (only the entropy depends on that, see `statistics.rarefaction`), minus the value for m
tokens drawn from the corpus at random. Contexts that do not depend on w then give 0 on average.

The same is counted in each half of the documents, those of even and of odd number, of m / 2 pairs
and with the frequencies of that half, so that the halves share no pair and have the same number of
pairs whatever the token's frequency. Their correlation tells how reliable the gain is.

The right and the left context are separate, and pairs inside one word are left out: the spelling of
a word is no information about its context.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from dynamics.corpus.information.contexts import ContextSums, context_sums, self_information
from dynamics.corpus.information.oyama import symmetric_columns
from dynamics.corpus.information.pairs import RunningText, WordEdges, reaches
from dynamics.corpus.information.settings import InformationSettings
from dynamics.progress import OnProgress, no_progress
from dynamics.statistics.rarefaction import rarefied_x_log_x


def information_columns(
    text: RunningText,
    word_edges: WordEdges,
    settings: InformationSettings,
    *,
    on_pass: OnProgress = no_progress,
) -> Mapping[str, Float[np.ndarray, " V"]]:
    """Columns of a counts table, in nats: information gain to the right and to the left.

    `information_gain_right` and `_left` are of equally many pairs and corrected (see the module);
    with the suffixes `_half_1` and `_half_2` the same of m / 2 pairs in the documents of even and
    of odd number, NaN where documents are not known or there is one; with the suffix `_all`, of all
    pairs and uncorrected. `entropy_right` is that of all right contexts, `self_information` is
    -ln p(w). A token with no or too few pairs, or that does not occur, is NaN.

    Args:
        text: The corpus.
        word_edges: See `kinds.word_edges`.
        settings: Window, pairs and corrections.
        on_pass: Called with the number of passes over the corpus that are done, and of all.
    """
    passes = 2 + (1 + settings.shuffles if settings.oyama else 0)
    random_gain = _random_context_gain(text, settings.equal_pairs)
    columns: dict[str, np.ndarray] = {}
    sides: dict[str, ContextSums] = {}
    directions = zip(("right", "left"), reaches(text, settings.window, word_edges), strict=True)
    for done, (name, side) in enumerate(directions):
        on_pass(done, passes)
        sums = sides[name] = context_sums(text, (side,), settings.equal_pairs)
        columns[f"information_gain_{name}"] = sums.equal_count_gain - random_gain
        columns[f"information_gain_{name}_all"] = sums.gain
        for half, half_text in enumerate(text.halves or (None, None)):
            column = f"information_gain_{name}_half_{half + 1}"
            columns[column] = (
                np.full(text.vocab_size, np.nan)
                if half_text is None
                else _half_gain(half_text, word_edges, settings, done)
            )
    columns["entropy_right"] = sides["right"].entropy
    columns["self_information"] = self_information(text)
    if settings.oyama:
        columns |= symmetric_columns(text, settings, lambda done: on_pass(2 + done, passes))
    on_pass(passes, passes)
    return columns


def _half_gain(
    text: RunningText, word_edges: WordEdges, settings: InformationSettings, side: int
) -> Float[np.ndarray, " V"]:
    """Gain to one side of half of the pairs, in half of the documents."""
    pairs = settings.equal_pairs // 2
    sums = context_sums(text, (reaches(text, settings.window, word_edges)[side],), pairs)
    return sums.equal_count_gain - _random_context_gain(text, pairs)


def _random_context_gain(text: RunningText, draws: int) -> float:
    """Mean KL of m tokens drawn from the corpus; NaN where it has fewer."""
    n = len(text.ids)
    if n < draws:
        return np.nan
    count, tokens = np.unique(text.count[text.count > 0], return_counts=True)
    share = count / n
    # As `ContextSums.equal_count_gain`, of contexts that are the corpus: cross-entropy of a token
    # of the corpus, minus the entropy of m draws from it. Tokens of one count are summed at once.
    surprise = -float(np.sum(tokens * share * np.log(share)))
    entropy = np.log(draws) - np.sum(tokens * rarefied_x_log_x(count, n, draws)) / draws
    return surprise - float(entropy)
