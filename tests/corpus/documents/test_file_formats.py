"""One file: read as what name and content say together, or refused in one line."""

import bz2
import csv
import gzip
import io
import json
import lzma
import re
import subprocess
import tarfile

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from dynamics.corpus.documents.corpora import documents
from dynamics.errors import CorpusError

DOCUMENTS = [
    f'Document {number}, in two lines\nwith "quotes", commas;\tand é' for number in range(40)
]
ROWS = [{"id": number, "text": text} for number, text in enumerate(DOCUMENTS)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
TEXT = b"Plain text of several words, as it stands in a book.\n"


def named(value):
    return value if isinstance(value, str) else "content"


def zstd(content):
    """Compressed by Arrow's one-shot codec, which is no part of the reader."""
    compressed = pa.compress(content, codec="zstd", asbytes=True)
    assert compressed.startswith(b"\x28\xb5\x2f\xfd")
    return compressed


def table(delimiter=",", header=("id", "text"), encoding="utf-8"):
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=delimiter)
    writer.writerow(header)
    writer.writerows(enumerate(DOCUMENTS))
    return file.getvalue().encode(encoding)


def arrow(new_writer):
    sink = io.BytesIO()
    content = pa.table({"id": range(len(DOCUMENTS)), "text": DOCUMENTS})
    with new_writer(sink, content.schema) as writer:
        writer.write_table(content, max_chunksize=7)
    return sink.getvalue()


def parquet(**columns):
    sink = io.BytesIO()
    pq.write_table(pa.table(columns or {"id": range(len(DOCUMENTS)), "text": DOCUMENTS}), sink)
    return sink.getvalue()


def read(path, **settings):
    notes = []
    return list(documents(str(path), report=notes.append, **settings)), notes


