"""Spelling of vocabulary entries: their bytes, and their marks of spaces and word ends.

A vocabulary writes a space in one of three ways: as a byte in GPT-2's alphabet (ByteLevel), as a
mark (Metaspace's `▁`), or not at all, because the pre-tokenizer drops white space. The last kind
often marks pieces instead: those that continue a word (`##ing`: WordPiece, and BPE with a
continuing subword prefix) or those that end one (`low</w>`: BPE with an end-of-word suffix, as in
GPT-1, CLIP and XLM).
"""

import json
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from tokenizers.normalizers import Normalizer
    from tokenizers.pre_tokenizers import PreTokenizer


@dataclass(frozen=True)
class Entry:
    """Spelling of one entry of a vocabulary.

    Attributes:
        raw: UTF-8 bytes of the text, spaces as spaces, without the marks of pieces.
        surface: Readable text, which keeps the marks of pieces.
        continues: True if the entry is marked as continuing a word; None where the vocabulary has
            no such mark.
        ends: True if the entry is marked as ending a word; None where the vocabulary has no such
            mark.
    """

    raw: bytes
    surface: str
    continues: bool | None = None
    ends: bool | None = None

    @property
    def starts_word(self) -> bool:
        """Return whether the entry begins a word: by its mark, or by a space before other text."""
        if self.continues is not None:
            return not self.continues
        return self.raw.startswith(b" ") and not self.raw.isspace()

    @property
    def text(self) -> str | None:
        """Text of the entry; None where the bytes are not valid UTF-8."""
        try:
            return self.raw.decode()
        except UnicodeDecodeError:
            return None

    @property
    def joins(self) -> tuple[bool, bool]:
        """Return whether the entry may continue a word, and whether a word may continue after it.

        Marks decide where the vocabulary has any; a side without a mark follows the other token.
        """
        if self.continues is not None or self.ends is not None:
            return self.continues is not False, not self.ends
        text = self.raw.decode(errors="replace")
        return _in_word(text[:1]), _in_word(text[-1:])


class PieceMarks(NamedTuple):
    """Marks of pieces of words in a vocabulary.

    Attributes:
        prefix: Prefix of entries that continue a word (`##`), None for no such mark.
        suffix: Suffix of entries that end a word (`</w>`), None for no such mark.
    """

    prefix: str | None
    suffix: str | None

    def unmarked(self, token: str) -> tuple[str, bool | None, bool | None]:
        """Return the entry without its marks, whether it had the prefix, and whether the suffix."""
        continues = ends = None
        if self.prefix is not None:
            continues = token.startswith(self.prefix)
            token = token.removeprefix(self.prefix)
        if self.suffix is not None:
            ends = token.endswith(self.suffix)
            token = token.removesuffix(self.suffix)
        return token, continues, ends


def piece_marks(backend: "Tokenizer") -> PieceMarks:
    """Marks of pieces in a tokenizer's vocabulary; an empty string in its file marks nothing."""
    prefix = getattr(backend.model, "continuing_subword_prefix", None)
    suffix = getattr(backend.model, "end_of_word_suffix", None)
    return PieceMarks(prefix or None, suffix or None)


def unknown_id(backend: "Tokenizer") -> int | None:
    """Id of the model's unknown token; None where it has none."""
    if type(backend.model).__name__ == "Unigram":  # whose binding has no such attribute
        return json.loads(backend.model.__getstate__())["unk_id"]
    token = getattr(backend.model, "unk_token", None)
    return None if token is None else backend.model.token_to_id(token)


def normalized(backend: "Tokenizer", text: str) -> str:
    """Text after the normalizer."""
    return text if backend.normalizer is None else backend.normalizer.normalize_str(text)


def model_words(backend: "Tokenizer", text: str) -> list[str]:
    """Strings that the model gets for a text, each of which is tokenised separately."""
    text = normalized(backend, text)
    if backend.pre_tokenizer is None:
        return [text]
    return [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(text)]


