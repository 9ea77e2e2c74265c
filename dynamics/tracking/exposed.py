"""The token stream a series was trained on, and how often each token was used before a step."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from dynamics.checkpoints.series import CheckpointSeries
from dynamics.checkpoints.step_names import STEP
from dynamics.config import StreamSettings
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


def open_exposed(settings: StreamSettings) -> Exposed | None:
    """Open a stream in training order: `tokens.bin`, nanoGPT's `.bin`, OLMo's `.npy`, Pythia.

    Returns:
        None where the settings name no file.

    Raises:
        CorpusError: The stream cannot be read.
    """
    if settings.file is None or settings.batch_size is None:
        return None
    stream = open_stream(
        settings.file, dtype=settings.dtype, sequence_length=settings.sequence_length
    )
    return Exposed(stream, settings.batch_size)


def check_exposed(exposed: Exposed | None, series: CheckpointSeries, counts: Counts | None) -> None:
    """Refuse a stream without counts or numbered steps, or of another tokenizer than the counts'.

    Raises:
        ConfigError: There are no counts to compare exposure with, or checkpoints are not numbered
            by training step.
        MismatchError: Both tokenizers are known, and differ.
    """
    if exposed is None:
        return
    if series.unit != STEP:
        raise ConfigError(
            f"exposure needs checkpoints numbered by training step, and those of {series.name} are "
            f"numbered by {series.unit}; leave stream.file out"
        )
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
