"""Counts of a sample of a stream that is too large to read, with their sampling errors.

The stream is cut into blocks of rows, and into as many strata of neighbouring blocks as the sample
has blocks; one block of each stratum is read at random. The start of the strata is random as well,
so that every block is read with the same probability and the share of a token in the sample is
unbiased. Blocks, not tokens, are the independent draws: a token comes in bursts within a document,
so the standard error is that between blocks.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from dynamics.corpus.counts import Counts, CountsInfo
from dynamics.corpus.public.remote_stream import WORKERS, RemoteStream, Rows
from dynamics.corpus.public.sample_blocks import BlockCounts
from dynamics.corpus.tokenizers.kinds import row_count, surfaces_and_kinds
from dynamics.corpus.tokenizers.loading import tokenizer_sha256
from dynamics.errors import CorpusError
from dynamics.files import write_json
from dynamics.progress import OnProgress, no_progress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BLOCK_ROWS = 1024
"""Rows of a block: a step of Pythia, 4.2 MB. A request is then worth its latency, 100 M tokens are
48 blocks, which give the standard errors themselves to 10 %, and little precision is lost against
smaller blocks, because rows of one step come from all over a shuffled corpus."""


@dataclass(frozen=True)
class Sample:
    """The blocks of a stream that are read.

    Attributes:
        stream: Name of the stream, with its commit.
        digest: Digest of the stream.
        stream_rows: Rows of the stream.
        row_length: Ids of a row.
        block_rows: Rows of a block.
        seed: Seed that chose the blocks.
        starts: First row of each block, ascending.
    """

    stream: str
    digest: str
    stream_rows: int
    row_length: int
    block_rows: int
    seed: int
    starts: list[int]

    @property
    def blocks(self) -> list[Rows]:
        """First row of each block, and the row after its last."""
        return [(start, start + self.block_rows) for start in self.starts]

    @property
    def block_tokens(self) -> int:
        """Tokens of a block."""
        return self.block_rows * self.row_length

    def save(self, path: Path) -> None:
        """Write the sample as JSON, whole or not at all."""
        write_json(path, asdict(self))


def load_sample(path: Path) -> Sample | None:
    """Read a saved sample; None if the file is missing or damaged."""
    try:
        return Sample(**json.loads(path.read_text("utf-8")))
    except (OSError, TypeError, ValueError):
        return None


def draw_sample(stream: RemoteStream, *, tokens: int, seed: int, block_rows: int) -> Sample:
    """Draw blocks at random, spread over the stream, without repetition.

    Args:
        stream: The stream. Rows that do not fill a last block are never drawn.
        tokens: Least number of tokens; the whole stream is taken if it has fewer.
        seed: Seed of the draw.
        block_rows: Rows of a block, all of the stream where it has fewer.

    Raises:
        CorpusError: `tokens` or `block_rows` is below 1, or the sample is a single block of many.
    """
    if tokens < 1 or block_rows < 1:
        raise CorpusError(
            f"tokens and block_rows must be at least 1; got {tokens} and {block_rows}"
        )
    block_rows = min(block_rows, stream.rows)
    blocks = stream.rows // block_rows
    sampled_blocks = min(blocks, -(-tokens // (block_rows * stream.row_length)))
    if sampled_blocks == 1 < blocks:
        raise CorpusError(
            f"a sample of {tokens:,} tokens is one block of {block_rows:,} rows of "
            f"{stream.row_length:,}, and one block has no sampling error; give more than "
            f"{block_rows * stream.row_length:,} tokens"
        )
    rng = np.random.default_rng(seed)
    # One block of each stratum; the same random shift for all gives every block equal probability.
    borders = np.arange(sampled_blocks + 1) * blocks // sampled_blocks
    drawn = (rng.integers(borders[:-1], borders[1:]) + rng.integers(blocks)) % blocks
    starts = (np.sort(drawn) * block_rows).tolist()
    return Sample(
        stream.name, stream.digest, stream.rows, stream.row_length, block_rows, seed, starts
    )


def sample_counts(
    stream: RemoteStream,
    tokenizer: "PreTrainedTokenizerFast",
    folder: Path,
    *,
    tokens: int = 100_000_000,
    seed: int = 0,
    block_rows: int = BLOCK_ROWS,
    vocab_size: int | None = None,
    workers: int = WORKERS,
    on_progress: OnProgress = no_progress,
) -> tuple[Counts, Sample]:
    """Count a sample of a stream in constant memory; no block is read twice.

    Args:
        stream: The stream.
        tokenizer: The tokenizer that made the ids.
        folder: Folder of the counts of each block, about 0.1 MB for 2 M tokens.
        tokens: Least number of tokens.
        seed: Seed of the draw.
        block_rows: Rows of a block.
        vocab_size: Rows of the model; those beyond the tokenizer's are of kind `padding`.
        workers: Number of blocks that are read simultaneously.
        on_progress: Called with the number of blocks that are done, and of all blocks.

    Returns:
        The counts, and the sample that they are of.

    Raises:
        CorpusError: The sample would be too small, or holds an id beyond the vocabulary.
        CheckpointError: The stream cannot be read.
        MismatchError: `vocab_size` is too small.
        OutputError: The folder cannot be written to.
    """
    sample = draw_sample(stream, tokens=tokens, seed=seed, block_rows=block_rows)
    rows = row_count(tokenizer, vocab_size)
    blocks = BlockCounts(folder, sample)
    blocks.fetch(stream, rows, workers=workers, on_progress=on_progress)
    return counts_of(sample, folder, tokenizer, vocab_size=vocab_size), sample


def counts_of(
    sample: Sample,
    folder: Path,
    tokenizer: "PreTrainedTokenizerFast",
    *,
    vocab_size: int | None = None,
) -> Counts:
    """Counts of a sample all of whose blocks were counted, with their sampling errors.

    The columns are those of all counts; `count` is that of the sample, so that the rule
    `count>=10` requires ten occurrences in the sample.

    Raises:
        CorpusError: A block is missing, or holds an id beyond the vocabulary.
        MismatchError: `vocab_size` is too small.
    """
    rows = row_count(tokenizer, vocab_size)
    count, error = BlockCounts(folder, sample).totals(rows)
    surfaces, kinds = surfaces_and_kinds(tokenizer, rows, count > 0)
    table = pd.DataFrame(
        {
            "token_id": np.arange(rows),
            "token": surfaces,
            "count": count,
            "document_count": pd.Series([None] * rows, dtype="Int64"),
            "first_seen": np.full(rows, -1),
            "kind": kinds,
            "relative_frequency": count / count.sum(),
            "relative_frequency_se": error,
        }
    )
    info = CountsInfo(
        tokenizer_sha256(tokenizer),
        sample.digest,
        int(count.sum()),
        rows,
        sampled_from=sample.stream,
        stream_tokens=sample.stream_rows * sample.row_length,
        blocks=len(sample.starts),
        block_rows=sample.block_rows,
        seed=sample.seed,
    )
    return Counts(table, info, f"a sample of {sample.stream}")