def components(part: "Normalizer | PreTokenizer | None") -> list[dict[str, Any]]:
    """Settings of a normalizer or pre-tokenizer, sequences unrolled; its class is its `type`."""
    return [] if part is None else list(_flat(json.loads(part.__getstate__())))


def _flat(component: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Settings of a component, or of those in a sequence."""
    if component["type"] != "Sequence":
        yield component
        return
    for inner in component.get("normalizers", component.get("pretokenizers", ())):
        yield from _flat(inner)


def vocabulary_entries(backend: "Tokenizer") -> dict[int, Entry]:
    """Spelling of the entry of each id, added tokens included."""
    read = _reader(backend)
    vocabulary = backend.get_vocab(with_added_tokens=False)
    entries = {token_id: read(token) for token, token_id in vocabulary.items()}
    for token_id, token in backend.get_added_tokens_decoder().items():
        entries[token_id] = Entry(token.content.encode(), token.content)
    return entries


def _reader(backend: "Tokenizer") -> Callable[[str], Entry]:
    """Return a function that reads one entry of the model's vocabulary."""
    marks, spelled_bytes = piece_marks(backend), _byte_speller(backend)

    def read(token: str) -> Entry:
        text, continues, ends = marks.unmarked(token)
        raw = spelled_bytes(text)
        prefix = marks.prefix if continues else ""
        suffix = marks.suffix if ends else ""
        surface = f"{prefix}{raw.decode(errors='backslashreplace')}{suffix}"
        return Entry(raw, surface, continues, ends)

    return read


def _byte_speller(backend: "Tokenizer") -> Callable[[str], bytes]:
    """Return a function from an entry without marks to the bytes of its text."""
    if is_byte_level(backend):
        return _byte_level
    mark = space_mark(backend)
    byte_fallback = has_byte_fallback(backend)

    def spelled(token: str) -> bytes:
        if byte_fallback and (match := re.fullmatch(r"<0x([0-9A-F]{2})>", token)):
            return bytes.fromhex(match[1])
        return (token if mark is None else token.replace(mark, " ")).encode()

    return spelled


def is_byte_level(backend: "Tokenizer") -> bool:
    """Return whether the model gets bytes in GPT-2's alphabet."""
    parts = [*components(backend.normalizer), *components(backend.pre_tokenizer)]
    return any(component["type"] == "ByteLevel" for component in parts)


def has_byte_fallback(backend: "Tokenizer") -> bool:
    """Return whether the model may spell a character as bytes (`<0xE6>`)."""
    model = backend.model
    if type(model).__name__ == "Unigram":
        return json.loads(model.__getstate__())["byte_fallback"]
    return getattr(model, "byte_fallback", False)


def _byte_level(token: str) -> bytes:
    """Bytes of an entry in GPT-2's alphabet; UTF-8 of one that has other characters."""
    try:
        return bytes(map(BYTE_OF.__getitem__, token))
    except KeyError:  # never made by bytes, so never emitted
        return token.encode()


def space_mark(backend: "Tokenizer") -> str | None:
    """Mark that replaces a space between two letters for the model; None for nothing or a space.

    It is found by trial, because many components can write it: Metaspace, Prepend and Replace, a
    regex.
    """
    match = re.search(r"x(\S+)y", "".join(model_words(backend, "x y")))
    return match and match[1]


def _in_word(character: str) -> bool:
    """Return whether a character is a letter, mark, digit, underscore or part of a broken one."""
    if character in ("", "\N{REPLACEMENT CHARACTER}"):
        return bool(character)
    category = unicodedata.category(character)
    return category[0] in "LMN" or category == "Pc"


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's spelling of bytes: printable ones stand for themselves, the others from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    unprintable = [byte for byte in range(256) if byte not in printable]
    spelled = {chr(byte): byte for byte in printable}
    return spelled | {chr(0x100 + index): byte for index, byte in enumerate(unprintable)}


BYTE_OF = _byte_alphabet()
