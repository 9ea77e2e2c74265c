"""Kinds of vocabulary entries: beginning of a word, piece, broken byte, unreachable, and others.

The kind of a row is the first of these that holds:

    twin          the tokenizer has no entry for the row; by `corpus.twins` it replaces another
                  token in a random share of its occurrences
    padding       the tokenizer has no entry for the row
    uncounted     a table of counts that a user brought has no row for the token
    unknown       there are counts by id and no tokenizer
    special       a token of the tokenizer's own: end of text, mask, padding, unknown
    added         added to the vocabulary by hand (runs of spaces in GPT-NeoX)
    byte          a single byte of 0x80 or more
    fragment      several bytes that are not valid UTF-8
    unreachable   the tokenizer emits it neither for a text that was counted nor for its own text,
                  alone or beside a few characters
    word_start    begins with a space, followed by other text; where a prefix marks pieces
                  (`##`: WordPiece, some BPE), has none
    continuation  any other: inside or at the end of a word, punctuation, white space; in byte-level
                  and SentencePiece vocabularies also a word at the beginning of a line; where only
                  the ends of words are marked (`</w>`), or nothing is, every word and piece

Single ASCII bytes are ordinary tokens.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool

from dynamics.corpus.tokenizers.loading import backend_errors, plain_backend, vocabulary_size
from dynamics.corpus.tokenizers.spelling import Entry, unknown_id, vocabulary_entries
from dynamics.errors import CorpusError, MismatchError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

_PREFIXES = ("", "«", "a", "1", "x", "q", "z")  # texts that an entry is tried after
_NEIGHBOURS = 8  # letters, and longer entries, that an entry is tried beside


def token_kinds(
    tokenizer: "PreTrainedTokenizerFast",
    vocab_size: int | None = None,
    *,
    occurring: Bool[np.ndarray, " V"] | None = None,
) -> list[str]:
    """Return the kind of each row of a vocabulary, see `surfaces_and_kinds`."""
    return surfaces_and_kinds(tokenizer, vocab_size, occurring)[1]


def surfaces_and_kinds(
    tokenizer: "PreTrainedTokenizerFast",
    vocab_size: int | None = None,
    occurring: Bool[np.ndarray, " V"] | None = None,
) -> tuple[list[str], list[str]]:
    r"""Return readable text and the kind (see the module) of each row of a vocabulary.

    In the text spaces are spaces, bytes that are not UTF-8 are `\xe2`, and marks of pieces stay
    (`##ing`, `low</w>`); rows without an entry are empty. The text is raw, it may hold line ends
    and markup: escape it where it is drawn. Twins belong to a stream, not to a vocabulary: their
    rows are padding here.

    Args:
        tokenizer: Any backed by `tokenizers`, whatever its model and however it spells spaces.
        vocab_size: V, rows of the model; the tokenizer's own number when None.
        occurring: Mask of tokens that occur in a text, and are therefore reachable; the others are
            tried.

    Raises:
        MismatchError: The tokenizer has more entries than `vocab_size`.
        CorpusError: The backend fails.
    """
    backend = plain_backend(tokenizer)
    rows = row_count(tokenizer, vocab_size)
    surfaces, kinds = [""] * rows, ["padding"] * rows
    named_kinds = own_tokens(tokenizer)
    ordinary: dict[int, Entry] = {}
    for token_id, entry in _entries(backend).items():
        surfaces[token_id] = entry.surface
        if token_id in named_kinds:
            kinds[token_id] = named_kinds[token_id]
        elif len(entry.raw) == 1 and entry.raw[0] >= 0x80:
            kinds[token_id] = "byte"
        elif entry.text is None:
            kinds[token_id] = "fragment"
        else:
            kinds[token_id] = "word_start" if entry.starts_word else "continuation"
            ordinary[token_id] = entry
    unseen = [i for i in ordinary if occurring is None or not occurring[i]]
    for token_id in _unreachable(backend, ordinary, unseen):
        kinds[token_id] = "unreachable"
    return surfaces, kinds


def own_tokens(tokenizer: "PreTrainedTokenizerFast") -> dict[int, str]:
    """Kinds, `special` or `added`, of the tokens that are not part of the learned vocabulary."""
    backend = tokenizer.backend_tokenizer
    added = backend.get_added_tokens_decoder()
    special = {*tokenizer.all_special_ids, *(i for i, token in added.items() if token.special)}
    if (unknown := unknown_id(backend)) is not None:
        special.add(unknown)
    return {i: "special" if i in special else "added" for i in {*added, *special}}


def word_edges(
    tokenizer: "PreTrainedTokenizerFast", vocab_size: int | None = None
) -> tuple[Bool[np.ndarray, " V"], Bool[np.ndarray, " V"]]:
    """Return masks of tokens after which a word may continue, and of those that may continue one.

    Two neighbours are in one word if the first is in the first mask and the second in the second.
    Where a prefix marks pieces (`##`), every token with it continues a word; where a suffix marks
    the ends of words (`</w>`), a word continues after every token without it. Elsewhere letters,
    digits, marks and underscores that touch are one word: it continues where one token ends and
    the next begins with such a character, or with a byte of a character that was split. So a
    `word_start` begins a word (with its space), punctuation and white space are separate words, and
    a `continuation` continues a word after a letter only. In a script without spaces a word reaches
    from one punctuation mark to the next. Special, added and padding tokens are in no word; and if
    no token has a space or a mark, as with one token a word, each token is a word.

    Raises:
        MismatchError: The tokenizer has more entries than `vocab_size`.
    """
    backend = plain_backend(tokenizer)
    joins_next, joins_previous = np.zeros((2, row_count(tokenizer, vocab_size)), bool)
    excluded = own_tokens(tokenizer)
    entries = {i: entry for i, entry in _entries(backend).items() if i not in excluded}
    if any(entry.continues or entry.ends or b" " in entry.raw for entry in entries.values()):
        for token_id, entry in entries.items():
            joins_previous[token_id], joins_next[token_id] = entry.joins
    return joins_next, joins_previous


def row_count(tokenizer: "PreTrainedTokenizerFast", vocab_size: int | None) -> int:
    """V, the rows of a model: `vocab_size`, or the number of the tokenizer's entries when None.

    Raises:
        MismatchError: The tokenizer has more entries.
    """
    entries = vocabulary_size(tokenizer)
    if vocab_size is not None and vocab_size < entries:
        raise MismatchError(
            f"the tokenizer has {entries} entries, the vocabulary only {vocab_size} rows; "
            "give the tokenizer that belongs to the model"
        )
    return vocab_size or entries


def _entries(backend: "Tokenizer") -> dict[int, Entry]:
    """Entry of each id; a failure of the backend is one line."""
    with backend_errors("the entries of the tokenizer cannot be read", "give another tokenizer"):
        return vocabulary_entries(backend)


def _unreachable(
    backend: "Tokenizer", entries: dict[int, Entry], token_ids: list[int]
) -> list[int]:
    """Select ids that are not emitted for their entry's text in any of several contexts."""
    remaining = token_ids
    for prefix in _PREFIXES:
        texts = [prefix + (entries[i].text or "") for i in remaining]
        remaining = _not_emitted(backend, remaining, texts)
    marked = [i for i in remaining if entries[i].continues or entries[i].ends is False]
    unmarked = sorted({*remaining} - {*marked})
    for neighbour in _neighbours(entries) if marked else ():
        marked = _not_emitted(backend, marked, [_inside(entries[i], neighbour) for i in marked])
    return unmarked + marked


