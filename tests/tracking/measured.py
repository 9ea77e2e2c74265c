"""Norms and importances by hand, with associations planted in them."""

import numpy as np
import pandas as pd

from dynamics.runs.finish import finish
from dynamics.runs.record import LiveCheckpointRecord, LiveRecord
from dynamics.runs.run import IMPORTANCE, Run, step_path, write_table
from dynamics.runs.tracked_importance import Importance
from dynamics.runs.trends import TrendInput

STEPS = (0, 1, 8, 64, 512)
LIVE = (0, 8, 64, 512)
GAUGES = ("input_embedding_norm", "output_embedding_norm_centered", "output_embedding_norm")


def make_tokens(rng, size):
    count = rng.integers(2, 4000, size)
    return pd.DataFrame(
        {
            "token_id": np.arange(size),
            "token": ["t"] * size,
            "count": count,
            "kind": np.where(np.arange(size) % 3, "word_start", "continuation"),
            "characters": rng.integers(1, 9, size),
            "word_start": np.arange(size) % 3 > 0,
            "ascii_alphabetic": rng.random(size) > 0.2,
            "document_count": np.minimum(count, 50),
        }
    )


def make_input(rng, size=320, steps=STEPS, measures=GAUGES):
    """Norms that come to follow something of their own, and frequency."""
    tokens = make_tokens(rng, size)
    own = rng.standard_normal((len(measures), 1, size))
    frequency = np.log(tokens["count"].to_numpy())
    grown = np.linspace(0, 1, len(steps))[:, np.newaxis]
    noise = rng.standard_normal((len(measures), len(steps), size))
    values = grown * (own + 0.8 * frequency) + 0.5 * noise
    return TrendInput(steps, tokens, dict(zip(measures, values, strict=True)), None)


def make_importance(rng, follows, steps=LIVE, error=0.5, unknown=()):
    """An importance at some steps that is `follows` and error, which the halves share not."""
    halves = follows + error * np.sqrt(2) * rng.standard_normal((2, len(steps), len(follows)))
    halves[:, :, list(unknown)] = np.nan
    return Importance(list(steps), halves.mean(axis=0), (halves[0], halves[1]))


def write_importances(run, columns, steps):
    """Put importances into the folder of a run, and their trends.

    `columns` gives for each step the columns of its table.
    """
    entries = []
    for step in steps:
        path = step_path(run.path, IMPORTANCE, step)
        path.parent.mkdir(exist_ok=True)
        digest = write_table(path, columns(step))
        entries.append(LiveCheckpointRecord(step=step, tables={"importance": digest}))
    tokens = {str(name): column.to_numpy() for name, column in run.tokens.items()}
    run.record.live = LiveRecord(
        settings={}, embeddings_only=[], probes=None, held_out_sha256=None, checkpoints=entries
    )
    finish(run.path, run.record, tokens, None)
    return Run(run.path)
