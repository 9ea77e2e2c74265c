import gzip
import hashlib
import json
import lzma
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamics.corpus.counts import count_documents
from dynamics.corpus.documents import document_pieces, file_formats, large_text
from dynamics.corpus.documents.corpora import documents
from dynamics.corpus.documents.corpus_digest import CorpusDigest
from dynamics.corpus.documents.large_text import LargeText, parts_of
from dynamics.corpus.tokenizers import loading as tokenizing
from dynamics.corpus.tokenizers.loading import tokenizer_sha256, train_tokenizer
from dynamics.corpus.tokens import StreamSettings, write_stream
from dynamics.errors import CorpusError

PACK = {"": bytes, ".gz": lambda content: gzip.compress(content, mtime=0), ".xz": lzma.compress}


@pytest.fixture
def all_is_large(monkeypatch):
    """Everything is a large document, and cut into small pieces."""
    monkeypatch.setattr(file_formats, "_LARGE_FILE", 1)
    monkeypatch.setattr(file_formats, "HEAD_BYTES", 0)
    monkeypatch.setattr(tokenizing, "_LARGE_DOCUMENT", 1)
    monkeypatch.setattr(large_text, "PART_CHARACTERS", 7)
    monkeypatch.setattr(document_pieces, "PIECE_CHARACTERS", 20)
    monkeypatch.setattr(document_pieces, "_AHEAD", 20)


@pytest.fixture
def corpus(tmp_path, story):
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number, text in enumerate(story[:9]):
        (folder / f"{number}.txt").write_bytes((text * (number + 1)).encode())
    return str(folder)


@pytest.mark.parametrize("suffix", PACK)
def test_a_large_file_is_read_in_parts_as_often_as_needed(tmp_path, suffix, all_is_large):
    text = "one\r\ntwo é 東京 \U0001f642 \ufeff end"
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(PACK[suffix](("\ufeff" + text).encode()))
    (document,) = documents(str(path))
    assert isinstance(document, LargeText)
    assert document.byte_count == len(text.encode())
    for _ in range(2):
        assert "".join(document) == text
    assert len(list(document)) > 3
    path.write_bytes(PACK[suffix](b"else"))
    with pytest.raises(
        CorpusError, match=r"a\.txt.* changed while it was read, from 31 to 4 bytes"
    ):
        list(document)
    path.unlink()
    with pytest.raises(CorpusError, match=r"a\.txt.* cannot be read: .*No such file"):
        list(document)


@settings(deadline=None, derandomize=True)
@given(st.text(max_size=12), st.binary(max_size=3), st.binary(max_size=4), st.integers(1, 5))
def test_the_byte_that_is_no_text_is_named(tmp_path_factory, text, wrong, after, size):
    content = text.encode() + wrong + after
    path = tmp_path_factory.mktemp("wrong") / "a.txt"
    path.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(large_text, "PART_CHARACTERS", size)
        try:
            expected = content.decode().removeprefix("\ufeff")
        except UnicodeDecodeError as error:
            message = (
                rf"a\.txt is not UTF-8: byte 0x{content[error.start]:02x} at offset {error.start};"
            )
            with pytest.raises(CorpusError, match=message):
                list(large_text.read_parts(path, lambda: path.open("rb")))
        else:
            assert "".join(large_text.read_parts(path, lambda: path.open("rb"))) == expected


def test_white_space_is_no_large_document_and_damage_is_named(tmp_path, all_is_large):
    (tmp_path / "a.txt").write_text(" \n\t" * 50)
    assert list(documents(str(tmp_path))) == []
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(os.urandom(500).hex().encode())[:-9])
    with pytest.raises(CorpusError, match=r"b\.txt\.gz cannot be read: .*; check or fetch it"):
        list(documents(str(tmp_path)))


def test_a_digest_is_that_of_the_whole_documents(corpus, monkeypatch):
    expected = hashlib.sha256()
    for document in documents(corpus):
        content = document.encode()
        expected.update(len(content).to_bytes(8, "little") + content)
    monkeypatch.setattr(file_formats, "_LARGE_FILE", 1)
    monkeypatch.setattr(file_formats, "HEAD_BYTES", 0)
    digest = CorpusDigest()
    for document in documents(corpus):
        assert isinstance(document, LargeText)
        digest.add(document)
    assert (digest.hexdigest(), digest.documents) == (expected.hexdigest(), 9)


def results(corpus, tokenizer, folder):
    """Everything that is made of text, as bytes."""
    folder.mkdir()
    count_documents(documents(corpus), tokenizer).write(folder / "counts.parquet")
    count_documents(documents(corpus, max_documents=4), tokenizer).write(folder / "some.parquet")
    for name, most in {"all": None, "some": 100, "one document": 5}.items():
        (folder / name).mkdir()
        shape = StreamSettings(3, seed=1, max_tokens=most, held_out_rows=0 if most else 3)
        write_stream(folder / name, documents(corpus), tokenizer, shape)
    trained = train_tokenizer(documents(corpus), 290)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [tokenizer_sha256(trained), *((path.name, path.read_bytes()) for path in files)]


