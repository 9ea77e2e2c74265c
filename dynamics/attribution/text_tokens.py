"""Tokens of a text with the special tokens of its model, their words and their segments."""

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from dynamics.models.live_model import LiveModel

_WORD = re.compile(r"\S+")


@dataclass(frozen=True)
class Tokens:
    """Token ids with their words and segments.

    Attributes:
        ids: Token ids.
        special: Flags of special tokens, whether the tokenizer added them or the text holds them;
            tokens that stand for a word (the unknown and the mask token) are not special.
        words: Index of the whitespace-separated word of each token, None for special tokens.
        segments: Segment of each token, for models that have segments.
        word_texts: Text of each word, with the white space before it; empty where unknown.
    """

    ids: list[int]
    special: list[bool]
    words: list[int | None]
    segments: list[int] | None = None
    word_texts: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)


@dataclass
class _Token:
    """A token of the tokenizer's output: id, index of its text, span in that text, segment."""

    token_id: int
    sequence: int | None
    span: tuple[int, int]
    segment: int


def tokens_with_special(
    model: LiveModel, text: str, pair: str | None, room: int | None
) -> tuple[Tokens, int]:
    """Tokenise with special tokens; return at most `room` tokens and how many were dropped."""
    tokens = _tokenize(model, text, pair, None)
    dropped = 0 if room is None else max(0, len(tokens) - room)
    if room is not None and dropped:
        # Where the text itself begins or ends with special tokens, those are removed after the
        # cut, and one or two more tokens fit.
        tokens = _tokenize(model, text, pair, room)
        for limit in range(room + 1, room + 3):
            if len(longer := _tokenize(model, text, pair, limit)) <= room:
                tokens = longer
    reserved = _reserved_ids(model)
    special = [token.sequence is None or token.token_id in reserved for token in tokens]
    texts = (text, pair or "")
    special_spans = [
        [
            token.span
            for token, is_special in zip(tokens, special, strict=True)
            if is_special and token.sequence == sequence
        ]
        for sequence in range(len(texts))
    ]
    spans = [_word_spans(part, cuts) for part, cuts in zip(texts, special_spans, strict=True)]
    starts = [[start for start, _ in part] for part in spans]
    words = [
        None
        if is_special or token.sequence is None
        else _word(starts[token.sequence], token.span) + token.sequence * len(spans[0])
        for token, is_special in zip(tokens, special, strict=True)
    ]
    fitting = Tokens(
        [token.token_id for token in tokens],
        special,
        words,
        [token.segment for token in tokens] if model.has_segments else None,
        [
            part[start:end]
            for part, part_spans in zip(texts, spans, strict=True)
            for start, end in part_spans
        ],
    )
    return fitting, dropped


def _tokenize(model: LiveModel, text: str, pair: str | None, room: int | None) -> list[_Token]:
    """Tokenise with special tokens, without adding those that the text itself has at its ends.

    Args:
        model: The model.
        text: The text.
        pair: A second text.
        room: Tokens to truncate to, counted before duplicate special tokens are removed.
    """
    tokenizer = model.tokenizer
    side = tokenizer.truncation_side
    tokenizer.truncation_side = "left" if model.task == "causal" else side
    try:
        encoded = tokenizer(
            text,
            pair,
            truncation=room is not None,
            max_length=room,
            return_token_type_ids=True,
            return_offsets_mapping=True,
            verbose=False,
        )
    finally:
        tokenizer.truncation_side = side
    columns = (
        encoded["input_ids"],
        encoded.sequence_ids(),
        encoded["offset_mapping"],
        encoded["token_type_ids"],
    )
    tokens = [_Token(*row) for row in zip(*columns, strict=True)]
    for _ in range(2):  # from the front, then from the back
        added = list(takewhile(lambda token: token.sequence is None, tokens))
        following = tokens[len(added) : 2 * len(added)]
        if [token.token_id for token in added] == [token.token_id for token in following]:
            tokens = tokens[len(added) :]
        tokens.reverse()
    return tokens


def _reserved_ids(model: LiveModel) -> set[int]:
    """Return the ids of special tokens, without those whose only role is to stand for a word."""
    tokenizer = model.tokenizer
    roles = {
        name: getattr(tokenizer, f"{name}_token_id")
        for name in ("bos", "eos", "pad", "cls", "sep", "unk", "mask")
    }
    words = {roles.pop("unk"), roles.pop("mask")} - {*roles.values()}
    return {*tokenizer.all_special_ids} - words


def _word_spans(text: str, special: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the span of each word with the white space before it.

    The last word before a special token or the end has the white space behind it too; white space
    alone is a span.

    Args:
        text: The text.
        special: Spans of its special tokens, which end a word and belong to none.
    """
    spans: list[tuple[int, int]] = []
    start = 0
    for end, resume in [*special, (len(text), len(text))]:
        ends = [start + match.end() for match in _WORD.finditer(text[start:end])]
        ends[-1:] = [end] if end > start else []
        spans += zip([start, *ends[:-1]], ends, strict=True) if ends else []
        start = resume
    return spans


def _word(starts: Sequence[int], span: tuple[int, int]) -> int:
    """Return the index of the word that a token's last character lies in."""
    return max(0, bisect_right(starts, max(span[0], span[1] - 1)) - 1)
