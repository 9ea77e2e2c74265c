"""Fates of the characters of a text in a tokenizer: a token, the unknown token, or nothing."""

import itertools
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Integer

from dynamics.corpus.tokenizers.loading import backend_errors
from dynamics.corpus.tokenizers.spelling import (
    BYTE_OF,
    components,
    has_byte_fallback,
    is_byte_level,
    piece_marks,
    space_mark,
    unknown_id,
)

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_WINDOW = 8  # characters to each side that a normalizer may look at
_KEPT, _UNKNOWN, _LOST = range(3)
_BYTE_TOKENS = {f"<0x{byte:02X}>": byte for byte in range(256)}
_SPACES = re.compile(r"(\\s| )(\+|\*|\{\d+,?\d*\})?")  # a regex that matches white space alone
_DROPS_NO_TEXT = {
    *("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Prepend", "Strip"),  # Strip: white space alone
    *("ByteLevel", "Metaspace", "Digits", "UnicodeScripts", "Whitespace", "WhitespaceSplit"),
    *("BertPreTokenizer", "FixedLength"),
}

_WHITE_SPACE = np.zeros(0x110000, bool)
_WHITE_SPACE[[code for code in range(0x3001) if chr(code).isspace()]] = True  # the last is U+3000


@dataclass
class CharacterTally:
    """Code points of a part of a text: `length` with white space, `characters` without it."""

    length: int = 0
    characters: int = 0
    lost: Counter[int] = field(default_factory=Counter)
    unknown: Counter[int] = field(default_factory=Counter)


def keeps_all_text(backend: "Tokenizer") -> bool:
    """Return whether a tokenizer is proven to make tokens, none of them unknown, of any text.

    The proof is that no component removes text and the model has an entry for each byte.
    """
    parts = [*components(backend.normalizer), *components(backend.pre_tokenizer)]
    return all(map(_drops_no_text, parts)) and _has_all_bytes(backend)


def _drops_no_text(component: dict[str, Any]) -> bool:
    """Return whether a normalizer or pre-tokenizer is known to remove only white space."""
    match component["type"]:
        case "Replace":
            pattern = component["pattern"]
            replaced = pattern.get("String", "").isspace() or _SPACES.fullmatch(
                pattern.get("Regex", "")
            )
            return bool(replaced or component["content"].strip())
        case "Split" | "Punctuation":
            return component["behavior"] != "Removed"
        case "CharDelimiterSplit":
            return component["delimiter"].isspace()
        case kind:
            return kind in _DROPS_NO_TEXT


def _has_all_bytes(backend: "Tokenizer") -> bool:
    """Return whether the model has an entry for each byte that UTF-8 has."""
    kind, entry = type(backend.model).__name__, backend.model.token_to_id
    if has_byte_fallback(backend):
        return all(
            entry(token) is not None for token, byte in _BYTE_TOKENS.items() if _in_utf8(byte)
        )
    if kind != "BPE" or not is_byte_level(backend):
        return False
    spelled = [character for character, byte in BYTE_OF.items() if _in_utf8(byte)]
    return all(
        entry(form) is not None for character in spelled for form in _forms(backend, character)
    )


def _in_utf8(byte: int) -> bool:
    """Return whether UTF-8 has the byte: 13 are in no text, and GPT-NeoX has no entry for them."""
    return byte < 0xF5 and byte not in (0xC0, 0xC1)


def _forms(backend: "Tokenizer", character: str) -> set[str]:
    """Forms in which a BPE looks up a character: first or later in a word, last or not."""
    prefix, suffix = (mark or "" for mark in piece_marks(backend))
    return {start + character + end for start in ("", prefix) for end in ("", suffix)}


class PieceLoss:
    """Measures lost and unknown characters of pieces of text.

    The model is replaced by one that spells its words as bytes, so that each byte shows which
    character of the text it comes from; the model's tokens are then looked up per word. (Offsets of
    the model's own tokens do not show this: a token spans text that was removed inside it, and
    behind a character that BPE dropped they are shifted.)
    """

    def __init__(self, backend: "Tokenizer") -> None:
        self._words = _spelled_as_bytes(backend)
        self._normalizer = backend.normalizer
        self._normalized = None
        if backend.normalizer is not None:
            self._normalized = _spelled_as_bytes(backend, pre_tokenize=False)
        self._fates = _WordFates(backend)

    def measure(self, text: str, tally: CharacterTally) -> None:
        """Add the lost and unknown characters of a piece of text to a tally."""
        with backend_errors("the text cannot be tokenised", "give another tokenizer"):
            ids, spans, word_starts = _spell(self._words, text)
            codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
            solid = ~_WHITE_SPACE[codes]
            removed = solid & ~_covered(spans, len(text))
            fates = self._fates_of(ids, word_starts)
            if self._normalized is not None and removed.any():
                _, spans_normalized, _ = _spell(self._normalized, text)
                unspelled = removed & ~_covered(spans_normalized, len(text))
                for index in np.flatnonzero(unspelled).tolist():
                    removed[index] = not self._absorbed(text, index)
        lost = removed | (solid & _covered(spans[fates == _LOST], len(text)))
        unknown = solid & ~lost & _covered(spans[fates == _UNKNOWN], len(text))
        tally.length += len(text)
        tally.characters += int(solid.sum())
        tally.lost.update(codes[lost].tolist())
        tally.unknown.update(codes[unknown].tolist())

    def _fates_of(self, ids: np.ndarray, word_starts: np.ndarray) -> np.ndarray:
        """Fate of each byte."""
        fates = np.full(len(ids), _KEPT, np.uint8)
        spelled, ordinary = ids.astype(np.uint8).tobytes(), ids < len(_BYTE_TOKENS)
        bounds = [*word_starts.tolist(), len(ids)]
        for start, stop in itertools.pairwise(bounds):
            if ordinary[start] and (fate := self._fates[spelled[start:stop]]) is not None:
                fates[start:stop] = fate
        return fates

    def _absorbed(self, text: str, index: int) -> bool:
        """Return whether a character from which no byte comes is part of another one after all.

        This is so where the normalizer made one character of several (composition, two quotation
        marks into one): without it the normalized text would differ. An accent that is removed
        from its letter does not count as a character, as in the composed spelling.
        """
        start, stop = max(0, index - _WINDOW), index + 1 + _WINDOW
        window, without = text[start:stop], text[start:index] + text[index + 1 : stop]
        if self._normalizer.normalize_str(window) != self._normalizer.normalize_str(without):
            return True
        letter = index
        while letter > start and unicodedata.combining(text[letter]):
            letter -= 1
        return len(unicodedata.normalize("NFC", text[letter : index + 1])) == 1 < index + 1 - letter


