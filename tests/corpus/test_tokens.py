import hashlib
import json
from dataclasses import replace
from itertools import cycle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dynamics.corpus.documents.corpus_digest import CorpusDigest
from dynamics.corpus.tokenizers.loading import tokenizer_sha256
from dynamics.corpus.tokens import (
    StreamInfo,
    StreamSettings,
    TokenStream,
    open_held_out,
    open_stream,
    write_stream,
)
from dynamics.errors import CorpusError


def flat_ids(tokenizer, documents):
    """The stream before cutting, without our batching: one document at a time."""
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.encode_special_tokens = True
    return [i for text in documents for i in [*backend.encode(text).ids, 0]]


SHAPE = StreamSettings(sequence_length=15, seed=3)


@pytest.fixture
def stream(tmp_path, story, tokenizer):
    return write_stream(tmp_path, story, tokenizer, SHAPE, source="a story")


def test_rows_are_the_corpus_in_permuted_order(stream, story, tokenizer):
    flat = flat_ids(tokenizer, story)
    rows = len(flat) // 16
    expected = [
        flat[16 * row : 16 * row + 16] for row in np.random.default_rng(3).permutation(rows)
    ]
    assert stream.rows == rows and stream.sequence_length == 15
    assert stream.ids.tolist() == expected
    raw = stream.path.read_bytes()
    assert [int.from_bytes(raw[i : i + 2], "little") for i in range(0, 32, 2)] == expected[0]
    assert isinstance(stream.ids, np.memmap)


def test_what_it_holds_is_told(stream, story, tokenizer):
    framed = hashlib.sha256()
    for text in story:
        framed.update(len(text.encode()).to_bytes(8, "little"))
        framed.update(text.encode())
    assert json.loads((stream.path.parent / "tokens.json").read_text()) == {
        "dtype": "<u2",
        "rows": stream.rows,
        "sequence_length": 15,
        "tokenizer_sha256": tokenizer_sha256(tokenizer),
        "vocab_size": 300,
        "end_of_text_id": 0,
        "seed": 3,
        "row_order": "permuted by numpy default_rng(seed)",
        "source": "a story",
        "documents": len(story),
        "corpus_digest": framed.hexdigest(),
        "tokens_sha256": hashlib.sha256(stream.path.read_bytes()).hexdigest(),
        "held_out_rows": 0,
        "held_out_sha256": None,
        "twins": None,
        "twin_shares": None,
    }
    assert stream.digest == stream.info.tokens_sha256
    assert sorted(path.name for path in stream.path.parent.iterdir()) == [
        "tokens.bin",
        "tokens.json",
    ]


def test_moving_a_boundary_changes_the_digest():
    digests = []
    for documents in (["ab", "c"], ["a", "bc"], ["abc"]):
        digest = CorpusDigest()
        for document in documents:
            digest.add(document)
        digests.append(digest.hexdigest())
    assert len(set(digests)) == 3


