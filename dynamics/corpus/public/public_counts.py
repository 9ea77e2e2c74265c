"""Counts and exposures of public series, from the token streams in the catalog."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from dynamics.checkpoints.catalog.public_series import PublicSeries, PublicStream, find
from dynamics.checkpoints.hub.cache import FOLDER
from dynamics.checkpoints.hub.client import Hub
from dynamics.corpus.counts import Counts
from dynamics.corpus.exposure import Exposure
from dynamics.corpus.public.remote_exposure import remote_exposures
from dynamics.corpus.public.remote_stream import WORKERS, RemoteStream, open_remote_stream
from dynamics.corpus.public.sample import BLOCK_ROWS, counts_of, load_sample, sample_counts
from dynamics.corpus.public.sample_blocks import BlockCounts
from dynamics.corpus.tokenizers.loading import load_tokenizer
from dynamics.errors import CheckpointError, CorpusError
from dynamics.progress import OnProgress, Report, no_progress, no_report

SAMPLE_TOKENS = 100_000_000

_SHARD_BYTES = 30_000_000_000  # of a file of the published streams, for estimates


@dataclass(frozen=True)
class Cost:
    """Cost of reading from a hub when the cache is empty.

    Attributes:
        bytes: Bytes to receive.
        requests: Approximate number of requests to send.
    """

    bytes: int
    requests: int

    def seconds(self, mbit_per_second: float, latency_s: float = 0.1) -> float:
        """Approximate time at a bandwidth and with a latency for each request."""
        return self.bytes * 8e-6 / mbit_per_second + self.requests * latency_s / WORKERS

    def describe(self, mbit_per_second: float = 100) -> str:
        """Return the cost as text."""
        seconds = self.seconds(mbit_per_second)
        time = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:,.0f} min"
        return (
            f"{self.bytes / 1e6:,.0f} MB in about {self.requests:,} requests, about {time} at "
            f"{mbit_per_second:g} Mbit/s"
        )


def cache_folder() -> Path:
    """Folder of the counts of remote streams: under DYNAMICS_CACHE, else in the user's cache."""
    dynamics_cache = os.environ.get(FOLDER)
    general = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(dynamics_cache or Path(general) / "dynamics").expanduser() / "token-streams"


def sample_cost(
    name: str, *, tokens: int = SAMPLE_TOKENS, block_rows: int = BLOCK_ROWS
) -> Cost | None:
    """Cost of the first `find_public_counts`, without the tokenizer; sends no request.

    Returns:
        None where the catalog knows no token stream of the name.
    """
    entry = _find_stream(name)
    return None if entry is None else _sample_cost(*entry, tokens, block_rows)


