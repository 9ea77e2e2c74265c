"""Rarefaction: the expected value of a sum over counts in a smaller sample."""

import numpy as np
from jaxtyping import Float, Integer
from numpy.typing import ArrayLike
from scipy.special import betaln

_NEGLIGIBLE = -50.0  # log probability of an outcome that no longer changes a sum


def rarefied_x_log_x(
    counts: Integer[np.ndarray, " n"], totals: ArrayLike, draws: int
) -> Float[np.ndarray, " n"]:
    """E[k ln k] for the k of `counts` marked things among `draws` of `totals`, without replacement.

    The sum over what occurs is all that a plug-in entropy needs: with n things in all and m drawn,
    the entropy of the drawn is ln m - (1/m) sum_i E[k_i ln k_i] on average over every way to draw
    them (k_i is hypergeometric), so no draw is needed and none adds noise. Rarefaction of species
    counts (Hurlbert 1971, Ecology 52, 577) with the plug-in entropy in place of their number.

    Args:
        counts: Numbers of marked things, at least 0.
        totals: Numbers of things that are drawn from, one for all counts or one for each.
        draws: Number m of things drawn, at most the smallest total.

    Returns:
        In nats times draws; 0 for counts of 0 and 1, and x ln x where all are drawn.

    Raises:
        ValueError: More are drawn or marked than there are.

    Example:
        >>> rarefied_x_log_x(np.array([1, 2]), 2, 2).round(4)
        array([0.    , 1.3863])
    """
    marked = np.asarray(counts, np.float64)
    total = np.broadcast_to(np.asarray(totals, np.float64), marked.shape)
    if len(marked) and (draws > total.min() or (marked > total).any()):
        raise ValueError(
            f"expected at most {total.min():.0f} draws, the smallest total, and no count above its "
            f"total; got {draws} draws and counts up to {marked.max():.0f}"
        )
    expected = np.zeros(len(marked))
    active = np.flatnonzero(marked > 1)
    marked, total = marked[active], total[active]
    k = np.maximum(draws - (total - marked), 0)
    # Hypergeometric: P(k) = C(marked, k) C(total - marked, draws - k) / C(total, draws)
    log_probability = (
        _log_binomial(marked, k)
        + _log_binomial(total - marked, draws - k)
        - _log_binomial(total, np.full_like(total, draws))
    )
    while len(active):
        expected[active] += np.exp(log_probability) * k * np.log(np.maximum(k, 1))
        past = (k + 1) * total > (draws + 1) * (marked + 1)
        unfinished = (k < np.minimum(marked, draws)) & ~(past & (log_probability < _NEGLIGIBLE))
        active = active[unfinished]
        marked, total, k, log_probability = (
            values[unfinished] for values in (marked, total, k, log_probability)
        )
        # P(k + 1) / P(k)
        log_probability = log_probability + np.log(
            (marked - k) * (draws - k) / ((k + 1) * (total - marked - draws + k + 1))
        )
        k = k + 1
    return expected


def _log_binomial(n: Float[np.ndarray, " n"], k: Float[np.ndarray, " n"]) -> np.ndarray:
    """Logarithm of the binomial coefficient C(n, k)."""
    # C(n, k) = 1 / ((n + 1) B(n - k + 1, k + 1))
    return -np.log1p(n) - betaln(n - k + 1, k + 1)
