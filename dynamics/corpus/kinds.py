"""What a vocabulary entry is: a word's beginning, a piece, a broken byte, or never used at all.

The kind of a row is the first of these that holds:

    twin          the tokenizer has no entry for the row; by `corpus.twins` it stands for another
                  token in a random share of its occurrences
    padding       the tokenizer has no entry for the row
    special       a token of the tokenizer's own: end of text, mask, padding
    added         put beside the vocabulary by hand (runs of spaces in GPT-NeoX)
    byte          a single byte of 0x80 or more
    fragment      several bytes that are not valid UTF-8
    unreachable   the tokenizer never emits it for its own text
    continuation  any other: inside or at the end of a word, punctuation, white space; in byte-level
                  and SentencePiece vocabularies also a word at the beginning of a line
    word_start    begins with a space and goes on with something else; in WordPiece, no `##`

Single ASCII bytes are ordinary tokens.
"""

import json
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool

from dynamics.corpus.tokenizer import plain_backend, vocabulary_size
from dynamics.errors import MismatchError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

KINDS = (
    "twin",
    "padding",
    "special",
    "added",
    "byte",
    "fragment",
    "unreachable",
    "continuation",
    "word_start",
)

_CONTEXTS = ("", "«", "a", "1", "x", "q", "z")


@dataclass(frozen=True)
class _Entry:
    raw: bytes
    surface: str
    starts_word: bool
    piece: bool | None = None
    """In WordPiece, whether it goes on with a word; None elsewhere."""

    @property
    def goes_on(self) -> tuple[bool, bool]:
        """Whether it may go on with a word, and whether a word may go on after it."""
        if self.piece is not None:
            return self.piece, True
        text = self.raw.decode(errors="replace")
        return _in_word(text[:1]), _in_word(text[-1:])


def _in_word(character: str) -> bool:
    """A letter, mark, digit, underscore or what stands for a broken one; no empty string."""
    if character in ("", "\N{REPLACEMENT CHARACTER}"):
        return bool(character)
    category = unicodedata.category(character)
    return category[0] in "LMN" or category == "Pc"


def token_kinds(tokenizer: "PreTrainedTokenizerFast", vocab_size: int | None = None) -> list[str]:
    """Kind of each row of a vocabulary, one of `KINDS`; twins belong to a stream, not to it.

    Whether a token is unreachable is tried: its text is tokenised alone and after each of a few
    characters, and it is reachable when it comes out last once.

    Args:
        tokenizer: Byte-level BPE, SentencePiece-like (with or without byte fallback) or WordPiece.
        vocab_size: Rows of the model, the tokenizer's own number when not given.

    Raises:
        MismatchError: The tokenizer has more entries than `vocab_size`.
    """
    backend = plain_backend(tokenizer)
    kinds = ["padding"] * _rows(tokenizer, vocab_size)
    added = backend.get_added_tokens_decoder()
    special = {*tokenizer.all_special_ids, *(i for i, token in added.items() if token.special)}
    texts: dict[int, str] = {}
    for token_id, entry in _entries(backend).items():
        if token_id in special:
            kinds[token_id] = "special"
        elif token_id in added:
            kinds[token_id] = "added"
        elif len(entry.raw) == 1 and entry.raw[0] >= 0x80:
            kinds[token_id] = "byte"
        elif (text := _decode(entry.raw)) is None:
            kinds[token_id] = "fragment"
        else:
            texts[token_id] = text
            kinds[token_id] = "word_start" if entry.starts_word else "continuation"
    for token_id in _unreachable(backend, texts):
        kinds[token_id] = "unreachable"
    return kinds


def token_surfaces(
    tokenizer: "PreTrainedTokenizerFast", vocab_size: int | None = None
) -> list[str]:
    r"""Readable text of each row: spaces are spaces, bytes that are not UTF-8 stand as `\xe2`.

    WordPiece entries keep their `##`; rows without an entry are empty. The text is raw, it may hold
    line ends and markup: escape it where it is drawn.

    Raises:
        MismatchError: The tokenizer has more entries than `vocab_size`.
    """
    surfaces = [""] * _rows(tokenizer, vocab_size)
    for token_id, entry in _entries(plain_backend(tokenizer)).items():
        surfaces[token_id] = entry.surface
    return surfaces


