"""Trainings that take a third of a second, and what they leave behind."""

import json
import random

import numpy as np
import torch
from safetensors.torch import load_file

from dynamics.config import StudySettings

ARCHITECTURES = ["gpt-neox", "gpt2", "llama", "bert"]
STEPS, ROWS, POSITIONS = 12, 4, 16
GROUPS = {
    "corpus": {"placebo_rows": 4},
    "tokenizer": {"vocab_size": 300},
    "model": {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "initializer_range": 0.1},
    "training": {
        "steps": STEPS,
        "batch_size": ROWS,
        "sequence_length": POSITIONS,
        "learning_rate": 1e-2,
        "warmup_steps": 3,
        "threads": 1,
        "device": "cpu",
    },
    "checkpoints": {"steps": "every(4)", "state_every": 3},
}


def write_corpus(folder):
    """140 documents of 30 words, of a language of 80."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghij", k=rng.randint(1, 6))) for _ in range(80)]
    folder.mkdir()
    for number in range(140):
        (folder / f"{number:03}.txt").write_text(" ".join(rng.choices(words, k=30)))
    return folder


def small(text, /, seed=0, **changes):
    """Settings of a small training, with changes by group: `model={"tied": True}`."""
    groups = {name: {**group, **changes.pop(name, {})} for name, group in GROUPS.items()}
    groups["corpus"].setdefault("source", str(text))
    return StudySettings(name="small", seed=seed, **groups, **changes)


def log_lines(folder):
    return [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]


def untimed_log(folder):
    return [{**line, "tokens_per_second": None} for line in log_lines(folder)]


def weights(folder, step, file="model.safetensors"):
    return load_file(folder / "checkpoints" / f"step-{step:08d}" / file)


def kept_steps(folder):
    return sorted(int(path.name[5:]) for path in (folder / "checkpoints").iterdir())


def stream_rows(folder):
    """The ids of `tokens.bin`, read without the package: 300 entries fit two bytes."""
    return np.fromfile(folder / "tokens.bin", "<u2").reshape(-1, POSITIONS + 1).astype(np.int64)


def assert_same(found, expected, where="state"):
    """Every tensor and value the same bits, in dictionaries and lists of them."""
    assert type(found) is type(expected), where
    if isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype and torch.equal(found, expected), where
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key in expected:
            assert_same(found[key], expected[key], f"{where}[{key!r}]")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), where
        for index, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert_same(one, other, f"{where}[{index}]")
    else:
        assert found == expected, where


def assert_same_training(found, expected):
    """Checkpoints, optimizer, schedule and log of two training folders; nothing is left over."""
    assert kept_steps(found) == kept_steps(expected)
    for step in kept_steps(expected):
        folder = expected / "checkpoints" / f"step-{step:08d}"
        for file in folder.glob("*.safetensors"):
            assert_same(weights(found, step, file.name), weights(expected, step, file.name), step)
    states = [
        sorted(path.name for path in (each / "state").iterdir()) for each in (found, expected)
    ]
    assert states[0] == states[1] and len(states[0]) == 1
    for file in ("optimizer.pt", "scheduler.pt"):
        parts = [torch.load(each / "state" / states[0][0] / file) for each in (found, expected)]
        assert_same(*parts, where=file)
    assert untimed_log(found) == untimed_log(expected)
    assert sorted(path.name for path in found.rglob("*.partial")) == []
    for file in ("train.json", "tokens.bin", "tokens.json", "counts.parquet"):
        assert (found / file).read_bytes() == (expected / file).read_bytes(), file
