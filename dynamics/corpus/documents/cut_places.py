r"""Places where a document can be cut without changing how it is tokenised.

A place is directly before a space or a line break that stands between two words or signs. It is
known to be safe when

1. all steps of the normalizer and the pre-tokenizer are of kinds whose effect on a character
   depends on nearby text only, and no match of their patterns contains both the character before
   the place and the separator (`split_patterns`); and
2. the pre-tokenizer splits there, so that the model gets each side separately; or the model is a
   BPE without an entry across the place, so that no merge crosses it.

Both are read from the tokenizer (`find_separators`); at each place, the output of
normalizer and pre-tokenizer for the text around it is compared with that for its sides (`is_safe`).
"""

import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from dynamics.corpus.documents.split_patterns import can_join
from dynamics.corpus.tokenizers.spelling import components, model_words, normalized

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_SEPARATORS = " \n"
_GROUPS = ("LN", "PS")
"""First letters of Unicode's categories: letters and numbers; punctuation and symbols. Marks belong
to the character before them, and other categories may be removed by a normalizer: no cuts there."""

_LOCAL_STEPS = {
    *("NFC", "NFD", "NFKC", "NFKD", "Nmt", "Precompiled", "Lowercase", "StripAccents"),
    *("BertNormalizer", "Strip", "Prepend", "Replace"),
    *("BertPreTokenizer", "ByteLevel", "CharDelimiterSplit", "Digits", "Metaspace"),
    *("Punctuation", "Split", "UnicodeScripts", "Whitespace", "WhitespaceSplit"),
}
_RESPELLING = {"ByteLevel", "Metaspace"}
_MERGES_OTHERWISE = ("dropout", "ignore_merges", "continuing_subword_prefix", "end_of_word_suffix")
"""Settings of a BPE with which it is more than a list of merges."""

_BUILT_IN_PATTERNS = {
    "ByteLevel": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "Whitespace": r"\w+|[^\w\s]+",
}


class Separator(NamedTuple):
    """A character before which documents can be cut.

    Attributes:
        follows: Groups of Unicode categories, joined, of the characters that it may follow.
        skipped: Number of characters, 0 or 1, that are left out where the right side is tokenised
            alone: 1 if the tokenizer puts a space before every text.
        is_split: True if the pre-tokenizer splits there; if False, no entry of a BPE crosses it.
    """

    follows: str
    skipped: int
    is_split: bool


def find_separators(backend: "Tokenizer") -> dict[str, Separator]:
    """Find the characters before which documents can be cut; empty if no cut is known to be safe.

    Args:
        backend: A tokenizer that neither truncates nor pads.
    """
    model = json.loads(backend.to_str())["model"]
    normalizers, pre_tokenizers = map(components, (backend.normalizer, backend.pre_tokenizer))
    kinds = {step["type"] for step in pre_tokenizers}
    if not kinds.union(step["type"] for step in normalizers) <= _LOCAL_STEPS or (
        "ByteLevel" in {step["type"] for step in normalizers}
    ):
        return {}
    separators = {}
    for character in _SEPARATORS:
        left, right = "ab", f"{character}cd"
        in_words = _between_words(normalized(backend, left + right))
        spelling = _between_words("".join(model_words(backend, left + right)))
        if in_words is None or spelling is None or len(in_words) != 1 or len(spelling) > 1:
            continue
        follows = _not_joined(
            [
                *_patterns(normalizers, character + in_words, character + in_words),
                *_patterns(pre_tokenizers, in_words, spelling or in_words),
            ]
        )
        for skipped in (0, 1):
            for is_split in (True, False):
                separator = Separator(follows, skipped, is_split)
                if (
                    character not in separators
                    and (is_split or _has_no_entry_across(model, spelling))
                    and is_safe(backend, separator, left, right)
                ):
                    separators[character] = separator
    return separators


def is_safe(backend: "Tokenizer", separator: Separator, left: str, right: str) -> bool:
    """Return whether a cut leaves the words that the model of the tokenizer gets unchanged.

    The characters on both sides of the place must be of the categories that may meet there. Then
    the output of normalizer and pre-tokenizer for the whole text is compared with that for its
    sides. With a BPE that has no entry across the place, the two words at it may be one word in
    the whole text.

    Args:
        backend: The tokenizer.
        separator: The separator that `right` begins with.
        left: Text before the place, not empty.
        right: Text from the place on, at least two characters.
    """
    groups = "".join(_GROUPS)
    if _category(left[-1]) not in separator.follows or _category(right[1]) not in groups:
        return False
    joined = model_words(backend, left + right)
    left_words = model_words(backend, left)
    right_words = model_words(backend, right[separator.skipped :])
    fused = [*left_words[:-1], "".join(left_words[-1:] + right_words[:1]), *right_words[1:]]
    return joined == left_words + right_words or (joined == fused and not separator.is_split)


def _category(character: str) -> str:
    """First letter of a character's Unicode category."""
    return unicodedata.category(character)[0]


def _between_words(spelling: str) -> str | None:
    """Text between "ab" and "cd"."""
    match = re.search(r"ab(.*)cd", spelling, re.DOTALL)
    return match and match[1]


def _patterns(
    steps: Sequence[dict[str, Any]], spelling: str, respelling: str
) -> Iterator[tuple[str, str, bool]]:
    """Patterns of steps, the separator as it is spelt there, and whether letters are unchanged."""
    are_letters = True
    for step in steps:
        pattern = step.get("pattern", {})
        if "String" in pattern:
            yield _literal(pattern["String"]), spelling, are_letters
        elif "Regex" in pattern:
            yield pattern["Regex"], spelling, are_letters
        elif step["type"] in _BUILT_IN_PATTERNS and step.get("use_regex", True):
            yield _BUILT_IN_PATTERNS[step["type"]], spelling, are_letters
        if step["type"] in _RESPELLING:
            spelling, are_letters = respelling, False


def _literal(text: str) -> str:
    """Pattern that matches a text and nothing else."""
    return "".join(rf"\x{{{ord(character):x}}}" for character in text)


def _not_joined(patterns: Sequence[tuple[str, str, bool]]) -> str:
    """Groups of characters that no pattern can join with a separator after them."""
    all_characters = "".join(map(_characters, _GROUPS))
    return "".join(
        group
        for group in _GROUPS
        if not any(
            can_join(pattern, _characters(group) if are_letters else all_characters, spelling)
            for pattern, spelling, are_letters in patterns
        )
    )


@cache
def _characters(group: str) -> str:
    """Characters of a group: all of the first scripts, every 97th of the large later scripts.

    Only characters whose category is the same since Unicode 3.2, on which all engines agree.
    """
    return "".join(
        character
        for character in map(chr, [*range(0x21, 0x3100), *range(0x3100, 0x30000, 97)])
        if unicodedata.ucd_3_2_0.category(character)[0] in group and _category(character) in group
    )


def _has_no_entry_across(model: dict[str, Any], spelling: str) -> bool:
    """Return whether a model is a BPE without an entry that has text before the separator.

    Then no merge crosses it, and merges on one side do not depend on the other side.
    """
    if model["type"] != "BPE" or not spelling or spelling not in model["vocab"]:
        return False
    if any(model[setting] for setting in _MERGES_OTHERWISE):
        return False
    across = re.compile(f"[^{re.escape(spelling)}]{re.escape(spelling)}", re.DOTALL)
    return not any(map(across.search, model["vocab"]))
