"""Tables of tokens are read as they stand, and what cannot be read is told in one line."""

import csv
import gzip
import hashlib

import numpy as np
import pandas as pd
import pytest

from dynamics.corpus.token_table import KEYS, read_token_table
from dynamics.errors import CorpusError

ODD = [
    *("NA", "null", "nan", "None", "", " ", "1e5", "007", "True", "inf", "1_000", "-"),
    *('"', '""', '"a"', "'", ",", ";", "|", "\\", "#", "##ing", "</w>", "Ġthe", "▁the", " the"),
    *("é", "日本", "\N{NO-BREAK SPACE}", "\\n", "N/A", "a,b", 'say "x"'),
]


def written(path, rows, header=("token", "count"), **dialect):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, **dialect).writerows([header, *rows])
    return path


def plain(path, *lines):
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_tokens_are_kept_verbatim(tmp_path, delimiter, quoting):
    tokens = [*ODD, "\t", "a\tb", "\n", "two\nlines", "\r"]
    rows = [(token, index) for index, token in enumerate(tokens)]
    table = read_token_table(
        written(tmp_path / "t.csv", rows, delimiter=delimiter, quoting=quoting)
    )
    assert table.texts("token") == tokens
    assert table.numbers("count").tolist() == list(range(len(tokens)))


def test_tokens_of_pandas_are_kept_verbatim(tmp_path):
    frame = pd.DataFrame({"token": [*ODD, "\t", "\n"], "count": 1.5})
    frame.to_csv(tmp_path / "a.tsv", sep="\t", index=False)
    frame.to_csv(tmp_path / "b.csv.gz")  # with the index as a nameless column
    frame.to_parquet(tmp_path / "c.parquet")
    for path in tmp_path.iterdir():
        table = read_token_table(path)
        assert table.texts("token") == frame["token"].tolist()
        assert list(table.columns) == ["token", "count"]
        assert not table.notes


def test_quotes_that_enclose_nothing_are_characters(tmp_path):
    """A program that knows no quoting writes the token `"` alone, which would join two lines."""
    tokens = ['"', "a", 'Ġ"', '","', "b", '"c']
    path = plain(tmp_path / "t.tsv", "token\tcount", *(f"{token}\t3" for token in tokens))
    table = read_token_table(path)
    assert table.texts("token") == tokens
    assert table.notes == (
        f"{path}: quotes are read as part of its cells, because they do not enclose fields",
    )


def test_places_are_lines_of_the_file_and_blank_lines_are_none(tmp_path):
    table = read_token_table(
        plain(tmp_path / "t.csv", "token,count", "a,1", "", '"b', 'c",2', "d,3")
    )
    assert table.places == ["line 2", "line 4", "line 6"]


def test_a_byte_order_mark_and_line_ends_of_windows_are_none_of_the_text(tmp_path):
    (tmp_path / "t.csv").write_bytes("\ufefftoken,count\r\nĠa,1\r\n".encode())
    table = read_token_table(tmp_path / "t.csv")
    assert (table.texts("token"), table.numbers("count").tolist()) == (["Ġa"], [1])


def test_missing_numbers_are_nan_and_ids_may_be_floats(tmp_path):
    cells = ["", "NA", "n/a", "NaN", "null", "None", " 2 ", "-1.5e3"]
    rows = [(f"{index}.0", cell) for index, cell in enumerate(cells)]
    table = read_token_table(written(tmp_path / "t.csv", rows, ("token_id", "x")))
    assert table.ids() == list(range(len(cells)))
    np.testing.assert_array_equal(table.numbers("x"), [np.nan] * 6 + [2, -1500])
    pd.DataFrame({"token_id": [1, 2], "x": [None, 2.0]}).to_parquet(tmp_path / "t.parquet")
    np.testing.assert_array_equal(
        read_token_table(tmp_path / "t.parquet").numbers("x"), [np.nan, 2]
    )