def test_writing_again_gives_the_same_bytes(stream, tmp_path, story, tokenizer):
    write_stream(tmp_path / "again", iter(story), tokenizer, SHAPE, source="a story")
    for name in ("tokens.bin", "tokens.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / name).read_bytes()
    other = write_stream(tmp_path / "other", story, tokenizer, StreamSettings(15, seed=4))
    assert sorted(other.ids.tolist()) == sorted(stream.ids.tolist())
    assert other.ids.tolist() != stream.ids.tolist()


def test_held_out_rows_are_the_last_of_the_permutation(stream, tmp_path, story, tokenizer):
    assert open_held_out(tmp_path) is None
    kept = write_stream(tmp_path / "t", story, tokenizer, replace(SHAPE, held_out_rows=5))
    held_out = open_held_out(tmp_path / "t")
    assert [*kept.ids.tolist(), *held_out.ids.tolist()] == stream.ids.tolist()
    assert (kept.rows, held_out.rows) == (stream.rows - 5, 5)
    assert held_out.sequence_length == 15 and held_out.info.vocab_size == 300
    written = (tmp_path / "t" / "held_out.bin").read_bytes()
    assert held_out.digest == kept.info.held_out_sha256 == hashlib.sha256(written).hexdigest()
    assert kept.digest == hashlib.sha256(kept.path.read_bytes()).hexdigest()
    write_stream(tmp_path / "t", story, tokenizer, SHAPE)
    assert not (tmp_path / "t" / "held_out.bin").exists()
    assert open_held_out(tmp_path / "t") is None


def test_as_many_rows_held_out_as_there_are(stream, tmp_path, story, tokenizer):
    rows = stream.rows
    one = write_stream(tmp_path / "1", story, tokenizer, replace(SHAPE, held_out_rows=rows - 1))
    assert one.rows == 1
    message = rf"held_out_rows {rows} leaves none of the {rows} rows of 16 tokens to train on; hold"
    with pytest.raises(CorpusError, match=message):
        write_stream(tmp_path / "all", story, tokenizer, replace(SHAPE, held_out_rows=rows))
    assert not (tmp_path / "all").exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: file.unlink(), "held_out.bin is missing: tokens.json describes 2 held-out"),
        (lambda file: file.write_bytes(b"x" * 64), "held_out.bin is damaged: .*; restore it, or"),
    ],
)
def test_damage_to_held_out_rows_is_named(tmp_path, story, tokenizer, damage, message):
    write_stream(tmp_path, story, tokenizer, replace(SHAPE, held_out_rows=2))
    damage(tmp_path / "held_out.bin")
    with pytest.raises(CorpusError, match=message):
        open_held_out(tmp_path)
    assert open_stream(tmp_path).info.held_out_rows == 2


def test_a_stream_described_before_there_were_held_out_rows_opens(stream, tmp_path):
    described = json.loads((tmp_path / "tokens.json").read_text())
    old = {
        name: value
        for name, value in described.items()
        if not name.startswith(("held_out", "twin"))
    }
    (tmp_path / "tokens.json").write_text(json.dumps(old))
    assert open_stream(tmp_path).info == stream.info
    assert open_held_out(tmp_path) is None


