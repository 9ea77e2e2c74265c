"""Rows of CSV, against what its writer was given; what is no table is refused by its line."""

import csv
import io
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamics.corpus.documents.tables import DELIMITERS, read_csv
from dynamics.errors import CorpusError

FIELDS = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=12)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    st.lists(st.tuples(FIELDS, FIELDS), max_size=5),
    st.sampled_from(list(DELIMITERS)),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from(["utf-8", "utf-8-sig"]),
)
def test_what_was_written_is_read(tmp_path_factory, rows, delimiter, line_end, encoding):
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=delimiter, lineterminator=line_end)
    writer.writerow(("id", "text"))
    writer.writerows(rows)
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    path.write_bytes(file.getvalue().encode(encoding))
    assert list(read_csv(path, "text")) == [text for _, text in rows]


def test_a_field_may_be_longer_than_the_csv_module_allows_by_default(tmp_path):
    (tmp_path / "a.csv").write_text(f"id,text\n1,{'x' * 300_000}\n")
    assert [len(text) for text in read_csv(tmp_path / "a.csv", "text")] == [300_000]


def test_blanks_after_delimiters_are_no_part_of_fields_where_names_have_them(tmp_path):
    (tmp_path / "a.csv").write_text('id, text\n1, "a, b"\n\n2, c\n')
    assert list(read_csv(tmp_path / "a.csv", "text")) == ["a, b", "c"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"id,body\n1,a\n", "a.csv has no column 'text'; its columns are: id, body$"),
        (b"id;body\n1;a\n", "a.csv has no column 'text'; its columns are: id, body$"),
        (b"1,some words\n2,others\n", "no column 'text'; its columns are: 1, some words$"),
        (
            b"id,text\n1,a,b\n",
            "line 2: a row has 3 fields, the first line 2, separated by commas; ",
        ),
        (b"id,text\n1\n", "line 2: a row has 1 fields, the first line 2"),
        (b'id\ttext\n1\t"He" said\n', "line 2 is not CSV .*; double the quotes within"),
        (b'id\ttext\n1\t"open\n2\tb\n', "line 3 is not CSV .unexpected end of data"),
        (b"text,text\na,b\n", "has 2 columns 'text'; rename all but one"),
        (b"id,text\r1,a\r", "lines of .*a.csv end in carriage returns; convert them to line feeds"),
        (b"id,text\n1,\xe9\n", "line 2 is not UTF-8: byte 0xe9 at offset 10"),
    ],
)
def test_what_is_no_table_of_text_is_refused(tmp_path, content, message):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(CorpusError) as caught:
        list(read_csv(tmp_path / "a.csv", "text"))
    assert re.search(message, str(caught.value)) and "\n" not in str(caught.value)
