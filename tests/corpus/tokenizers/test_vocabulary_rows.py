import pandas as pd
import pytest

from dynamics.corpus.counts import count_documents
from dynamics.corpus.tokenizers.loading import vocabulary_size
from dynamics.corpus.tokenizers.vocabulary_rows import check_rows, cut_to_rows
from dynamics.errors import MismatchError
from tests.corpus.odd_tokenizers import byte_level

DIFFERENCE = "the counts has 5 tokens but the embedding of series has 3 rows"


def table(*last):
    rows = [("a", 3, "continuation"), (" b", 2, "word_start"), ("</s>", 1, "special"), *last]
    return pd.DataFrame(rows, columns=["token", "count", "kind"])


def cut(counts, rows=3):
    said = []
    return cut_to_rows(counts, rows, DIFFERENCE, said.append), said


def test_trailing_special_and_added_entries_that_never_occur_are_left_out():
    counts = table(("<pad>", 0, "special"), ("<x>", 0, "added"))
    kept, said = cut(counts)
    pd.testing.assert_frame_equal(kept, counts[:3])
    assert said == [
        f"{DIFFERENCE}; the last 2 ('<pad>', '<x>'), special or added, never occur and are left out"
    ]


def test_ids_that_were_skipped_before_such_an_entry_are_left_out_with_it():
    kept, said = cut(table(("", 0, "padding"), ("<x>", 0, "added")))
    assert len(kept) == 3 and "the last 1 ('<x>')" in said[0]


def test_nothing_is_said_where_each_has_a_row():
    counts = table()
    for rows in (3, 4):
        kept, said = cut(counts, rows)
        assert kept is counts and not said


@pytest.mark.parametrize(
    ("last", "reason"),
    [
        ([("<pad>", 0, "special"), ("<x>", 4, "added")], r"1 \('<x>'\) occur;"),
        (
            [("c", 0, "continuation"), ("<x>", 0, "added")],
            r"1 \('c'\) are neither special nor added",
        ),
        (
            [("c", 0, "unreachable"), ("d", 1, "word_start")],
            r"1 \('d'\) occur and 2 \('c', 'd'\) are",
        ),
        ([("<x>", 0, "added"), ("", 0, "padding")], r"1 \(padding\) are neither"),
        ([(each, 0, "byte") for each in "cdefgh"], r"6 \('c', 'd', 'e' and 3 more\) are neither"),
    ],
)
def test_anything_else_is_refused(last, reason):
    with pytest.raises(MismatchError, match=rf"{DIFFERENCE}, and of those beyond {reason}"):
        cut(table(*last))


@pytest.fixture
def tokenizer():
    return byte_level(added=["<t>"], special=["<pad>"])


def test_a_text_is_counted_into_the_rows_that_the_model_has(tokenizer):
    said = []
    counts = count_documents(["ab", "b"], tokenizer, vocab_size=256, report=said.append)
    assert len(counts.table) == counts.info.vocab_size == 256
    assert said == [
        "the tokenizer has 258 entries, the vocabulary only 256 rows; the last 2 ('<pad>', '<t>'), "
        "special or added, never occur and are left out"
    ]
    whole = count_documents(["ab", "b"], tokenizer)
    pd.testing.assert_frame_equal(counts.table, whole.table[:256])
    longer = count_documents(["ab", "b"], tokenizer, vocab_size=300)
    assert set(longer.table["kind"][258:]) == {"padding"}


def test_an_added_token_that_occurs_needs_its_row(tokenizer):
    with pytest.raises(
        MismatchError, match=r"only 257 rows, and of those beyond 1 \('<t>'\) occur"
    ):
        count_documents(["a<t>b"], tokenizer, vocab_size=257)


def test_entries_of_text_need_their_rows_before_anything_is_read(tokenizer):
    assert vocabulary_size(tokenizer) == 258
    check_rows(tokenizer, 256)
    with pytest.raises(MismatchError, match=r"255 rows, and of those beyond 1 \('.'\) are neither"):
        count_documents(iter(lambda: pytest.fail("was read"), None), tokenizer, vocab_size=255)
