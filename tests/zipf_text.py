"""Text of words whose frequencies follow Zipf's law, so that tokens of all counts are in it."""

import numpy as np


def zipf_documents(words, documents, length):
    """`documents` texts of `length` words each, of a language of `words`."""
    rng = np.random.default_rng(0)
    language = ["".join(rng.choice(list("abcdefghij"), rng.integers(2, 6))) for _ in range(words)]
    odds = 1 / np.arange(1, words + 1)
    odds /= odds.sum()
    return [" ".join(rng.choice(language, length, p=odds)) for _ in range(documents)]