def refusal(path, **settings):
    with pytest.raises(CorpusError) as caught:
        read(path, **settings)
    message = str(caught.value)
    assert "\n" not in message and str(path) in message
    return message.replace(f"{path.parent}/", "")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *((f"a.{suffix}", LINES) for suffix in ("jsonl", "ndjson", "json", "jsonlines", "JSONL")),
        ("crlf.json", LINES.replace(b"\n", b"\r\n")),
        ("mark.json", b"\xef\xbb\xbf" + LINES),
        ("c4-train.00000-of-01024.json.gz", gzip.compress(LINES)),
        ("members.json.gz", gzip.compress(LINES[:999]) + gzip.compress(LINES[999:])),
        ("a.ndjson.bz2", bz2.compress(LINES)),
        ("a.json.xz", lzma.compress(LINES)),
        ("a.jsonl.zst", zstd(LINES)),
        ("frames.jsonl.zst", zstd(LINES[:999]) + zstd(LINES[999:])),
        ("skippable.jsonl.zst", b"\x50\x2a\x4d\x18\x03\0\0\0abc" + zstd(LINES)),
        ("array.json", json.dumps(ROWS).encode()),
        ("indented.json", json.dumps(ROWS, indent=2, ensure_ascii=False).encode()),
        ("array.jsonl.gz", gzip.compress(json.dumps(ROWS).encode())),
        ("objects.json", "\n".join(json.dumps(row, indent=2) for row in ROWS).encode()),
        ("a.csv", table()),
        ("mark.csv", table(encoding="utf-8-sig")),
        ("semicolons.csv", table(";")),
        ("tabs.csv", table("\t")),
        ("bars.csv", table("|")),
        ("a.tsv", table("\t")),
        ("a.csv.gz", gzip.compress(table())),
        ("a.tsv.zst", zstd(table("\t"))),
        ("a.parquet", parquet()),
        ("a.pq", parquet()),
        ("dictionary.parquet", parquet(text=pa.array(DOCUMENTS).dictionary_encode())),
        ("large.parquet", parquet(text=pa.array(DOCUMENTS, pa.large_string()))),
        ("a.arrow", arrow(pa.ipc.new_stream)),
        ("a.feather", arrow(pa.ipc.new_file)),
    ],
    ids=named,
)
def test_every_format_gives_the_same_documents(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert read(tmp_path / name) == (DOCUMENTS, [])


@pytest.mark.parametrize("name", ["a.txt", "a.md", "part-00000", "a.log", "lines.gz", "a.bin"])
@pytest.mark.parametrize("content", [LINES, json.dumps(ROWS, indent=1).encode()], ids=["l", "a"])
def test_json_under_another_name_is_read_as_json_and_said(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    texts, notes = read(path)
    assert texts == DOCUMENTS
    assert notes == [
        f"{path} holds json and is read as that; give --format text to count it as it stands"
    ]
    texts, notes = read(path, format_name="text")
    assert (texts, notes) == ([content.decode()], [])


def test_tables_under_another_name(tmp_path):
    for name, content in (("a.txt", parquet()), ("b", arrow(pa.ipc.new_stream))):
        (tmp_path / name).write_bytes(content)
        texts, (note,) = read(tmp_path / name)
        assert texts == DOCUMENTS
        assert note.startswith(f"{tmp_path / name} holds ") and note.endswith(
            " and is read as that"
        )


def test_text_under_an_unknown_suffix_is_one_document_and_said(tmp_path):
    (tmp_path / "a.rst").write_bytes(TEXT)
    assert read(tmp_path / "a.rst") == (
        [TEXT.decode()],
        [f"{tmp_path}/a.rst is read as one document of text; its suffix is unknown"],
    )


@pytest.mark.parametrize(
    "text",
    [
        "Roses, red\nviolets, blue\nsugar, sweet\n",
        "Call me Ishmael.\nSome years ago,\nnever mind\n",
        "{curly} braces open this text\n",
        "[1] A footnote first.\n",
        "word\nother\nthird\n",
        "a,b\n",
        "PK is no archive\n",
        "BZh9 is none either\n",
        "<3 is a heart, <em>not</em> markup\n",
    ],
)
def test_prose_is_not_taken_for_a_table_or_a_container(tmp_path, text):
    (tmp_path / "a.txt").write_text(text)
    assert read(tmp_path / "a.txt") == ([text], [])


def test_a_table_in_markdown_is_text(tmp_path):
    (tmp_path / "a.md").write_text("a|b\n--|--\n1|2\n")
    assert read(tmp_path / "a.md") == (["a|b\n--|--\n1|2\n"], [])


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n"


def tar():
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.txt"))
    return sink.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", parquet(), "is named .jsonl but holds parquet; rename it to end in .parquet, "),
        ("a.parquet", LINES, "is named .parquet but holds json; rename it to end in .jsonl, or "),
        ("a.csv", LINES, "is named .csv but holds json; rename it to end in .jsonl, or give --for"),
        ("a.parquet.gz", gzip.compress(parquet()), "is parquet within gzip; decompress it first"),
        (
            "a.jsonl",
            gzip.compress(LINES),
            "is compressed with gzip, but its name does not show it; ",
        ),
        ("a.jsonl.gz", zstd(LINES), "is compressed with zstd, .*; rename it to a.jsonl.zst$"),
        (
            "a.jsonl.gz",
            LINES,
            r"cannot be read: it is named .gz but begins with .*to a.jsonl if it",
        ),
        ("a.jsonl.xz", b"", r"cannot be read: it is named .xz but begins with b''"),
        ("a.jsonl.gz", gzip.compress(gzip.compress(LINES)), "holds gzip, not json"),
        ("a.jsonl.gz", gzip.compress(LINES)[:-9], "cannot be read: .*; check or fetch it again"),
        ("a.jsonl.bz2", bz2.compress(LINES)[:-9], "cannot be read: .*; check or fetch it again"),
        ("a.jsonl.xz", lzma.compress(LINES)[:-9], "cannot be read: .*; check or fetch it again"),
        ("a.jsonl.zst", zstd(LINES)[:-9], "cannot be read: .*; check or fetch it again"),
        ("a.jsonl.zst", zstd(LINES)[:9] + b"x" * 90, "cannot be read: .*; check or fetch it again"),
        (
            "a.txt",
            "text".encode("utf-16"),
            "holds UTF-16, not text; convert it to UTF-8 with iconv",
        ),
        ("a.csv", table(encoding="utf-16"), "holds UTF-16, not csv; convert it to UTF-8"),
        ("a.txt", "text of words".encode("utf-16-le") * 9, "looks like UTF-16, not UTF-8; convert"),
        ("a.txt", "text".encode("utf-32"), "holds UTF-32, not text"),
        ("a.txt", LFS, "holds a git-lfs pointer, not text; fetch the content with git lfs pull"),
        ("a.parquet", LFS, "holds a git-lfs pointer, not parquet; fetch the content with git lfs"),
        ("a.txt", b"<!DOCTYPE html>\n<p>x", "holds HTML, not text; extract its text first, or cou"),
        ("a.jsonl", b"<html>404", "holds HTML, not json; check or fetch it again"),
        (
            "a.html",
            b"<p>x</p>",
            "holds markup, not text; extract its text first, or count its tags",
        ),
        ("a", b'<?xml version="1.0"?><x/>', "holds XML, not text; extract its text first"),
        (
            "wiki_00",
            b'<doc id="12" url="u">\nx\n</doc>',
            "holds <doc> tags of WikiExtractor, not t",
        ),
        ("a.warc", b"WARC/1.0\r\n", "holds a web archive, not text"),
        ("a.pdf", b"%PDF-1.4", "holds PDF, not text; extract its text first$"),
        ("a.docx", b"PK\x03\x04", "holds a zip archive, not text; unpack it and name the folder"),
        ("a.tar.gz", gzip.compress(tar()), "holds a tar archive, not text; unpack it with tar -xf"),
        (
            "a.txt",
            b"ab\x00c" * 30,
            "is binary, not text; token ids are read with --sequence-length",
        ),
        (
            "train.bin",
            b"\x10\x20\xff\xfe" * 9,
            "is binary, not text; token ids are read with --seq",
        ),
        ("a.npy", b"\x93NUMPY\x01\x00", "holds a numpy file, not text; .* --sequence-length"),
        ("a.feather", b"FEA1xxxx", "holds feather of version 1, not arrow; write it again as parq"),
        (
            "a.txt",
            table(),
            "looks like a table with the columns id, text; give --format csv to rea",
        ),
        ("a.txt", table("\t"), "looks like a table with the columns id, text; give --format csv"),
        ("a.parquet", parquet()[:-20], "is not a readable parquet file: .*; check or fetch"),
        (
            "a.arrow",
            arrow(pa.ipc.new_file)[:-400],
            "a.arrow (is not a readable arrow file|cannot be read)",
        ),
    ],
    ids=named,
)
def test_what_is_no_text_is_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    assert re.search(message, refusal(tmp_path / name))


def test_a_format_may_be_named(tmp_path):
    (tmp_path / "a.txt").write_bytes(table())
    assert read(tmp_path / "a.txt", format_name="csv") == (DOCUMENTS, [])
    assert read(tmp_path / "a.txt", format_name="text") == ([table().decode()], [])
    (tmp_path / "b.html").write_text("<html>x")
    assert read(tmp_path / "b.html", format_name="text") == (["<html>x"], [])


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.parquet", "a.csv", "a"])
def test_an_empty_file_has_no_documents_and_is_named(tmp_path, name):
    (tmp_path / name).touch()
    assert read(tmp_path / name) == ([], [f"{tmp_path / name} is empty"])


def test_the_command_of_zstd_is_read(tmp_path):
    """Frames of its level 19 with a checksum, where the command is there."""
    (tmp_path / "a.jsonl").write_bytes(LINES)
    try:
        subprocess.run(["zstd", "-q", "-19", "--check", tmp_path / "a.jsonl"], check=True)
    except FileNotFoundError:
        pytest.skip("no zstd command")
    assert read(tmp_path / "a.jsonl.zst") == (DOCUMENTS, [])
