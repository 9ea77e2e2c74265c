import gzip
import hashlib
import json
import lzma
import subprocess
import sys

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dynamics.corpus.documents.corpora import documents
from dynamics.corpus.documents.corpus_digest import CorpusDigest
from dynamics.errors import ConfigError, CorpusError


def write_lines(path, *rows):
    opener = {".xz": lzma.open, ".gz": gzip.open}.get(path.suffix, open)
    with opener(path, "wt", encoding="utf-8") as file:
        file.writelines((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    return path


def read(path, **settings):
    return list(documents(str(path), **settings))


def test_importing_the_package_is_cheap():
    script = "import sys, dynamics.corpus.counts, dynamics.corpus.documents.corpora\n"
    script += "print(sorted({'torch', 'transformers', 'datasets', 'pyarrow'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "torch" not in done.stdout and "transformers" not in done.stdout, done.stdout
    assert "datasets" not in done.stdout and not done.returncode, done.stderr


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.rst", "noname"])
def test_a_text_file_is_one_document_kept_as_it_stands(tmp_path, name):
    (tmp_path / name).write_bytes("\ufeffone\r\ntwo <script>é</script>\n".encode())
    assert read(tmp_path / name) == ["one\r\ntwo <script>é</script>\n"]


@pytest.mark.parametrize("suffix", ["", ".xz", ".gz"])
def test_json_lines(tmp_path, suffix):
    path = tmp_path / f"a.jsonl{suffix}"
    write_lines(path, {"text": "one", "body": "x"}, "", {"text": " \n"}, {"text": None, "body": ""})
    assert read(path) == ["one"]
    assert read(tmp_path, max_documents=5) == ["one"]
    with pytest.raises(CorpusError, match=r"line 3 has no column 'body'; its columns are: text$"):
        read(path, text_column="body")


def test_parquet(tmp_path):
    pq.write_table(pa.table({"text": ["one", None, "two"], "n": [1, 2, 3]}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == ["one", "two"]
    with pytest.raises(CorpusError, match=r"a.parquet has no column 'body'.* are: text, n$"):
        read(tmp_path / "a.parquet", text_column="body")
    with pytest.raises(CorpusError, match=r"column 'n' holds int, expected text"):
        read(tmp_path / "a.parquet", text_column="n")


def test_a_folder_is_read_sorted_and_recursively(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / ".git").mkdir()
    for name in ("c.txt", "a.txt", "b/z.txt", "b/a.txt", "skip.dat", ".hidden.txt", ".git/x.txt"):
        (tmp_path / name).write_text(name)
    expected = ["a.txt", "b/a.txt", "b/z.txt", "c.txt"]
    assert read(tmp_path) == expected
    for limit in (1, 3, 100):
        assert read(tmp_path, max_documents=limit) == expected[:limit]


def test_no_text_gives_no_documents(tmp_path):
    (tmp_path / "empty.txt").write_text(" \n\t")
    assert read(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"ok \xff", r"a\.txt is not UTF-8: byte 0xff at offset 3; convert"),
        ("a.txt", b"\xef\xbb\xbfok \xe2\x82", r"byte 0xe2 at offset 6"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "\xe9"}', r"a\.jsonl, line 2 is not .* offset 24"),
        ("a.jsonl", b'{"text": "a"}\n\n{"text"\n', r"a\.jsonl, line 3 is not JSON \(.*repair"),
        ("a.jsonl", b"[1]\n", r"line 1 is a JSON list, not an object with a 'text' entry"),
        ("a.jsonl", b'{"text": 3}\n', r"line 1: column 'text' holds int, expected text"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', r"line 1: column 'text' is not Unicode text"),
        ("a.jsonl.xz", b"not xz", r"a\.jsonl\.xz cannot be read: .*; check or fetch it again"),
        (
            "a.jsonl.gz",
            gzip.compress(b'{"text": "a"}\n', mtime=0)[:-9],
            r"a\.jsonl\.gz cannot be read",
        ),
        ("a.parquet", b"PAR1 not", r"a\.parquet is not a readable parquet file"),
    ],
)
def test_damaged_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    for source in (tmp_path, tmp_path / name):
        with pytest.raises(CorpusError, match=message):
            read(source)


@pytest.mark.parametrize("source", ["./corpus", "../x/y", "/no/such", "~/nothing", "a/b.jsonl.xz"])
def test_a_missing_path_is_not_looked_up_on_the_hub(source, monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("looked up"))
    with pytest.raises(CorpusError, match=f"there is no file or folder {source}; check the path"):
        documents(source)


def test_mistakes_are_found_before_reading(tmp_path):
    with pytest.raises(CorpusError, match=r"holds no text; files that are read end in \.txt, \.md"):
        documents(str(tmp_path))
    with pytest.raises(CorpusError, match="max_documents is 0; give 1 or more"):
        documents(str(tmp_path), max_documents=0)


def test_a_data_set_is_streamed(monkeypatch):
    calls = []

    def load_dataset(*arguments, **settings):
        calls.append((arguments, settings))
        return datasets.IterableDataset.from_generator(
            lambda: iter([{"body": "one"}, {"body": ""}, {"body": "two"}])
        )

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    found = list(documents("org/name:small", text_column="body", split="dev"))
    assert found == ["one", "two"]
    assert calls == [(("org/name", "small"), {"split": "dev", "streaming": True})]
    with pytest.raises(CorpusError, match=r"data set name has no column 'text'; .* are: body"):
        list(documents("name"))
    assert calls[1][0] == ("name", None)


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError("no\nhub"),
        ValueError("no hub"),
        datasets.exceptions.DatasetNotFoundError("no hub"),
        RuntimeError("no hub"),
    ],
)
def test_a_data_set_that_cannot_be_read(monkeypatch, error):
    def load_dataset(*_, **__):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(CorpusError, match=r"no file or folder stories, and the data set .*no hub"):
        list(documents("stories"))


def test_a_split_is_refused_where_there_is_none(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(CorpusError, match=r"a\.txt is one file and has no splits, but --split tr"):
        read(tmp_path / "a.txt", split="train")
    with pytest.raises(CorpusError, match=r"python-docs has no splits, but --split test was given"):
        documents("python-docs", split="test")
    with pytest.raises(
        CorpusError, match=r"data set on a hub and has no format, but --format \w+ was"
    ):
        documents("org/name", format_name="csv")
    with pytest.raises(ConfigError, match=r"there is no format 'jsn'; did you mean 'json'\?"):
        read(tmp_path / "a.txt", format_name="jsn")


def test_what_can_be_read_only_once_is_refused():
    with pytest.raises(
        CorpusError, match="/dev/null is not a regular file and cannot be read twice"
    ):
        documents("/dev/null")


@pytest.mark.shared_data
def test_digest_of_a_shared_corpus_is_that_of_its_lines(shared_data):
    path = shared_data / "corpora" / "books_children.jsonl.xz"
    digest, expected = CorpusDigest(), hashlib.sha256()
    for document in documents(str(path)):
        digest.add(document)
    with lzma.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            content = json.loads(line)["text"].encode()
            expected.update(len(content).to_bytes(8, "little") + content)
    assert digest.hexdigest() == expected.hexdigest()
    # As it was when only .jsonl, .txt, .md and .parquet were read.
    assert digest.hexdigest().startswith("ce3f2481577d62df")


def test_python_docs_is_a_source():
    assert len(list(documents("python-docs", max_documents=2))) == 2
