"""Everything a run holds, computed again from the checkpoint files with numpy and scipy alone."""

import json
from itertools import pairwise

import numpy as np
from scipy.stats import rankdata, spearmanr

from tests.tracking.synthetic import GAIN, INPUT, OUTPUT, read_float64

KEYS = {"input_embedding": INPUT, "output_embedding": OUTPUT}


def norm(rows):
    return np.sqrt((rows * rows).sum(axis=1))


def cosine_with(rows, vector):
    return rows @ vector / (norm(rows) * np.sqrt(vector @ vector))


def measures(checkpoints, step, first, count, kind):
    """Every measure of both embeddings at one step, in float64."""
    now, before = read_float64(checkpoints, step), read_float64(checkpoints, first)
    found = {}
    for role, key in KEYS.items():
        rows, start = now.get(key, now[INPUT]), before.get(key, before[INPUT])
        uniform = rows[kind != "padding"].mean(axis=0)
        unigram = (rows * count[:, None]).sum(axis=0) / count.sum()
        with np.errstate(invalid="ignore"):
            cosine = (rows * start).sum(axis=1) / (norm(rows) * norm(start))
        found |= {
            f"{role}_norm": norm(rows),
            f"{role}_norm_centered": norm(rows - uniform),
            f"{role}_norm_centered_frequency": norm(rows - unigram),
            f"{role}_norm_features_centered": norm(rows - rows.mean(axis=1, keepdims=True)),
            f"{role}_distance_from_first": norm(rows - start),
            f"{role}_distance_from_first_centered": norm(
                rows - start - (rows - start)[kind != "padding"].mean(axis=0)
            ),
            f"{role}_cosine_to_first": cosine,
        }
        if (unused := (count == 0) & (kind != "special")).any():
            goal = rows[unused].mean(axis=0)
            found |= {
                f"{role}_unused_distance": norm(rows - goal),
                f"{role}_unused_cosine_distance": 1 - cosine_with(rows, goal),
                f"{role}_unused_cosine_distance_centered": 1
                - cosine_with(rows - uniform, goal - uniform),
            }
        if role == "output_embedding":
            folded = (rows - uniform) * now[GAIN]
            found[f"{role}_norm_folded"] = norm(folded - folded.mean(axis=1, keepdims=True))
            if OUTPUT in now:
                products = (rows * now[INPUT]).sum(axis=1)
                found[f"{role}_cosine_to_input"] = products / (norm(rows) * norm(now[INPUT]))
    return found


def kept(rule, count, kind):
    """The tokens that a rule keeps, one by one."""
    eligible = [at for at in range(len(count)) if kind[at] in ("word_start", "continuation")]
    if rule.startswith("count>="):
        return [at for at in eligible if count[at] >= int(rule.removeprefix("count>="))]
    seen = sorted((-count[at], at) for at in eligible if count[at] > 0)
    return sorted(at for _, at in seen[: int(rule.removeprefix("top-"))])


def exposure(training, step, vocab_size):
    """Uses of each token as input and as target before a step, position by position."""
    info = json.loads((training / "tokens.json").read_text())
    batch_size = json.loads((training / "train.json").read_text())["settings"]["training"][
        "batch_size"
    ]
    rows = np.fromfile(training / "tokens.bin", info["dtype"]).reshape(info["rows"], -1)
    uses = {"input_embedding": [0] * vocab_size, "output_embedding": [0] * vocab_size}
    for consumed in range(step * batch_size):
        row = rows[consumed % len(rows)].tolist()
        for before, after in pairwise(row):
            uses["input_embedding"][before] += 1
            uses["output_embedding"][after] += 1
    return {role: np.array(counted) for role, counted in uses.items()}


def spearman(x, y):
    return np.nan if np.ptp(x) == 0 or np.ptp(y) == 0 else spearmanr(x, y).statistic


def log_slope(x, y):
    return np.polyfit(np.log(y), np.log(x), 1)[0] if len(x) > 1 else np.nan


def splines(values):
    """Columns that span the cubic splines of the ranks of a control: powers, cubes beyond knots."""
    ranks, distinct = (rankdata(values) - 0.5) / len(values), len(np.unique(values))
    degrees = min(round(2 * len(values) ** 0.25), max(len(values) // 10, 1), distinct - 1)
    degree = min(3, degrees)
    knots = np.arange(1, degrees - degree + 1) / (degrees - degree + 1)
    return [
        *(ranks**power for power in range(1, degree + 1)),
        *(np.maximum(ranks - knot, 0) ** degree for knot in knots),
    ]


def partial_spearman(x, y, covariates, columns=splines):
    """Correlation of what is left of the ranks after regression on splines of the covariates."""
    design = np.column_stack([np.ones(len(x)), *(c for z in covariates for c in columns(z))])
    ranks = np.column_stack([rankdata(x), rankdata(y)])
    residuals = ranks - design @ np.linalg.lstsq(design, ranks)[0]
    left = (residuals**2).sum(axis=0) > 1e-10 * ((ranks - ranks.mean(axis=0)) ** 2).sum(axis=0)
    if not left.all() or len(x) - np.linalg.matrix_rank(design) < 1:
        return np.nan
    return np.corrcoef(residuals.T)[0, 1]


def within_bin_spearman(x, y, z, bins=20, fewest=50):
    """Fisher's z of partial correlations, averaged over bins of equally many tokens in z."""
    mid_rank = (rankdata(z) - 0.5) / len(z)
    labels, merged, group = np.floor(mid_rank * bins), [], []
    for label in sorted(set(labels), reverse=True):
        group += np.flatnonzero(labels == label).tolist()
        if len(group) >= fewest:
            merged.append(group)
            group = []
    if merged:
        merged[-1] += group
    pairs = []
    for inside in merged or [group]:
        controls = [z[inside]] if np.ptp(z[inside]) else []
        rho = partial_spearman(x[inside], y[inside], controls, lambda z: [rankdata(z)])
        pairs.append((len(inside) - 3 - len(controls), rho))
    pairs = [(weight, rho) for weight, rho in pairs if np.isfinite(rho)]
    if not pairs:
        return np.nan
    weights, rhos = np.array(pairs).T
    return np.tanh(np.average(np.arctanh(rhos), weights=weights))
