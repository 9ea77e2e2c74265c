import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers
from tokenizers import normalizers as norm

from dynamics.corpus.tokenizers import text_loss
from dynamics.corpus.tokenizers.character_fates import CharacterTally, PieceLoss, keeps_all_text
from dynamics.corpus.tokenizers.loading import plain_backend
from dynamics.corpus.tokenizers.text_loss import LossMeter, TextLoss, check_loss
from dynamics.errors import CorpusError
from tests.corpus.odd_tokenizers import (
    BYTES,
    AddedToken,
    Regex,
    bpe,
    byte_level,
    fast,
    unigram,
    word_piece,
)

WORDS = pre_tokenizers.Whitespace()
ABC = "abcxyz"
BYTE_FALLBACK = [f"<0x{byte:02X}>" for byte in range(256)]


def loss_of(tokenizer, *texts):
    meter = LossMeter(tokenizer)
    for text in texts:
        meter.add(text)
    return meter.loss


def split(pattern, behavior="removed", invert=False):
    return pre_tokenizers.Split(pattern, behavior, invert)


def removing(normalizer, letters=ABC):
    return fast(bpe(letters), normalizer=normalizer, pre_tokenizer=WORDS)


# name: tokenizer, text, lost characters, unknown characters
CASES = {
    "BPE without an unknown token": (
        fast(bpe("ab"), pre_tokenizer=WORDS),
        "abÜ aÜb 1 b",
        "ÜÜ1",
        "",
    ),
    "BPE that merges over what it dropped": (
        fast(bpe(["a", "b", "ab"], [("a", "b")]), pre_tokenizer=WORDS),
        "aÜb aÜÜb日",
        "ÜÜÜ日",
        "",
    ),
    "BPE with an unknown token": (
        fast(bpe(["?", "a", "b"], unk_token="?"), pre_tokenizer=WORDS),
        "aÜb ÜÜ a",
        "",
        "ÜÜÜ",
    ),
    "BPE that fuses unknown characters": (
        fast(bpe(["?", "a", "b"], unk_token="?", fuse_unk=True), pre_tokenizer=WORDS),
        "aÜÜb Ü",
        "",
        "ÜÜÜ",
    ),
    "BPE with a suffix that a letter lacks at the end of a word": (
        fast(bpe(["a", "b", "b</w>"], end_of_word_suffix="</w>"), pre_tokenizer=WORDS),
        "ab ba bb",
        "a",
        "",
    ),
    "BPE with a prefix that a letter lacks inside a word": (
        fast(bpe(["a", "b", "##b"], continuing_subword_prefix="##"), pre_tokenizer=WORDS),
        "ab ba bb",
        "a",
        "",
    ),
    "BPE that takes whole words from its entries": (
        fast(bpe(["a", "hello"], ignore_merges=True), pre_tokenizer=WORDS),
        "hello helloa a",
        "hello",
        "",
    ),
    "BPE with some bytes to fall back to": (
        fast(bpe(["a", "<0xC3>", "<0xA9>"], byte_fallback=True), pre_tokenizer=WORDS),
        "aé aÜ",
        "Ü",
        "",
    ),
    "BPE with all bytes to fall back to": (
        fast(bpe(["a", *BYTE_FALLBACK], byte_fallback=True)),
        "aé 日本",
        "",
        "",
    ),
    "ByteLevel without all bytes": (
        byte_level(sorted(set(BYTES) - {"Ã", "1"})),
        "é1 è a 日",  # é and è are the bytes C3 A9 and C3 A8, of which A9 and A8 have entries
        "é1è",
        "",
    ),
    "ByteLevel with a prefix space that has no entry": (
        fast(bpe(["a", "b"]), pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=True)),
        "ab ac",
        "c",
        "",
    ),
    "ByteLevel as a normalizer": (
        fast(bpe(sorted(set(BYTES) - {"1"})), normalizer=norm.ByteLevel()),
        "é1 a",
        "1",
        "",
    ),
    "Metaspace without an entry for its mark": (
        fast(bpe("ab"), pre_tokenizer=pre_tokenizers.Metaspace()),
        "ab ac",
        "c",
        "",
    ),
    "Unigram": (fast(unigram(["a", "b", "▁", "ab"]), pre_tokenizer=pre_tokenizers.Metaspace()),
        "abÜÜ a日b", "", "ÜÜ日"),
    "Unigram with bytes": (
        fast(unigram(["a", *BYTE_FALLBACK], byte_fallback=True)),
        "aÜ日",
        "",
        "",
    ),
    "WordPiece": (
        fast(word_piece(["a", "##b", "ab"]), pre_tokenizer=pre_tokenizers.BertPreTokenizer()),
        "abb abÜb , ba",
        "",
        "abÜb,ba",
    ),
    "WordPiece with a longest word": (
        fast(word_piece(["a", "##a"], max_input_chars_per_word=3), pre_tokenizer=WORDS),
        "aaa aaaa",
        "",
        "aaaa",
    ),
    "WordLevel": (
        fast(models.WordLevel({"the": 0, "?": 1}, unk_token="?"), pre_tokenizer=WORDS),
        "the cat, the",
        "",
        "cat,",
    ),
    "WordLevel without a pre-tokenizer": (
        fast(models.WordLevel({"the": 0, "?": 1}, unk_token="?")), "the cat", "", "thecat"
    ),
    "CharDelimiterSplit": (
        fast(bpe(ABC), pre_tokenizer=pre_tokenizers.CharDelimiterSplit("-")), "a-b--c", "---", ""
    ),
    "Split that removes": (fast(bpe(ABC), pre_tokenizer=split("x")), "axb xx c", "xxx", ""),
    "Split that removes what it does not match": (
        fast(bpe(ABC), pre_tokenizer=split(Regex("[ab]+"), invert=True)), "abxba y", "xy", ""
    ),
    "Split that removes, before ByteLevel": (
        fast(
            bpe(sorted(BYTES)),
            pre_tokenizer=[split(Regex("[0-9]")), pre_tokenizers.ByteLevel(add_prefix_space=True)],
        ),
        "é1日2",
        "12",
        "",
    ),
    "Split that removes, before Metaspace": (
        fast(bpe([*ABC, "▁"]), pre_tokenizer=[split("-"), pre_tokenizers.Metaspace()]),
        "a-b-c",
        "--",
        "",
    ),
    "Punctuation that is removed": (
        fast(bpe(ABC), pre_tokenizer=[WORDS, pre_tokenizers.Punctuation("removed")]),
        "a, b. c!",
        ",.!",
        "",
    ),
    "Replace by nothing": (removing(norm.Replace("x", "")), "axb xx a", "xxx", ""),
    "Replace by nothing, by a regex": (
        removing(norm.Replace(Regex("[0-9]+"), "")),
        "a12b 3",
        "123",
        "",
    ),
    "Replace by a space": (removing(norm.Replace("-", " ")), "a-b", "-", ""),
    "Replace two characters by one": (removing(norm.Replace("xx", "y")), "axxb xx", "", ""),
    "Replace one character by three": (removing(norm.Replace("…", "xyz")), "a…b…", "", ""),
    "Replace one character by one without an entry": (
        removing(norm.Replace("…", ".")), "a…b", "…", ""
    ),
    "Strip": (removing(norm.Strip()), "  ab c ", "", ""),
    "Lowercase": (removing(norm.Lowercase()), "ABC xYz", "", ""),
    "accents that are stripped": (
        removing([norm.NFD(), norm.StripAccents(), norm.Lowercase()]), "äbc ÁB a\u0308", "", ""
    ),
    "marks that are no accents, stripped": (
        removing([norm.NFD(), norm.StripAccents()], "कतa"), "कित a", "\u093f", ""
    ),
    "accents that are composed": (removing(norm.NFC(), "aäb"), "a\u0308b ä", "", ""),
    "syllables that are composed": (removing(norm.NFC(), "한"), "\u1112\u1161\u11ab", "", ""),
    "compatibility forms": (removing(norm.NFKC(), "fi1"), "ﬁ ①", "", ""),
    "control characters that BERT cleans away": (
        fast(
            word_piece(["a", "b", "##b"]),
            normalizer=norm.BertNormalizer(),
            pre_tokenizer=pre_tokenizers.BertPreTokenizer(),
        ),
        "a\x00b A\u200bb\tä \ufffd 日",
        "\x00\u200b\ufffd",
        "日",
    ),
    "added tokens": (
        fast(bpe("ab"), pre_tokenizer=WORDS,
        special=["<s>"],
        added=[AddedToken("çç", rstrip=True)]),
        "a çç b <s>",
        "<s>",
        "",
    ),
}  # fmt: skip


