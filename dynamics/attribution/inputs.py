"""Texts to token ids, and batches of them.

P positions of an input. Truncation is counted, never silent.
"""

import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from dynamics.errors import ConfigError
from dynamics.models.live import Batch, LiveModel

_WORD = re.compile(r"\S+")
_LETTER = "a"
_SPACE_MARKS = ("\u2581", "\u0120")  # how sentencepiece and byte-level BPE write a space


@dataclass(frozen=True)
class Tokens:
    """Token ids and what the text says of each.

    Attributes:
        ids: Token ids.
        special: Which ones the tokenizer added.
        words: Index of the whitespace-separated word each belongs to, None for special tokens.
        segments: Segment of each, for models that have segments.
    """

    ids: list[int]
    special: list[bool]
    words: list[int | None]
    segments: list[int] | None = None

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Input:
    """One input of a model.

    Attributes:
        text: As it was given.
        tokens: Its tokens; those of the source in an encoder-decoder.
        given: Position of the first token of the continuation that was given.
        decoder: What the decoder gets, in an encoder-decoder; its first token starts it.
        dropped: Tokens that were cut off to fit the model's window.
    """

    text: str
    tokens: Tokens
    given: int | None = None
    decoder: Tokens | None = None
    dropped: int = 0

    @property
    def predicting(self) -> Tokens:
        """The tokens that a causal prediction follows."""
        return self.tokens if self.decoder is None else self.decoder

    def followed_by(self, ids: Sequence[int], surfaces: Sequence[str]) -> "Input":
        """This input with tokens behind those that a causal prediction follows.

        Args:
            ids: The tokens.
            surfaces: Their text; one that begins with a space begins a word.
        """
        before = self.predicting
        word = max((each for each in before.words if each is not None), default=-1)
        starts = [each[:1].isspace() for each in surfaces]
        words = [word + count for count in accumulate(map(int, starts))]
        longer = Tokens(
            [*before.ids, *ids], [*before.special, *[False] * len(ids)], [*before.words, *words]
        )
        if self.decoder is None:
            return replace(self, tokens=longer, given=len(before))
        return replace(self, decoder=longer, given=len(before))


def encode(model: LiveModel, content: str | Mapping[str, Any]) -> Input:
    """Tokenise one input as the model was trained: with the special tokens of its tokenizer.

    A text longer than the model's window loses its end, or its beginning in a causal LM, whose
    predictions follow the end.

    Args:
        model: The model.
        content: A text, or `text` with `text_pair` (a second segment) or `continuation` (what a
            causal LM or a decoder is given to predict).

    Raises:
        ConfigError: The text is empty, or the model cannot take what was given, or has no row for a
            token of it.
    """
    given = {"text": content} if isinstance(content, str) else content
    text, pair, continuation = (given.get(key) for key in ("text", "text_pair", "continuation"))
    if not isinstance(text, str) or not text.strip() or not plain_ids(model, text):
        raise ConfigError(f"the text is empty ({text!r}); an attribution needs tokens to score")
    if continuation and not model.is_causal:
        raise ConfigError(f"{model.name} predicts no continuation, its task is {model.task}")
    follows = following_ids(model, continuation) if continuation else []
    room = model.max_length
    if room is not None and len(follows) >= room:
        raise ConfigError(
            f"the continuation has {len(follows)} tokens, the window of {model.name} has {room}"
        )
    if room is not None and not model.is_encoder_decoder:
        room -= len(follows)
    tokens, dropped = _with_special(model, text, pair, room)
    _check_ids(model, [*tokens.ids, *follows])
    decoder = _decoder_start(model, tokens) if model.is_encoder_decoder else None
    encoded = Input(text, tokens, decoder=decoder, dropped=dropped)
    return encoded.followed_by(follows, surfaces(model, follows)) if follows else encoded


def _check_ids(model: LiveModel, ids: Sequence[int]) -> None:
    """Refuse a special token that was added to the tokenizer, and never to the model.

    Raises:
        ConfigError: There is one.
    """
    rows = model.network.config.get_text_config().vocab_size
    if (token_id := max(ids)) >= rows:
        token = model.tokenizer.convert_ids_to_tokens(token_id)
        raise ConfigError(
            f"{token!r} has id {token_id} in the tokenizer of {model.name}, whose embedding has "
            f"{rows} rows; leave it out of the input"
        )


def to_batch(model: LiveModel, inputs: Sequence[Input]) -> Batch:
    """Inputs as one batch, padded on the right."""
    known = (model.tokenizer.pad_token_id, model.network.config.pad_token_id, 0)
    pad = next(each for each in known if isinstance(each, int))

    def padded(rows: Sequence[Sequence[int]], value: int) -> Tensor:
        tensors = [torch.tensor(row) for row in rows]
        padded = torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value)
        return padded.to(model.device)

    def attended(tokens: Sequence[Tokens]) -> Tensor:
        return padded([[1] * len(each) for each in tokens], 0)

    tokens = [each.tokens for each in inputs]
    segments = [each.segments for each in tokens if each.segments is not None]
    decoder = [each.decoder for each in inputs if each.decoder is not None]
    return Batch(
        padded([each.ids for each in tokens], pad),
        attended(tokens),
        padded(segments, 0) if segments else None,
        padded([each.ids for each in decoder], pad) if decoder else None,
        attended(decoder) if decoder else None,
    )


