"""Row norms of a vocabulary-sized fp16 matrix, against torch's own one-line way.

Prints the median time over the rounds, the ratio to the baseline measured in the same rounds, and
the largest relative error against float64.
"""

import statistics
import time
from collections.abc import Callable

import torch

from dynamics.scores.norms import embedding_norm

ROUNDS = 15


def _seconds(function: Callable[[], object]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def main() -> None:
    """Measure and print."""
    matrix = torch.randn(50304, 768, generator=torch.Generator().manual_seed(0)).half()
    ways = {
        "torch.linalg.vector_norm(dtype=float32)": lambda: torch.linalg.vector_norm(
            matrix, dim=1, dtype=torch.float32
        ),
        "matrix.float().norm(dim=1)": lambda: matrix.float().norm(dim=1),
        "embedding_norm": lambda: embedding_norm(matrix),
        "embedding_norm, centred": lambda: embedding_norm(matrix, shift=matrix[0]),
    }
    exact = torch.linalg.vector_norm(matrix.double(), dim=1)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            times[name].append(_seconds(way))
    baseline = statistics.median(times["torch.linalg.vector_norm(dtype=float32)"])
    print(
        f"row norms of {matrix.shape[0]} x {matrix.shape[1]} fp16, "
        f"{torch.get_num_threads()} threads"
    )
    for name, way in ways.items():
        median = statistics.median(times[name])
        error = "" if "centred" in name else f"{((way() - exact).abs() / exact).max().item():9.1e}"
        print(f"{name:42} {median * 1e3:8.1f} ms  {baseline / median:6.2f}x  {error}")


if __name__ == "__main__":
    main()
