"""Processor time of the job of a newcomer beside the fifteen lines of pandas that do part of it.

Checkpoints of someone else and a CSV of frequencies to a correlation per step. The lines of pandas
give the rank correlation of the input norm alone, with no interval, band, null, control or rule.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.numpy import load_file, save_file

from dynamics.checkpoints.series import open_series
from dynamics.tracking.track import track
from dynamics.tracking.training_data import find_counts

ROWS, WIDTH, STEPS = 20_000, 128, 8
INPUT, OUTPUT = "gpt_neox.embed_in.weight", "embed_out.weight"


def by_hand(folder: Path) -> pd.DataFrame:
    """Fifteen lines of pandas: correlation of the input norm with frequency at each step."""
    counts = pd.read_csv(folder / "counts.csv").set_index("token_id")["count"]
    counts = counts[counts >= 10]
    rows = []
    for path in sorted(folder.glob("step-*"), key=lambda path: int(path.name.split("-")[1])):
        matrix = load_file(path / "model.safetensors")[INPUT]
        norm = pd.Series(np.linalg.norm(matrix, axis=1)).loc[counts.index]
        step = int(path.name.split("-")[1])
        rows.append({"step": step, "value": norm.corr(counts, method="spearman")})
    return pd.DataFrame(rows)


def write_job(folder: Path) -> None:
    """Write checkpoints of another program, and a table of counts."""
    rng = np.random.default_rng(0)
    counts = rng.permutation((1e6 / np.arange(1, ROWS + 1)).astype(int))
    for step in range(STEPS):
        grown = 1 + step * np.log(counts + 1)[:, None] / 50
        matrices = rng.standard_normal((2, ROWS, WIDTH)).astype(np.float32) * grown
        (folder / f"step-{step}").mkdir()
        tensors = {INPUT: matrices[0], OUTPUT: matrices[1]}
        save_file(
            {name: matrix.astype(np.float32) for name, matrix in tensors.items()},
            folder / f"step-{step}" / "model.safetensors",
        )
        (folder / f"step-{step}" / "config.json").write_text('{"model_type": "gpt_neox"}')
    table = pd.DataFrame({"token_id": np.arange(ROWS), "count": counts})
    table.to_csv(folder / "counts.csv", index=False)


def main() -> None:
    """Print processor time of both, of adding a column, and their ratios."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_job(folder)
        start = time.process_time()
        expected = by_hand(folder)
        hand = time.process_time() - start
        start = time.process_time()
        series = open_series(folder)
        counts = find_counts(series, str(folder / "counts.csv"))
        run = track(series, folder / "run", counts=counts, command="")
        tracked = time.process_time() - start
        found = run.trend("input_embedding_norm")["value"].to_numpy()
        assert np.abs(found - expected["value"].to_numpy()).max() < 1e-6
        ratings = pd.DataFrame({"token_id": np.arange(ROWS), "x": np.random.rand(ROWS)})
        start = time.process_time()
        run.correlate(ratings, given="log_frequency", measures=["input_embedding_norm"])
        correlated = time.process_time() - start
    print(f"{STEPS} checkpoints of 2 x {ROWS:,} x {WIDTH}; processor time")
    print(f"by hand, one correlation a step     {hand:6.2f} s")
    print(f"dynamics track, every measure       {tracked:6.2f} s  x {tracked / hand:.1f}")
    print(f"Run.correlate, one measure          {correlated:6.2f} s  x {correlated / hand:.1f}")


if __name__ == "__main__":
    main()
