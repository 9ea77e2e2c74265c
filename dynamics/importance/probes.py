"""The frozen probe set: contexts of tokens of every frequency, the same for every checkpoint.

R rows of W ids that contexts are taken from, N contexts of L ids, V tokens.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int64, Integer

from dynamics.config import TrackingSettings
from dynamics.corpus.tally import count_ids
from dynamics.errors import ConfigError, CorpusError
from dynamics.statistics.bins import equal_count_bins

SHORTEST = 4  # ids of a context whose middle half has a past and a future
FEWEST_CONTEXTS = 2  # of a sampled token, one for each half
_IDS_PER_CHUNK = 1 << 20


@dataclass(frozen=True, eq=False)
class ProbeSet:
    """Contexts of probed tokens; the contexts of one token are consecutive.

    Attributes:
        ids: Token ids of each context.
        positions: Position of the probed token in its context.
        replacements: Another token, drawn at random, whose row can replace that of the probed one.
        halves: Half, 0 or 1, of the contexts of its token that each context belongs to. Contexts
            that share text are in one half, so that the two halves are independent.
        left_out: Number of tokens that were drawn and replaced by others, because they do not occur
            twice with a past and a future.
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
        """The probed token of each context, in ascending order."""
        return self.ids[np.arange(len(self)), self.positions]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of shape, contexts, positions and replacements; halves follow from the rows."""
        sha256 = hashlib.sha256(repr(self.ids.shape).encode())
        for array in (self.ids, self.positions, self.replacements):
            sha256.update(array.astype("<i8").tobytes())
        return sha256.hexdigest()


def sample_probes(
    rows: Integer[np.ndarray, "R W"],
    counts: Integer[np.ndarray, " V"],
    eligible: Bool[np.ndarray, " V"],
    settings: TrackingSettings,
    name: str = "the probe text",
) -> ProbeSet:
    """Sample tokens of all frequencies, and contexts of each token.

    Tokens come from strata of log frequency with equally many tokens (ties share one, so that there
    can be fewer), without those that do not occur twice in the rows. A context is a window of one
    row that holds an occurrence in its middle half; an occurrence near an end of its row has none.
    No occurrence is used twice. The rows are read twice, in chunks.

    The halves of a token's contexts are as equal in size as possible while contexts that overlap in
    one row, directly or through others, stay together; all are in the first half if all overlap.

    Args:
        rows: Text as ids; a row is joined text.
        counts: Occurrences of each token in the training corpus.
        eligible: Mask of the tokens that may be sampled, and serve as replacements.
        settings: Numbers of tokens and contexts, further tokens, and the seed; contexts are as long
            as a row at most.
        name: Name of the rows in messages.

    Raises:
        ConfigError: A requested token does not exist or has no context, or no token has.
        CorpusError: The rows are too short for a context, or hold an id beyond the vocabulary.
    """
    rng = np.random.default_rng(settings.probe.seed)
    length = min(settings.context_length, rows.shape[1])
    if length < SHORTEST:
        raise CorpusError(
            f"rows of {rows.shape[1]} ids of {name} are too short for a context of {SHORTEST}"
        )
    if beyond := [token for token in settings.probe.tokens if not 0 <= token < len(counts)]:
        raise ConfigError(
            f"token {beyond[0]} cannot be probed: the vocabulary has ids 0 to {len(counts) - 1}"
        )
    available = np.zeros(len(counts), np.int64)
    for _, ids in _probeable(rows, length):
        available += count_ids(ids, len(counts), name)
    if missing := [token for token in settings.probe.tokens if not available[token]]:
        raise ConfigError(
            f"token {missing[0]} does not occur in {name} with a past and a future; give another "
            "text with --probe, or leave the token out"
        )
    sampled, left_out = _sample_tokens(counts, eligible, available, settings, rng)
    tokens = np.union1d(sampled, np.array(settings.probe.tokens, np.int64))
    if not len(tokens):
        raise ConfigError(
            f"none of the {eligible.sum()} tokens that the vocabulary rule keeps occurs twice in "
            f"{name}; give more text with --probe"
        )
    places = _sample_occurrences(rows, tokens, len(counts), length, settings.contexts, rng)
    low, high = _positions(places % rows.shape[1], rows.shape[1], length)
    positions = rng.integers(low, high + 1)
    starts = places % rows.shape[1] - positions
    ids = rows[(places // rows.shape[1])[:, None], starts[:, None] + np.arange(length)]
    ids = ids.astype(np.int64)
    probed = ids[np.arange(len(ids)), positions]
    replacements = _draw_replacements(probed, np.flatnonzero(eligible), rng)
    halves = _halves(probed, places // rows.shape[1], starts, length)
    return ProbeSet(ids, positions, replacements, halves, left_out)


def half_means(
    values: Float[np.ndarray, " N"],
    token_ids: Integer[np.ndarray, " N"],
    halves: Integer[np.ndarray, " N"],
) -> tuple[Float[np.ndarray, " tokens"], ...]:
    """Mean over the contexts of each token, and over each half of them.

    Split-half reliability is computed from the two halves.

    Args:
        values: Value of each context.
        token_ids: Token of each context, in ascending order.
        halves: 0 or 1 for each context.

    Returns:
        Means of all contexts, of half 0 and of half 1 of each token, by ascending token; NaN for a
        half without contexts.
    """
    _, first, owner = np.unique(token_ids, return_index=True, return_inverse=True)
    means = []
    for mask in (halves >= 0, halves == 0, halves == 1):
        n = np.bincount(owner[mask], minlength=len(first))
        total = np.bincount(owner[mask], values[mask], minlength=len(first))
        means.append(np.divide(total, n, out=np.full(len(first), np.nan), where=n > 0))
    return tuple(means)


def _sample_tokens(
    counts: np.ndarray,
    eligible: np.ndarray,
    available: np.ndarray,
    settings: TrackingSettings,
    rng: np.random.Generator,
) -> tuple[np.ndarray, int]:
    """Sample tokens with enough contexts from each stratum; also count those with too few."""
    sample, left_out = np.zeros(0, np.int64), 0
    tokens = np.flatnonzero(eligible & (counts > 0))
    if not len(tokens) or not settings.probe_tokens_per_stratum:
        return sample, left_out
    strata = equal_count_bins(np.log(counts[tokens]), settings.probe.strata, minimum=1)
    for stratum in range(strata.max() + 1):
        drawn = rng.permutation(tokens[strata == stratum])
        has_contexts = available[drawn] >= FEWEST_CONTEXTS
        is_drawn = np.cumsum(has_contexts) - has_contexts < settings.probe_tokens_per_stratum
        sample = np.append(sample, drawn[has_contexts & is_drawn])
        left_out += int((~has_contexts & is_drawn).sum())
    return sample, left_out


def _sample_occurrences(
    rows: np.ndarray,
    tokens: np.ndarray,
    vocab_size: int,
    length: int,
    contexts: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Sample occurrences of each token; return their places in the flat rows, token after token.

    Each occurrence gets a random number; a token keeps those with the smallest.
    """
    token_index = np.full(vocab_size, -1)
    token_index[tokens] = np.arange(len(tokens))
    owners, places, draws = (np.zeros(0, kind) for kind in (np.int64, np.int64, np.float64))
    for chunk_places, ids in _probeable(rows, length):
        is_sampled = token_index[ids] >= 0
        owners = np.append(owners, token_index[ids[is_sampled]])
        places = np.append(places, chunk_places[is_sampled])
        draws = np.append(draws, rng.random(is_sampled.sum()))
        order = np.lexsort((draws, owners))
        owners, places, draws = owners[order], places[order], draws[order]
        smallest = np.arange(len(owners)) - np.searchsorted(owners, owners) < contexts
        owners, places, draws = owners[smallest], places[smallest], draws[smallest]
    return places


