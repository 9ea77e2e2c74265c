"""Twins: further ids for some tokens, drawn at each occurrence, so that chance sets frequency.

Each occurrence of such a token becomes one of its twins with a set probability, independently.
Token and twins then stand for the same text in the same contexts and differ in how often they are
trained, which chance has decided: any difference between them is an effect of frequency.
Precedent: Wilson & Schakel (2015, arXiv:1510.02675) set the frequency of words by experiment.

V entries of the tokenizer, K twins of each token.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Integer

from dynamics.config import TwinSettings
from dynamics.corpus.tally import count_ids
from dynamics.errors import CorpusError
from dynamics.progress import Report, no_report
from dynamics.statistics.twin_curve import FEWEST_CURVE_TOKENS, between_counts, curve_tokens
from dynamics.statistics.vocabulary import KINDS

Twins = Mapping[int, Sequence[int]]
"""Ids of the K twins of each token that has any, in the order of their shares."""

FEWEST_OCCURRENCES = 10
"""Fewest expected occurrences of a twin, and of the token that it is split from."""

_ROWS_PER_CHUNK = 4096


def make_twins(
    table: Integer[np.ndarray, "rows width"],
    counts: Integer[np.ndarray, " V"],
    kinds: Sequence[str],
    settings: TwinSettings,
    rng: np.random.Generator,
    report: Report = no_report,
) -> dict[int, tuple[int, ...]]:
    """Choose the tokens that get twins, and replace occurrences of them in a table of token ids.

    Every place of a row is treated alike, so that a token and its twins have equal shares among
    inputs and among targets.

    Args:
        table: Token ids; changed in place.
        counts: Occurrences of each token in the table.
        kinds: Kind of each token, as `kinds.token_kinds` gives it.
        settings: Tokens and shares.
        rng: Chooses and draws by generators spawned from it; its own state stays as it is.
        report: Receives a line on the twins and on the tokens that they will be compared with.

    Returns:
        Ids of the twins of each token; V, V + 1, ... by falling count of the token.

    Raises:
        CorpusError: Fewer tokens than requested occur often enough, or fewer than 100 ordinary
            tokens of such counts are left.
    """
    drawing, choosing = rng.spawn(2)
    twins = choose_twins(counts, kinds, settings, choosing)
    substitute(table, twins, settings.shares, drawing)
    height = len(kinds) + len(twins) * len(settings.shares)
    counts = count_ids(table.reshape(-1), height, "the corpus")
    report(_comparison(counts, kinds, twins, settings.shares))
    return twins


def choose_twins(
    counts: Integer[np.ndarray, " V"],
    kinds: Sequence[str],
    settings: TwinSettings,
    rng: np.random.Generator,
) -> dict[int, tuple[int, ...]]:
    """Select the tokens that get twins; twin ids are V, V + 1, ... by falling count of the token.

    Eligible are ordinary tokens that occur often enough for each of the ids to be met 10 times. By
    falling count, equal counts by id, they are cut into equally many groups as tokens are
    requested; one of each group is drawn. If the tokens are to be the same for every seed, nothing
    is drawn: they are evenly spread over the ranks.

    Args:
        counts: Occurrences of each token in the corpus.
        kinds: Kind of each token, as `kinds.token_kinds` gives it.
        settings: Number of tokens, how they are drawn, and the share of each twin.
        rng: Draws the tokens.

    Raises:
        CorpusError: Fewer tokens than requested occur often enough.
    """
    tokens, shares = settings.tokens, settings.shares
    fewest = math.ceil(FEWEST_OCCURRENCES / min(*shares, 1 - math.fsum(shares)) - 1e-9)
    eligible = np.flatnonzero(np.isin(kinds, KINDS) & (counts >= fewest))
    if len(eligible) < tokens:
        raise CorpusError(
            f"corpus.twins.tokens is {tokens}, but only {len(eligible)} ordinary tokens occur "
            f"{fewest} times or more, as corpus.twins.share {settings.share} needs for "
            f"{FEWEST_OCCURRENCES} of each id; lower corpus.twins.tokens, or give more text"
        )
    ranked = eligible[np.argsort(-counts[eligible], kind="stable")]
    if settings.drawn == "fixed":
        selected = ranked[np.arange(tokens) * (len(ranked) - 1) // max(tokens - 1, 1)]
    else:
        selected = np.array([rng.choice(group) for group in np.array_split(ranked, tokens)])
    ids = len(counts) + np.arange(tokens * len(shares)).reshape(tokens, len(shares))
    return dict(zip(selected.tolist(), map(tuple, ids.tolist()), strict=True))


def substitute(
    table: Integer[np.ndarray, "rows width"],
    twins: Twins,
    shares: Sequence[float],
    rng: np.random.Generator,
) -> None:
    """Replace each occurrence of a token that has twins by the k-th with probability `shares[k]`.

    Args:
        table: Token ids; changed in place.
        twins: Ids of each such token and of its twins.
        shares: Probability of each twin; an occurrence stays with the rest. Independent.
        rng: Draws one number for each occurrence, in the order of the table.
    """
    tokens = np.array(sorted(twins))
    ids = np.array([[*twins[token_id], token_id] for token_id in tokens.tolist()])
    limits = np.cumsum(shares)
    for start in range(0, len(table), _ROWS_PER_CHUNK):
        rows = table[start : start + _ROWS_PER_CHUNK]
        places = np.nonzero(np.isin(rows, tokens))
        drawn = np.searchsorted(limits, rng.random(len(places[0])), side="right")
        rows[places] = ids[np.searchsorted(tokens, rows[places]), drawn]


def _comparison(
    counts: Integer[np.ndarray, " ids"], kinds: Sequence[str], twins: Twins, shares: Sequence[float]
) -> str:
    """Return a line on twins, and on the ordinary tokens whose curve they are compared with.

    Raises:
        CorpusError: Fewer than 100 ordinary tokens of such counts are left.
    """
    ordinary = np.zeros(len(counts), bool)
    ordinary[: len(kinds)] = np.isin(kinds, KINDS)
    originals = np.repeat(list(twins), len(shares))
    twin_ids = np.concatenate(list(twins.values()))
    curve = curve_tokens(counts, originals, twin_ids, ordinary)
    if (left := int(curve.sum())) < FEWEST_CURVE_TOKENS:
        raise CorpusError(
            f"corpus.twins.tokens is {len(twins)}, which leaves {left} ordinary tokens of such "
            f"counts to compare twins with, {FEWEST_CURVE_TOKENS} are needed; lower "
            "corpus.twins.tokens, or give more text or a larger tokenizer"
        )
    beyond = int((~between_counts(counts, curve, originals, twin_ids)).sum())
    return (
        f"{len(twins)} tokens have twins (shares of their occurrences: "
        f"{', '.join(f'{share:g}' for share in shares)}); they are compared with a curve over "
        f"{left:,} ordinary tokens of such counts"
        + (f", {beyond} of {len(twin_ids)} pairs lie beyond these counts" if beyond else "")
    )
