"""How the entries of a vocabulary spell text: their bytes, and their marks of spaces and word ends.

A vocabulary writes a space in one of three ways: as a byte in GPT-2's alphabet (ByteLevel), as a
mark (Metaspace's `▁`), or not at all, because the pre-tokenizer drops white space. The last kind
often marks pieces instead: those that go on with a word (`##ing`: WordPiece, and BPE with a
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


@dataclass(frozen=True)
class Entry:
    """What one entry of a vocabulary spells.

    Attributes:
        raw: UTF-8 bytes of its text, spaces as spaces, without the marks of pieces.
        surface: Readable text, which keeps the marks of pieces.
        continues: Whether its mark says that it goes on with a word; None where no entry is so
            marked.
        ends: Whether its mark says that it ends a word; None where no entry is so marked.
    """

    raw: bytes
    surface: str
    continues: bool | None = None
    ends: bool | None = None

    @property
    def starts_word(self) -> bool:
        """Whether it begins a word: its mark says so, or it has a space before other text."""
        if self.continues is not None:
            return not self.continues
        return self.raw.startswith(b" ") and not self.raw.isspace()

    @property
    def text(self) -> str | None:
        """Its text; None where the bytes are not valid UTF-8."""
        try:
            return self.raw.decode()
        except UnicodeDecodeError:
            return None

    @property
    def joins(self) -> tuple[bool, bool]:
        """Whether it may go on with a word, and whether a word may go on after it.

        Marks decide where there are any; then the side that has none follows the other token.
        """
        if self.continues is not None or self.ends is not None:
            return self.continues is not False, not self.ends
        text = self.raw.decode(errors="replace")
        return _in_word(text[:1]), _in_word(text[-1:])


class PieceMarks(NamedTuple):
    """How a vocabulary marks pieces of words.

    Attributes:
        prefix: Begins entries that go on with a word (`##`); None where nothing does.
        suffix: Ends entries that end a word (`</w>`); None where nothing does.
    """

    prefix: str | None
    suffix: str | None

    def unmarked(self, token: str) -> tuple[str, bool | None, bool | None]:
        """The entry without its marks, whether it had the prefix, and whether the suffix."""
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
    """Id that the model gives to text it has no entry for; None where it has none."""
    if type(backend.model).__name__ == "Unigram":  # whose binding has no such attribute
        return json.loads(backend.model.__getstate__())["unk_id"]
    token = getattr(backend.model, "unk_token", None)
    return None if token is None else backend.model.token_to_id(token)


def components(backend: "Tokenizer") -> list[dict[str, Any]]:
    """Settings of the normalizers, then of the pre-tokenizers, those inside sequences one by one.

    Each has its class as `type`.
    """
    parts = (backend.normalizer, backend.pre_tokenizer)
    return [
        component
        for part in parts
        if part is not None
        for component in _flat(json.loads(part.__getstate__()))
    ]


def _flat(component: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if component["type"] != "Sequence":
        yield component
        return
    for inner in component.get("normalizers", component.get("pretokenizers", ())):
        yield from _flat(inner)


def vocabulary_entries(backend: "Tokenizer") -> dict[int, Entry]:
    """What each id's entry spells, added tokens included."""
    read = _reader(backend)
    vocabulary = backend.get_vocab(with_added_tokens=False)
    entries = {token_id: read(token) for token, token_id in vocabulary.items()}
    for token_id, token in backend.get_added_tokens_decoder().items():
        entries[token_id] = Entry(token.content.encode(), token.content)
    return entries


def _reader(backend: "Tokenizer") -> Callable[[str], Entry]:
    """A function that reads one entry of the model's vocabulary."""
    marks, spelled_bytes = piece_marks(backend), _byte_speller(backend)

    def read(token: str) -> Entry:
        text, continues, ends = marks.unmarked(token)
        raw = spelled_bytes(text)
        before = marks.prefix if continues else ""
        after = marks.suffix if ends else ""
        surface = f"{before}{raw.decode(errors='backslashreplace')}{after}"
        return Entry(raw, surface, continues, ends)

    return read


def _byte_speller(backend: "Tokenizer") -> Callable[[str], bytes]:
    """A function from an entry without marks to the bytes of text that it stands for."""
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
    """Whether the model sees bytes in GPT-2's alphabet."""
    return any(component["type"] == "ByteLevel" for component in components(backend))


def has_byte_fallback(backend: "Tokenizer") -> bool:
    """Whether the model may spell a character as bytes (`<0xE6>`)."""
    model = backend.model
    if type(model).__name__ == "Unigram":
        return json.loads(model.__getstate__())["byte_fallback"]
    return getattr(model, "byte_fallback", False)


def _byte_level(token: str) -> bytes:
    try:
        return bytes(map(BYTE_OF.__getitem__, token))
    except KeyError:  # never made by bytes, so never emitted
        return token.encode()


def space_mark(backend: "Tokenizer") -> str | None:
    """What the model sees in place of a space between two letters; None for nothing or a space.

    It is tried, because many components can write it: Metaspace, Prepend and Replace, a regex.
    """
    seen = "x y"
    if backend.normalizer is not None:
        seen = backend.normalizer.normalize_str(seen)
    if backend.pre_tokenizer is not None:
        seen = "".join(word for word, _ in backend.pre_tokenizer.pre_tokenize_str(seen))
    between = re.search(r"x(\S+)y", seen)
    return between and between[1]


def _in_word(character: str) -> bool:
    """A letter, mark, digit, underscore or what stands for a broken one; no empty string."""
    if character in ("", "\N{REPLACEMENT CHARACTER}"):
        return bool(character)
    category = unicodedata.category(character)
    return category[0] in "LMN" or category == "Pc"


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's spelling of bytes: printable ones stand for themselves, the others from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    spelled = {chr(byte): byte for byte in printable}
    return spelled | {chr(0x100 + index): byte for index, byte in enumerate(others)}


BYTE_OF = _byte_alphabet()
