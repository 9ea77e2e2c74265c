"""How much a token tells about the tokens near it: information gain from pair counts, in nats.

For a token w whose contexts w' occur n_ww' times, n_w in all,

    information gain   KL(w) = sum_w' p(w'|w) ln( p(w'|w) / p(w') )   with p(w'|w) = n_ww' / n_w

(Oyama et al. 2023, sec. 3.2), p(w') being the share of w' in the corpus. Counted from few pairs it
comes out too large, more so for rare tokens, which frequency would mimic. So what is compared
across frequency is of equally many pairs m for every token: the mean over all ways to take m of
its n_w pairs (only the entropy depends on that, see `statistics.rarefaction`), less what m tokens
drawn from the corpus at random would have. Contexts that do not depend on w then give 0 on average.

The right and the left context are apart, and pairs inside one word are left out: how a word is
spelt is no information about its context.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Integer

from dynamics.corpus.pairs import Cells, Reach, RunningText, pair_cells, reaches
from dynamics.errors import ConfigError
from dynamics.statistics.rarefaction import rarefied_x_log_x

WINDOW = 10
SHUFFLES = 10
_PAIRS_PER_WINDOW = 8
"""Of the 10 windows of a token that occurs ten times, the rarest that correlations keep by default,
nearly all tokens have so many left beside the ends of words and documents."""

WordEdges = tuple[Bool[np.ndarray, " V"], Bool[np.ndarray, " V"]]
OnPass = Callable[[int, int], None]


@dataclass(frozen=True)
class InformationSettings:
    """How information gain is counted.

    Attributes:
        window: Tokens to each side.
        pairs: m, the pairs of every token in what is compared across frequency; a token with fewer
            is NaN there. None takes 8 windows.
        oyama: Count the symmetric window of Oyama et al. as well, with both of its corrections.
        shuffles: R, shuffled corpora that the symmetric window is corrected by.
        seed: Of the shuffles; nothing else is random.

    Raises:
        ConfigError: A number is too small.
    """

    window: int = WINDOW
    pairs: int | None = None
    oyama: bool = False
    shuffles: int = SHUFFLES
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("window", 1), ("pairs", 2), ("shuffles", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(
                    f"the {name} of information gain is {value}; give {least} or more"
                )

    @property
    def equal_pairs(self) -> int:
        """m, whether given or not."""
        return _PAIRS_PER_WINDOW * self.window if self.pairs is None else self.pairs


@dataclass(frozen=True, eq=False)
class ContextSums:
    """What pair counts of V tokens come to; entropies and gains are made of these.

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
        return np.log(self._pairs) - self.x_log_x / self._pairs

    @cached_property
    def gain(self) -> Float[np.ndarray, " V"]:
        """KL(w) of all pairs; NaN without pairs."""
        return self.surprise / self._pairs - self.entropy

    @cached_property
    def equal_count_gain(self) -> Float[np.ndarray, " V"]:
        """KL(w) of m pairs, on average over which; NaN with fewer."""
        assert self.draws is not None
        entropy = np.log(self.draws) - self.rarefied_x_log_x / self.draws
        return self.surprise / self._pairs - entropy

    @property
    def _pairs(self) -> Float[np.ndarray, " V"]:
        return np.where(self.pairs > 0, self.pairs, np.nan)


def information_columns(
    text: RunningText,
    word_edges: WordEdges,
    settings: InformationSettings,
    *,
    on_pass: OnPass = lambda done, total: None,
) -> Mapping[str, Float[np.ndarray, " V"]]:
    """Columns of a counts table, in nats: information gain to the right and to the left.

    `information_gain_right` and `_left` are of equally many pairs and corrected, see above; with
    `_all` after it, of all pairs and as counted. `entropy_right` is that of the right contexts, all
    of them, `self_information` is -ln p(w). A token that has no pairs, or too few, or that does not
    occur, is NaN.

    Args:
        text: The corpus.
        word_edges: See `kinds.word_edges`.
        settings: What to count.
        on_pass: Called with how many passes over the corpus are done, and how many there are.
    """
    from dynamics.corpus.oyama import symmetric_columns

    passes = 2 + (1 + settings.shuffles if settings.oyama else 0)
    random = _of_random_contexts(text, settings.equal_pairs)
    columns: dict[str, np.ndarray] = {}
    sides: dict[str, ContextSums] = {}
    directions = zip(("right", "left"), reaches(text, settings.window, word_edges), strict=True)
    for done, (name, side) in enumerate(directions):
        on_pass(done, passes)
        sums = sides[name] = context_sums(text, (side,), settings.equal_pairs)
        columns[f"information_gain_{name}"] = sums.equal_count_gain - random
        columns[f"information_gain_{name}_all"] = sums.gain
    columns["entropy_right"] = sides["right"].entropy
    columns["self_information"] = self_information(text)
    if settings.oyama:
        columns |= symmetric_columns(text, settings, lambda done: on_pass(2 + done, passes))
    on_pass(passes, passes)
    return columns


def self_information(text: RunningText) -> Float[np.ndarray, " V"]:
    """-ln p(w) in nats; NaN for a token that does not occur."""
    return np.log(len(text.ids)) - np.log(np.where(text.count > 0, text.count, np.nan))


def context_sums(
    text: RunningText, sides: tuple[Reach, ...], draws: int | None = None
) -> ContextSums:
    """Count the pairs of a text and sum them up; the same bits however they are divided.

    Args:
        text: The corpus.
        sides: Where contexts are; those of several sides are added up.
        draws: m of the rarefied sum; None leaves it out.
    """
    surprise = self_information(text)
    parts = [_sums(cells, surprise, draws) for cells in pair_cells(text, sides)]
    return ContextSums(*(np.concatenate(each) for each in zip(*parts, strict=True)), draws)


def _sums(cells: Cells, surprise: np.ndarray, draws: int | None) -> Iterator[np.ndarray]:
    """The sums over contexts of `ContextSums`, of the tokens of the cells."""
    tokens = cells.stop - cells.first

    def per_token(token: np.ndarray, values: np.ndarray) -> np.ndarray:
        return np.bincount(token, values, minlength=tokens)

    pairs = per_token(cells.token, cells.times).astype(np.int64)
    yield pairs
    # What follows depends on a cell's count alone: taken once for each count that a token has.
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
        kept = enough[token]
        expected = rarefied_x_log_x(times[kept], pairs[token[kept]], draws)
        rarefied[enough] = per_token(token[kept], cells_alike[kept] * expected)[enough]
    yield rarefied


def _of_random_contexts(text: RunningText, draws: int) -> float:
    """KL of m tokens drawn from the corpus, on average; NaN where it has fewer."""
    n = len(text.ids)
    if n < draws:
        return np.nan
    count, alike = np.unique(text.count[text.count > 0], return_counts=True)
    share = count / n
    surprise = -float(np.sum(alike * share * np.log(share)))
    entropy = np.log(draws) - np.sum(alike * rarefied_x_log_x(count, n, draws)) / draws
    return surprise - float(entropy)
