import json
import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from dynamics.corpus.counts import check_tokenizer, count_documents, count_stream, read_counts
from dynamics.corpus.information.settings import InformationSettings
from dynamics.corpus.tokenizers.kinds import surfaces_and_kinds, token_kinds, word_edges
from dynamics.corpus.tokenizers.loading import tokenize, tokenizer_sha256, train_tokenizer
from dynamics.corpus.tokens import StreamSettings, open_stream, write_stream
from dynamics.errors import CorpusError, MismatchError
from tests.corpus import slow_information
from tests.corpus.odd_tokenizers import bpe, byte_level, fast, word_piece

COUNT = """
import sys
from pathlib import Path
from dynamics.corpus.counts import count_stream
from dynamics.corpus.tokenizers.loading import train_tokenizer
from dynamics.corpus.tokens import StreamSettings, write_stream
folder, *story = sys.argv[1:]
tokenizer = train_tokenizer(story, 300)
stream = write_stream(Path(folder), story, tokenizer, StreamSettings(9, seed=1))
count_stream(stream, tokenizer).write(Path(folder) / "counts.parquet")
"""


def read_in_chunks(monkeypatch, tokens):
    """Have all corpora read `tokens` ids at a time."""
    for module in ("counts", "source_order"):
        monkeypatch.setattr(f"dynamics.corpus.{module}.TOKENS_PER_CHUNK", tokens)


def letters():
    """A tokenizer of one token per letter, `e` ending documents."""
    backend = Tokenizer(models.WordLevel({name: i for i, name in enumerate("eabcd")}))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="e")


def slowly(flat, source_order, rows=300):
    """count, first_seen and document_count with dictionaries."""
    count, holders, document = Counter(flat), Counter(), set()
    for token in source_order:
        document.add(token)
        if token == 0:
            holders.update(document)
            document = set()
    holders.update(document)
    first = {token: flat.index(token) for token in count}
    ids = range(rows)
    return [count[i] for i in ids], [first.get(i, -1) for i in ids], [holders[i] for i in ids]


def columns(counts):
    return [counts.table[name].tolist() for name in ("count", "first_seen", "document_count")]


def source_order(story, tokenizer):
    return [i for piece in tokenize(story, tokenizer) for i in [*piece.ids, 0]]


@pytest.fixture(scope="module")
def stream(tmp_path_factory, story, tokenizer):
    folder = tmp_path_factory.mktemp("training")
    return write_stream(folder, story, tokenizer, StreamSettings(9, seed=1))


@pytest.mark.parametrize("chunk", [1, 25, 1 << 18])
def test_a_stream_of_ours(stream, story, tokenizer, monkeypatch, chunk):
    read_in_chunks(monkeypatch, chunk)
    counts = count_stream(stream, tokenizer)
    flat = stream.ids.reshape(-1).tolist()
    assert columns(counts) == list(slowly(flat, source_order(story, tokenizer)[: len(flat)]))
    assert counts.table.columns.tolist() == [
        "token_id",
        "token",
        "count",
        "document_count",
        "first_seen",
        "kind",
    ]
    assert counts.table["token_id"].tolist() == list(range(300))
    assert counts.table["token"].tolist() == surfaces_and_kinds(tokenizer)[0]
    assert counts.table["kind"].tolist() == token_kinds(tokenizer)
    assert counts.info.corpus_digest == stream.info.corpus_digest
    assert counts.info.tokenizer_sha256 == tokenizer_sha256(tokenizer)
    assert counts.info.tokens_counted == len(flat) == counts.table["count"].sum()
    assert (counts.info.vocab_size, counts.info.window) == (300, None)