def one_token(model: LiveModel, written: str) -> int:
    """Id of a token, from its entry, from its text as it is printed, or from `id:N`.

    Raises:
        ConfigError: The text is several tokens, none or an unknown one, or the id is outside the
            vocabulary.
    """
    rows = model.network.config.get_text_config().vocab_size
    if named := re.fullmatch(r"id:(-?\d+)", written):
        if not 0 <= (token_id := int(named[1])) < rows:
            raise ConfigError(
                f"token id {token_id} is outside the vocabulary of {model.name} (0 to {rows - 1})"
            )
        return token_id
    vocabulary = model.tokenizer.get_vocab()
    if written in vocabulary:
        _check_ids(model, [vocabulary[written]])
        return vocabulary[written]
    ids = following_ids(model, written)
    if ids == [model.tokenizer.unk_token_id]:
        raise ConfigError(f"{written!r} is unknown to the tokenizer of {model.name}")
    if len(ids) == 1:
        return ids[0]
    inside = _behind_a_letter(model, written) or []
    if surfaces(model, inside) == [written]:
        return inside[0]
    pieces = model.tokenizer.convert_ids_to_tokens(ids)
    spaced = following_ids(model, f" {written}")
    hint = f", or ' {written}', which is one token" if len(spaced) == 1 else ""
    raise ConfigError(
        f"{written!r} is {len(ids)} tokens of {model.name} ({', '.join(map(repr, pieces))}), and a "
        f"target is one; name one of them, or its number as id:N{hint}"
    )


def surfaces(model: LiveModel, ids: Sequence[int]) -> list[str]:
    """The text of each token as in running text; its entry where that is no valid text."""
    entries = map(str, model.tokenizer.convert_ids_to_tokens(list(ids)))
    return [
        _surface(entry, str(model.tokenizer.decode([token_id], clean_up_tokenization_spaces=False)))
        for token_id, entry in zip(ids, entries, strict=True)
    ]


def _surface(entry: str, text: str) -> str:
    if not text or "\N{REPLACEMENT CHARACTER}" in text:
        return entry
    return f" {text}" if entry.startswith(_SPACE_MARKS) and not text[:1].isspace() else text


def plain_ids(model: LiveModel, text: str) -> list[int]:
    """Token ids of a text without special tokens."""
    return list(model.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def following_ids(model: LiveModel, text: str) -> list[int]:
    """Token ids of a text that follows another, without special tokens.

    Sentencepiece puts a space before whatever it is given, so that a text which begins with one
    would have two. A text that begins with none begins a word, where the tokenizer has texts begin
    words.
    """
    behind = _behind_a_letter(model, text) if text[:1].isspace() else None
    return plain_ids(model, text) if behind is None else behind


def _behind_a_letter(model: LiveModel, text: str) -> list[int] | None:
    """Token ids of a text that a letter stands before; None where the two share a token."""
    letter, both = plain_ids(model, _LETTER), plain_ids(model, _LETTER + text)
    return both[len(letter) :] if both[: len(letter)] == letter else None


def _decoder_start(model: LiveModel, source: Tokens) -> Tokens:
    """What a decoder gets before anything is given: its start, then the source for a classifier."""
    config = model.network.config
    start = config.decoder_start_token_id
    if start is None:
        raise ConfigError(f"the config of {model.name} has no decoder_start_token_id")
    if model.task == "seq2seq":
        return Tokens([start], [True], [None])
    return Tokens(
        [start, *source.ids[:-1]], [True, *source.special[:-1]], [None, *source.words[:-1]]
    )


def _with_special(
    model: LiveModel, text: str, pair: str | None, room: int | None
) -> tuple[Tokens, int]:
    tokenizer = model.tokenizer
    whole = tokenizer(text, pair, truncation=False, verbose=False)
    dropped = 0 if room is None else max(0, len(whole["input_ids"]) - room)
    side = tokenizer.truncation_side
    tokenizer.truncation_side = "left" if model.task == "causal" else side
    try:
        encoded = tokenizer(
            text,
            pair,
            truncation=bool(dropped),
            max_length=room if dropped else None,
            return_token_type_ids=True,
            return_offsets_mapping=True,
        )
    finally:
        tokenizer.truncation_side = side
    sequences = encoded.sequence_ids()
    texts = (text, pair or "")
    ends = [[match.end() for match in _WORD.finditer(each)] for each in texts]
    words = [
        None
        if sequence is None
        else _word(texts[sequence], ends[sequence], offset) + sequence * len(ends[0])
        for sequence, offset in zip(sequences, encoded["offset_mapping"], strict=True)
    ]
    tokens = Tokens(
        list(encoded["input_ids"]),
        [sequence is None for sequence in sequences],
        words,
        list(encoded["token_type_ids"]) if model.has_segments else None,
    )
    return tokens, dropped


def _word(text: str, ends: Sequence[int], offset: tuple[int, int]) -> int:
    """Which whitespace-separated word a token lies in; a token of spaces goes with the next."""
    piece = text[slice(*offset)]
    start = offset[0] + len(piece) - len(piece.lstrip())
    return min(bisect_right(ends, start), len(ends) - 1)
