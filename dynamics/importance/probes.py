"""The frozen probe set: contexts of tokens of every frequency, the same for every checkpoint.

R rows of W ids that contexts are taken from, N contexts of L ids, V tokens.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int64, Integer

from dynamics.corpus.exposure import count_ids
from dynamics.errors import ConfigError, CorpusError
from dynamics.statistics.bins import equal_count_bins

SHORTEST = 4  # ids of a context whose middle half has a past and a future
FEWEST_CONTEXTS = 2  # of a sampled token, one for each half
_IDS_PER_CHUNK = 1 << 20


@dataclass(frozen=True)
class ProbeSettings:
    """How much is probed.

    Attributes:
        strata: Strata of frequency, each of equally many tokens of the vocabulary.
        tokens_per_stratum: Tokens sampled from each.
        contexts: Contexts of each token, fewer where it does not occur so often.
        length: Ids of a context.
        tokens: Ids that are probed besides the sampled ones.
        seed: Of the sample.

    Raises:
        ConfigError: A number is too small.
    """

    strata: int = 10
    tokens_per_stratum: int = 40
    contexts: int = 16
    length: int = 64
    tokens: tuple[int, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        for what, least in {
            "strata": 1,
            "tokens_per_stratum": 0,
            "contexts": FEWEST_CONTEXTS,
        }.items():
            if (found := getattr(self, what)) < least:
                raise ConfigError(f"{what} of a probe set is {found}; give {least} or more")
        if self.length < SHORTEST:
            raise ConfigError(
                f"contexts of {self.length} ids leave a token no past or no future; give "
                f"{SHORTEST} ids or more"
            )
        if not self.most_tokens:
            raise ConfigError("no token is probed; sample some of each stratum, or name their ids")

    @property
    def most_tokens(self) -> int:
        """Tokens that are probed at most."""
        return self.strata * self.tokens_per_stratum + len(self.tokens)


@dataclass(frozen=True, eq=False)
class ProbeSet:
    """Contexts, each with the token that is probed in it; those of a token stand together.

    Attributes:
        ids: Token ids of each context.
        positions: Where in its context the probed token stands.
        replacements: Another token, at random, whose row takes its place where one is wanted.
        halves: 0 or 1, the half of its token's contexts that each belongs to. Contexts that share
            text are of one half, so that what both halves say is not said twice.
        left_out: Tokens that others were sampled in place of, for they do not occur twice with a
            past and a future.
    """

    ids: Int64[np.ndarray, "N L"]
    positions: Int64[np.ndarray, " N"]
    replacements: Int64[np.ndarray, " N"]
    halves: Int64[np.ndarray, " N"]
    left_out: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def length(self) -> int:
        """Ids of a context."""
        return self.ids.shape[1]

    @cached_property
    def token_ids(self) -> Int64[np.ndarray, " N"]:
        """The token that is probed in each context, never falling."""
        return self.ids[np.arange(len(self)), self.positions]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of shape, contexts, positions and replacements; halves follow from the rows."""
        sha256 = hashlib.sha256(repr(self.ids.shape).encode())
        for each in (self.ids, self.positions, self.replacements):
            sha256.update(each.astype("<i8").tobytes())
        return sha256.hexdigest()