@settings(deadline=None, derandomize=True, max_examples=40)
@given(
    st.lists(st.text("abcd", min_size=1, max_size=12), min_size=2, max_size=8),
    st.integers(1, 3),
    st.integers(0, 3),
    st.integers(1, 9),
    st.floats(0, 0.9),
)
def test_rows_held_out_are_not_counted_but_end_documents(
    tmp_path_factory, documents, sequence_length, seed, chunk, share
):
    """Against the rows of the corpus one by one, those held out skipped over."""
    tokenizer = letters()
    flat = source_order(documents, tokenizer)
    rows = len(flat) // (sequence_length + 1)
    held_out = int(share * rows)
    if held_out == 0:
        return
    folder = tmp_path_factory.mktemp("training")
    shape = StreamSettings(sequence_length, seed, held_out_rows=held_out)
    stream = write_stream(folder, documents, tokenizer, shape)
    trained = np.random.default_rng(seed).permutation(rows)[: rows - held_out].tolist()
    holders = [set() for _ in range(5)]
    ended = 0
    for place, token in enumerate(flat[: rows * (sequence_length + 1)]):
        if place // (sequence_length + 1) in trained:
            holders[token].add(ended)
        ended += token == 0
    with pytest.MonkeyPatch.context() as patch:
        read_in_chunks(patch, chunk)
        count, first, documents_of = columns(count_stream(stream, tokenizer))
    ids = stream.ids.reshape(-1).tolist()
    assert documents_of == [len(each) for each in holders]
    assert [count, first] == list(slowly(ids, ids, rows=5))[:2]


@settings(deadline=None, derandomize=True, max_examples=40)
@given(
    st.lists(st.text("abcd", min_size=1, max_size=12), min_size=1, max_size=8),
    st.integers(1, 5),
    st.integers(0, 3),
    st.integers(1, 9),
)
def test_any_stream_of_ours(tmp_path_factory, documents, sequence_length, seed, chunk):
    tokenizer = letters()
    flat = source_order(documents, tokenizer)
    folder = tmp_path_factory.mktemp("training")
    if len(flat) <= sequence_length:
        return
    stream = write_stream(folder, documents, tokenizer, StreamSettings(sequence_length, seed))
    kept = flat[: stream.rows * (sequence_length + 1)]
    with pytest.MonkeyPatch.context() as patch:
        read_in_chunks(patch, chunk)
        counts = count_stream(stream, tokenizer)
        assert columns(counts) == list(slowly(stream.ids.reshape(-1).tolist(), kept, rows=5))
        whole = count_documents(documents, tokenizer)
    count, first, holders = slowly([i for i in flat if i], flat, rows=5)
    assert columns(whole) == [count, first, [0, *holders[1:]]]


def test_a_stream_of_others(tmp_path, tokenizer):
    ids = np.random.default_rng(0).integers(0, 20, 10_000).astype("<u2")
    ids.tofile(tmp_path / "train.bin")
    stream = open_stream(tmp_path / "train.bin", sequence_length=9)
    counts = count_stream(stream, tokenizer)
    assert columns(counts) == list(slowly(ids.tolist(), ids.tolist()))
    assert counts.info.corpus_digest == stream.digest


def slow_columns(ids, pieces, tokenizer, settings):
    """Information gain to the right and to the left, of all pairs, with dictionaries."""
    words = slow_information.word_numbers(ids, pieces, *word_edges(tokenizer))
    return {
        f"information_gain_{name}_all": slow_information.per_token(
            300,
            slow_information.pairs(ids, pieces, words, settings.window, side),
            lambda contexts: slow_information.gain(contexts, ids),
        )
        for name, side in (("right", 1), ("left", -1))
    }


def pieces_of(ids, end=0):
    """Number of the document of each id; the end of the text belongs to what it ends."""
    return np.cumsum([0, *(np.array(ids) == end)])[:-1].tolist()


