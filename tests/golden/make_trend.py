"""Makes trend.json: a small fixed series, its norms in numpy and its correlations in scipy.

Nothing of `dynamics` is used here. Run it with `python tests/golden/make_trend.py`, and only when
the definition of a measure changes on purpose.
"""

import json
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

VOCABULARY, WIDTH, STEPS = 120, 8, (0, 10, 100)


def make_series():
    """Counts of V tokens, and per step an input embedding, an output embedding and a gain."""
    rng = np.random.default_rng(20260718)
    counts = np.sort(rng.zipf(1.3, VOCABULARY).clip(10, 10**6))[::-1]
    start = rng.standard_normal((2, VOCABULARY, WIDTH))
    drift, gain = rng.standard_normal((2, WIDTH))
    frequency = np.log(counts)[:, None]
    return counts, {
        step: (
            (start[0] * (1 + 0.002 * step * frequency)).astype(np.float32),
            (start[1] * (1 + 0.001 * step) + 0.03 * step * drift * (1 + 0.1 * frequency)).astype(
                np.float32
            ),
            (1 + 0.1 * gain).astype(np.float32),
        )
        for step in STEPS
    }


def norm(rows):
    return np.sqrt((rows * rows).sum(axis=1))


def compute(counts, series):
    """Every norm in float64, and its Spearman correlation with counts."""
    first = [matrix.astype(np.float64) for matrix in series[0][:2]]
    golden = {}
    for step, (embedding, unembedding, gain) in series.items():
        measures = {}
        for role, stored, before in zip(
            ("input_embedding", "output_embedding"), (embedding, unembedding), first, strict=True
        ):
            rows = stored.astype(np.float64)
            uniform = rows - rows.mean(axis=0)
            measures[f"{role}_norm"] = norm(rows)
            measures[f"{role}_norm_centered"] = norm(uniform)
            measures[f"{role}_norm_centered_frequency"] = norm(rows - counts @ rows / counts.sum())
            measures[f"{role}_norm_features_centered"] = norm(rows - rows.mean(1, keepdims=True))
            measures[f"{role}_distance_from_first"] = norm(rows - before)
            if role == "output_embedding":
                folded = uniform * gain.astype(np.float64)
                measures[f"{role}_norm_folded"] = norm(folded - folded.mean(1, keepdims=True))
        golden[str(step)] = {
            name: {
                "first_five": values[:5].tolist(),
                "sum": values.sum(),
                "spearman": None
                if step == 0 and "distance" in name
                else float(spearmanr(values, counts).statistic),
            }
            for name, values in measures.items()
        }
    return golden


if __name__ == "__main__":
    path = Path(__file__).with_name("trend.json")
    path.write_text(json.dumps(compute(*make_series()), indent=1) + "\n")
