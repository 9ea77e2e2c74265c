import itertools
import lzma
from collections import Counter

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from tokenizers import normalizers as norm
from transformers import PreTrainedTokenizerFast

from dynamics.corpus.tokenizers.kinds import surfaces_and_kinds, token_kinds, word_edges
from dynamics.corpus.tokenizers.loading import load_tokenizer
from dynamics.errors import MismatchError
from tests.corpus.odd_tokenizers import BYTES, Regex, bpe, fast, numbered, unigram, word_piece


def byte_level(vocabulary, merges=(), special=(), added=()):
    backend = Tokenizer(models.BPE({token: i for i, token in enumerate(vocabulary)}, list(merges)))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(special))
    backend.add_tokens(list(added))
    return PreTrainedTokenizerFast(tokenizer_object=backend)


BYTE_LEVEL = {
    "<s>": ("<s>", "special"),
    "a": ("a", "continuation"),
    "Ġ": (" ", "continuation"),
    "Ċ": ("\n", "continuation"),
    "<": ("<", "continuation"),
    "Ã": (r"\xc3", "byte"),
    "©": (r"\xa9", "byte"),
    "â": (r"\xe2", "byte"),
    "Ģ": (r"\x80", "byte"),
    "âĢ": (r"\xe2\x80", "fragment"),
    "Ã©": ("é", "continuation"),
    "Ġa": (" a", "word_start"),
    "ĠĠ": ("  ", "continuation"),
    "aaa": ("aaa", "unreachable"),
    "aa": ("aa", "continuation"),
    "ĠâĢ": (r" \xe2\x80", "fragment"),
    "raw space": ("raw space", "unreachable"),
    "<script>": ("<script>", "added"),
}


@pytest.fixture(scope="module")
def small():
    return byte_level(
        [token for token in BYTE_LEVEL if token != "<script>"],
        [("â", "Ģ"), ("Ã", "©"), ("Ġ", "a"), ("Ġ", "Ġ"), ("a", "a"), ("Ġ", "âĢ")],
        special=["<s>"],
        added=["<script>"],
    )


def test_each_kind_of_a_byte_level_vocabulary(small):
    surfaces, kinds = surfaces_and_kinds(small)
    found = dict(zip(BYTE_LEVEL, zip(surfaces, kinds, strict=True), strict=True))
    assert found == BYTE_LEVEL
    assert set(kinds) == {
        *("special", "added", "byte", "fragment", "unreachable", "continuation", "word_start")
    }


def test_rows_of_the_model_beyond_the_tokenizer_are_padding(small):
    rows = len(BYTE_LEVEL)
    assert token_kinds(small, rows + 2) == [*token_kinds(small), "padding", "padding"]
    assert surfaces_and_kinds(small, rows + 2)[0] == [*surfaces_and_kinds(small)[0], "", ""]
    for function in (token_kinds, surfaces_and_kinds):
        with pytest.raises(
            MismatchError, match="has 18 entries, the vocabulary only 17 rows; give"
        ):
            function(small, rows - 1)


def joins(tokenizer, *ids):
    """Whether each token of a row of ids is in the word of the one before it."""
    after, before = word_edges(tokenizer)
    return [bool(after[a] and before[b]) for a, b in itertools.pairwise(ids)]


def test_where_byte_level_words_end(small):
    after, before = word_edges(small, len(BYTE_LEVEL) + 1)
    at = {token: i for i, token in enumerate(BYTE_LEVEL)}
    letters = {"a", "aa", "aaa", "Ã©"}
    broken = {"Ã", "©", "â", "Ģ", "âĢ"}
    found = {token for token, i in at.items() if before[i]}
    assert found == letters | broken | {"raw space"}  # which is never emitted
    assert {token for token, i in at.items() if after[i]} == found | {"Ġa", "ĠâĢ"}
    assert not after[-1] and not before[-1]  # padding
    word = [at[token] for token in ("Ġa", "aa", "Ã©", "Ġa", "<", "a", "Ġ", "a", "<s>", "a")]
    assert joins(small, *word) == [True, True, *[False] * 7]


def test_what_is_part_of_a_word():
    tokenizer = byte_level(["a", "Ġ", "7", "_", "'", "-", ".", "à¤¾"])  # the last a vowel sign
    after, before = word_edges(tokenizer)
    assert before.tolist() == after.tolist() == [True, False, True, True, *[False] * 3, True]


def test_where_wordpiece_words_end():
    words = ["[PAD]", "un", "##like", "##ly", ".", "##"]
    backend = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]")
    assert joins(tokenizer, 1, 2, 3, 4, 1, 0, 2) == [True, True, False, False, False, False]
    assert joins(tokenizer, 4, 3) == [True]