def assert_information(counts, expected):
    for name, values in expected.items():
        np.testing.assert_allclose(counts.table[name], values, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("chunk", [25, 1 << 18])
def test_information_gain_of_a_stream_of_ours_is_of_the_text(
    stream, story, tokenizer, monkeypatch, chunk
):
    read_in_chunks(monkeypatch, chunk)
    settings_ = InformationSettings(4, oyama=True, shuffles=2, seed=3)
    counts = count_stream(stream, tokenizer, vocab_size=300, information=settings_)
    ids = source_order(story, tokenizer)[: stream.ids.size]
    assert_information(counts, slow_columns(ids, pieces_of(ids), tokenizer, settings_))
    info = counts.info
    assert (info.window, info.pairs, info.shuffles, info.information_seed) == (4, 32, 2, 3)
    pd.testing.assert_frame_equal(
        count_stream(stream, tokenizer, information=settings_).table, counts.table
    )
    pd.testing.assert_frame_equal(
        counts.table[count_stream(stream, tokenizer).table.columns],
        count_stream(stream, tokenizer).table,
    )


def test_information_gain_of_documents(story, tokenizer, monkeypatch):
    settings_ = InformationSettings(3)
    counts = count_documents(story, tokenizer, information=settings_)
    documents = [piece.ids for piece in tokenize(story, tokenizer)]
    ids = [i for document in documents for i in document]
    pieces = [at for at, document in enumerate(documents) for _ in document]
    assert_information(counts, slow_columns(ids, pieces, tokenizer, settings_))
    info = counts.info
    assert (info.window, info.pairs, info.shuffles, info.information_seed) == (3, 24, None, None)
    read_in_chunks(monkeypatch, 1)
    again = count_documents(story, tokenizer, information=settings_)
    pd.testing.assert_frame_equal(again.table, counts.table)


@pytest.mark.parametrize("chunk", [10, 30, 1 << 18])
@pytest.mark.parametrize("contiguous", [False, True])
@pytest.mark.parametrize("file", ["pythia.bin", "olmo.npy"])
def test_information_gain_of_a_stream_of_others(
    tmp_path, tokenizer, monkeypatch, chunk, contiguous, file
):
    read_in_chunks(monkeypatch, chunk)
    ids = np.random.default_rng(0).integers(0, 20, 1005).astype("<u2")
    if file == "olmo.npy":
        np.save(tmp_path / file, ids)
    else:
        ids.tofile(tmp_path / file)
    stream = open_stream(tmp_path / file, sequence_length=9)
    settings_ = InformationSettings(3)
    counts = count_stream(stream, tokenizer, information=settings_, contiguous=contiguous)
    kept = ids[:1000].tolist()
    rows = [0 if contiguous else at // 10 for at in range(1000)]
    pieces = [piece + row for piece, row in zip(pieces_of(kept), rows, strict=True)]
    assert_information(counts, slow_columns(kept, pieces, tokenizer, settings_))
    counts.write(tmp_path / "counts.parquet")
    assert read_counts(tmp_path / "counts.parquet").info.contiguous is contiguous
    assert count_stream(stream, tokenizer, contiguous=contiguous).info.contiguous is None


def test_a_stream_of_another_tokenizer_has_no_information_gain(stream, story):
    with pytest.raises(MismatchError, match="made with tokenizer"):
        count_stream(stream, train_tokenizer(story, 299), information=InformationSettings())


def test_counts_with_information_gain_are_read_back(stream, tokenizer, tmp_path):
    counts = count_stream(stream, tokenizer, information=InformationSettings(2))
    counts.write(tmp_path / "counts.parquet")
    read = read_counts(tmp_path / "counts.parquet")
    pd.testing.assert_frame_equal(read.table, counts.table)
    assert read.info == counts.info


def test_counts_from_before_information_gain_are_read(stream, tokenizer, tmp_path):
    counts = count_stream(stream, tokenizer)
    counts.write(tmp_path / "counts.parquet")
    table = pq.read_table(tmp_path / "counts.parquet")
    info = json.loads(table.schema.metadata[b"dynamics.counts"])
    for name in ("pairs", "shuffles", "information_seed", "contiguous"):
        assert info.pop(name) is None
    older = table.replace_schema_metadata({b"dynamics.counts": json.dumps(info)})
    pq.write_table(older, tmp_path / "older.parquet")
    assert read_counts(tmp_path / "older.parquet").info == counts.info


def test_documents_unknown_are_null(tmp_path):
    backend = Tokenizer(models.WordLevel({"a": 0, "b": 1}))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    np.array([0, 1, 1], "<u2").tofile(tmp_path / "train.bin")
    counts = count_stream(open_stream(tmp_path / "train.bin", sequence_length=2), tokenizer)
    assert counts.table["document_count"].isna().all()
    assert counts.table["count"].tolist() == [1, 2]
    counts.write(tmp_path / "counts.parquet")
    pd.testing.assert_frame_equal(read_counts(tmp_path / "counts.parquet").table, counts.table)


def test_rows_of_the_model_beyond_the_tokenizer_are_kept(stream, tokenizer, story):
    for counts in (
        count_stream(stream, tokenizer, vocab_size=320),
        count_documents(story, tokenizer, vocab_size=320),
    ):
        beyond = counts.table[300:]
        assert len(counts.table) == counts.info.vocab_size == 320
        assert set(beyond["kind"]) == {"padding"}
        assert not beyond["count"].any() and not beyond["document_count"].any()
        assert (beyond["first_seen"] == -1).all()
    with pytest.raises(MismatchError, match="has 300 entries, the vocabulary only 299 rows"):
        count_stream(stream, tokenizer, vocab_size=299)


def test_file_holds_what_was_counted(stream, tokenizer, tmp_path):
    counts = count_stream(stream, tokenizer, vocab_size=310)
    counts.write(tmp_path / "counts.parquet")
    read = read_counts(str(tmp_path / "counts.parquet"))
    pd.testing.assert_frame_equal(read.table, counts.table)
    assert read.info == counts.info and read.name.endswith("counts.parquet")
    metadata = pq.read_schema(tmp_path / "counts.parquet").metadata
    assert list(metadata) == [b"dynamics.counts"]
    assert json.loads(metadata[b"dynamics.counts"])["tokens_counted"] == counts.info.tokens_counted
    assert [path.name for path in tmp_path.iterdir()] == ["counts.parquet"]


def test_bytes_are_the_same_in_every_process(tmp_path, story):
    written = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", COUNT, str(tmp_path / seed), *story]
        subprocess.run(command, env=environment, check=True)
        written.add((tmp_path / seed / "counts.parquet").read_bytes())
    assert len(written) == 1


def test_markup_survives(tmp_path):
    tokenizer = train_tokenizer(["<script>" * 20], 262)
    counts = count_documents(["<script>alert(1)</script>"], tokenizer)
    counts.write(tmp_path / "counts.parquet")
    table = read_counts(tmp_path / "counts.parquet").table.set_index("token")
    assert any("<s" in token or "script" in token for token in table.index[table["count"] > 0])
    assert table["count"].sum() == counts.info.tokens_counted


def test_counts_of_one_tokenizer_are_not_joined_with_another(stream, tokenizer, story, tmp_path):
    other = train_tokenizer(story, 299)
    ours, theirs = tokenizer_sha256(tokenizer), tokenizer_sha256(other)
    with pytest.raises(MismatchError, match=f"made with tokenizer {ours[:12]}, .* {theirs[:12]};"):
        count_stream(stream, other)
    count_stream(stream, tokenizer).write(tmp_path / "c.parquet")
    counts = read_counts(tmp_path / "c.parquet")
    check_tokenizer(counts, ours, "pythia-14m")
    with pytest.raises(
        MismatchError,
        match=rf"c.parquet was counted with tokenizer {ours[:12]}, but pythia-14m has tokenizer "
        rf"{theirs[:12]}; count again with the tokenizer of pythia-14m",
    ):
        check_tokenizer(counts, theirs, "pythia-14m")


def test_an_id_beyond_the_vocabulary(tmp_path, tokenizer):
    np.array([1, 300, 2], "<u2").tofile(tmp_path / "train.bin")
    stream = open_stream(tmp_path / "train.bin", sequence_length=2)
    with pytest.raises(CorpusError, match=r"train.bin holds the id 300, but .* has 300 entries"):
        count_stream(stream, tokenizer)
    assert count_stream(stream, tokenizer, vocab_size=301).table["count"][300] == 1


def test_what_a_tokenizer_loses_is_refused_said_and_recorded():
    tokenizer = fast(bpe(["a", "b"]), pre_tokenizer=pre_tokenizers.Whitespace())
    documents, said = ["ab Ü", "a\n\na é"], []
    with pytest.raises(
        CorpusError, match=r"^33\.3 % of the characters that are not white space became"
    ):
        count_documents(documents, tokenizer)
    counts = count_documents(documents, tokenizer, allow_loss=True, report=said.append)
    assert counts.table["count"].tolist() == [3, 1]
    assert counts.info.lost_share == pytest.approx(2 / 6) and counts.info.unknown_share == 0
    assert len(said) == 1 and said[0].endswith("became no token, most often 'Ü', 'é'")
    with pytest.raises(CorpusError, match="the tokenizer makes no token of the text; give another"):
        count_documents(["é"], tokenizer, allow_loss=True)
    with pytest.raises(CorpusError, match=r"^100 % of"):
        count_documents(["é"], tokenizer)


def test_less_than_a_percent_that_is_lost_is_said(tmp_path):
    tokenizer = fast(bpe(["a", "b"]), pre_tokenizer=pre_tokenizers.Whitespace())
    said = []
    counts = count_documents(["ab" * 60, "é"], tokenizer, report=said.append)
    assert said == [
        "0.826 % of the characters that are not white space became no token, most often 'é'"
    ]
    counts.write(tmp_path / "c.parquet")
    assert read_counts(tmp_path / "c.parquet").info.lost_share == 1 / 121


def test_text_behind_the_unknown_token_is_said_and_counted():
    tokenizer = fast(word_piece(["the"]), pre_tokenizer=pre_tokenizers.Whitespace())
    said = []
    counts = count_documents(["the cat the"], tokenizer, report=said.append)
    assert counts.table["count"].tolist() == [1, 2]
    assert (counts.info.lost_share, counts.info.unknown_share) == (0, 3 / 9)
    assert said[0].startswith(
        "33.3 % of the characters that are not white space became the unknown"
    )


@pytest.mark.parametrize(
    "marks", [{"end_of_word_suffix": "</w>"}, {"continuing_subword_prefix": "##"}]
)
def test_a_token_that_occurs_is_never_unreachable(marks, story):
    backend = Tokenizer(models.BPE(unk_token="[UNK]", **marks))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["[UNK]"], show_progress=False, **marks
    )
    backend.train_from_iterator(story, trainer)
    counts = count_documents(story, PreTrainedTokenizerFast(tokenizer_object=backend))
    occurring = counts.table[counts.table["count"] > 0]
    assert len(occurring) > 50 and set(occurring["kind"]) <= {"word_start", "continuation"}
    assert counts.info.word_end_suffix == marks.get("end_of_word_suffix")
    assert counts.info.continuation_prefix == marks.get("continuing_subword_prefix")


def test_what_occurs_in_a_stream_is_not_unreachable_however_it_came_there(tmp_path):
    tokenizer = byte_level(["a", "b", "ab"])  # no merge makes "ab"
    assert token_kinds(tokenizer)[2] == "unreachable"
    np.array([2, 0, 2], "<u2").tofile(tmp_path / "train.bin")
    counts = count_stream(open_stream(tmp_path / "train.bin", sequence_length=2), tokenizer)
    assert counts.table["kind"].tolist() == ["continuation"] * 3


def test_a_stream_loses_special_entries_that_no_row_has(tmp_path):
    tokenizer = byte_level(["a", "b"], special=["<pad>"])
    np.array([1, 0, 1], "<u2").tofile(tmp_path / "train.bin")
    stream, said = open_stream(tmp_path / "train.bin", sequence_length=2), []
    counts = count_stream(stream, tokenizer, vocab_size=2, report=said.append)
    assert counts.table["count"].tolist() == [1, 2] and "the last 1 ('<pad>')" in said[0]


def test_no_text(tokenizer):
    with pytest.raises(CorpusError, match="there is no text to count; give a corpus that has some"):
        count_documents([], tokenizer)


def test_what_is_no_counts_file(tmp_path):
    with pytest.raises(CorpusError, match=r"there are no counts .*x\.parquet; make them with `dyn"):
        read_counts(tmp_path / "x.parquet")
    (tmp_path / "x.parquet").write_bytes(b"nothing")
    with pytest.raises(CorpusError, match=r"x\.parquet is not a file of counts"):
        read_counts(tmp_path / "x.parquet")
    pq.write_table(pa.table({"count": [1]}), tmp_path / "x.parquet")
    with pytest.raises(CorpusError, match=r"x\.parquet is not a file of counts"):
        read_counts(tmp_path / "x.parquet")
