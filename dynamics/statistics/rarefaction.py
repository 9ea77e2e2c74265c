"""What a sum over counts would be on average, had fewer been drawn: rarefaction."""

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
        counts: How many are marked, at least 0.
        totals: Out of how many, one number or one for each count.
        draws: m, at most the smallest total.

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
            f"cannot draw {draws} from as few as {total.min():.0f}, or more are marked than that"
        )
    expected = np.zeros(len(marked))
    at = np.flatnonzero(marked > 1)
    marked, total = marked[at], total[at]
    k = np.maximum(draws - (total - marked), 0)
    log_probability = (
        _log_binomial(marked, k)
        + _log_binomial(total - marked, draws - k)
        - _log_binomial(total, np.full_like(total, draws))
    )
    while len(at):
        expected[at] += np.exp(log_probability) * k * np.log(np.maximum(k, 1))
        past = (k + 1) * total > (draws + 1) * (marked + 1)
        left = (k < np.minimum(marked, draws)) & ~(past & (log_probability < _NEGLIGIBLE))
        at = at[left]
        marked, total, k, log_probability = (
            each[left] for each in (marked, total, k, log_probability)
        )
        log_probability = log_probability + np.log(
            (marked - k) * (draws - k) / ((k + 1) * (total - marked - draws + k + 1))
        )
        k = k + 1
    return expected


def _log_binomial(n: Float[np.ndarray, " n"], k: Float[np.ndarray, " n"]) -> np.ndarray:
    return -np.log1p(n) - betaln(n - k + 1, k + 1)
