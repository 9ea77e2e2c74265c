"""The token stream a series was trained on, and what each token was used for up to its steps."""

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
    """The stream a series was trained on, and how it was consumed.

    Attributes:
        stream: The token stream.
        batch_size: Rows of a step.
    """

    stream: TokenStream
    batch_size: int

    def describe(self) -> dict[str, Any]:
        """For the record of a run; the file is too large to read for a digest."""
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
    """Open a stream in training order: nanoGPT's `.bin`, OLMo's `.npy`, Pythia's rows or ours.

    Args:
        path: The file; None for no stream.
        sequence_length: T of rows of T + 1 ids; not needed for one of ours.
        batch_size: Rows of a step.
        dtype: Type of the ids on disk, uint16 by default.

    Returns:
        None where there is no path.

    Raises:
        ConfigError: One of path and batch size is there without the other.
        CorpusError: The stream cannot be read.
    """
    if path is None:
        if (sequence_length, batch_size, dtype) != (None, None, None):
            raise ConfigError(
                "a sequence length, batch size or dtype is that of a token stream; give --stream"
            )
        return None
    if batch_size is None:
        raise ConfigError(
            f"how much of {path} a step consumes is not known; give --batch-size, in rows"
        )
    return Exposed(open_stream(path, dtype=dtype, sequence_length=sequence_length), batch_size)


def check_exposed(exposed: Exposed | None, counts: Counts | None) -> None:
    """Refuse a stream that was given without counts, or made by another tokenizer than they.

    Raises:
        ConfigError: There are no counts to compare exposure with.
        MismatchError: Both tokenizers are known, and differ.
    """
    if exposed is None:
        return
    name = str(exposed.stream.path)
    if counts is None:
        raise ConfigError(
            f"exposure from {name} needs the kinds of the tokens; give their counts with --counts"
        )
    if exposed.stream.info.tokenizer_sha256 is not None:
        check_tokenizer(counts, exposed.stream.info.tokenizer_sha256, name)


def exposure_columns(
    exposed: Exposed | None, chosen: CheckpointSeries, counts: Counts | None, wanted: Exposure
) -> Iterator[dict[str, np.ndarray]]:
    """For each checkpoint, how often each token was used before it; nothing where not known.

    Args:
        exposed: The stream; None reads that of a public series, if it is wanted.
        chosen: The checkpoints.
        counts: Without them nothing is counted.
        wanted: `auto` reads no public stream.

    Raises:
        CorpusError: The stream holds an id beyond the model's vocabulary.
        CheckpointError: A public stream is not known, or cannot be read.
    """
    if counts is None or (exposed is None and wanted == "auto"):
        yield from ({} for _ in chosen)
        return
    vocab_size = chosen.checkpoints[0].vocab_size
    counted = (
        public_exposures(chosen.name, chosen.steps, vocab_size)
        if exposed is None
        else exposures(exposed.stream, chosen.steps, exposed.batch_size, vocab_size)
    )
    for inputs, targets in counted:
        yield {EXPOSURE["input_embedding"]: inputs, EXPOSURE["output_embedding"]: targets}