def characters(counts):
    return sorted("".join(chr(code) * n for code, n in counts.items()))


@pytest.mark.parametrize("case", CASES)
def test_lost_and_unknown_characters(case):
    tokenizer, text, lost, unknown = CASES[case]
    tally = CharacterTally()
    PieceLoss(plain_backend(tokenizer)).measure(text, tally)
    assert characters(tally.lost) == sorted(lost)
    assert characters(tally.unknown) == sorted(unknown)
    assert tally.characters == (solid := len(re.sub(r"\s", "", text)))
    loss = loss_of(tokenizer, text)
    assert (loss.lost_share, loss.unknown_share) == (len(lost) / solid, len(unknown) / solid)
    assert set(loss.lost_examples) <= set(lost) and bool(loss.lost_examples) == bool(lost)


@pytest.mark.parametrize("case", CASES)
def test_what_is_proven_to_keep_all_text_loses_none(case):
    tokenizer, _, lost, unknown = CASES[case]
    if keeps_all_text(plain_backend(tokenizer)):
        assert not lost and not unknown


def test_what_is_proven_to_keep_all_text():
    proven = {case for case, (each, *_) in CASES.items() if keeps_all_text(plain_backend(each))}
    assert proven == {"BPE with all bytes to fall back to", "Unigram with bytes"}
    clip = fast(
        bpe([*BYTES, *(byte + "</w>" for byte in BYTES)], end_of_word_suffix="</w>"),
        normalizer=[norm.NFC(), norm.Replace(Regex(r"\s+"), " "), norm.Lowercase()],
        pre_tokenizer=[split(Regex(r"\w+"), "isolated"), pre_tokenizers.ByteLevel()],
    )
    neox = byte_level(sorted(set(BYTES) - set("ÀÁõö÷øùúûüýþÿ")))  # bytes that UTF-8 never has
    for tokenizer in (byte_level(), clip, neox):
        assert keeps_all_text(plain_backend(tokenizer))
        assert loss_of(tokenizer, "a日\n") == TextLoss(3, 3)
    without_suffix = fast(
        bpe(BYTES, end_of_word_suffix="</w>"), pre_tokenizer=pre_tokenizers.ByteLevel()
    )
    assert not keeps_all_text(plain_backend(without_suffix))


