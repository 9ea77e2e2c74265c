"""Sums over the pair counts of each token's contexts, and entropy and information gain from them.

Everything is per token and in nats; used by `information.gain`. V tokens.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Integer

from dynamics.corpus.information.pairs import Cells, Reach, RunningText, pair_cells
from dynamics.statistics.rarefaction import rarefied_x_log_x


@dataclass(frozen=True, eq=False)
class ContextSums:
    """Sums over the pair counts of V tokens, from which entropies and gains follow.

    Attributes:
        pairs: n_w, pairs of each token.
        x_log_x: Sum over contexts of n_ww' ln n_ww', in nats.
        surprise: Sum over pairs of -ln p(w'), in nats.
        rarefied_x_log_x: Sum over contexts of the mean of k ln k among m of the pairs; NaN for
            tokens with fewer pairs, and for all where m is None.
        draws: m.
    """

    pairs: Integer[np.ndarray, " V"]
    x_log_x: Float[np.ndarray, " V"]
    surprise: Float[np.ndarray, " V"]
    rarefied_x_log_x: Float[np.ndarray, " V"]
    draws: int | None

    @cached_property
    def entropy(self) -> Float[np.ndarray, " V"]:
        """H(w) = -sum p(w'|w) ln p(w'|w); NaN without pairs."""
        # p(w'|w) = n_ww' / n_w gives ln n_w - (sum n_ww' ln n_ww') / n_w
        return np.log(self._pairs) - self.x_log_x / self._pairs

    @cached_property
    def gain(self) -> Float[np.ndarray, " V"]:
        """KL(w) of all pairs; NaN without pairs."""
        # Oyama et al. 2023, sec. 3.2: sum p(w'|w) ln(p(w'|w) / p(w')) = cross-entropy - entropy
        return self.surprise / self._pairs - self.entropy

    @cached_property
    def equal_count_gain(self) -> Float[np.ndarray, " V"]:
        """KL(w) of m pairs, on average over all choices of m; NaN with fewer pairs."""
        assert self.draws is not None
        # The entropy of m draws is ln m - (sum k ln k) / m on average (`statistics.rarefaction`);
        # the cross-entropy is linear in the counts, so that all pairs give its mean.
        entropy = np.log(self.draws) - self.rarefied_x_log_x / self.draws
        return self.surprise / self._pairs - entropy

    @property
    def _pairs(self) -> Float[np.ndarray, " V"]:
        """Pairs of each token; NaN for 0, so that quotients are NaN."""
        return np.where(self.pairs > 0, self.pairs, np.nan)


def self_information(text: RunningText) -> Float[np.ndarray, " V"]:
    """-ln p(w) in nats; NaN for a token that does not occur."""
    # Shannon 1948: -ln p with p = count / N
    return np.log(len(text.ids)) - np.log(np.where(text.count > 0, text.count, np.nan))


def context_sums(
    text: RunningText, sides: tuple[Reach, ...], draws: int | None = None
) -> ContextSums:
    """Count the pairs of a text and sum over contexts; ranges of tokens do not change the bits.

    Args:
        text: The corpus.
        sides: Reach of the contexts to each side; several sides are added up.
        draws: m of the rarefied sum; None leaves it out.
    """
    surprise = self_information(text)
    parts = [_sums(cells, surprise, draws) for cells in pair_cells(text, sides)]
    pairs, x_log_x, surprises, rarefied = (
        np.concatenate(values) for values in zip(*parts, strict=True)
    )
    return ContextSums(pairs, x_log_x, surprises, rarefied, draws)


def _sums(cells: Cells, surprise: np.ndarray, draws: int | None) -> Iterator[np.ndarray]:
    """Sums over contexts as in `ContextSums`, for the tokens of the cells."""
    tokens = cells.stop - cells.first

    def per_token(token: np.ndarray, values: np.ndarray) -> np.ndarray:
        return np.bincount(token, values, minlength=tokens)

    pairs = per_token(cells.token, cells.times).astype(np.int64)
    yield pairs
    # x ln x depends on a cell's count alone: computed once for each count that a token has.
    largest = int(cells.times.max(initial=0)) + 1
    keys, cells_alike = np.unique(
        cells.token.astype(np.int64) * largest + cells.times, return_counts=True
    )
    token, times = np.divmod(keys, largest)
    yield per_token(token, cells_alike * times * np.log(times))
    yield per_token(cells.token, cells.times * surprise[cells.context])
    rarefied = np.full(tokens, np.nan)
    if draws is not None:
        enough = pairs >= draws
        in_enough = enough[token]
        expected = rarefied_x_log_x(times[in_enough], pairs[token[in_enough]], draws)
        sums = per_token(token[in_enough], cells_alike[in_enough] * expected)
        rarefied[enough] = sums[enough]
    yield rarefied
