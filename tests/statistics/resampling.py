"""The slow truth that the fast intervals are tested against: tokens resampled and ranked again."""

import numpy as np
from scipy.stats import rankdata


def spearman_rows(x, y):
    """Spearman's correlation of each row, by scipy's average ranks."""
    a, b = rankdata(x, axis=-1), rankdata(y, axis=-1)
    a, b = a - a.mean(-1, keepdims=True), b - b.mean(-1, keepdims=True)
    return (a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1))


def resamples(n, number, rng):
    return rng.integers(0, n, (number, n))


def relation(name, n, rng):
    """Two dependent variables over n tokens."""
    x, noise = rng.standard_normal((2, n))
    match name:
        case "normal .6":
            return x, 0.6 * x + 0.8 * noise
        case "normal -.9":
            return x, -0.9 * x + np.sqrt(1 - 0.81) * noise
        case "curved":
            return x, np.exp(-2 * x) + 0.1 * noise
        case "U-shaped":
            return x, x**2 + 0.3 * x + 0.3 * noise
        case "ties":
            return np.maximum(x, 0.3), np.round(0.6 * x + 0.8 * noise)
        case _:
            raise KeyError(name)


RELATIONS = ["normal .6", "normal -.9", "curved", "U-shaped", "ties"]
