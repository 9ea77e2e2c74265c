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

from dynamics.corpus.counts import Counts, CountsInfo
from dynamics.corpus.public.remote_stream import RemoteStream, Rows
from dynamics.corpus.public.sample_blocks import BlockCounts
from dynamics.corpus.tally import counts_table
from dynamics.corpus.tokenizers.kinds import row_count, surfaces_and_kinds
from dynamics.corpus.tokenizers.loading import tokenizer_sha256
from dynamics.errors import CorpusError
from dynamics.files import write_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BLOCK_ROWS = 1024
"""Rows of a block: a step of Pythia, 4.2 MB. A request is then worth its latency, 100 M tokens are
48 blocks, which give the standard errors themselves to 10 %, and little precision is lost against
smaller blocks, because rows of one step come from all over a shuffled corpus."""

SAMPLE_TOKENS = 100_000_000


@dataclass(frozen=True)
class SampleSettings:
    """Size of a sample, and the seed of its draw.

    Attributes:
        tokens: Least number of tokens; the whole stream is taken if it has fewer.
        block_rows: Rows of a block, all of the stream where it has fewer.
        seed: Seed of the draw.

    Raises:
        CorpusError: `tokens` or `block_rows` is below 1.
    """

    tokens: int = SAMPLE_TOKENS
    block_rows: int = BLOCK_ROWS
    seed: int = 0

    def __post_init__(self) -> None:
        if self.tokens < 1 or self.block_rows < 1:
            raise CorpusError(
                f"tokens and block_rows must be at least 1; got {self.tokens} and {self.block_rows}"
            )


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


def draw_sample(stream: RemoteStream, settings: SampleSettings) -> Sample:
    """Draw blocks at random, spread over the stream, without repetition.

    Rows that do not fill a last block are never drawn.

    Raises:
        CorpusError: The sample is a single block of many.
    """
    block_rows = min(settings.block_rows, stream.rows)
    block_tokens = block_rows * stream.row_length
    blocks = stream.rows // block_rows
    sampled_blocks = min(blocks, -(-settings.tokens // block_tokens))
    if sampled_blocks == 1 < blocks:
        raise CorpusError(
            f"a sample of {settings.tokens:,} tokens is one block of {block_rows:,} rows of "
            f"{stream.row_length:,}, and one block has no sampling error; give more than "
            f"{block_tokens:,} tokens"
        )
    rng = np.random.default_rng(settings.seed)
    # One block of each stratum; the same random shift for all gives every block equal probability.
    borders = np.arange(sampled_blocks + 1) * blocks // sampled_blocks
    drawn = (rng.integers(borders[:-1], borders[1:]) + rng.integers(blocks)) % blocks
    return Sample(
        stream.name,
        stream.digest,
        stream.rows,
        stream.row_length,
        block_rows,
        settings.seed,
        starts=(np.sort(drawn) * block_rows).tolist(),
    )


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
    table = counts_table(*surfaces_and_kinds(tokenizer, rows, count > 0), count).assign(
        relative_frequency=count / count.sum(), relative_frequency_se=error
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
