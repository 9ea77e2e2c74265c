"""How often each token was seen up to a step, counted exactly from a stream that is elsewhere."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from dynamics.corpus.exposure import Exposure, count_uses
from dynamics.corpus.public.kept_arrays import load_arrays, store_arrays
from dynamics.corpus.public.remote_stream import WORKERS, RemoteStream, Rows, in_parallel
from dynamics.corpus.public.sample_blocks import OnProgress
from dynamics.errors import CorpusError

STEPS_PER_SAVE = 64  # 270 MB of Pythia's stream


def remote_exposures(
    stream: RemoteStream,
    steps: Iterable[int],
    batch_rows: int,
    vocab_size: int,
    folder: Path,
    *,
    workers: int = WORKERS,
    on_progress: OnProgress = lambda done, total: None,
) -> Iterator[Exposure]:
    """Times each token was an input and a target in steps 0 to `step` - 1, for ascending steps.

    Everything up to the last step is read once, in order, and dropped once counted: memory stays
    constant. The counts up to each step are kept, and those up to the newest 64th step on the way,
    so that reading goes on there after an error or a kill.

    Args:
        stream: What training consumed, once.
        steps: Numbers of steps done, ascending; what is behind is read again.
        batch_rows: Rows of a step.
        vocab_size: V, more than the largest id.
        folder: Keeps the counts, less than 1 MB for each step.
        workers: Requests under way at the same time.
        on_progress: Called with how many steps are read, and how many will be.

    Returns:
        As `exposure.exposures`: for each step two int64 arrays of V counts.

    Raises:
        CorpusError: The stream is shorter than a step says, or holds an id that is not in 0 to
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
    kept = _Prefixes(folder / stream.digest[:16], vocab_size)
    return _read(stream, steps, batch_rows, kept, workers, on_progress)


def _read(
    stream: RemoteStream,
    steps: list[int],
    batch_rows: int,
    kept: "_Prefixes",
    workers: int,
    on_progress: OnProgress,
) -> Iterator[Exposure]:
    def uses(block: Rows) -> np.ndarray:
        return count_uses(stream.read(*block), kept.vocab_size, stream.name)

    at, prefix = 0, np.zeros((2, kept.vocab_size), np.int64)
    on_the_way: int | None = None
    for step in steps:
        row = step * batch_rows
        start, found = kept.nearest(row)
        if start > at or at > row:
            at, prefix = start, found
        while at < row:
            on_progress(at // batch_rows, max(steps))
            stop = min(row, at + STEPS_PER_SAVE * batch_rows)
            blocks = [(low, min(low + batch_rows, stop)) for low in range(at, stop, batch_rows)]
            prefix = prefix + sum(in_parallel(uses, blocks, workers))
            kept.put(stop, prefix)
            if on_the_way is not None:
                kept.drop(on_the_way)
            at, on_the_way = stop, None if stop == row else stop
        on_progress(step, max(steps))
        inputs, targets = prefix.copy()
        yield inputs, targets


class _Prefixes:
    """Counts over the first rows of a stream, by the number of rows."""

    def __init__(self, folder: Path, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self._folder = folder

    def nearest(self, row: int) -> tuple[int, np.ndarray]:
        """The longest prefix of at most `row` rows that is kept; at least that of none."""
        name = re.compile(rf"exposure-{self.vocab_size}-(\d+)\.npz")
        matches = [name.fullmatch(path.name) for path in self._folder.glob("exposure-*")]
        rows = {int(match[1]) for match in matches if match}
        for kept in sorted((each for each in rows if each <= row), reverse=True):
            if (found := load_arrays(self._path(kept), "uses")) is not None:
                return kept, found[0]
        return 0, np.zeros((2, self.vocab_size), np.int64)

    def put(self, rows: int, uses: np.ndarray) -> None:
        store_arrays(self._path(rows), {"uses": uses})

    def drop(self, rows: int) -> None:
        self._path(rows).unlink(missing_ok=True)

    def _path(self, rows: int) -> Path:
        return self._folder / f"exposure-{self.vocab_size}-{rows:012d}.npz"