def test_where_nothing_tells_words_apart_each_token_is_one():
    backend = Tokenizer(models.WordLevel({"the": 0, "cat": 1}))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    assert joins(PreTrainedTokenizerFast(tokenizer_object=backend), 0, 1, 1) == [False, False]


def test_holes_in_the_vocabulary_are_padding():
    tokenizer = byte_level(["a", "b"])
    spec = tokenizer.backend_tokenizer.to_str().replace('"b":1', '"b":3')
    holed = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(spec))
    assert token_kinds(holed) == ["continuation", "padding", "padding", "continuation"]


def test_a_special_token_known_only_by_its_role():
    tokenizer = byte_level(["a", "b"], added=[AddedToken("<end>")])
    assert token_kinds(tokenizer)[2] == "added"
    tokenizer.eos_token = "<end>"
    assert token_kinds(tokenizer)[2] == "special"


def test_trained_here(tokenizer):
    surfaces, kinds = surfaces_and_kinds(tokenizer)
    assert kinds[0] == "special" and Counter(kinds)["byte"] == 128
    assert kinds[surfaces.index(" the")] == "word_start"
    assert kinds[surfaces.index("a")] == "continuation"
    assert "unreachable" not in kinds


@pytest.fixture(scope="module")
def published(shared_data, tmp_path_factory):
    def load(name):
        path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
        packed = shared_data / "tokenizers" / f"{name}_tokenizer.json.xz"
        path.write_bytes(lzma.decompress(packed.read_bytes()))
        return load_tokenizer(path)

    return load


def kinds_by_surface(tokenizer):
    surfaces, kinds = surfaces_and_kinds(tokenizer)
    return Counter(kinds), dict(zip(surfaces, kinds, strict=True))


@pytest.mark.shared_data
def test_neox_has_the_published_numbers(published):
    """Published (see the data's README): 243 single-byte, 369 fragment, 221 unreachable, 2 special.

    Single bytes are 115 of 0x80 or more (13 never occur in UTF-8 and have no entry) and 128 of
    ASCII, which are ordinary tokens here.
    """
    tokenizer = published("gpt_neox_20b")
    numbers, kind = kinds_by_surface(tokenizer)
    assert numbers == {
        "special": 2,
        "added": 23,
        "byte": 115,
        "fragment": 369,
        "unreachable": 221,
        "continuation": 20_878,
        "word_start": 28_669,
    }
    ascii_bytes = [kind.get(chr(byte)) for byte in range(128)]
    assert numbers["byte"] + sum(found == "continuation" for found in ascii_bytes) == 243
    assert numbers.total() == 50_277
    assert (kind[" the"], kind["the"], kind["<"]) == ("word_start", "continuation", "continuation")


@pytest.mark.shared_data
def test_roberta(published):
    numbers, kind = kinds_by_surface(published("roberta_base"))
    assert [surface for surface, found in kind.items() if found == "unreachable"] == [
        "<|endoftext|>",
        "madeupword0000",
        "madeupword0001",
        "madeupword0002",
    ]
    assert (numbers["special"], numbers["byte"], kind[" the"]) == (5, 128, "word_start")


@pytest.mark.shared_data
def test_a_prefix_space_makes_no_token_unreachable(published):
    numbers, kind = kinds_by_surface(published("babyberta"))
    assert "unreachable" not in numbers
    assert (kind["ification"], kind[" summer"]) == ("continuation", "word_start")


@pytest.mark.shared_data
def test_word_piece(published):
    numbers, kind = kinds_by_surface(published("bert_base_uncased"))
    assert (numbers["special"], numbers["byte"], numbers["fragment"]) == (5, 0, 0)
    assert sum(found == "unreachable" for name, found in kind.items() if "[unused" in name) == 994
    assert (kind["the"], kind["##ing"], kind[","]) == ("word_start", "continuation", "word_start")
    assert kind["##,"] == kind["##京"] == "unreachable"


@pytest.mark.shared_data
def test_byte_fallback(shared_data):
    tokenizer = load_tokenizer(shared_data / "models" / "stories260K")
    surfaces, kinds = surfaces_and_kinds(tokenizer, 514)
    entry = tokenizer.convert_tokens_to_ids
    expected = {
        "<s>": ("<s>", "special"),
        "<0x0A>": ("\n", "continuation"),
        "<0x41>": ("A", "unreachable"),
        "<0xFF>": (r"\xff", "byte"),
        "▁the": (" the", "word_start"),
        "▁": (" ", "continuation"),
        "he": ("he", "continuation"),
    }
    assert {token: (surfaces[entry(token)], kinds[entry(token)]) for token in expected} == expected
    assert kinds[512:] == ["padding", "padding"]
    assert Counter(kinds)["byte"] == 128


