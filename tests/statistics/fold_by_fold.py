"""Cross-validated ridge regression the slow way."""

import numpy as np

from dynamics.statistics.readout import FOLDS, PENALTIES, fold_of


def solved_fold_by_fold(x, y):
    """The share, and each fold's squared errors, from one dense solution for every fit."""
    fold = fold_of(len(y))
    scale = np.mean(np.var(x, axis=0))

    def predict(left_out, penalty, rows):
        fitted = ~np.isin(fold, left_out)
        mean, mean_y, n = x[fitted].mean(axis=0), y[fitted].mean(), fitted.sum()
        gram = (x[fitted] - mean).T @ (x[fitted] - mean) + n * penalty * scale * np.eye(x.shape[1])
        w = np.linalg.solve(gram, (x[fitted] - mean).T @ (y[fitted] - mean_y))
        return mean_y + (x[rows] - mean) @ w

    left, whole = [], []
    for k in range(FOLDS):
        after = fold == (k + 1) % FOLDS
        inner = [
            np.sum((y[after] - predict([k, (k + 1) % FOLDS], each, after)) ** 2)
            for each in PENALTIES
        ]
        rows = fold == k
        best = PENALTIES[np.argmin(inner)]
        left.append(np.sum((y[rows] - predict([k], best, rows)) ** 2))
        whole.append(np.sum((y[rows] - y[~rows].mean()) ** 2))
    return 1 - np.sum(left) / np.sum(whole), np.array(left), np.array(whole)
