from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamics.corpus.tokenizers.special_texts import SpecialTexts, split_documents
from dynamics.errors import CorpusError
from tests.corpus.odd_tokenizers import byte_level

END = "<|endoftext|>"
STORIES = (
    f"One day.\n{END}\nTwo days.\r\n  Three.\n\n{END}\r\n\r\n  Four.{END}{END}\n \n{END}\nFive.\n"
)


def parts(*documents, separator=END, most=None):
    return list(split_documents(lambda limit: iter(documents[:limit]), separator, most))


def notes(tokenizer, *documents):
    texts = SpecialTexts(tokenizer)
    for document in documents:
        texts.begin_document()
        texts.add(document)
    cut = SpecialTexts(tokenizer)  # the same in parts of every size, with borders in every place
    for document in documents:
        cut.begin_document()
        for start in range(0, len(document), 5):
            cut.add(document[start : start + 5])
    assert list(cut.notes()) == list(texts.notes())
    return list(texts.notes())


def test_documents_end_where_the_separator_stands_and_line_ends_beside_it_go():
    assert parts(STORIES) == ["One day.", "Two days.\r\n  Three.", "  Four.", "Five.\n"]


def test_no_more_documents_than_were_asked_for_are_read_after_splitting():
    assert parts(STORIES, "Six.", most=2) == ["One day.", "Two days.\r\n  Three."]
    assert parts(STORIES, f"Six.{END}Seven.", most=5)[-1] == "Six."
    assert parts(STORIES, "Six.", separator=None, most=1) == [STORIES]


@settings(deadline=None, derandomize=True)
@given(st.lists(st.text("ab \n", min_size=1), min_size=2))
def test_nothing_but_separators_and_line_ends_is_left_out(texts):
    joined = parts("|".join(texts), separator="|")
    expected = [text.strip("\n") for text in texts if text.strip()]
    assert [part.strip("\n") for part in joined] == expected


def test_a_separator_that_is_nowhere_or_empty_is_refused():
    with pytest.raises(
        CorpusError, match=r"the separator '<\|end\|>' does not occur in the text; check"
    ):
        parts(STORIES, separator="<|end|>")
    with pytest.raises(CorpusError, match="the separator is empty"):
        parts(STORIES, separator="")


def test_the_text_of_special_tokens_is_counted_by_token_and_document():
    special = [END, "<s>", "[MASK]", *(f"<|reserved_{i}|>" for i in range(300))]
    tokenizer = byte_level(special=special)
    documents = [STORIES, f"a <s> b <s{END}", "<|reserved_7|><|reserved_77|>", "<|x|> <ss> [MAS K]"]
    found = Counter({END: 6, "<s>": 1, "<|reserved_7|>": 1, "<|reserved_77|>": 1})
    assert +Counter({text: sum(d.count(text) for d in documents) for text in special}) == found
    said = notes(tokenizer, *documents)
    assert len(said) == 4
    assert said[0] == (
        f"{END!r}, a special token, occurs as text 6 times, in 2 of 4 documents, and is tokenised "
        f"as text; if it separates documents, give --separator {END!r} (corpus.separator in a "
        "configuration)"
    )
    assert notes(tokenizer, "nothing < | special") == []