def exposure_cost(name: str, steps: Iterable[int]) -> Cost | None:
    """Cost of the first `public_exposures`; sends no request.

    Returns:
        None where the catalog knows no token stream in the order of the series.
    """
    entry = _find_stream(name)
    if entry is None or not entry[1].same_order:
        return None
    series, stream = entry
    last = max(steps, default=0)
    size = last * stream.rows_per_step * _row_bytes(stream)
    return Cost(size, last + size // _SHARD_BYTES + _opening(series, stream))


def find_public_counts(
    name: str,
    *,
    tokens: int = SAMPLE_TOKENS,
    seed: int = 0,
    block_rows: int = BLOCK_ROWS,
    tokenizer: str | Path | None = None,
    vocab_size: int | None = None,
    folder: Path | None = None,
    hub: Hub | None = None,
    report: Report = no_report,
    on_progress: OnProgress = no_progress,
) -> Counts | None:
    """Counts of a public series, from a sample of the stream that it was trained on.

    The first call reads ranges of the stream from the hub; see `sample_cost`. Their counts are
    cached, so that later calls send no requests, or only for missing ranges.

    Args:
        name: Name of the series in the catalog, or its repository.
        tokens: Least number of tokens to sample.
        seed: Seed of the sample.
        block_rows: Rows of a block, see `sample`.
        tokenizer: Folder, `tokenizer.json` or hub name, None for the repository of the series.
        vocab_size: Rows of the model; those beyond the tokenizer's are of kind `padding`.
        folder: Folder of the cached counts, `cache_folder()` when None.
        hub: The hub; the one of the environment when None.
        report: Called with a line on the data to be read, and one on the data read.
        on_progress: Called with the number of blocks that are done, and of all blocks.

    Returns:
        None where the catalog knows no token stream of the name.

    Raises:
        CorpusError: The stream does not match the catalog, the tokenizer cannot be loaded or
            lacks an id of the stream, or the sample would be too small.
        CheckpointError: The stream cannot be read.
        MismatchError: `vocab_size` is too small.
        OutputError: The folder cannot be written to.
    """
    catalog_entry = _find_stream(name)
    if catalog_entry is None:
        return None
    series, entry = catalog_entry
    loaded = load_tokenizer(tokenizer or series.repositories[0], hub)
    rows = _training_rows(series, entry)
    folder = _folder(folder, entry)
    record = folder / f"sample-{tokens}-of-{rows}x{entry.row}-by-{block_rows}-seed-{seed}.json"
    sample = load_sample(record)
    if sample is not None and not BlockCounts(folder, sample).missing():
        return counts_of(sample, folder, loaded, vocab_size=vocab_size)
    cost = _sample_cost(series, entry, tokens, block_rows)
    report(f"counting a sample of {entry.dataset}: at most {cost.describe()}, once")
    stream = _open(series, entry, hub)
    counts, sample = sample_counts(
        stream,
        loaded,
        folder,
        tokens=tokens,
        seed=seed,
        block_rows=block_rows,
        vocab_size=vocab_size,
        on_progress=on_progress,
    )
    sample.save(record)
    traffic = stream.traffic
    report(f"read {traffic.received / 1e6:,.1f} MB in {traffic.requests:,} requests; in {folder}")
    return counts


def public_exposures(
    name: str,
    steps: Iterable[int],
    vocab_size: int,
    *,
    folder: Path | None = None,
    hub: Hub | None = None,
    on_progress: OnProgress = no_progress,
) -> Iterator[Exposure]:
    """Exact exposure of a public series; reads all of its stream up to the last step.

    There is no exposure from a sample: a share times the number of tokens ranks tokens as their
    frequency does, and would add no information.

    Args:
        name: Name of the series in the catalog, or its repository.
        steps: Steps, ascending; see `exposure_cost`.
        vocab_size: V, rows of the model.
        folder: Folder of the cached counts, `cache_folder()` when None.
        hub: The hub; the one of the environment when None.
        on_progress: Called with the number of steps that are read, and of all steps.

    Returns:
        As `exposure.exposures`: for each step two int64 arrays, inputs and targets.

    Raises:
        CorpusError: There is no stream in the order of the series, it does not match the
            catalog, ends before a step, or holds an id that is not in 0 to `vocab_size` - 1.
        CheckpointError: It cannot be read.
        OutputError: The folder cannot be written to.
    """
    catalog_entry = _find_stream(name)
    if catalog_entry is None or not catalog_entry[1].same_order:
        stream = "a token stream only in another order" if catalog_entry else "no token stream"
        raise CorpusError(f"there is {stream} of {name}, so its exact exposure cannot be counted")
    series, entry = catalog_entry
    return remote_exposures(
        _open(series, entry, hub),
        steps,
        entry.rows_per_step,
        vocab_size,
        _folder(folder, entry),
        on_progress=on_progress,
    )


def _find_stream(name: str) -> tuple[PublicSeries, PublicStream] | None:
    try:
        series = find(name)
    except CheckpointError:
        return None
    return None if series.corpus.stream is None else (series, series.corpus.stream)


def _sample_cost(series: PublicSeries, entry: PublicStream, tokens: int, block_rows: int) -> Cost:
    blocks = ceil(tokens / (block_rows * entry.row))
    if (rows := _training_rows(series, entry)) is not None:
        blocks = min(blocks, max(1, rows // block_rows))
    return Cost(blocks * block_rows * _row_bytes(entry), blocks + _opening(series, entry))


def _open(series: PublicSeries, entry: PublicStream, hub: Hub | None) -> RemoteStream:
    rows = _training_rows(series, entry)
    return open_remote_stream(entry.dataset, entry.dtype, entry.row, training_rows=rows, hub=hub)


def _folder(folder: Path | None, entry: PublicStream) -> Path:
    return (folder or cache_folder()) / entry.dataset.replace("/", "--")


def _training_rows(series: PublicSeries, entry: PublicStream) -> int | None:
    return None if series.last is None else series.last * entry.rows_per_step


def _row_bytes(entry: PublicStream) -> int:
    return entry.row * {"uint16": 2, "uint32": 4}[entry.dtype]


def _opening(series: PublicSeries, entry: PublicStream) -> int:
    """Number of requests before the first range: the list of files, and the address of each."""
    rows = _training_rows(series, entry) or 0
    return 1 + ceil(rows * _row_bytes(entry) / _SHARD_BYTES)