@pytest.mark.parametrize("max_tokens", [16, 40, 100])
def test_max_tokens_cuts_the_text(tmp_path, story, tokenizer, max_tokens, monkeypatch):
    monkeypatch.setattr("dynamics.corpus.tokenizers.loading._BATCH_CHARACTERS", 200)
    shape = StreamSettings(7, seed=0, max_tokens=max_tokens)
    stream = write_stream(tmp_path, cycle(story), tokenizer, shape)
    flat = flat_ids(tokenizer, story)[:max_tokens]
    assert sorted(stream.ids.tolist()) == sorted(
        flat[i : i + 8] for i in range(0, max_tokens // 8 * 8, 8)
    )
    read = stream.info.documents
    before = len(flat_ids(tokenizer, story[: read - 1]))
    assert before < max_tokens <= len(flat_ids(tokenizer, story[:read]))


def test_large_vocabularies_take_four_bytes(tmp_path):
    vocabulary = {f"w{i}": i for i in range(70_000)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, sep_token="w1")
    stream = write_stream(tmp_path, ["w69999 w2"], tokenizer, StreamSettings(2, seed=0))
    assert stream.ids.tolist() == [[69_999, 2, 1]]
    assert stream.info.dtype == "<u4" and stream.path.stat().st_size == 12


def test_steps_walk_round_the_rows(stream):
    rows = stream.ids.tolist()
    for step in (0, 1, stream.rows, 10**6):
        expected = [rows[(step * 7 + i) % len(rows)] for i in range(7)]
        assert stream.rows_for_step(step, 7).tolist() == expected
    batch = stream.rows + 3
    assert stream.rows_for_step(1, batch).tolist() == [
        rows[(batch + i) % len(rows)] for i in range(batch)
    ]
    assert stream.passes(10, 7) == pytest.approx(70 / len(rows))


def test_opens_from_folder_and_file(stream):
    for path in (stream.path, str(stream.path.parent)):
        opened = open_stream(path)
        assert opened.info == stream.info and opened.ids.tolist() == stream.ids.tolist()
    with pytest.raises(ValueError, match="read-only"):
        opened.ids[0, 0] = 1


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda folder: (folder / "tokens.json").unlink(),
            "has no tokens.json beside it; give seq",
        ),
        (lambda folder: (folder / "tokens.bin").unlink(), "there is no token stream .*tokens.bin"),
        (lambda folder: (folder / "tokens.json").write_text("{"), "tokens.json is damaged"),
        (lambda folder: (folder / "tokens.json").write_text('{"a": 1}'), "tokens.json is damaged"),
        (
            lambda folder: (folder / "tokens.bin").open("ab").write(b"x") and None,
            r"is damaged: it has [\d,]+ bytes, tokens.json says [\d,]+; write it again",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_damage_is_named(stream, damage, message):
    damage(stream.path.parent)
    with pytest.raises(CorpusError, match=message):
        open_stream(stream.path.parent)


def test_a_stream_half_written_is_not_opened(stream, story, tokenizer, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("dynamics.corpus.tokens.sha256_file", killed)
    with pytest.raises(KeyboardInterrupt):
        write_stream(stream.path.parent, story, tokenizer, StreamSettings(31, seed=0))
    with pytest.raises(CorpusError, match="or write the stream again if writing was interrupted"):
        open_stream(stream.path.parent)


def test_text_that_is_not_enough(tmp_path, tokenizer):
    def write(documents):
        write_stream(tmp_path / "x", documents, tokenizer, StreamSettings(8, seed=0), source="here")

    with pytest.raises(CorpusError, match="there is no text in here; give one that has some"):
        write([])
    with pytest.raises(CorpusError, match=r"3 tokens do not fill one row of 9 \(sequence_length"):
        write(["qz"])
    assert not (tmp_path / "x").exists()


def test_a_tokenizer_must_end_documents(tmp_path):
    backend = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    with pytest.raises(
        CorpusError, match=r"neither an end-of-sentence nor a separator .* eos_token"
    ):
        write_stream(tmp_path, ["a"], tokenizer, StreamSettings(1, seed=0))


@settings(deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 65_535), min_size=3, max_size=60), st.integers(1, 20), st.booleans())
def test_streams_of_others(tmp_path_factory, ids, sequence_length, header):
    path = tmp_path_factory.mktemp("foreign") / "train.bin"
    values = np.array(ids, "<u2")
    with path.open("wb") as file:
        np.save(file, values) if header else file.write(values.tobytes())
    width = sequence_length + 1
    if len(ids) < width:
        with pytest.raises(CorpusError, match=f"expected integers for at least one row of {width}"):
            open_stream(path, sequence_length=sequence_length)
        return
    stream = open_stream(path, sequence_length=sequence_length)
    rows = len(ids) // width
    assert stream.ids.tolist() == [ids[width * i : width * (i + 1)] for i in range(rows)]
    assert stream.info == StreamInfo("<u2", rows, sequence_length)
    assert stream.digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_dtype_of_others(tmp_path):
    path = tmp_path / "part.npy"
    np.array([1, 100_000, 3], "<u4").tofile(path)
    stream = open_stream(path, dtype="uint32", sequence_length=2)
    assert isinstance(stream, TokenStream) and stream.ids.tolist() == [[1, 100_000, 3]]
    with pytest.raises(CorpusError, match=r"part.npy cannot be read as tokens: "):
        open_stream(path, dtype="tokens", sequence_length=2)
    with pytest.raises(CorpusError, match=r"holds 3 numbers of type float32, expected integers"):
        open_stream(path, dtype="float32", sequence_length=2)
    with pytest.raises(CorpusError, match=r"has no tokens\.json beside it; give sequence_length"):
        open_stream(path)
    (tmp_path / "empty.bin").touch()
    with pytest.raises(CorpusError, match=r"empty.bin is empty; expected integers"):
        open_stream(tmp_path / "empty.bin", sequence_length=2)
