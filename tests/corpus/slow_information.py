"""Information gain with dictionaries, pair by pair."""

from collections import Counter, defaultdict
from math import log, nan

import numpy as np
from scipy.stats import hypergeom


def pairs(ids, pieces, words, window, side):
    """Contexts of each token: its pairs within the window, in one piece and not in one word."""
    found = defaultdict(list)
    for at, token in enumerate(ids):
        for distance in range(1, window + 1):
            there = at + side * distance
            if 0 <= there < len(ids) and pieces[at] == pieces[there] and words[at] != words[there]:
                found[token].append(ids[there])
    return found


def word_numbers(ids, pieces, after, before):
    """Number of the word of each position."""
    number, numbers = 0, []
    for at, token in enumerate(ids):
        goes_on = at and pieces[at] == pieces[at - 1] and after[ids[at - 1]] and before[token]
        number += not goes_on
        numbers.append(number)
    return numbers


def entropy(contexts):
    n = len(contexts)
    return -sum(times / n * log(times / n) for times in Counter(contexts).values()) if n else nan


def gain(contexts, ids):
    """KL of the contexts from the corpus."""
    share = {token: times / len(ids) for token, times in Counter(ids).items()}
    n = len(contexts)
    if not n:
        return nan
    return sum(c / n * log(c / n / share[w]) for w, c in Counter(contexts).items())


def equal_count_gain(contexts, ids, draws):
    """The same of so many of the contexts, its mean; and less that of as many tokens at random."""
    if len(contexts) < draws:
        return nan
    return _mean_gain(contexts, ids, draws) - _mean_gain(ids, ids, draws)


def _mean_gain(contexts, ids, draws):
    share = {token: times / len(ids) for token, times in Counter(ids).items()}
    k = np.arange(1, draws + 1)
    return sum(
        np.sum(hypergeom.pmf(k, len(contexts), c, draws) * k / draws * np.log(k / draws / share[w]))
        for w, c in Counter(contexts).items()
    )


def per_token(vocab_size, found, function):
    return [function(found.get(token, [])) for token in range(vocab_size)]
