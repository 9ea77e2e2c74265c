"""Streams in memory that are read like remote ones, and count what is read of them."""

import hashlib
import threading
from itertools import pairwise

import numpy as np

from dynamics.corpus.public.remote_stream import RemoteStream
from dynamics.errors import CheckpointError


class FakeShard:
    """Bytes; reading fails after `fail_after` reads."""

    def __init__(self, name, content):
        self.name = name
        self.content = content
        self.size = len(content)
        self.reads = []
        self.fail_after = float("inf")
        self._lock = threading.Lock()

    def read(self, start, stop):
        assert 0 <= start < stop <= self.size
        with self._lock:
            if len(self.reads) >= self.fail_after:
                raise CheckpointError(f"{self.name}: gone")
            self.reads.append((start, stop))
        return self.content[start:stop]


def in_shards(ids, borders=(), dtype="uint16", **settings):
    """A stream of an array of rows, cut into shards at any bytes."""
    content = np.asarray(ids).astype(np.dtype(dtype).newbyteorder("<")).tobytes()
    edges = [0, *sorted(borders), len(content)]
    parts = [content[a:b] for a, b in pairwise(edges) if a < b]
    shards = [FakeShard(f"{at}.bin", part) for at, part in enumerate(parts)]
    digest = hashlib.sha256(content).hexdigest()
    return RemoteStream("org/stream@c0", shards, dtype, np.shape(ids)[1], digest, **settings)


def bursts(rng, rows, row_length, vocab_size):
    """Rows of documents that each favour tokens of their own, some commoner as training goes on."""
    weights = 1 / np.arange(1, vocab_size + 1)
    ids = np.empty((rows, row_length), np.int64)
    for at in range(rows):
        late = np.where(np.arange(vocab_size) % 3 == 0, 1 + at / rows, 1)
        chances = weights * late * rng.gamma(0.3, size=vocab_size)
        ids[at] = rng.choice(vocab_size, row_length, p=chances / chances.sum())
    return ids
