"""Exact exposure of each token up to a step, counted from a remote stream."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from dynamics.corpus.exposure import Exposure, count_uses
from dynamics.corpus.public.array_files import load_arrays, store_arrays
from dynamics.corpus.public.remote_stream import WORKERS, RemoteStream, Rows, in_parallel
from dynamics.errors import CorpusError
from dynamics.progress import OnProgress, no_progress

STEPS_PER_SAVE = 64  # 270 MB of Pythia's stream


def remote_exposures(
    stream: RemoteStream,
    steps: Iterable[int],
    batch_rows: int,
    vocab_size: int,
    folder: Path,
    *,
    workers: int = WORKERS,
    on_progress: OnProgress = no_progress,
) -> Iterator[Exposure]:
    """Count how often each token was an input and a target in steps 0 to `step` - 1.

    Everything up to the last step is read once, in order, and dropped once counted: memory stays
    constant. The counts up to each step are stored, and those up to the latest multiple of 64 steps
    on the way, from which reading resumes after an error or a kill.

    Args:
        stream: The stream that training consumed once.
        steps: Numbers of steps done, ascending; a step back is read again.
        batch_rows: Rows of a step.
        vocab_size: V, more than the largest id.
        folder: Folder of the stored counts, less than 1 MB for each step.
        workers: Number of simultaneous requests.
        on_progress: Called with the number of steps that are read, and of all steps.

    Returns:
        As `exposure.exposures`: for each step two int64 arrays of V counts.

    Raises:
        CorpusError: The stream ends before a step, or holds an id that is not in 0 to
            `vocab_size` - 1.
        CheckpointError: It cannot be read.
        OutputError: The folder cannot be written to.
    """
    steps = list(steps)
    last = max(steps, default=0)
    if last * batch_rows > stream.rows:
        raise CorpusError(
            f"{stream.name} has {stream.rows:,} rows, which is {stream.rows // batch_rows:,} steps "
            f"of {batch_rows:,}; the exposure at step {last:,} is not known"
        )
    prefixes = _Prefixes(folder / stream.digest[:16], vocab_size)
    return _read(stream, steps, batch_rows, prefixes, workers, on_progress)


def _read(
    stream: RemoteStream,
    steps: list[int],
    batch_rows: int,
    prefixes: "_Prefixes",
    workers: int,
    on_progress: OnProgress,
) -> Iterator[Exposure]:
    """Read and count what is not stored yet; see `remote_exposures`."""

    def uses(block: Rows) -> np.ndarray:
        return count_uses(stream.read(*block), prefixes.vocab_size, stream.name)

    start, prefix = 0, np.zeros((2, prefixes.vocab_size), np.int64)
    intermediate: int | None = None
    for step in steps:
        row = step * batch_rows
        stored_rows, stored_prefix = prefixes.nearest(row)
        if stored_rows > start or start > row:
            start, prefix = stored_rows, stored_prefix
        while start < row:
            on_progress(start // batch_rows, max(steps))
            stop = min(row, start + STEPS_PER_SAVE * batch_rows)
            blocks = [(low, min(low + batch_rows, stop)) for low in range(start, stop, batch_rows)]
            prefix = prefix + sum(in_parallel(uses, blocks, workers))
            prefixes.put(stop, prefix)
            if intermediate is not None:
                prefixes.drop(intermediate)
            start, intermediate = stop, None if stop == row else stop
        on_progress(step, max(steps))
        inputs, targets = prefix.copy()
        yield inputs, targets


class _Prefixes:
    """Counts over the first rows of a stream, by the number of rows."""

    def __init__(self, folder: Path, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self._folder = folder

    def nearest(self, row: int) -> tuple[int, np.ndarray]:
        """Longest stored prefix of at most `row` rows; zeros for 0 rows if none is stored."""
        name = re.compile(rf"exposure-{self.vocab_size}-(\d+)\.npz")
        matches = [name.fullmatch(path.name) for path in self._folder.glob("exposure-*")]
        rows = {int(match[1]) for match in matches if match}
        for stored_rows in sorted((number for number in rows if number <= row), reverse=True):
            if (arrays := load_arrays(self._path(stored_rows), "uses")) is not None:
                return stored_rows, arrays[0]
        return 0, np.zeros((2, self.vocab_size), np.int64)

    def put(self, rows: int, uses: np.ndarray) -> None:
        """Store the counts over the first `rows` rows, of shape (2, V)."""
        store_arrays(self._path(rows), {"uses": uses})

    def drop(self, rows: int) -> None:
        """Remove the counts over the first `rows` rows."""
        self._path(rows).unlink(missing_ok=True)

    def _path(self, rows: int) -> Path:
        """File of the counts over the first `rows` rows."""
        return self._folder / f"exposure-{self.vocab_size}-{rows:012d}.npz"