class _WordFates(dict[bytes, np.ndarray | None]):
    """Fates of the bytes of each word that the model sees, None if all are kept; filled on demand.

    The mark of a space counts as kept: it is white space, or not part of the text at all.
    """

    def __init__(self, backend: "Tokenizer") -> None:
        super().__init__()
        self._backend = backend
        self._model = backend.model
        self._unknown_id = unknown_id(backend)
        self._space_mark = space_mark(backend) or ""
        self._is_bpe = type(backend.model).__name__ == "BPE"
        self._byte_fallback = has_byte_fallback(backend)
        self._prefix, self._suffix = (mark or "" for mark in piece_marks(backend))

    def __missing__(self, spelled: bytes) -> np.ndarray | None:
        """Find the fates of the bytes of a word that was not met before."""
        word = spelled.decode()
        fates = self._fates_in_bpe(word) if self._is_bpe else self._fates_elsewhere(word)
        for index, character in enumerate(word):
            if character in self._space_mark:
                fates[index] = _KEPT
        byte_fates = np.repeat(fates, [len(character.encode()) for character in word])
        self[spelled] = byte_fates if byte_fates.any() else None
        return self[spelled]

    def _fates_in_bpe(self, word: str) -> np.ndarray:
        """Fate of each character in BPE, which looks up single characters before it merges any."""
        fates = np.full(len(word), _KEPT, np.uint8)
        if self._model.ignore_merges and self._model.token_to_id(word) is not None:
            return fates
        missing = _LOST if self._unknown_id is None else _UNKNOWN
        for index, character in enumerate(word):
            prefix = self._prefix if index else ""
            suffix = self._suffix if index == len(word) - 1 else ""
            if not self._has(prefix + character + suffix):
                fates[index] = missing
        return fates

    def _has(self, piece: str) -> bool:
        """Return whether the model has an entry for a piece, or entries for all of its bytes."""
        entry = self._model.token_to_id
        return entry(piece) is not None or (
            self._byte_fallback
            and all(entry(f"<0x{byte:02X}>") is not None for byte in piece.encode())
        )

    def _fates_elsewhere(self, word: str) -> np.ndarray:
        """Fate of each character in other models, which make tokens of a whole word, or fail."""
        sizes = [len(character.encode()) for character in word]
        character_of = np.repeat(np.arange(len(word)), sizes)
        fates = np.full(len(word), _KEPT, np.uint8)
        for token in self._model.tokenize(word):
            if token.id == self._unknown_id:
                fates[character_of[slice(*token.offsets)]] = _UNKNOWN
        return fates


def _spelled_as_bytes(backend: "Tokenizer", *, pre_tokenize: bool = True) -> "Tokenizer":
    """A tokenizer that spells the words of another as their UTF-8 bytes, of ids 0 to 255."""
    from tokenizers import Tokenizer, models

    spelled = Tokenizer(models.BPE(dict(_BYTE_TOKENS), [], byte_fallback=True))
    if backend.normalizer is not None:
        spelled.normalizer = backend.normalizer
    if pre_tokenize and backend.pre_tokenizer is not None:
        spelled.pre_tokenizer = backend.pre_tokenizer
    added = backend.get_added_tokens_decoder().values()
    spelled.add_tokens([token for token in added if not token.special])  # special ones are text
    return spelled


def _spell(backend: "Tokenizer", text: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids of the bytes (added tokens have larger ones), their characters, and where words start.

    Returns:
        n ids; (n, 2) start and end of the characters of the text that each comes from; the
        indices of ids that begin a word.
    """
    encoding = backend.encode(text, add_special_tokens=False)
    ids = np.array(encoding.ids, np.int64)
    spans = np.array(encoding.offsets, np.int64).reshape(-1, 2)
    words = np.array(encoding.word_ids, np.int64)
    return ids, spans, np.flatnonzero(np.diff(words, prepend=-1))


def _covered(spans: Integer[np.ndarray, "n 2"], length: int) -> Bool[np.ndarray, " length"]:
    """Mask of the characters of a text that are in one of the spans."""
    opened = np.bincount(spans[:, 0], minlength=length + 1)
    closed = np.bincount(spans[:, 1], minlength=length + 1)
    return np.cumsum(opened - closed)[:length] > 0