def _halves(tokens: np.ndarray, rows: np.ndarray, starts: np.ndarray, length: int) -> np.ndarray:
    """Assign each stretch of overlapping contexts, largest first, to the smaller half of its token.

    Args:
        tokens: Token of each context.
        rows: Row of each context.
        starts: Start of each context in its row.
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


def _probeable(rows: np.ndarray, length: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield places in the flat rows that can be in the middle half of a context, with their ids."""
    flat, width = rows.reshape(-1), rows.shape[1]
    for start in range(0, len(flat), _IDS_PER_CHUNK):
        ids = np.asarray(flat[start : start + _IDS_PER_CHUNK])
        places = start + np.arange(len(ids))
        first, last = _positions(places % width, width, length)
        yield places[first <= last], ids[first <= last]


def _positions(columns: np.ndarray, width: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first and last position in a context for the ids in these columns of a row.

    Positions are in the middle half of the context, whose ends must lie in the row; there is none
    where first > last.
    """
    first = np.maximum(length // 4, columns - (width - length))
    return first, np.minimum(3 * length // 4 - 1, columns)


def _draw_replacements(
    tokens: np.ndarray, pool: Sequence[int] | np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Draw for each token another token from the pool."""
    pool = np.asarray(pool)
    if len(pool) < 2:
        raise ConfigError(
            f"the vocabulary rule keeps {len(pool)} tokens, so that none can take the place of "
            "another; give another rule"
        )
    place = np.searchsorted(pool, tokens)
    in_pool = pool[np.minimum(place, len(pool) - 1)] == tokens
    drawn = rng.integers(0, len(pool) - in_pool)  # skips the place of the token itself
    return pool[drawn + (in_pool & (drawn >= place))]
