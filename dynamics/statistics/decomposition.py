"""Decomposition of the variance of a sum over tokens into the shares of its parts."""

from collections.abc import Sequence

import numpy as np

from dynamics.statistics.correlation import Difference
from dynamics.statistics.ranks import finite


def covariance_shares(parts: Sequence[np.ndarray]) -> list[Difference]:
    """Share of each part in the variance of their sum over tokens.

    With total = sum of the parts, share_p = cov(part_p, total) / var(total). Shares sum to 1; one
    is negative where a part counteracts the others. The influence of a token on a share is

        psi_i = ((part_p,i - mean) - share_p (total_i - mean)) (total_i - mean) / var(total).

    Args:
        parts: P times n values.

    Returns:
        The share of each part, its interval symmetric; NaN where the total is the same for every
        token, or there are none.

    Raises:
        MeasureError: A value is NaN or infinite.
        ValueError: The parts differ in length, or there are none.
    """
    stacked = np.stack([finite(part, f"part {index}") for index, part in enumerate(parts)])
    n = stacked.shape[1]
    if n == 0:
        return [Difference(np.nan, 0, np.zeros(0)) for _ in parts]
    centered = stacked - stacked.mean(axis=1, keepdims=True)
    total = centered.sum(axis=0)
    variance = (total * total).mean()
    scale = variance if variance > 0 else np.nan
    # share_p = cov(part_p, total) / var(total)
    shares = (centered * total).mean(axis=1) / scale
    influence = (centered - shares[:, np.newaxis] * total) * total / scale
    return [Difference(float(share), n, psi) for share, psi in zip(shares, influence, strict=True)]