def lost_characters(loss, text):
    return round(loss.lost_share * len("".join(text.split())))


TEXT = st.text("ab 1Üé日\n-", max_size=30)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(TEXT)
def test_characters_without_an_entry_are_those_that_bpe_drops(text):
    loss = loss_of(fast(bpe("ab1"), pre_tokenizer=WORDS), text)
    assert lost_characters(loss, text) == sum(character in "Üé日-" for character in text)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(TEXT, st.sets(st.sampled_from(sorted(BYTES)), max_size=40))
def test_a_character_is_lost_with_any_of_its_bytes(text, missing):
    loss = loss_of(byte_level(sorted(set(BYTES) - missing)), text)
    kept = byte_level(sorted(set(BYTES) - missing))
    emitted = Counter(token for token in kept.tokenize(text))
    spelled = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)

    def spell(character):
        return "".join(piece for piece, _ in spelled.pre_tokenize_str(character))

    solid = [character for character in text if not character.isspace()]
    assert lost_characters(loss, text) == sum(
        bool(set(spell(character)) & missing) for character in solid
    )
    assert emitted == Counter(byte for c in text for byte in spell(c) if byte not in missing)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(TEXT)
def test_words_that_word_piece_does_not_know(text):
    entries = ["a", "ab", "##b", "##a", "1"]

    def known(word, prefix=""):
        if not word:
            return True
        longest = (n for n in range(len(word), 0, -1) if prefix + word[:n] in entries)
        taken = next(longest, 0)
        return taken > 0 and known(word[taken:], "##")

    tokenizer = fast(word_piece(entries), pre_tokenizer=pre_tokenizers.WhitespaceSplit())
    expected = sum(len(word) for word in text.split() if not known(word))
    assert loss_of(tokenizer, text).unknown_share == expected / max(1, len("".join(text.split())))


def test_a_long_text_is_measured_in_a_sample(monkeypatch):
    monkeypatch.setattr(text_loss, "_MEASURED_WHOLE", 1000)
    monkeypatch.setattr(text_loss, "_BLOCK", 50)
    monkeypatch.setattr(text_loss, "_ONE_IN", 10)
    tokenizer = fast(bpe("ab"), pre_tokenizer=WORDS)
    lossy, kept = "aÜ b1 " * 4000, "ab ab " * 4000
    loss = loss_of(tokenizer, kept, *[lossy[start : start + 30] for start in range(0, 24_000, 30)])
    assert loss.length == 48_000
    assert 0.08 < (loss.measured_length - 1000) / 47_000 < 0.12
    assert loss.lost_share == pytest.approx(0.25, abs=0.03)
    whole = loss_of(tokenizer, lossy[:900])
    assert (whole.measured_length, whole.lost_share) == (900, 0.5)


def test_small_loss_is_said_and_great_loss_refused():
    said = []
    check_loss(TextLoss(200, 200, 1 / 150, lost_examples=("Ü",)), report=said.append)
    assert said == [
        "0.667 % of the characters that are not white space became no token, most often 'Ü'"
    ]
    great = TextLoss(1000, 200, 0.02, 0.2, ("\x00", "日"), ("é",))
    with pytest.raises(
        CorpusError,
        match=r"^2 % of the characters .* no token \(measured on 200 of 1,000 characters\), most "
        r"often '\\x00', '日'; give a tokenizer .* --allow-loss \(tokenizer.allow_loss=true",
    ):
        check_loss(great)
    check_loss(great, allow=True, report=said.append)
    assert said[2].startswith("20 % of the characters that are not white space became the unknown ")
    check_loss(TextLoss(5, 5), report=said.append)
    assert len(said) == 3
