from collections import Counter

import numpy as np
import pytest
from scipy import stats

from dynamics.corpus.counts import read_counts
from dynamics.corpus.public.sample import SampleSettings, counts_of, draw_sample, load_sample
from dynamics.corpus.public.sample_blocks import BlockCounts
from dynamics.errors import CorpusError, OutputError
from tests.corpus.fake_streams import bursts, in_shards

VOCABULARY = 12


def drawn(stream, tokens, seed=0, block_rows=2):
    return draw_sample(stream, SampleSettings(tokens, block_rows, seed))


def counted(stream, folder, sample, **settings):
    blocks = BlockCounts(folder, sample)
    blocks.fetch(stream, VOCABULARY, **settings)
    return blocks.totals(VOCABULARY)


@pytest.fixture(scope="module")
def clustered():
    """Rows of 40 tokens, in which those of one kind come together."""
    return bursts(np.random.default_rng(5), 1600, 40, VOCABULARY)


def test_every_block_is_as_likely_as_any_other():
    stream = in_shards(np.zeros((21, 3)))  # 10 blocks, and a row that fills none
    drawings = [drawn(stream, 24, seed).starts for seed in range(4000)]
    assert all(len(set(starts)) == 4 and starts == sorted(starts) for starts in drawings)
    times = Counter(start for starts in drawings for start in starts)
    assert sorted(times) == list(range(0, 20, 2))
    assert stats.chisquare([*times.values()]).pvalue > 0.001


def test_blocks_are_spread():
    stream = in_shards(np.zeros((2000, 3)))  # 1000 blocks in 10 strata
    for seed in range(50):
        gaps = np.diff(drawn(stream, 60, seed).starts)
        assert gaps.max() < 2 * 2 * 100


def test_enough_tokens_and_whole_blocks():
    stream = in_shards(np.zeros((100, 7)))
    assert len(drawn(stream, 28).starts) == 2
    assert len(drawn(stream, 29).starts) == 3
    assert drawn(stream, 10**9).starts == list(range(0, 100, 2))
    assert drawn(stream, 1, block_rows=500).blocks == [(0, 100)]
    assert drawn(stream, 140, seed=1) == drawn(stream, 140, seed=1) != drawn(stream, 140, seed=2)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [(0, "must be at least 1"), (14, "is one block of 2 rows of 7, and one block has")],
)
def test_too_small_a_sample(tokens, message):
    with pytest.raises(CorpusError, match=message):
        drawn(in_shards(np.zeros((100, 7))), tokens)


def test_counts_and_errors_as_from_the_blocks_themselves(tmp_path, clustered):
    stream = in_shards(clustered, [997, 12_345, 12_346])
    sample = drawn(stream, 2400)
    count, error = counted(stream, tmp_path, sample)
    blocks = [clustered[start:stop].reshape(-1) for start, stop in sample.blocks]
    shares = np.array([np.bincount(block, minlength=VOCABULARY) for block in blocks]) / 80
    assert count.tolist() == np.bincount(np.concatenate(blocks), minlength=VOCABULARY).tolist()
    expected = shares.std(axis=0, ddof=1) / 30**0.5 * (1 - 30 / 800) ** 0.5
    assert np.allclose(error, expected, rtol=1e-12)


def test_without_bias_and_with_the_error_it_states(tmp_path, clustered):
    """95 % intervals hold the truth in 95 % of the samples; those of independent tokens do not."""
    stream = in_shards(clustered)
    truth = np.bincount(clustered.reshape(-1)) / clustered.size
    n, samples = 48, 150
    shares, errors = [], []
    for seed in range(samples):
        count, error = counted(stream, tmp_path, drawn(stream, n * 160, seed, 4))
        shares.append(count / count.sum())
        errors.append(error)
    shares, errors = np.array(shares), np.array(errors)
    of_mean = shares.std(axis=0, ddof=1) / samples**0.5
    assert np.abs((shares.mean(axis=0) - truth) / of_mean).max() < 3.5
    assert errors.mean(axis=0) == pytest.approx(shares.std(axis=0, ddof=1), rel=0.2)
    off = np.abs(shares - truth)
    assert 0.93 < (off < stats.t.ppf(0.975, n - 1) * errors).mean() < 0.97
    naive = np.sqrt(shares * (1 - shares) / (n * 160))
    assert (off < 1.96 * naive).mean() < 0.75


def test_of_all_of_it_there_is_no_sampling_error(tmp_path):
    stream = in_shards(np.arange(40).reshape(10, 4) % 5)
    count, error = counted(stream, tmp_path, drawn(stream, 10**6))
    assert count.tolist() == [8] * 5 + [0] * 7
    assert error.tolist() == [0] * VOCABULARY


