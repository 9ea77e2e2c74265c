"""Counts and exposures of public series, from the token streams in the catalog."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import numpy as np

from dynamics.checkpoints.catalog.public_series import PublicSeries, PublicStream, find
from dynamics.checkpoints.hub.cache import FOLDER
from dynamics.checkpoints.hub.client import Hub
from dynamics.corpus.counts import Counts
from dynamics.corpus.exposure import Exposure
from dynamics.corpus.public.remote_exposure import remote_exposures
from dynamics.corpus.public.remote_stream import WORKERS, RemoteStream, open_remote_stream
from dynamics.corpus.public.sample import SampleSettings, counts_of, draw_sample, load_sample
from dynamics.corpus.public.sample_blocks import BlockCounts
from dynamics.corpus.tokenizers.kinds import row_count
from dynamics.corpus.tokenizers.loading import load_tokenizer
from dynamics.errors import CheckpointError, CorpusError
from dynamics.progress import OnProgress, Report, no_progress, no_report

_SHARD_BYTES = 30_000_000_000  # of a file of the published streams, for estimates
_BITS_PER_SECOND = 100e6  # for estimates of time, as is the latency
_LATENCY_S = 0.1


@dataclass(frozen=True)
class SeriesStream:
    """The token stream of a public series.

    Attributes:
        series: The series in the catalog.
        entry: The stream in the catalog.
    """

    series: PublicSeries
    entry: PublicStream

    @property
    def training_rows(self) -> int | None:
        """Rows that training consumed; None where the catalog states no last step."""
        return None if self.series.last is None else self.series.last * self.entry.rows_per_step

    @property
    def folder(self) -> Path:
        """Folder of the cached counts."""
        return cache_folder() / self.entry.dataset.replace("/", "--")

    def open(self, hub: Hub | None) -> RemoteStream:
        """Open the stream on a hub, the one of the environment when None."""
        entry, rows = self.entry, self.training_rows
        return open_remote_stream(
            entry.dataset, entry.dtype, entry.row, training_rows=rows, hub=hub
        )

    def sample_cost(self, settings: SampleSettings) -> str:
        """Bytes, requests and time of the first `find_public_counts`, at most, as text.

        Without the tokenizer, and at 100 Mbit/s; sends no request.
        """
        row_bytes = self.entry.row * np.dtype(self.entry.dtype).itemsize
        blocks = ceil(settings.tokens / (settings.block_rows * self.entry.row))
        if (rows := self.training_rows) is not None:
            blocks = min(blocks, max(1, rows // settings.block_rows))
        size = blocks * settings.block_rows * row_bytes
        # Before the first range: the list of files, and the address of each.
        requests = blocks + 1 + ceil((rows or 0) * row_bytes / _SHARD_BYTES)
        seconds = size * 8 / _BITS_PER_SECOND + requests * _LATENCY_S / WORKERS
        time = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:,.0f} min"
        return (
            f"{size / 1e6:,.0f} MB in about {requests:,} requests, about {time} at "
            f"{_BITS_PER_SECOND / 1e6:.0f} Mbit/s"
        )


def cache_folder() -> Path:
    """Folder of the counts of remote streams: under DYNAMICS_CACHE, else in the user's cache."""
    dynamics_cache = os.environ.get(FOLDER)
    general = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(dynamics_cache or Path(general) / "dynamics").expanduser() / "token-streams"


def find_public_stream(name: str) -> SeriesStream | None:
    """Find the token stream of a series by its name or repository; None where none is known."""
    try:
        series = find(name)
    except CheckpointError:
        return None
    return None if series.corpus.stream is None else SeriesStream(series, series.corpus.stream)


def find_public_counts(
    name: str,
    settings: SampleSettings | None = None,
    *,
    tokenizer: str | Path | None = None,
    vocab_size: int | None = None,
    hub: Hub | None = None,
    report: Report = no_report,
    on_progress: OnProgress = no_progress,
) -> Counts | None:
    """Counts of a public series, from a sample of the stream that it was trained on.

    The first call reads ranges of the stream from the hub; see `SeriesStream.sample_cost`. Their
    counts are cached in `SeriesStream.folder`, so that later calls send no requests, or only for
    missing ranges.

    Args:
        name: Name of the series in the catalog, or its repository.
        settings: Size and seed of the sample; the defaults when None.
        tokenizer: Folder, `tokenizer.json` or hub name, None for the repository of the series.
        vocab_size: Rows of the model; those beyond the tokenizer's are of kind `padding`.
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
    public_stream = find_public_stream(name)
    if public_stream is None:
        return None
    settings = settings or SampleSettings()
    entry, folder = public_stream.entry, public_stream.folder
    loaded = load_tokenizer(tokenizer or public_stream.series.repositories[0], hub)
    rows = row_count(loaded, vocab_size)
    record = folder / (
        f"sample-{settings.tokens}-of-{public_stream.training_rows}x{entry.row}"
        f"-by-{settings.block_rows}-seed-{settings.seed}.json"
    )
    sample = load_sample(record)
    if sample is None or BlockCounts(folder, sample).missing():
        cost = public_stream.sample_cost(settings)
        report(f"counting a sample of {entry.dataset}: at most {cost}, once")
        stream = public_stream.open(hub)
        sample = draw_sample(stream, settings)
        BlockCounts(folder, sample).fetch(stream, rows, on_progress=on_progress)
        sample.save(record)
        traffic = stream.traffic
        report(
            f"read {traffic.received / 1e6:,.1f} MB in {traffic.requests:,} requests; in {folder}"
        )
    return counts_of(sample, folder, loaded, vocab_size=vocab_size)


def public_exposures(
    name: str,
    steps: Iterable[int],
    vocab_size: int,
    *,
    hub: Hub | None = None,
    on_progress: OnProgress = no_progress,
) -> Iterator[Exposure]:
    """Exact exposure of a public series; reads all of its stream up to the last step.

    There is no exposure from a sample: a share times the number of tokens ranks tokens as their
    frequency does, and would add no information.

    Args:
        name: Name of the series in the catalog, or its repository.
        steps: Steps, ascending.
        vocab_size: V, rows of the model.
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
    public_stream = find_public_stream(name)
    if public_stream is None or not public_stream.entry.same_order:
        stream = "a token stream only in another order" if public_stream else "no token stream"
        raise CorpusError(f"there is {stream} of {name}, so its exact exposure cannot be counted")
    return remote_exposures(
        public_stream.open(hub),
        steps,
        public_stream.entry.rows_per_step,
        vocab_size,
        public_stream.folder,
        on_progress=on_progress,
    )
