"""Surgeries: the new norms of tokens, computed from their norms and their counts.

n tokens that take part.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Integer

from dynamics.statistics.bins import Labels, equal_count_bins, neighbour_bins, tokens_by_bin

DRAWS = 3
"""Repetitions of a surgery that draws at random."""

BINS = 20
"""Bins of frequency, of at least 50 tokens each; equally frequent tokens share a bin."""

NEIGHBOURS = 10
"""Tokens in a bin of neighbours in frequency; equally frequent tokens may be in two bins."""

TOP_BIN_SHARE = "top_bin_share"
"""Statistic of `log_frequency` in trends: share of all occurrences that are of the top bin."""

Norms = Float[np.ndarray, " n"]
Counts = Integer[np.ndarray, " n"]


def equalized(norms: Norms, counts: Counts, rng: np.random.Generator) -> Norms:
    """Give every token the mean norm."""
    return np.full_like(norms, norms.mean())


def shuffled(norms: Norms, counts: Counts, rng: np.random.Generator) -> Norms:
    """Permute the norms over all tokens."""
    return rng.permutation(norms)


def shuffled_within_bins(norms: Norms, counts: Counts, rng: np.random.Generator) -> Norms:
    """Permute the norms inside bins of frequency, so that their relation to frequency stays."""
    return _shuffled_within(norms, equal_count_bins(counts, BINS), rng)


def shuffled_within_top_bin(norms: Norms, counts: Counts, rng: np.random.Generator) -> Norms:
    """Permute the norms inside the bin of the most frequent tokens; the others keep theirs."""
    return np.where(top_bin(counts), shuffled_within_bins(norms, counts, rng), norms)


def shuffled_within_other_bins(norms: Norms, counts: Counts, rng: np.random.Generator) -> Norms:
    """Permute the norms inside every bin but that of the most frequent tokens."""
    return np.where(top_bin(counts), norms, shuffled_within_bins(norms, counts, rng))


def shuffled_among_neighbours(norms: Norms, counts: Counts, rng: np.random.Generator) -> Norms:
    """Permute the norms inside bins of ten neighbours in frequency."""
    return _shuffled_within(norms, neighbour_bins(counts, NEIGHBOURS), rng)


def fitted(norms: Norms, counts: Counts, rng: np.random.Generator) -> Norms:
    """Give every token its norm on the least-squares line of log norm on log frequency.

    If all tokens are equally frequent, the line is flat at the geometric mean.
    """
    frequency, target = np.log(counts), np.log(norms)
    centered = frequency - frequency.mean()
    spread = centered @ centered
    slope = centered @ target / spread if spread > 0 else 0.0
    return np.exp(target.mean() + slope * centered)


def doubled(norms: Norms, counts: Counts, rng: np.random.Generator) -> Norms:
    """Double every norm."""
    return 2 * norms


def halved(norms: Norms, counts: Counts, rng: np.random.Generator) -> Norms:
    """Halve every norm."""
    return norms / 2


@dataclass(frozen=True)
class Surgery:
    """A change of norms whose effect on the held-out loss is measured.

    Attributes:
        new_norms: Function of the norms and counts of the tokens that take part, and a generator.
        label: Label in figures and tables.
        description: New norm of each token, for the documentation.
        is_random: Whether it draws at random, so that it is repeated `DRAWS` times.
        every_row: Whether all rows take part; otherwise those of tokens that occur.
    """

    new_norms: Callable[[Norms, Counts, np.random.Generator], Norms]
    label: str
    description: str
    is_random: bool = False
    every_row: bool = False


SURGERIES: dict[str, Surgery] = {
    "equalized": Surgery(equalized, "equalized", "the mean norm"),
    "shuffled": Surgery(shuffled, "shuffled", "the norm of another token", is_random=True),
    "shuffled_within_bins": Surgery(
        shuffled_within_bins,
        "shuffled within bins of frequency",
        f"the norm of another token of its bin; {BINS} bins of frequency, of at least 50 tokens",
        is_random=True,
    ),
    "shuffled_within_top_bin": Surgery(
        shuffled_within_top_bin,
        "shuffled within the top bin alone",
        "the same for the bin of the most frequent tokens; other tokens keep their norms",
        is_random=True,
    ),
    "shuffled_within_other_bins": Surgery(
        shuffled_within_other_bins,
        "shuffled within all other bins",
        "the same for all bins but that of the most frequent tokens, which keep their norms",
        is_random=True,
    ),
    "shuffled_among_neighbours": Surgery(
        shuffled_among_neighbours,
        f"shuffled among {NEIGHBOURS} neighbours in frequency",
        f"the norm of another of {NEIGHBOURS} neighbours in frequency",
        is_random=True,
    ),
    "fitted": Surgery(
        fitted,
        "replaced by their fit on frequency",
        "the value of the least-squares line of log norm on log frequency",
    ),
    "doubled": Surgery(doubled, "all rows doubled", "twice its norm", every_row=True),
    "halved": Surgery(halved, "all rows halved", "half its norm", every_row=True),
}
"""Surgeries by name; in trends the statistic is `surgery_NAME`."""


def model_passes() -> int:
    """Return the passes through a model over each held-out row: one unchanged, one a repetition."""
    return 1 + sum(DRAWS if surgery.is_random else 1 for surgery in SURGERIES.values())


def top_bin(counts: Counts) -> Bool[np.ndarray, " n"]:
    """Return the mask of the tokens in the bin of the most frequent ones, one of `BINS`."""
    labels = equal_count_bins(counts, BINS)
    return labels == labels.max()


def _shuffled_within(norms: Norms, labels: Labels, rng: np.random.Generator) -> Norms:
    """Permute the norms inside each bin."""
    changed = norms.copy()
    for tokens in tokens_by_bin(labels):
        changed[tokens] = rng.permutation(norms[tokens])
    return changed
