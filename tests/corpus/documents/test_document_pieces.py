import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamics.corpus.documents import document_pieces
from dynamics.corpus.documents.document_pieces import DocumentCutter
from tests.corpus.many_tokenizers import CUT, LINES, WHOLE, real_tokenizer, tokenizer_of

REAL = ["gpt_neox_20b", "roberta_base", "bert_base_uncased", "babyberta", "stories260K"]
FRAGMENTS = st.sampled_from([
    *(word for line in LINES for word in line.split(" ")),
    *[" ", "  ", "\n", "\r\n", "\t", "a", "1", "12", ".", ",", "'s", '"', "▁", "中", "é", "\u0301"],
    *["\u200b", "\x00", "\u00a0", "\u3000", "ﬁ", "⑴", "Σ", "İ", "한", "ㅤ", "#", "<mask>", "🙂", "Ġ"],
])  # fmt: skip
TEXTS = st.lists(
    st.tuples(FRAGMENTS, st.sampled_from(["", " ", " ", "\n"])), min_size=20, max_size=80
).map(lambda pairs: "".join(map("".join, pairs)))
EXACT = settings(deadline=None, derandomize=True, max_examples=60)


def pieces_and_ids(tokenizer, text, piece, ahead, part):
    """Cut into pieces as small as can be."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(document_pieces, "PIECE_CHARACTERS", piece)
        patch.setattr(document_pieces, "_AHEAD", ahead)
        patch.setattr(document_pieces, "_PIECES_AT_ONCE", 3)
        cutter = DocumentCutter(tokenizer)
        parts = [text[start : start + part] for start in range(0, len(text), part)]
        return list(cutter.cut(parts)), [i for ids in cutter.encode(parts) for i in ids]


def assert_exact(tokenizer, text, piece, ahead, part):
    expected = tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids
    pieces, ids = pieces_and_ids(tokenizer, text, piece, ahead, part)
    assert ids == expected
    assert "".join(piece.text for piece in pieces) == text
    return len(pieces)


@pytest.mark.parametrize("name", [*CUT, *WHOLE])
def test_a_document_in_pieces_has_the_ids_of_the_whole(name):
    tokenizer = tokenizer_of(name)

    @EXACT
    @given(TEXTS, st.integers(1, 20), st.integers(10, 30), st.integers(1, 200))
    def check(text, piece, ahead, part):
        assert_exact(tokenizer, text, piece, ahead, part)

    check()
    text = " ".join(LINES) * 4
    assert (assert_exact(tokenizer, text, 1, 40, 1000) > 20) == (name in CUT)


@pytest.mark.shared_data
@pytest.mark.parametrize("name", REAL)
def test_real_tokenizers_are_exact_in_pieces(name, shared_data):
    tokenizer = real_tokenizer(shared_data, name)

    @EXACT
    @given(TEXTS, st.integers(1, 20), st.integers(10, 30), st.integers(1, 200))
    def check(text, piece, ahead, part):
        assert_exact(tokenizer, text, piece, ahead, part)

    check()
    assert assert_exact(tokenizer, " ".join(LINES) * 4, 1, 40, 1000) > 20
