"""Processor time that tracking takes for a checkpoint, against one pass of norms over its matrices.

    python benchmarks/tracking.py              every shape
    python benchmarks/tracking.py pythia-160m  one of them

Writes a series of random weights, tracks it several times, and prints the median processor time of
a checkpoint (reading, measuring, writing its tables), of the trends over all steps for each of
them, and the ratio to the baseline: `torch.linalg.vector_norm` in float64 over both embeddings,
read from the same files in the same rounds. Processor time is user and system time of the process,
which other programs on the machine hardly change; set OMP_NUM_THREADS=1 to compare versions.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import process_time

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file

from dynamics.checkpoints.series import open_series
from dynamics.corpus.counts import Counts, CountsInfo
from dynamics.tracking.track import track

ROUNDS = 5
INPUT, OUTPUT, GAIN = (
    "gpt_neox.embed_in.weight",
    "embed_out.weight",
    "gpt_neox.final_layer_norm.weight",
)


@dataclass(frozen=True)
class Shape:
    """Shape of the embeddings of a series.

    Attributes:
        rows: V.
        width: D.
        dtype: Type of the weights.
        steps: Number of checkpoints.
        has_counts: Whether tokens have counts.
        padding: Last rows that no token has.
    """

    rows: int
    width: int
    dtype: torch.dtype
    steps: int
    has_counts: bool
    padding: int = 27


SHAPES = {
    "pythia-160m": Shape(50_304, 768, torch.float16, 4, has_counts=True),
    "wide": Shape(50_304, 4096, torch.bfloat16, 3, has_counts=False),
}


def write_series(folder: Path, shape: Shape) -> None:
    """Write checkpoints of an untied model whose rows drift from step to step."""
    generator = torch.Generator().manual_seed(0)
    size = (shape.rows, shape.width)
    first = {key: 0.02 * torch.randn(size, generator=generator) for key in (INPUT, OUTPUT)}
    drift = 0.01 * torch.randn(shape.width, generator=generator)
    for step in range(shape.steps):
        tensors = {key: first[key].roll(step, dims=1).add(step * drift) for key in first}
        tensors[GAIN] = torch.ones(shape.width)
        checkpoint = folder / f"step-{step}"
        checkpoint.mkdir(parents=True)
        save_file(
            {key: tensor.to(shape.dtype) for key, tensor in tensors.items()},
            checkpoint / "model.safetensors",
        )
        config = {"model_type": "gpt_neox", "tie_word_embeddings": False}
        (checkpoint / "config.json").write_text(json.dumps(config))


def zipf_counts(shape: Shape) -> Counts:
    """Counts of a vocabulary that follow Zipf's law, a hundred tokens without any."""
    rng = np.random.default_rng(0)
    tokens = shape.rows - shape.padding
    count = rng.permutation((3e8 / np.arange(1, tokens + 1) ** 1.1).astype(int))
    count[:100] = 0
    count = np.append(count, np.zeros(shape.padding, dtype=int))
    kind = np.where(np.arange(shape.rows) % 2, "word_start", "continuation").astype(object)
    kind[tokens:] = "padding"
    table = pd.DataFrame(
        {
            "token_id": np.arange(shape.rows),
            "token": [f" t{token}" for token in range(shape.rows)],
            "count": count,
            "document_count": pd.Series(count).astype("Int64"),
            "first_seen": np.where(count > 0, np.arange(shape.rows), -1),
            "kind": kind,
        }
    )
    return Counts(table, CountsInfo("a" * 64, "c" * 64, int(count.sum()), shape.rows))


def track_seconds(folder: Path, shape: Shape) -> tuple[list[float], float]:
    """Processor time of each checkpoint but the first, and of all trends for each checkpoint."""
    times: list[float] = []
    counts = zipf_counts(shape) if shape.has_counts else None
    with tempfile.TemporaryDirectory() as output:
        track(
            open_series(folder),
            Path(output) / "run",
            counts=counts,
            on_checkpoint=lambda *_: times.append(process_time()),
        )
        end = process_time()
    return np.diff(times)[1:].tolist(), (end - times[-1]) / shape.steps


def baseline_seconds(folder: Path) -> float:
    """Processor time of the norms of both embeddings of a checkpoint, by torch alone."""

    def norms() -> None:
        tensors = load_file(folder / "step-1/model.safetensors")
        for key in (INPUT, OUTPUT):
            torch.linalg.vector_norm(tensors[key], dim=1, dtype=torch.float64)

    return _seconds(norms)


def _seconds(function: Callable[[], object]) -> float:
    began = process_time()
    function()
    return process_time() - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shapes", nargs="*", metavar="SHAPE", help=", ".join(SHAPES))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    for name in options.shapes or SHAPES:
        shape = SHAPES[name]
        checkpoints: list[float] = []
        trends: list[float] = []
        baseline: list[float] = []
        with tempfile.TemporaryDirectory() as folder:
            write_series(Path(folder), shape)
            for _ in range(options.rounds):
                baseline.append(baseline_seconds(Path(folder)))
                seconds, over_steps = track_seconds(Path(folder), shape)
                checkpoints += seconds
                trends.append(over_steps)
        checkpoint, base = statistics.median(checkpoints), statistics.median(baseline)
        counted = "with counts" if shape.has_counts else "without counts"
        print(
            f"{name}: 2 x {shape.rows:,} x {shape.width:,} {shape.dtype}, {counted}, "
            f"{torch.get_num_threads()} threads\n"
            f"  a checkpoint      {checkpoint:6.2f} s  ({min(checkpoints):.2f} to "
            f"{max(checkpoints):.2f}), {checkpoint / base:.1f} times the baseline\n"
            f"  trends for each   {statistics.median(trends):6.2f} s\n"
            f"  baseline          {base:6.2f} s"
        )


if __name__ == "__main__":
    main()
