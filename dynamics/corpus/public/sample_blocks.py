"""Counts of the blocks of a sample, stored on disk block by block."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dynamics.corpus.public.array_files import load_arrays, store_arrays
from dynamics.corpus.public.remote_stream import WORKERS, RemoteStream, Rows, in_parallel
from dynamics.corpus.tally import count_ids
from dynamics.errors import CorpusError
from dynamics.progress import OnProgress, no_progress

if TYPE_CHECKING:
    from dynamics.corpus.public.sample import Sample


class BlockCounts:
    """Counts of blocks on disk, a small file for each, so that no block is read twice.

    Args:
        folder: Folder of the counts, with a subfolder for each content of a stream.
        sample: The sample whose blocks are counted.
    """

    def __init__(self, folder: Path, sample: "Sample") -> None:
        self._folder = folder / sample.digest[:16]
        self._sample = sample

    def missing(self) -> list[Rows]:
        """Blocks whose counts are not stored yet, or damaged."""
        return [block for block in self._sample.blocks if self._load(block) is None]

    def fetch(
        self,
        stream: RemoteStream,
        vocab_size: int,
        *,
        workers: int = WORKERS,
        on_progress: OnProgress = no_progress,
    ) -> None:
        """Read and count missing blocks; after an error or a kill the next call resumes.

        Args:
            stream: The stream the sample was drawn from.
            vocab_size: V, more than the largest id.
            workers: Number of blocks that are read simultaneously, each with one request.
            on_progress: Called with the number of blocks that are done, and of all blocks.

        Raises:
            CorpusError: The stream holds an id that is not in 0 to `vocab_size` - 1.
            CheckpointError: It cannot be read.
            OutputError: The folder cannot be written to.
        """

        def read(block: Rows) -> None:
            ids = stream.read(*block).reshape(-1)
            self._store(block, count_ids(ids, vocab_size, stream.name))

        missing, total = self.missing(), len(self._sample.starts)
        stored = total - len(missing)
        on_progress(stored, total)
        for done, _ in enumerate(in_parallel(read, missing, workers), stored + 1):
            on_progress(done, total)

    def totals(self, vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
        """Counts of the sample, and the sampling error of each token's share of the stream.

        Returns:
            int64 counts, and float64 standard errors of the relative frequency: the standard
            deviation between blocks over the root of their number, times the root of the share of
            the stream that was not read. Stratification makes the true error smaller, if anything.
            NaN where the token is not in the sample, which has no information on its spread.

        Raises:
            CorpusError: A block is missing, or holds an id beyond the vocabulary.
        """
        count = np.zeros(vocab_size, np.int64)
        mean, squares = np.zeros(vocab_size), np.zeros(vocab_size)
        for number, block in enumerate(self._sample.blocks, 1):
            stored = self._load(block)
            if stored is None:
                raise CorpusError(f"{self._path(block)} is missing or damaged; sample again")
            ids, times = stored
            block_count = count_ids(ids, vocab_size, self._sample.stream)  # checks that ids are < V
            block_count[ids] = times
            count += block_count
            # Welford 1962: running mean and sum of squared deviations
            share = block_count / self._sample.block_tokens
            deviation = share - mean
            mean += deviation / number
            squares += deviation * (share - mean)
        n = len(self._sample.starts)
        unread = 1 - n / (self._sample.stream_rows // self._sample.block_rows)
        # Cochran 1977, ch. 2: s / sqrt(n) sqrt(1 - f), f the share of blocks that was read
        error = np.sqrt(squares / max(n - 1, 1) / n * unread)
        return count, np.where((count > 0) | (unread == 0), error, np.nan)

    def _path(self, block: Rows) -> Path:
        """File of the counts of a block."""
        return self._folder / f"rows-{block[0]:012d}-{block[1]:012d}.npz"

    def _load(self, block: Rows) -> tuple[np.ndarray, np.ndarray] | None:
        """Ids in a block and how often each occurs; None if not stored, or damaged."""
        arrays = load_arrays(self._path(block), "ids", "times")
        if arrays is None or arrays[1].sum() != self._sample.block_tokens:
            return None
        return arrays[0], arrays[1]

    def _store(self, block: Rows, count: np.ndarray) -> None:
        """Store the counts of a block, of all V tokens, without zeros."""
        ids = np.flatnonzero(count)
        store_arrays(self._path(block), {"ids": ids.astype(np.uint32), "times": count[ids]})