def word_edges(
    tokenizer: "PreTrainedTokenizerFast", vocab_size: int | None = None
) -> tuple[Bool[np.ndarray, " V"], Bool[np.ndarray, " V"]]:
    """Whether a word may go on after each row's token, and whether with it.

    Two neighbours are in one word when a word goes on after the first and with the second. In
    WordPiece a token with `##` goes on, whatever it follows. Elsewhere letters, digits, marks and
    underscores that touch are one word: it goes on where the one token ends and the other begins
    with such a character, or with a byte of a character that was split. So a `word_start` begins a
    word (with its space), punctuation and white space are words of their own, and a `continuation`
    goes on after a letter only. In a script without spaces a word reaches from one punctuation mark
    to the next. Special, added and padding tokens are in no word; and where no token has a space,
    as with one token a word, nothing tells words apart and each token is one.

    Raises:
        MismatchError: The tokenizer has more entries than `vocab_size`.
    """
    backend = plain_backend(tokenizer)
    after, before = np.zeros((2, _rows(tokenizer, vocab_size)), bool)
    added = {*tokenizer.all_special_ids, *backend.get_added_tokens_decoder()}
    entries = {i: entry for i, entry in _entries(backend).items() if i not in added}
    if any(entry.piece or b" " in entry.raw for entry in entries.values()):
        for token_id, entry in entries.items():
            before[token_id], after[token_id] = entry.goes_on
    return after, before


def _rows(tokenizer: "PreTrainedTokenizerFast", vocab_size: int | None) -> int:
    entries = vocabulary_size(tokenizer)
    if vocab_size is not None and vocab_size < entries:
        raise MismatchError(
            f"the tokenizer has {entries} entries, the vocabulary only {vocab_size} rows; "
            "give the tokenizer that belongs to the model"
        )
    return vocab_size or entries


def _unreachable(backend: "Tokenizer", texts: dict[int, str]) -> list[int]:
    left = list(texts)
    for context in _CONTEXTS:
        batch = [context + texts[token_id] for token_id in left]
        encodings = backend.encode_batch_fast(batch, add_special_tokens=False)
        left = [
            token_id
            for token_id, encoding in zip(left, encodings, strict=True)
            if encoding.ids[-1:] != [token_id]
        ]
    return left


def _entries(backend: "Tokenizer") -> dict[int, _Entry]:
    read = _reader(json.loads(backend.to_str()))
    vocabulary = backend.get_vocab(with_added_tokens=False)
    entries = {token_id: read(token) for token, token_id in vocabulary.items()}
    for token_id, token in backend.get_added_tokens_decoder().items():
        entries[token_id] = _Entry(token.content.encode(), token.content, starts_word=False)
    return entries


def _reader(backend: dict[str, Any]) -> Callable[[str], _Entry]:
    """How the entries of a vocabulary spell bytes, from the serialised backend."""
    spelling = json.dumps([backend["normalizer"], backend["pre_tokenizer"], backend["decoder"]])
    if '"ByteLevel"' in spelling:
        return _byte_level_entry
    if backend["model"]["type"] == "WordPiece":
        prefix = backend["model"]["continuing_subword_prefix"]
        return lambda token: _word_piece_entry(token, prefix)
    byte_fallback = backend["model"].get("byte_fallback", False)
    return lambda token: _metaspace_entry(token, byte_fallback)


def _byte_level_entry(token: str) -> _Entry:
    if not _BYTES.keys() >= set(token):  # never made by bytes, so never emitted
        return _spaced_entry(token.encode())
    return _spaced_entry(bytes(_BYTES[character] for character in token))


def _metaspace_entry(token: str, byte_fallback: bool) -> _Entry:
    if byte_fallback and (match := re.fullmatch(r"<0x([0-9A-F]{2})>", token)):
        return _spaced_entry(bytes.fromhex(match[1]))
    return _spaced_entry(token.replace("▁", " ").encode())


def _spaced_entry(raw: bytes) -> _Entry:
    starts_word = raw.startswith(b" ") and not raw.isspace()
    return _Entry(raw, raw.decode(errors="backslashreplace"), starts_word)


def _word_piece_entry(token: str, prefix: str) -> _Entry:
    piece = token.startswith(prefix)
    return _Entry(token.removeprefix(prefix).encode(), token, not piece, piece)


def _decode(raw: bytes) -> str | None:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's spelling of bytes: printable ones stand for themselves, the others from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    spelled = {chr(byte): byte for byte in printable}
    return spelled | {chr(0x100 + index): byte for index, byte in enumerate(others)}


_BYTES = _byte_alphabet()
