"""Counting tokens against `numpy.bincount`, and information gain against a dense table.

    python benchmarks/counting.py                    in a minute or two
    python benchmarks/counting.py --tokens 10000000  growth up to so many tokens

Both sides of a ratio take turns in this run, so that what else the machine does falls on both; the
ratio of the medians is what carries over between machines. All of it runs on one thread. Tokens are
drawn by Zipf's law, documents are 500 tokens long on average.
"""

import argparse
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from dynamics.corpus.information.contexts import context_sums, self_information
from dynamics.corpus.information.gain import information_columns
from dynamics.corpus.information.pairs import Reach, RunningText, reaches
from dynamics.corpus.information.settings import InformationSettings
from dynamics.corpus.tally import TOKENS_PER_CHUNK, Tally

ROUNDS = 7
COUNTED, VOCABULARY = 20_000_000, 50_000
END_OF_TEXT = 500  # the id whose share is about that of a document's end
WINDOW = 10


def draw(tokens: int, vocabulary: int) -> np.ndarray:
    """Ids by Zipf's law, shuffled, so that neither common nor rare ones are neighbours."""
    share = 1 / np.arange(1, vocabulary + 1)
    rng = np.random.default_rng(0)
    ids = np.searchsorted(np.cumsum(share / share.sum()), rng.random(tokens))
    return rng.permutation(vocabulary)[np.minimum(ids, vocabulary - 1)].astype("<u2")


def medians(ways: Mapping[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, float]:
    """Median seconds of each way, taken in turns after one turn that warms up."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            times[name].append(time.perf_counter() - began)
    return {name: statistics.median(each[1:]) for name, each in times.items()}


def counting() -> None:
    """Counts alone and document counts apart, over one memory map."""
    with tempfile.TemporaryDirectory() as folder:
        draw(COUNTED, VOCABULARY).tofile(path := Path(folder) / "tokens.bin")
        ids = np.memmap(path, "<u2", "r")

        def chunks():
            return (ids[at : at + TOKENS_PER_CHUNK] for at in range(0, len(ids), TOKENS_PER_CHUNK))

        def count() -> Tally:
            tally = Tally(VOCABULARY)
            for chunk in chunks():
                tally.add(chunk, "the stream")
            return tally

        def documents() -> Tally:
            tally = Tally(VOCABULARY)
            ended = 0
            for chunk in chunks():
                ends = chunk == END_OF_TEXT
                tally.add_documents(chunk, ended + np.cumsum(ends) - ends)
                ended += int(ends.sum())
            return tally

        baseline = "numpy.bincount"
        seconds = medians(
            {
                baseline: lambda: np.bincount(ids, minlength=VOCABULARY),
                "counts and first positions": count,
                "document counts, apart": documents,
            }
        )
    print(f"counting {COUNTED:,} tokens of {VOCABULARY:,} over a memory map\n")
    for name, taken in seconds.items():
        ratio = seconds[baseline] / taken
        print(f"{name:28} {taken:7.3f} s  {COUNTED / taken / 1e6:7.1f} M tokens/s  {ratio:5.2f}x")


def dense_gain(text: RunningText, side: Reach) -> np.ndarray:
    """Information gain by a table of all V x V pairs, distance by distance."""
    size = text.vocab_size
    table = np.zeros(size * size, np.int64)
    for distance in range(1, side.window + 1):
        at = np.flatnonzero((side.nearest <= distance) & (distance <= side.furthest))
        keys = text.ids[at].astype(np.int64) * size + text.ids[at + side.side * distance]
        table += np.bincount(keys, minlength=size * size)
    table = table.reshape(size, size)
    pairs = table.sum(1)
    share = table / np.where(pairs > 0, pairs, np.nan)[:, None]
    logs = np.log(share, where=share > 0, out=np.zeros_like(share))
    surprise = np.nan_to_num(self_information(text))
    return np.sum(share * (logs + surprise), axis=1)


def made(tokens: int, vocabulary: int) -> tuple[RunningText, Reach]:
    """A text with documents and words of 1.1 tokens, and its right contexts."""
    ids = draw(tokens, vocabulary)
    rng = np.random.default_rng(1)
    starts = np.unique(np.append(rng.integers(0, tokens, tokens // 500), 0))
    text = RunningText(ids, starts, vocabulary)
    after, before = rng.random((2, vocabulary)) < 0.3
    return text, reaches(text, WINDOW, (after, before))[0]


def against_dense() -> None:
    """The same numbers both ways, at a size that a dense table has room for."""
    print(f"\ninformation gain of the right context, window {WINDOW}, against a dense table\n")
    print(
        f"{'tokens':>10}  {'vocabulary':>10}  {'dense s':>8}  {'ours s':>7}  {'ratio':>6}  largest"
    )
    for tokens, vocabulary in ((300_000, 1000), (300_000, 3000), (1_000_000, 3000)):
        text, side = made(tokens, vocabulary)
        ways = {
            "dense": lambda text=text, side=side: dense_gain(text, side),
            "ours": lambda text=text, side=side: context_sums(text, (side,)).gain,
        }
        seconds = medians(ways, 3)
        error = np.nanmax(np.abs(ways["dense"]() - ways["ours"]()))
        print(
            f"{tokens:>10,}  {vocabulary:>10,}  {seconds['dense']:>8.2f}  {seconds['ours']:>7.2f}  "
            f"{seconds['dense'] / seconds['ours']:>5.2f}x  {error:.0e} nats",
            flush=True,
        )


def growth(most: int) -> None:
    """Seconds of one side as tokens and vocabulary grow, then of all that the command counts."""
    print(
        "\ngrowth: one side with equal counts, all columns, and all with one of --oyama's shuffles"
    )
    print(f"\n{'tokens':>10}  {'vocabulary':>10}  {'one side s':>10}  {'M pairs/s':>9}  ", end="")
    print(f"{'all s':>6}  {'oyama s':>7}  {'GB so far':>9}")
    sizes = [size for size in (100_000, 1_000_000, 10_000_000) if size <= most]
    for vocabulary in (5000, VOCABULARY):
        for tokens in sizes:
            text, side = made(tokens, vocabulary)
            whole = np.zeros(vocabulary, bool), np.zeros(vocabulary, bool)
            settings = InformationSettings(WINDOW)
            shuffled = InformationSettings(WINDOW, oyama=True, shuffles=1)
            seconds = medians(
                {
                    "side": lambda t=text, s=side, m=settings.equal_pairs: context_sums(t, (s,), m),
                    "all": lambda t=text, w=whole, s=settings: information_columns(t, w, s),
                    "oyama": lambda t=text, w=whole, s=shuffled: information_columns(t, w, s),
                },
                3 if tokens < 10_000_000 else 1,
            )
            pairs = context_sums(text, (side,)).pairs.sum() / seconds["side"] / 1e6
            print(
                f"{tokens:>10,}  {vocabulary:>10,}  {seconds['side']:>10.2f}  {pairs:>9.1f}  "
                f"{seconds['all']:>6.2f}  {seconds['oyama']:>7.2f}  {_peak_gigabytes():>9.2f}",
                flush=True,
            )


def _peak_gigabytes() -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tokens", type=int, default=1_000_000)
    most = parser.parse_args().tokens
    counting()
    against_dense()
    growth(most)


if __name__ == "__main__":
    main()
