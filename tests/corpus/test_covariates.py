"""Covariates are the columns of numbers of tables; what is no covariate is told in one line."""

import csv

import numpy as np
import pandas as pd
import pytest

from dynamics.corpus.covariates import covariates_of
from dynamics.corpus.token_matching import Spellings
from dynamics.corpus.token_table import read_token_table, token_table
from dynamics.errors import CorpusError, MismatchError

KNOWN = Spellings("the series", 8, {}, {}, {})


def read(path, *rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return read_token_table(path)


def test_columns_of_numbers_are_values_per_token_and_texts_are_left_out(tmp_path):
    header = ("aoa", "token_id", "pos", "rating")
    table = read(tmp_path / "t.csv", header, (3, 5, "noun", ""), (2.5, 1, "verb", 7), (1, 2, "", 8))
    lines = []
    aoa, rating = covariates_of([table], KNOWN, report=lines.append)
    assert (aoa.name, rating.name) == ("aoa", "rating")
    nan = np.nan
    np.testing.assert_array_equal(aoa.values, [nan, 2.5, 1, nan, nan, 3, nan, nan])
    np.testing.assert_array_equal(rating.values, [nan, 7, 8, *[nan] * 5])
    assert lines == [
        f"{table.name}: 3 of 3 rows are a token of the series",
        f"{table.name}: column 'pos' left out, because no cell of it is a number",
    ]


def test_two_halves_are_one_covariate_and_its_mean(tmp_path):
    header = ("token_id", "x_half_1", "x_half_2", "y", "y_half_1", "y_half_2")
    table = read(tmp_path / "t.csv", header, (0, 1, 3, 9, 1, 2), (1, 4, 6, 8, 3, 5))
    x, y = covariates_of([table], KNOWN)
    assert x.values[:2].tolist() == [2, 5]
    assert [half[:2].tolist() for half in x.halves] == [[1, 4], [3, 6]]
    assert y.values[:2].tolist() == [9, 8]
    assert [half[:2].tolist() for half in y.halves] == [[1, 3], [2, 5]]


def test_the_digest_is_of_names_and_values_whatever_the_file(tmp_path):
    rows = [(1, 2), (3, 4), (5, 6)]
    one = read(tmp_path / "a.csv", ("token_id", "x"), *rows)
    other = read(tmp_path / "b.csv", ("y", "token_id"), *((y, x) for x, y in reversed(rows)))
    same = pd.DataFrame(rows, columns=["token_id", "x"]).astype(float)
    digests = [covariates_of([table], KNOWN)[0].sha256 for table in (one, token_table(same), other)]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        (("token_id", "pos"), [(1, "a")], "has no column of numbers beside token_id; add one"),
        (
            ("token_id", "x"),
            [(1, 5), (2, 5), (3, "")],
            "column 'x' is 5 for every token, and nothing correlates with it; remove it",
        ),
        (
            ("token_id", "x", "y"),
            [(1, 5, 1), (2, 6, "o.7")],
            "line 3: column 'y' holds 'o.7', expected a finite number; correct it, or leave it "
            "empty where nothing is known",
        ),
        (
            ("token_id", "x_half_2"),
            [(1, 5), (2, 6)],
            "has a column 'x_half_2' and none 'x_half_1'; add the other half, or rename it",
        ),
        (("token_id", "x"), [(1, 5), (1, 6)], "line 2 and line 3 ('1' and '1') are both token 1"),
        (("token_id", "x"), [(8, 5)], "line 2: token_id 8 is none of the series, which has 8 rows"),
        (("token", "x"), [("a", 5)], "the tokenizer of the series is not known"),
    ],
)
def test_what_is_no_covariate_is_told_in_one_line(tmp_path, header, rows, message):
    table = read(tmp_path / "t.csv", header, *rows)
    with pytest.raises((CorpusError, MismatchError)) as error:
        covariates_of([table], KNOWN)
    assert message in str(error.value)
    assert str(error.value).startswith(table.name)
    assert "\n" not in str(error.value)


def test_one_name_in_two_tables_is_refused(tmp_path):
    tables = [
        read(tmp_path / name, ("token_id", "x"), (1, 2), (2, 3)) for name in ("a.csv", "b.csv")
    ]
    with pytest.raises(MismatchError) as error:
        covariates_of(tables, KNOWN)
    assert str(error.value) == (
        f"{tables[0].name} and {tables[1].name} both have a column 'x'; rename one"
    )


def test_frames_of_pandas_are_tables_by_column_or_index():
    frame = pd.DataFrame({"token_id": [1, 2], "x": [3.0, None]})
    series = frame.set_index("token_id")["x"]
    for table in (frame, frame.set_index("token_id"), series):
        assert token_table(table).ids() == [1, 2]
        np.testing.assert_array_equal(token_table(table).numbers("x"), [3, np.nan])
    with pytest.raises(CorpusError, match="the table has no column token_id, token or word"):
        token_table(frame[["x"]])
    missing = pd.DataFrame({"token": ["a", None], "x": 1})
    with pytest.raises(
        CorpusError, match=r"row 2: .* \(pandas.read_csv needs keep_default_na=Fals"
    ):
        token_table(missing).texts("token")