def test_one_block_that_is_all_of_it(tmp_path):
    stream = in_shards(np.arange(40).reshape(10, 4) % 5)
    _, error = counted(stream, tmp_path, drawn(stream, 10**6, block_rows=10))
    assert error.tolist() == [0] * VOCABULARY


@pytest.mark.parametrize("workers", [1, 4])
def test_what_was_read_is_not_read_again(tmp_path, clustered, workers):
    stream = in_shards(clustered)
    (shard,) = stream.shards
    sample = drawn(stream, 20 * 80)
    shard.fail_after = 7
    with pytest.raises(Exception, match=r"0.bin: gone"):
        counted(stream, tmp_path, sample, workers=workers)
    shard.fail_after = float("inf")
    progress = []
    interrupted = counted(
        stream, tmp_path, sample, workers=workers, on_progress=lambda *done: progress.append(done)
    )
    assert progress == [(done, 20) for done in range(7, 21)]
    assert len(shard.reads) == len(set(shard.reads)) == 20
    assert np.array_equal(interrupted, counted(stream, tmp_path, sample), equal_nan=True)
    assert len(shard.reads) == 20
    assert np.array_equal(interrupted, counted(stream, tmp_path / "other", sample), equal_nan=True)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_block_is_read_again(tmp_path, clustered, damage):
    stream = in_shards(clustered)
    sample = drawn(stream, 5 * 80)
    before = counted(stream, tmp_path, sample)
    path = sorted(tmp_path.rglob("*.npz"))[2]
    content = bytearray(path.read_bytes())
    content[60] ^= 255
    whole = {"cut": bytes(content[:100]), "flipped": bytes(content), "empty": b""}
    path.write_bytes(whole[damage])
    assert BlockCounts(tmp_path, sample).missing() == [sample.blocks[2]]
    assert np.array_equal(before, counted(stream, tmp_path, sample), equal_nan=True)
    assert len(stream.shards[0].reads) == 6


def test_blocks_of_another_stream_are_not_taken(tmp_path, clustered):
    counted(in_shards(clustered), tmp_path, drawn(in_shards(clustered), 400))
    other = in_shards(clustered[::-1])
    sample = drawn(other, 400)
    assert len(BlockCounts(tmp_path, sample).missing()) == 5


def test_ids_beyond_the_vocabulary(tmp_path):
    stream = in_shards([[0, 1, 2], [3, 40_000, 5]] * 10)
    message = "org/stream@c0 holds the id 40000, but the vocabulary has 12 entries"
    with pytest.raises(CorpusError, match=message):
        counted(stream, tmp_path, drawn(stream, 20))
    assert not list(tmp_path.rglob("*.npz"))
    blocks = BlockCounts(tmp_path, sample := drawn(stream, 20))
    blocks.fetch(stream, 50_000)
    with pytest.raises(CorpusError, match=message):
        BlockCounts(tmp_path, sample).totals(VOCABULARY)


def test_a_folder_that_cannot_be_written_to(tmp_path, clustered):
    (tmp_path / "file").write_text("in the way")
    stream = in_shards(clustered)
    with pytest.raises(OutputError, match=r"cannot be written .*; free space, or give another"):
        counted(stream, tmp_path / "file", drawn(stream, 400))


def test_as_counts(tmp_path, tokenizer):
    ids = np.random.default_rng(1).integers(2, 290, (60, 9))
    stream = in_shards(ids, [101, 777])
    sample = drawn(stream, 200, seed=3, block_rows=4)
    BlockCounts(tmp_path, sample).fetch(stream, 320)
    counts = counts_of(sample, tmp_path, tokenizer, vocab_size=320)
    counts.write(tmp_path / "counts.parquet")
    read = read_counts(tmp_path / "counts.parquet")
    assert read.info == counts.info
    assert read.table.equals(counts.table)
    info, table = counts.info, counts.table
    assert (info.sampled_from, info.blocks, info.block_rows, info.seed) == (
        "org/stream@c0",
        6,
        4,
        3,
    )
    assert (info.tokens_counted, info.stream_tokens) == (6 * 4 * 9, 540)
    assert info.corpus_digest == stream.digest
    assert table["count"].sum() == 216
    assert table["relative_frequency"].sum() == pytest.approx(1)
    assert table["relative_frequency_se"].isna().tolist() == (table["count"] == 0).tolist()
    assert table["document_count"].isna().all()
    assert (table["first_seen"] == -1).all()
    assert set(table["kind"][300:]) == {"padding"}
    sample.save(tmp_path / "sample.json")
    assert load_sample(tmp_path / "sample.json") == sample
    (tmp_path / "sample.json").write_text('{"seed": 3}')
    assert load_sample(tmp_path / "sample.json") is None