def _not_emitted(backend: "Tokenizer", token_ids: list[int], texts: list[str]) -> list[int]:
    """Select ids that are not emitted for their text."""
    emitted = _encoded(backend, texts)
    return [i for i, ids in zip(token_ids, emitted, strict=True) if i not in ids]


def _inside(entry: Entry, neighbour: str | None) -> str:
    """Text of an entry, with a neighbour on each side where its mark says that the word continues.

    An entry is emitted only beside text that the vocabulary has and that does not merge with it.

    Args:
        entry: Has a mark.
        neighbour: Text before and after the entry; its first and last letter when None.
    """
    text = entry.text or ""
    left, right = (text[:1], text[-1:]) if neighbour is None else (neighbour, neighbour)
    return (left if entry.continues else "") + text + (right if entry.ends is False else "")


def _neighbours(entries: dict[int, Entry]) -> Iterator[str | None]:
    """Texts to try entries beside: None for their own letters, some letters and longer entries."""
    yield None
    words = sorted({text for entry in entries.values() if (text := entry.text or "").isalpha()})
    yield from _some([word for word in words if len(word) == 1])
    yield from _some([word for word in words if len(word) > 1])


def _some(texts: list[str]) -> list[str]:
    """A few of the texts, evenly spread."""
    return texts[:: max(1, len(texts) // _NEIGHBOURS)][:_NEIGHBOURS]


def _encoded(backend: "Tokenizer", texts: list[str]) -> list[list[int]]:
    """Ids of each text; empty for a text that the backend cannot tokenise."""
    try:
        with backend_errors("a text cannot be tokenised", "leave it out"):
            encodings = backend.encode_batch_fast(texts, add_special_tokens=False)
    except CorpusError:  # a model without an unknown token: one text fails the batch
        return [_encoded(backend, [text])[0] for text in texts] if len(texts) > 1 else [[]]
    return [encoding.ids for encoding in encodings]
