"""Embeddings over a training, simulated as AdamW moves them: drift, noise, decay, saturation."""

import json
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from tests.checkpoints.writers import write_checkpoint

PYTHIA = [0, *(2**k for k in range(10)), *range(1000, 143001, 1000)]
SCHEDULES = {
    "pythia": PYTHIA,
    "dense": list(range(0, 100_001, 1000)),
    "log": [0, *(2**k for k in range(18))],
    "short": [*range(0, 13, 4), *range(16, 60, 4)],
    "olmo-2": [0, 300, 10000, 20000, 23100, *range(30000, 400000, 10000)],
    "coarse": list(range(125_000, 5_000_001, 125_000)),
    "gap": [*range(1000, 117_001, 1000), *range(330_000, 740_000, 1000)],
    "ours": [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000, 1500],
    "multiberts": [*range(20_000, 200_001, 20_000), *range(300_000, 2_000_001, 100_000)],
    "seven": [0, 10, 100, 1000, 2000, 4000, 8000],
}
FINE = ("pythia", "dense", "short", "gap")  # steps near each other, compared to the whole


@dataclass
class Training:
    """What decides a trajectory; drawn over what is usual in language models."""

    warmup: int
    schedule: str
    peak: float
    std: float
    decay: float
    drift: float
    memory: float
    pull: float

    @classmethod
    def draw(cls, rng, last):
        return cls(
            int(rng.choice([0, 1, 100, 2000, last // 100])),
            str(rng.choice(["cosine", "linear", "constant", "wsd"])),
            10 ** rng.uniform(-4, -2.5),
            10 ** rng.uniform(-2.3, -0.5),
            float(rng.choice([0, 0.01, 0.1])),
            10 ** rng.uniform(-2, 0),
            10 ** rng.uniform(2, 5),
            10 ** rng.uniform(-4, -1),
        )

    def rate(self, step, last):
        warm = min(1, (step + 0.5) / self.warmup) if self.warmup else 1
        done = step / last
        shape = {
            "cosine": 0.1 + 0.45 * (1 + np.cos(np.pi * done)),
            "linear": 1 - done,
            "constant": 1,
            "wsd": 1 if done < 0.8 else (1 - done) / 0.2 + 1e-3,
        }[self.schedule]
        return self.peak * warm * shape


def simulate(rng, steps, size=2048, training=None):
    """Numbers at every step, rounded to float16."""
    run = training or Training.draw(rng, steps[-1])
    now, towards = rng.normal(0, run.std, size), rng.normal(size=size)
    target = rng.normal(0, run.std * 10 ** rng.uniform(0, 1), size)
    kept = [now]
    for start, end in pairwise(steps):
        edges = np.linspace(start, end, min(end - start, 5) + 1)
        for low, high in pairwise(edges):
            rate, count = run.rate((low + high) / 2, steps[-1]), high - low
            towards = np.exp(-count / run.memory) * towards + np.sqrt(
                1 - np.exp(-2 * count / run.memory)
            ) * rng.normal(size=size)
            back = rate * (run.decay + run.pull) + 1e-12
            spread = np.sqrt((1 - np.exp(-2 * back * count)) / (2 * back))
            rest = target * run.pull / (run.decay + run.pull + 1e-12)
            now = rest + (now - rest) * np.exp(-back * count)
            now = now + (1 - run.drift) * rate * spread * rng.normal(size=size)
            length = min(count, run.memory) / np.sqrt(count) * max(1, np.sqrt(count / run.memory))
            now = now + run.drift * rate * spread * length * towards
        kept.append(now)
    return np.array(kept).astype(np.float16)


def distinct(steps, points):
    """Without what is the same as before it, which is told otherwise."""
    keep = [0, *(k for k in range(1, len(points)) if (points[k] != points[k - 1]).any())]
    return [steps[k] for k in keep], points[keep].astype(np.float32)


# 24 checkpoints of a small model that can be written and served: 40 rows of 8.
STEPS = [0, *(2**k for k in range(10)), *range(1000, 14_000, 1000)]
ORDINARY = Training(100, "cosine", 1e-3, 0.02, 0.01, 0.2, 1000.0, 0.01)
CONFIG = {"model_type": "gpt_neox", "tie_word_embeddings": False}


def embeddings(rng, steps=STEPS, rows=40, columns=8):
    """State dicts by step; the first update has learning rate 0."""
    found = {}
    both = [simulate(rng, steps, rows * columns, ORDINARY) for _ in range(2)]
    for step, inputs, outputs in zip(steps, *both, strict=True):
        found[step] = {
            "gpt_neox.embed_in.weight": torch.tensor(inputs).reshape(rows, columns),
            "gpt_neox.final_layer_norm.weight": torch.ones(columns),
            "gpt_neox.final_layer_norm.bias": torch.zeros(columns),
            "embed_out.weight": torch.tensor(outputs).reshape(rows, columns),
        }
    return found


def write(folder, tensors, format_name="safetensors"):
    for step, state in tensors.items():
        write_checkpoint(folder / f"step{step}", state, format_name, CONFIG)
    return folder


def trainer_state(folder, rate):
    lines = [{"step": step, "learning_rate": rate * (step - 1)} for step in (1, 2)]
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": lines}))
