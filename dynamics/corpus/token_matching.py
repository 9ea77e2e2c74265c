"""Rows of a user's table matched with token ids: by id, by spelling, or by word.

A spelling is that of the tokenizer (`Ġthe`, `▁the`, `##ing`) or readable text (` the`). Where it
is the tokenizer's spelling of one token and the text of another, the other rows of the table tell
in which of the two it is written; where they do not, the row is ambiguous and left out.

A word is looked up by the rule `Words`; words of several tokens are left out.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Integer

from dynamics.config import Words
from dynamics.corpus.token_table import TokenTable
from dynamics.errors import MismatchError, first_of

UNMATCHED = -1
_NO_TEXT = ("padding", "twin")
_SHOWN = 3


@dataclass(frozen=True, eq=False)
class Spellings:
    """Spellings of the tokens of a vocabulary.

    Attributes:
        name: The tokenizer, series or run, in messages.
        rows: V, number of token ids.
        own: Token id of each spelling of the tokenizer; empty where only texts are known.
        texts: Ids of the tokens of each text.
        word_starts: Id of the token that begins a word, by the word.
        normalized: The word as the tokenizer gets it: of some, in lower case.
    """

    name: str
    rows: int
    own: Mapping[str, int]
    texts: Mapping[str, Sequence[int]]
    word_starts: Mapping[str, int]
    normalized: Callable[[str], str] = str

    @property
    def are_known(self) -> bool:
        """Return whether the vocabulary has spellings, so that tokens can be found by them."""
        return bool(self.texts)

    def other_token(self, token: str, token_id: int) -> int | None:
        """Return the token that a spelling means instead of that of an id, None where it may be it.

        Decoders drop spaces at the beginning and write broken bytes as a replacement character, so
        that a spelling which differs in these alone means nothing else.
        """
        readings = _readings(token, self, own=True, text=True)
        if not readings or token_id in readings or "\N{REPLACEMENT CHARACTER}" in token:
            return None
        return None if token_id in self.texts.get(f" {token}", ()) else readings[0]

    def of_word(self, word: str, words: Words) -> int | None:
        """Return the token that stands for a word, None where it is of several tokens."""
        word = self.normalized(word)
        start = self.word_starts.get(word)
        bare = next((i for i in self.texts.get(word, ()) if i != start), None)
        if not self.word_starts or words == "bare":  # word starts have no mark in some vocabularies
            return bare
        return start if words == "space" or start is not None else bare


def spellings(
    name: str,
    surfaces: Sequence[str],
    kinds: Sequence[str],
    own: Mapping[str, int] | None = None,
    normalized: Callable[[str], str] = str,
) -> Spellings:
    """Return the spellings of a vocabulary from the text and the kind of each token.

    Args:
        name: As in `Spellings`.
        surfaces: Readable text of each token id.
        kinds: Kind of each, see `tokenizers.kinds`; padding and twins have no text of their own.
        own: As in `Spellings`.
        normalized: As in `Spellings`.
    """
    texts: dict[str, list[int]] = defaultdict(list)
    word_starts: dict[str, int] = {}
    for token_id, (surface, kind) in enumerate(zip(surfaces, kinds, strict=True)):
        if kind not in _NO_TEXT and surface:
            texts[surface].append(token_id)
        if kind == "word_start" or (kind == "uncounted" and surface.startswith(" ")):
            word_starts.setdefault(surface.removeprefix(" "), token_id)
    return Spellings(name, len(surfaces), own or {}, dict(texts), word_starts, normalized)


@dataclass(frozen=True, eq=False)
class Matched:
    """Rows of a table with their token ids.

    Attributes:
        table: The table.
        ids: Token id of each row, `UNMATCHED` where there is none.
        notes: What was matched and what was not, a line each.
    """

    table: TokenTable
    ids: Integer[np.ndarray, " rows"]
    notes: tuple[str, ...]

    @property
    def matched(self) -> int:
        """Number of rows that have a token."""
        return int((self.ids != UNMATCHED).sum())

    def spread(self, values: np.ndarray, rows: int, fill: float = np.nan) -> np.ndarray:
        """Return values of the rows as values of `rows` tokens, `fill` for those without a row."""
        spread = np.full(rows, fill)
        has_token = self.ids != UNMATCHED
        spread[self.ids[has_token]] = values[has_token]
        return spread


def match(table: TokenTable, known: Spellings, words: Words = "space") -> Matched:
    """Match the rows of a table with tokens.

    Raises:
        CorpusError: A cell of the key is not what it has to be.
        MismatchError: Two rows are one token; an id is not of the vocabulary, or not the token that
            is beside it; no row is a token; or spellings are needed and not known.
    """
    if table.key == "token_id":
        ids, notes = _by_id(table, known), []
    elif not known.are_known:
        raise MismatchError(
            f"{table.name} names tokens by {table.key}, and the tokenizer of {known.name} is not "
            "known; put its tokenizer.json beside the checkpoints, or give a column token_id"
        )
    elif table.key == "token":
        ids, notes = _by_spelling(table, known)
    else:
        ids, notes = _by_word(table, known, words)
    matched = Matched(table, np.array(ids, np.int64), tuple(notes))
    _refuse_doubles(matched, known)
    if not matched.matched:
        keys = first_of([repr(cell) for cell in table.columns[table.key]], _SHOWN)
        raise MismatchError(
            f"none of the {len(table):,} rows of {table.name} ({keys}) is a token of {known.name}; "
            "give a table of its vocabulary"
        )
    return matched


def _by_id(table: TokenTable, known: Spellings) -> list[int]:
    """Ids of a table, each of the vocabulary, and that of the token beside it."""
    ids = table.ids()
    for row, token_id in enumerate(ids):
        if not 0 <= token_id < known.rows:
            raise MismatchError(
                f"{table.where(row)}: token_id {token_id} is none of {known.name}, which has "
                f"{known.rows:,} rows; give ids of its tokenizer"
            )
    if "token" in table.columns and known.are_known:
        for row, (token_id, token) in enumerate(zip(ids, table.texts("token"), strict=True)):
            if (other := known.other_token(token, token_id)) is not None:
                raise MismatchError(
                    f"{table.where(row)}: token_id {token_id} stands beside {token!r}, which is "
                    f"token {other} of {known.name}; the ids are of another tokenizer"
                )
    return ids


def _by_spelling(table: TokenTable, known: Spellings) -> tuple[list[int], list[str]]:
    """Ids of tokens by their spelling, and a line on those that are ambiguous."""
    tokens = table.texts("token")
    is_own = any(token in known.own and token not in known.texts for token in tokens)
    is_text = any(token in known.texts and token not in known.own for token in tokens)
    ids, ambiguous = [], []
    for row, token in enumerate(tokens):
        readings = _readings(token, known, own=is_own or not is_text, text=is_text or not is_own)
        ids.append(readings[0] if len(readings) == 1 else UNMATCHED)
        if len(readings) > 1:
            places = " or ".join(map(str, readings))
            ambiguous.append(f"{token!r} ({table.places[row]}: token {places})")
    notes = []
    if ambiguous:
        notes.append(
            f"{table.name}: {len(ambiguous):,} tokens are ambiguous and left out: "
            f"{first_of(ambiguous, _SHOWN)}; give a column token_id to have them"
        )
    return ids, notes


def _readings(token: str, known: Spellings, *, own: bool, text: bool) -> list[int]:
    """Ids that a spelling can mean, of the readings that are open."""
    spelled, texts = known.own.get(token), list(known.texts.get(token, ()))
    if spelled is not None and (spelled in texts or not texts):
        return [spelled]  # both readings agree, or only one is possible
    if spelled is None:
        return texts
    return ([spelled] if own else []) + (texts if text else [])


def _by_word(table: TokenTable, known: Spellings, words: Words) -> tuple[list[int], list[str]]:
    """Ids of the tokens that stand for words, and a line on the rule and what it leaves out."""
    texts = table.texts("word")
    ids = [known.of_word(word, words) for word in texts]
    lost = [word for word, token_id in zip(texts, ids, strict=True) if token_id is None]
    note = f"{table.name}: {len(ids) - len(lost):,} of {len(ids):,} words are one token, "
    note += _rule(known, words)
    if lost:
        elsewhere = sum(known.of_word(word, "either") is not None for word in lost)
        note += f"; {len(lost):,} are left out ({first_of(list(map(repr, lost)), _SHOWN)})"
        if elsewhere:
            note += f", of which {elsewhere:,} are one token in the other spelling (words=either)"
    return [UNMATCHED if token_id is None else token_id for token_id in ids], [note]


def _rule(known: Spellings, words: Words) -> str:
    """The rule by which a token stands for a word, as the end of a clause."""
    spaced = any(text.startswith(" ") for text in known.texts)
    start = "with its leading space" if spaced else "as the beginning of a word"
    if not known.word_starts:
        return "as they stand, because the vocabulary does not mark where words begin"
    rules = {"space": start, "bare": f"not {start}", "either": f"{start}, or else without"}
    return rules[words]


def _refuse_doubles(matched: Matched, known: Spellings) -> None:
    """Refuse two rows of one token.

    Raises:
        MismatchError: There are such.
    """
    table, rows = matched.table, {}
    for row, token_id in enumerate(matched.ids.tolist()):
        first = rows.setdefault(token_id, row)
        if token_id != UNMATCHED and first != row:
            cells = [table.columns[table.key][index] for index in (first, row)]
            raise MismatchError(
                f"{table.where(first)} and {table.places[row]} ({cells[0]!r} and {cells[1]!r}) are "
                f"both token {token_id} of {known.name}; keep one row a token"
            )