def emitted(tokenizer, alphabet, longest=4):
    """Ids of all texts over an alphabet, up to a length."""
    backend = tokenizer.backend_tokenizer
    backend.encode_special_tokens = True
    texts = [
        "".join(t) for n in range(1, longest + 1) for t in itertools.product(alphabet, repeat=n)
    ]
    encodings = backend.encode_batch(texts, add_special_tokens=False)
    return {i for encoding in encodings for i in encoding.ids}


LETTERS = [*"abc", *(f"{letter}</w>" for letter in "abc")]
SUFFIXED = [*LETTERS, "ab", "abc</w>", "bc</w>", "aa", "ba</w>", "cab", "</w>"]
PREFIXED = [*"abc", *(f"##{letter}" for letter in "abc"), "ab", "##bc", "##ab", "abc", "cc##"]
WORDS = pre_tokenizers.Whitespace()
SUFFIX_MERGES = [("a", "b"), ("b", "c</w>"), ("a", "bc</w>"), ("b", "a</w>")]
METASPACE = [*"ab▁", "▁a", "ab", "▁ab", "A", "▁b▁"]
METASPACE_MERGES = [("▁", "a"), ("a", "b"), ("▁a", "b"), ("▁", "ab")]


# name: tokenizer, alphabet of texts that are tried one by one, entries that begin a word
ODD = {
    "suffix": (
        fast(bpe(SUFFIXED, SUFFIX_MERGES, end_of_word_suffix="</w>"), pre_tokenizer=WORDS),
        "abc ",
        set(),
    ),
    "suffix, lower case": (
        fast(
            bpe([*SUFFIXED, "A", "B</w>"], SUFFIX_MERGES, end_of_word_suffix="</w>"),
            normalizer=norm.Lowercase(),
            pre_tokenizer=pre_tokenizers.BertPreTokenizer(),
        ),
        "abAc ",
        set(),
    ),
    "suffix and bytes, as in CLIP": (
        fast(
            bpe(
                [*BYTES, *(byte + "</w>" for byte in BYTES), "ab", "bc</w>", "Ġa"],
                [("a", "b"), ("b", "c</w>")],
                end_of_word_suffix="</w>",
                continuing_subword_prefix="",
            ),
            pre_tokenizer=[
                pre_tokenizers.Split(Regex(r"\w+|\S"), "removed", invert=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ],
        ),
        None,
        {"Ġa"},
    ),
    "suffix in a script of its own": (
        fast(
            bpe(
                ["α", "β", "α</w>", "β</w>", "αβ"],
                [("α", "β")],
                end_of_word_suffix="</w>",
            ),
            pre_tokenizer=WORDS,
        ),
        "αβ ",
        set(),
    ),
    "prefix": (
        fast(
            bpe(
                PREFIXED,
                [("a", "##b"), ("##b", "##c"), ("##a", "##b"), ("a", "##bc")],
                continuing_subword_prefix="##",
            ),
            pre_tokenizer=WORDS,
        ),
        "abc ",
        {"a", "b", "c", "ab", "abc", "cc##"},
    ),
    "prefix and suffix": (
        fast(
            bpe(
                ["a", "@@b", "@@a", "a</w>", "@@b</w>", "@@a</w>", "ab</w>"],
                [("a", "@@b</w>")],
                continuing_subword_prefix="@@",
                end_of_word_suffix="</w>",
            ),
            pre_tokenizer=WORDS,
        ),
        "ab ",
        {"a", "a</w>", "ab</w>"},
    ),
    "WordPiece with another prefix": (
        fast(
            word_piece(["α", "@@β", "αβ", "@@γ"], continuing_subword_prefix="@@"),
            pre_tokenizer=WORDS,
        ),
        "αβγ ",
        {"α", "αβ"},
    ),
    "WordLevel": (
        fast(
            models.WordLevel(numbered(["?", "a", "ab", "a b", "▁a"]), unk_token="?"),
            pre_tokenizer=WORDS,
        ),
        "ab ",
        set(),
    ),
    "WordLevel without an unknown token": (
        fast(models.WordLevel(numbered(["a", "ab", "a b"]), unk_token="?"), pre_tokenizer=WORDS),
        None,
        set(),
    ),
    "Unigram": (
        fast(unigram(["▁", "a", "b", "▁ab", "ab▁"]), pre_tokenizer=pre_tokenizers.Metaspace()),
        "ab ",
        {"▁ab"},
    ),
    "Unigram without Metaspace": (fast(unigram([" ", "a", "▁a", " a"])), "a ▁", {" a"}),
    **{
        f"Metaspace, {scheme}": (
            fast(
                bpe(METASPACE, METASPACE_MERGES),
                normalizer=norm.Lowercase(),
                pre_tokenizer=pre_tokenizers.Metaspace(prepend_scheme=scheme),
            ),
            "ab A",
            {"▁a", "▁ab", "▁b▁"},
        )
        for scheme in ("always", "first", "never")
    },
    "Metaspace with another mark": (
        fast(bpe([*"ab_", "_a"], [("_", "a")]), pre_tokenizer=pre_tokenizers.Metaspace("_")),
        "ab ",
        {"_a"},
    ),
    "Ġ that is written by a normalizer": (
        fast(bpe([*"abĠ", "Ġa"], [("Ġ", "a")]), normalizer=norm.Replace(" ", "Ġ")),
        "ab ",
        {"Ġa"},
    ),
    "Ġ that nothing writes": (
        fast(bpe([*"ab", "Ġa", " "], []), decoder=decoders.ByteLevel()), "ab ", set()
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name, (_, alphabet, _) in ODD.items() if alphabet])
def test_unreachable_is_what_no_text_emits(name):
    tokenizer, alphabet, _ = ODD[name]
    reached = emitted(tokenizer, alphabet)
    kinds = token_kinds(tokenizer)
    own = {i for i, kind in enumerate(kinds) if kind == "special"}
    assert {i for i, kind in enumerate(kinds) if kind == "unreachable"} == (
        set(range(len(kinds))) - reached - own
    )


@pytest.mark.parametrize("name", ODD)
def test_what_begins_a_word(name):
    tokenizer, _, begins = ODD[name]
    entries = {i: entry for entry, i in tokenizer.get_vocab().items()}
    kinds = token_kinds(tokenizer, occurring=np.ones(len(entries), bool))
    assert {entries[i] for i, kind in enumerate(kinds) if kind == "word_start"} == begins
    assert "unreachable" not in kinds


@pytest.mark.parametrize(
    "name", [name for name in ODD if "fix" in name and "WordPiece" not in name]
)
def test_pieces_that_are_marked_join_to_the_words_of_the_pre_tokenizer(name):
    tokenizer, alphabet, _ = ODD[name]
    text = "αβα ββ α βα αβ" if alphabet and "α" in alphabet else "abaa aa a abbab aba"
    encoding = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
    expected = [a == b for a, b in itertools.pairwise(encoding.word_ids)]
    assert joins(tokenizer, *encoding.ids) == expected
    assert any(expected) and not all(expected)


def test_marks_stay_in_what_is_read():
    vocabulary = ODD["suffix and bytes, as in CLIP"][0]
    surfaces = dict(
        zip(
            vocabulary.convert_ids_to_tokens(range(len(vocabulary))),
            surfaces_and_kinds(vocabulary)[0],
            strict=True,
        )
    )
    assert [surfaces[each] for each in ("a", "a</w>", "bc</w>", "Ġa", "Ã</w>")] == [
        "a", "a</w>", "bc</w>", " a", r"\xc3</w>",
    ]  # fmt: skip


def test_bytes_to_fall_back_to_are_read():
    tokenizer = fast(
        unigram(["▁", "a", "<0x41>", "<0xC3>"], byte_fallback=True),
        pre_tokenizer=pre_tokenizers.Metaspace(),
    )
    assert surfaces_and_kinds(tokenizer)[0] == ["<unk>", " ", "a", "A", r"\xc3"]
    assert token_kinds(tokenizer)[4] == "byte"


def test_capitals_are_unreachable_where_all_is_made_lower_case():
    words = ["the", "The", "##s", "##S"]
    tokenizer = fast(word_piece(words), normalizer=norm.BertNormalizer(), pre_tokenizer=WORDS)
    assert token_kinds(tokenizer)[1:] == [
        "word_start",
        "unreachable",
        "continuation",
        "unreachable",
    ]
    occurring = np.array([False, False, True, False, False])
    assert token_kinds(tokenizer, occurring=occurring)[2] == "word_start"


def test_added_tokens_are_added_however_they_take_space():
    tokens = [
        AddedToken("<l>", lstrip=True),
        AddedToken("<r>", rstrip=True),
        AddedToken("Xy", normalized=True),
        AddedToken("ab", single_word=True),
    ]
    tokenizer = byte_level(["a", "b", "Ġ"], added=tokens)
    assert token_kinds(tokenizer) == ["continuation"] * 3 + ["added"] * 4
    after, before = word_edges(tokenizer)
    assert not after[3:].any() and not before[3:].any()


def test_the_models_unknown_token_is_special_though_no_one_said_so():
    assert token_kinds(ODD["WordLevel"][0])[0] == "special"
