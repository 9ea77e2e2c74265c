"""Twins: a second id for some tokens, drawn at each occurrence, so that chance sets frequency.

Each occurrence of such a token becomes its twin with one probability, independently. Token and
twin then stand for the same text in the same contexts and differ in how often they are trained,
which chance has decided: any difference between the two is an effect of frequency.
Precedent: Wilson & Schakel (2015, arXiv:1510.02675) set the frequency of words by experiment.

V entries of the tokenizer.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Integer

from dynamics.config import TwinSettings
from dynamics.errors import CorpusError
from dynamics.statistics.vocabulary import KINDS

FEWEST_OCCURRENCES = 10
"""Fewest expected occurrences of a twin, and of the token that it is split from."""

_ROWS_PER_CHUNK = 4096


def choose_twins(
    counts: Integer[np.ndarray, " V"], kinds: Sequence[str], twins: TwinSettings
) -> dict[int, int]:
    """Select the tokens that get a twin; twin ids are V, V + 1, ... by falling count of the token.

    The tokens are evenly spread over the ranks of frequency among ordinary tokens that occur
    often enough for both ids to be met 10 times. Nothing is drawn, so that trainings on one corpus
    with different seeds share the tokens. Equally frequent tokens are ranked by their ids.

    Args:
        counts: Occurrences of each token in the corpus.
        kinds: Kind of each token, as `kinds.token_kinds` gives it.
        twins: Number of tokens, and probability that an occurrence becomes the twin.

    Raises:
        CorpusError: Fewer tokens than requested occur often enough.
    """
    fewest = math.ceil(FEWEST_OCCURRENCES / min(twins.share, 1 - twins.share))
    eligible = np.flatnonzero(np.isin(kinds, KINDS) & (counts >= fewest))
    if len(eligible) < twins.tokens:
        raise CorpusError(
            f"corpus.twins.tokens is {twins.tokens}, but only {len(eligible)} ordinary tokens "
            f"occur {fewest} times or more, as a share of {twins.share:g} needs; lower "
            "corpus.twins.tokens, or give more text"
        )
    ranked = eligible[np.argsort(-counts[eligible], kind="stable")]
    selected = ranked[np.arange(twins.tokens) * (len(ranked) - 1) // max(twins.tokens - 1, 1)]
    return {token_id: len(counts) + index for index, token_id in enumerate(selected.tolist())}


def substitute(
    table: Integer[np.ndarray, "rows width"],
    twins: Mapping[int, int],
    share: float,
    rng: np.random.Generator,
) -> None:
    """Replace each occurrence of a token that has a twin by the twin with probability `share`.

    Args:
        table: Token ids; changed in place.
        twins: Id of each such token, and of its twin.
        share: Probability of each substitution; they are independent.
        rng: Draws one number for each occurrence, in the order of the table.
    """
    tokens = np.array(sorted(twins))
    twin_ids = np.array([twins[token_id] for token_id in tokens.tolist()])
    for start in range(0, len(table), _ROWS_PER_CHUNK):
        rows = table[start : start + _ROWS_PER_CHUNK]
        places = np.nonzero(np.isin(rows, tokens))
        drawn = rng.random(len(places[0])) < share
        places = tuple(axis[drawn] for axis in places)
        rows[places] = twin_ids[np.searchsorted(tokens, rows[places])]