def sample_probes(
    rows: Integer[np.ndarray, "R W"],
    counts: Integer[np.ndarray, " V"],
    kept: Bool[np.ndarray, " V"],
    settings: ProbeSettings,
    name: str = "the probe text",
) -> ProbeSet:
    """Choose tokens of every frequency, and contexts of each, at random.

    Tokens come from strata of log frequency with equally many tokens (ties share one, so that there
    can be fewer), those that do not occur twice in the rows passed over. A context is a window of
    one row that holds an occurrence in its middle half; an occurrence near an end of its row has
    none. No occurrence is taken twice. The rows are read twice, in chunks.

    The halves of a token's contexts are as large as each other as far as contexts that overlap in
    one row, directly or through others, can stay together; all are of the first half when all do.

    Args:
        rows: Text as ids; what stands in one row is joined text.
        counts: Occurrences of each token in the training corpus.
        kept: Tokens that may be sampled; replacements are of them too.
        settings: How much; contexts are as long as a row at most.
        name: What messages call the rows.

    Raises:
        ConfigError: A token that was asked for does not exist or has no context, or no token has.
        CorpusError: The rows are too short for a context, or hold an id beyond the vocabulary.
    """
    rng = np.random.default_rng(settings.seed)
    length = min(settings.length, rows.shape[1])
    if length < SHORTEST:
        raise CorpusError(
            f"rows of {rows.shape[1]} ids of {name} are too short for a context of {SHORTEST}"
        )
    if beyond := [each for each in settings.tokens if not 0 <= each < len(counts)]:
        raise ConfigError(
            f"token {beyond[0]} cannot be probed: the vocabulary has ids 0 to {len(counts) - 1}"
        )
    available = np.zeros(len(counts), np.int64)
    for _, ids in _eligible(rows, length):
        available += count_ids(ids, len(counts), name)
    if missing := [each for each in settings.tokens if not available[each]]:
        raise ConfigError(
            f"token {missing[0]} was asked for and does not occur in {name} with a past and a "
            "future; give another text to probe with --probe, or leave the token out"
        )
    sampled, left_out = _sample_tokens(counts, kept, available, settings, rng)
    wanted = np.union1d(sampled, np.array(settings.tokens, np.int64))
    if not len(wanted):
        raise ConfigError(
            f"none of the {kept.sum()} tokens that the vocabulary rule keeps occurs twice in "
            f"{name}; give more text with --probe"
        )
    places = _choose_occurrences(rows, wanted, len(counts), length, settings.contexts, rng)
    low, high = _positions(places % rows.shape[1], rows.shape[1], length)
    positions = rng.integers(low, high + 1)
    starts = places % rows.shape[1] - positions
    ids = rows[(places // rows.shape[1])[:, None], starts[:, None] + np.arange(length)]
    ids = ids.astype(np.int64)
    probed = ids[np.arange(len(ids)), positions]
    replacements = _others(probed, np.flatnonzero(kept), rng)
    halves = _halves(probed, places // rows.shape[1], starts, length)
    return ProbeSet(ids, positions, replacements, halves, left_out)


def half_means(
    values: Float[np.ndarray, " N"],
    token_ids: Integer[np.ndarray, " N"],
    halves: Integer[np.ndarray, " N"],
) -> tuple[Float[np.ndarray, " tokens"], ...]:
    """Mean over the contexts of each token, and over each half of them.

    The two halves are what split-half reliability is made of.

    Args:
        values: One for each context.
        token_ids: Token of each context, never falling.
        halves: 0 or 1 for each context.

    Returns:
        Means of all contexts, of half 0 and of half 1 of each token, by ascending token; NaN for a
        half without contexts.
    """
    _, first, owner = np.unique(token_ids, return_index=True, return_inverse=True)
    means = []
    for chosen in (halves >= 0, halves == 0, halves == 1):
        n = np.bincount(owner[chosen], minlength=len(first))
        total = np.bincount(owner[chosen], values[chosen], minlength=len(first))
        means.append(np.divide(total, n, out=np.full(len(first), np.nan), where=n > 0))
    return tuple(means)


def _sample_tokens(
    counts: np.ndarray,
    kept: np.ndarray,
    available: np.ndarray,
    settings: ProbeSettings,
    rng: np.random.Generator,
) -> tuple[np.ndarray, int]:
    """Tokens of each stratum that have contexts, at random, and how many were passed over."""
    chosen, passed_over = np.zeros(0, np.int64), 0
    tokens = np.flatnonzero(kept & (counts > 0))
    if not len(tokens) or not settings.tokens_per_stratum:
        return chosen, passed_over
    strata = equal_count_bins(np.log(counts[tokens]), settings.strata, minimum=1)
    for stratum in range(strata.max() + 1):
        drawn = rng.permutation(tokens[strata == stratum])
        fit = available[drawn] >= FEWEST_CONTEXTS
        wanted = np.cumsum(fit) - fit < settings.tokens_per_stratum
        chosen = np.append(chosen, drawn[fit & wanted])
        passed_over += int((~fit & wanted).sum())
    return chosen, passed_over


def _choose_occurrences(
    rows: np.ndarray,
    wanted: np.ndarray,
    vocab_size: int,
    length: int,
    contexts: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Places of occurrences in the flat rows, token after token: those with the smallest draws."""
    index = np.full(vocab_size, -1)
    index[wanted] = np.arange(len(wanted))
    owners, places, draws = (np.zeros(0, kind) for kind in (np.int64, np.int64, np.float64))
    for found, ids in _eligible(rows, length):
        here = index[ids] >= 0
        owners = np.append(owners, index[ids[here]])
        places = np.append(places, found[here])
        draws = np.append(draws, rng.random(here.sum()))
        order = np.lexsort((draws, owners))
        owners, places, draws = owners[order], places[order], draws[order]
        few = np.arange(len(owners)) - np.searchsorted(owners, owners) < contexts
        owners, places, draws = owners[few], places[few], draws[few]
    return places


def _halves(tokens: np.ndarray, rows: np.ndarray, starts: np.ndarray, length: int) -> np.ndarray:
    """The half of each context: stretches of overlapping ones, largest first, to the smaller half.

    Args:
        tokens: Token of each context.
        rows: Row that each lies in.
        starts: Where in its row it starts.
        length: Ids of a context.
    """
    order = np.lexsort((starts, rows, tokens))
    token, row, start = tokens[order], rows[order], starts[order]
    begins = np.ones(len(order), bool)
    begins[1:] = (np.diff(token) != 0) | (np.diff(row) != 0) | (np.diff(start) >= length)
    _, first, sizes = np.unique(np.cumsum(begins), return_index=True, return_counts=True)
    of_stretch, filled = np.zeros(len(first), np.int64), np.zeros((tokens.max() + 1, 2), np.int64)
    for stretch in np.argsort(-sizes, kind="stable"):
        fullness = filled[token[first[stretch]]]
        of_stretch[stretch] = fullness.argmin()
        fullness[of_stretch[stretch]] += sizes[stretch]
    halves = np.empty(len(order), np.int64)
    halves[order] = np.repeat(of_stretch, sizes)
    return halves


def _eligible(rows: np.ndarray, length: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Places in the flat rows that can be in the middle half of a context, with their ids."""
    flat, width = rows.reshape(-1), rows.shape[1]
    for start in range(0, len(flat), _IDS_PER_CHUNK):
        ids = np.asarray(flat[start : start + _IDS_PER_CHUNK])
        places = start + np.arange(len(ids))
        first, last = _positions(places % width, width, length)
        yield places[first <= last], ids[first <= last]


def _positions(columns: np.ndarray, width: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """First and last position that an id of these columns of a row can have in a context.

    In the middle half of the context, whose ends must lie in the row; none where first > last.
    """
    first = np.maximum(length // 4, columns - (width - length))
    return first, np.minimum(3 * length // 4 - 1, columns)


def _others(
    tokens: np.ndarray, pool: Sequence[int] | np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """For each token another one of the pool, at random."""
    pool = np.asarray(pool)
    if len(pool) < 2:
        raise ConfigError(
            f"the vocabulary rule keeps {len(pool)} tokens, so that none can take the place of "
            "another; give another rule"
        )
    place = np.searchsorted(pool, tokens)
    inside = pool[np.minimum(place, len(pool) - 1)] == tokens
    drawn = rng.integers(0, len(pool) - inside)
    return pool[drawn + (inside & (drawn >= place))]
