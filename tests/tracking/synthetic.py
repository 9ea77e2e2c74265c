"""Series, counts and training folders written by hand, with norms planted in them.

Tokens of every kind, Zipf-like counts with ties, rows that never occur and rows that only pad.
"""

import json
from dataclasses import asdict

import numpy as np
import pandas as pd
from safetensors.numpy import load_file, save_file

from dynamics.checkpoints.series import open_series
from dynamics.corpus.counts import Counts, CountsInfo
from dynamics.corpus.tokens import StreamInfo
from dynamics.tracking.track import track

VOCABULARY, WIDTH, STEPS = 300, 16, (0, 2, 8, 32)
TOKENIZER = "a" * 64

INPUT, OUTPUT = "gpt_neox.embed_in.weight", "embed_out.weight"
GAIN = "gpt_neox.final_layer_norm.weight"


def make_counts(vocabulary=VOCABULARY, padding=0, tokenizer=TOKENIZER):
    rng = np.random.default_rng(1)
    count = rng.permutation((90_000 / np.arange(1, vocabulary + 1) ** 1.7).astype(int) + 2)
    kind = np.where(np.arange(vocabulary) % 2, "word_start", "continuation").astype(object)
    kind[:4] = "special", "added", "unreachable", "fragment"
    kind[4:20] = "byte"
    count[20:32] = 0
    kind = np.append(kind, ["padding"] * padding)
    count = np.append(count, [0] * padding)
    lengths = rng.integers(1, 9, len(count))
    letters = ["é" if at % 7 == 0 else "a" for at in range(len(count))]
    table = pd.DataFrame(
        {
            "token_id": np.arange(len(count)),
            "token": [
                (" " if kind[at] == "word_start" else "") + letters[at] * lengths[at]
                for at in range(len(count))
            ],
            "count": count,
            "document_count": pd.Series(np.minimum(count, rng.integers(1, 400, len(count)))),
            "first_seen": np.where(count > 0, np.arange(len(count)), -1),
            "kind": kind,
        }
    ).astype({"document_count": "Int64"})
    return Counts(table, CountsInfo(tokenizer, "c" * 64, int(count.sum()), len(count)))


def log_count(counts):
    return np.log(np.maximum(counts.table["count"].to_numpy(), 1))


def directions(rows, rng, width=WIDTH):
    matrix = rng.standard_normal((rows, width))
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


def grow(counts, seed=0, steps=STEPS, slope=0.3, dtype=np.float32):
    """Tensors per step: norms begin random and come to grow with log count; outputs likewise."""
    rng = np.random.default_rng(seed)
    start = [directions(len(counts.table), rng) for _ in range(2)]
    noise = 1 + 0.2 * rng.random((2, len(counts.table), 1))
    drift, gain = rng.standard_normal(WIDTH), 1 + rng.random(WIDTH)
    series = {}
    for step in steps:
        grown = slope * step / max(steps[-1], 1) * log_count(counts)[:, None]
        series[step] = {
            INPUT: start[0] * (noise[0] + grown) + 0.1 * step / 32 * start[1],
            OUTPUT: start[1] * (noise[1] + 0.5 * grown) + step / 32 * drift,
            GAIN: gain + step / 100,
            "gpt_neox.final_layer_norm.bias": np.zeros(WIDTH),
        }
    return {
        step: {key: value.astype(dtype) for key, value in tensors.items()}
        for step, tensors in series.items()
    }


def write_series(folder, series, tied=False):
    for step, tensors in series.items():
        write_checkpoint(folder / f"step-{step}", tensors, tied)
    return open_series(folder)


def write_checkpoint(folder, tensors, tied=False):
    folder.mkdir(parents=True)
    kept = {key: value for key, value in tensors.items() if not (tied and key == OUTPUT)}
    save_file(kept, folder / "model.safetensors")
    config = {"model_type": "gpt_neox", "tie_word_embeddings": tied}
    (folder / "config.json").write_text(json.dumps(config))


def read_float64(folder, step):
    tensors = load_file(folder / f"step-{step}" / "model.safetensors")
    return {key: value.astype(np.float64) for key, value in tensors.items()}


def write_training(folder, counts, series, *, batch_size=3, rows=17, length=11, name="by-hand"):
    """A training folder without a training: stream, counts, settings and checkpoints."""
    folder.mkdir(parents=True)
    ids = np.random.default_rng(2).integers(0, VOCABULARY, (rows, length + 1)).astype("<u2")
    (folder / "tokens.bin").write_bytes(ids.tobytes())
    info = StreamInfo("<u2", rows, length, tokenizer_sha256=TOKENIZER, vocab_size=VOCABULARY)
    (folder / "tokens.json").write_text(json.dumps(asdict(info)))
    described = {
        "settings": {"name": name, "training": {"batch_size": batch_size}},
        "tokenizer_sha256": TOKENIZER,
        "tokens_per_step": batch_size * length,
    }
    (folder / "train.json").write_text(json.dumps(described))
    counts.write(folder / "counts.parquet")
    return write_series(folder / "checkpoints", series)


def tracked(folder, *, name="series", tied=False, counts=None, series=None, **settings):
    """The run of a series that `grow` makes."""
    counts = make_counts() if counts is None else counts
    opened = write_series(folder / name, series or grow(counts), tied)
    return track(opened, folder / f"run-{name}", counts=counts, **settings)


def files_of(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