def test_ids_are_preferred_to_tokens_and_these_to_words(tmp_path):
    for names in (KEYS, KEYS[1:], KEYS[2:]):
        path = written(tmp_path / "t.csv", [["1"] * (len(names) + 1)], [*reversed(names), "x"])
        assert read_token_table(path).key == names[0]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([""], "{path} is empty, or its first line is; a table of tokens is CSV, TSV or parquet"),
        (["token,count"], "{path} is empty: it has no row below the names of its columns"),
        (
            ["type,count", "a,1"],
            "{path} has no column token_id, token or word; its columns are: type, count; name one "
            "so",
        ),
        (["token", "a"], "{path} has no column beside token; add the numbers"),
        (["token,aoa,aoa", "a,1,2"], "{path} has two columns 'aoa'; rename one"),
        (
            ["token,count", "a,1", "a,b,1"],
            "{path}, line 3: a row has 3 fields, the first line 2, separated by commas; quote "
            "fields that hold the delimiter, and double the quotes inside",
        ),
        (
            ['{"token": "a"}'],
            "{path} is JSON; a table of tokens is CSV, TSV or parquet: write it as one of them",
        ),
        (
            ["<html><body>"],
            "{path} is HTML; a table of tokens is CSV, TSV or parquet: write it as one of them",
        ),
    ],
)
def test_what_is_no_table_is_told_in_one_line(tmp_path, lines, message):
    path = plain(tmp_path / "t.csv", *lines)
    with pytest.raises(CorpusError) as error:
        read_token_table(path)
    assert str(error.value) == message.format(path=path)


def test_files_of_other_formats_are_named(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(3))
    (tmp_path / "b.csv").write_bytes("token,count\nä,1\n".encode("latin-1"))
    (tmp_path / "c.csv").write_bytes(gzip.compress(b"token,count\n"))
    (tmp_path / "d.parquet").write_bytes(b"PAR1 cut off")
    messages = {
        "a.npy": "is a numpy file; a table of tokens",
        "b.csv": "is not UTF-8: byte 0xe4",
        "c.csv": "is compressed with gzip",
        "d.parquet": "is not readable parquet",
        "none.csv": "there is no table",
    }
    for name, message in messages.items():
        with pytest.raises(CorpusError) as error:
            read_token_table(tmp_path / name)
        assert message in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("x", "column 'x' holds 'x', expected a finite number"),
        ("inf", "column 'x' holds 'inf', expected a finite number"),
        ("1_000", "column 'x' holds '1_000', expected a finite number"),
        ("3,5", "column 'x' holds '3,5', expected a finite number"),
    ],
)
def test_a_cell_that_is_no_number_is_named_with_its_line(tmp_path, cell, message):
    table = read_token_table(written(tmp_path / "t.csv", [("a", 1), ("b", cell)], ("token", "x")))
    with pytest.raises(CorpusError) as error:
        table.numbers("x")
    assert str(error.value).startswith(f"{table.name}, line 3: {message}; correct it")


def test_an_id_that_is_none_is_named_with_its_row(tmp_path):
    for cell in ("7.5", "", "a", "inf"):
        table = read_token_table(written(tmp_path / "t.csv", [(cell, 1)], ("token_id", "count")))
        with pytest.raises(CorpusError, match=f"line 2: column 'token_id' holds '{cell}'"):
            table.ids()
    pd.DataFrame({"token": ["a", None], "x": 1}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(CorpusError, match="row 2: column 'token' holds None, expected text"):
        read_token_table(tmp_path / "t.parquet").texts("token")


def test_a_column_of_texts_is_told_from_one_of_numbers(tmp_path):
    rows = [("a", "noun", "", "3"), ("b", "NA", "", "x")]
    table = read_token_table(written(tmp_path / "t.csv", rows, ("token", "pos", "none", "mixed")))
    assert [table.holds_numbers(name) for name in ("pos", "none", "mixed")] == [False, False, True]


def test_the_digest_is_that_of_the_file(tmp_path):
    path = written(tmp_path / "t.csv", [("a", 1)])
    assert read_token_table(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert repr(read_token_table(path)) == f"<TokenTable {path}: 1 rows by token>"