def test_counts_streams_and_tokenizers_are_the_same_bytes(corpus, tokenizer, tmp_path, request):
    expected = results(corpus, tokenizer, tmp_path / "whole")
    assert len(expected) == 2 + 3 * 2 + 1 + 1
    request.getfixturevalue("all_is_large")
    assert all(isinstance(document, LargeText) for document in documents(corpus))
    assert results(corpus, tokenizer, tmp_path / "in pieces") == expected


def test_rows_of_a_table_that_are_large_are_cut_as_well(story, tokenizer, request):
    text = "\n".join(story)
    expected = count_documents([*story, text], tokenizer)
    request.getfixturevalue("all_is_large")
    assert len(list(tokenizing.tokenize([text], tokenizer))) > 20
    counts = count_documents([*story, text], tokenizer)
    assert counts.info == expected.info
    assert counts.table.equals(expected.table)


def test_documents_around_a_large_one_keep_their_order(tokenizer, monkeypatch):
    texts = ["a", "b", "the long one of them", "c", "d"]
    monkeypatch.setattr(tokenizing, "_LARGE_DOCUMENT", 10)
    pieces = list(tokenizing.tokenize(texts, tokenizer))
    assert [piece.document for piece in pieces if piece.ends_document] == texts
    assert list(parts_of("")) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("of words and words " * 20, []),
        ("x" * 400, [
            "400 characters of one document are tokenised at once, which takes about 0.0 GB of "
            "memory: no space or line break in them is known to be a safe place to cut"
        ]),
    ],
)  # fmt: skip
def test_what_cannot_be_cut_is_said_once(text, said, tokenizer, all_is_large, monkeypatch):
    monkeypatch.setattr(document_pieces, "_WORTH_REPORTING", 100)
    lines = []
    counts = count_documents([text, text], tokenizer, report=lines.append)
    assert lines == said
    assert counts.table["document_count"].max() == 2


MEASURED = """
import resource, sys
from pathlib import Path
import transformers, tokenizers, scipy.special
from dynamics.corpus import counts, tokens
from dynamics.corpus.documents import corpora
from dynamics.corpus.information.settings import InformationSettings
from dynamics.corpus.tokenizers.text_checks import TextChecks
from dynamics.corpus.tokenizers.loading import load_tokenizer, train_tokenizer
from dynamics.tracking import probe_text
what, path, folder = sys.argv[1:]
tokenizer = load_tokenizer(folder)
documents = corpora.documents(path)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
if what == "count":
    counts.count_documents(documents, tokenizer)
elif what == "information gain":
    counts.count_documents(documents, tokenizer, information=InformationSettings())
elif what == "stream":
    tokens.write_stream(Path(folder), documents, tokenizer, tokens.StreamSettings(128, seed=0))
elif what == "probe":
    probe_text._joined(documents, tokenizer, TextChecks(tokenizer), print)
else:
    train_tokenizer(documents, 600)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.fixture(scope="module")
def megabytes(tmp_path_factory):
    """20 MB of lines of made-up words, as text, packed, and in one row of a table."""
    rng = np.random.default_rng(0)
    letters = rng.choice(list("abcdefghijklmnopqrstuvwxyz"), (300, 6))
    words = np.array(["".join(row[: 2 + index % 5]) for index, row in enumerate(letters)])
    text = "\n".join(" ".join(line) for line in words[rng.zipf(1.3, (600_000, 10)) % 300])
    text = text[:20_000_000]
    assert len(text) == 20_000_000
    folder = tmp_path_factory.mktemp("megabytes")
    (folder / "a.txt").write_text(text)
    (folder / "a.txt.gz").write_bytes(gzip.compress(text.encode(), 1))
    (folder / "a.jsonl").write_text(json.dumps({"text": text}))
    train_tokenizer([text[:1_000_000]], 1000).save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "name"),
    [
        ("count", "a.txt"),
        ("count", "a.txt.gz"),
        ("count", "a.jsonl"),
        ("information gain", "a.txt"),
        ("stream", "a.txt"),
        ("probe", "a.txt"),
        ("train a tokenizer", "a.txt"),
    ],
)
def test_20_megabytes_of_one_document_take_300_of_memory(what, name, megabytes):
    command = [sys.executable, "-c", MEASURED, what, str(megabytes / name), str(megabytes)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    assert int(done.stdout) < 300e6, f"{int(done.stdout):,}"
