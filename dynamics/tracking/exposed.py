"""The token stream a series was trained on, and how often each token was used before a step."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dynamics.checkpoints.series import CheckpointSeries
from dynamics.corpus.counts import Counts, check_tokenizer
from dynamics.corpus.exposure import exposures
from dynamics.corpus.public.public_counts import public_exposures
from dynamics.corpus.tokens import TokenStream, open_stream
from dynamics.errors import ConfigError
from dynamics.runs.measures import EXPOSURE

Exposure = Literal["auto", "exact"]


@dataclass(frozen=True)
class Exposed:
    """The stream a series was trained on, and its batch size.

    Attributes:
        stream: The token stream.
        batch_size: Rows of a step.
    """

    stream: TokenStream
    batch_size: int

    def describe(self) -> dict[str, Any]:
        """Return the stream's entry in `run.json`; no digest, as the file is too large to read."""
        info = self.stream.info
        return {
            "name": self.stream.path.name,
            "dtype": info.dtype,
            "rows": info.rows,
            "sequence_length": info.sequence_length,
            "batch_size": self.batch_size,
        }


def open_exposed(
    path: Path | None,
    sequence_length: int | None = None,
    batch_size: int | None = None,
    dtype: str | None = None,
) -> Exposed | None:
    """Open a stream in training order: `tokens.bin`, nanoGPT's `.bin`, OLMo's `.npy`, Pythia.

    Args:
        path: The file; None for no stream.
        sequence_length: T of rows of T + 1 ids; not needed for a stream that `dynamics` wrote.
        batch_size: Rows of a step.
        dtype: Type of the ids on disk, uint16 by default.

    Returns:
        None where there is no path.

    Raises:
        ConfigError: The batch size is missing, or there are settings of a stream without its path.
        CorpusError: The stream cannot be read.
    """
    if path is None:
        if (sequence_length, batch_size, dtype) != (None, None, None):
            raise ConfigError(
                "--sequence-length, --batch-size and --stream-dtype describe a token stream; give "
                "it with --stream"
            )
        return None
    if batch_size is None:
        raise ConfigError(
            f"the batch size of {path} is not known; give --batch-size, the rows of one step"
        )
    return Exposed(open_stream(path, dtype=dtype, sequence_length=sequence_length), batch_size)


def check_exposed(exposed: Exposed | None, counts: Counts | None) -> None:
    """Refuse a stream without counts, or with another tokenizer than that of the counts.

    Raises:
        ConfigError: There are no counts to compare exposure with.
        MismatchError: Both tokenizers are known, and differ.
    """
    if exposed is None:
        return
    name = str(exposed.stream.path)
    if counts is None:
        raise ConfigError(f"exposure from {name} needs token counts; give them with --counts")
    if exposed.stream.info.tokenizer_sha256 is not None:
        check_tokenizer(counts, exposed.stream.info.tokenizer_sha256, name)


def exposure_columns(
    exposed: Exposed | None, series: CheckpointSeries, counts: Counts | None, mode: Exposure
) -> Iterator[dict[str, np.ndarray]]:
    """Yield for each checkpoint how often each token was used before it; {} where not known.

    Args:
        exposed: The stream; None reads that of a public series in mode `exact`.
        series: The checkpoints to measure.
        counts: Token counts; without them nothing is counted.
        mode: `auto` reads no public stream, `exact` does.

    Raises:
        CorpusError: The stream holds an id beyond the model's vocabulary.
        CheckpointError: A public stream is not known, or cannot be read.
    """
    if counts is None or (exposed is None and mode == "auto"):
        yield from ({} for _ in series)
        return
    vocab_size = series.checkpoints[0].vocab_size
    uses = (
        public_exposures(series.name, series.steps, vocab_size)
        if exposed is None
        else exposures(exposed.stream, series.steps, exposed.batch_size, vocab_size)
    )
    for inputs, targets in uses:
        yield {EXPOSURE["input_embedding"]: inputs, EXPOSURE["output_embedding"]: targets}
