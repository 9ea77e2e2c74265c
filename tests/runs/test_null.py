"""Matrices that know nothing of frequency show nothing."""

import numpy as np
import pandas as pd

from dynamics.runs.trends import TrendInput, trend_rows
from dynamics.statistics.vocabulary import VocabularyRule
from tests.tracking.synthetic import make_counts

RULE = VocabularyRule(10)


def random_walk(rng, vocabulary, measures=2, steps=2):
    """Norms of rows that move at random, so that steps resemble each other."""
    increments = rng.standard_normal((measures, steps, vocabulary))
    walks = np.cumsum(increments, axis=1)
    names = ("input_embedding_norm", "output_embedding_norm")
    return dict(zip(names, walks, strict=True))


def test_random_norms_leave_the_null_band_in_a_twentieth_of_all_runs():
    """The band is simultaneous: one value beyond it, at any step of any measure, counts."""
    rng, counts, trials = np.random.default_rng(5), make_counts(), 60
    tokens = pd.DataFrame(counts.table).assign(
        characters=1, word_start=False, ascii_alphabetic=True
    )
    beyond = 0
    for _ in range(trials):
        measured = TrendInput([0, 1], tokens, random_walk(rng, len(tokens)), None)
        rows = plain(trend_rows(measured, RULE))
        beyond += (rows["value"].abs() > rows["null_high"]).any()
    assert 0.01 <= beyond / trials <= 0.12


def plain(rows):
    main = (
        row
        for row in rows
        if row["statistic"] == "spearman"
        and row["against"] == "log_frequency"
        and row["rule"] == str(RULE)
    )
    return pd.DataFrame(main)


def test_step_0_of_random_matrices_is_inside_its_null_band(run):
    trends = run.trends
    start = trends[
        (trends["step"] == 0)
        & (trends["statistic"] == "spearman")
        & (trends["rule"] == str(run.rule))
        & trends["measure"].str.contains("_norm")
    ]
    inside = start["value"].abs() < start["null_high"]
    assert len(start)
    assert inside.all()
