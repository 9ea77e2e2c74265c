"""Texts encoded to token ids with their words, and batches of them.

P positions of an input. Truncation is counted, never silent.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from dynamics.attribution.contents import Content, as_mapping, text_of
from dynamics.attribution.text_tokens import Tokens, tokens_with_special
from dynamics.errors import CheckpointError, ConfigError
from dynamics.models.live_model import Batch, LiveModel

_LETTER = "a"
_SHOWN = 4  # token ids in a message
_SPACE_MARKS = ("\u2581", "\u0120")  # how sentencepiece and byte-level BPE write a space


@dataclass(frozen=True)
class Input:
    """One input of a model.

    Attributes:
        text: The text before tokenisation.
        tokens: Its tokens; those of the source in an encoder-decoder.
        continuation_start: Position of the first token of the continuation, None without one.
        decoder: Tokens of the decoder, in an encoder-decoder; the first one is its start token.
        dropped: Number of tokens that were cut off to fit the model's window.
    """

    text: str
    tokens: Tokens
    continuation_start: int | None = None
    decoder: Tokens | None = None
    dropped: int = 0

    @property
    def context(self) -> Tokens:
        """The tokens that a causal prediction follows: those of the decoder, if there is one."""
        return self.tokens if self.decoder is None else self.decoder

    def followed_by(self, model: LiveModel, ids: Sequence[int]) -> "Input":
        """Return this input with tokens appended to its context.

        Args:
            model: The model, whose tokenizer has the tokens; one that begins with a space begins a
                word.
            ids: Ids of the tokens.
        """
        context = self.context
        entries = [str(entry) for entry in model.tokenizer.convert_ids_to_tokens(list(ids))]
        starts = [
            entry.startswith(_SPACE_MARKS) or surface[:1].isspace()
            for entry, surface in zip(entries, surfaces(model, ids), strict=True)
        ]
        last = max((word for word in context.words if word is not None), default=-1)
        words = [last + count for count in accumulate(map(int, starts))]
        texts = [*context.word_texts]
        texts += [""] * (max(last, 0) + 1 - len(texts))
        for word in dict.fromkeys(words):
            token_indices = [index for index, word_index in enumerate(words) if word_index == word]
            decoded = model.tokenizer.decode(
                [ids[index] for index in token_indices], clean_up_tokenization_spaces=False
            )
            text = _surface(entries[token_indices[0]], str(decoded))
            # Tokens that begin no word extend the last one of the context.
            texts[word:] = [texts[word] + text if word < len(texts) else text]
        extended = Tokens(
            [*context.ids, *ids],
            [*context.special, *[False] * len(ids)],
            [*context.words, *words],
            word_texts=texts,
        )
        if self.decoder is None:
            return replace(self, tokens=extended, continuation_start=len(context))
        return replace(self, decoder=extended, continuation_start=len(context))


def encode(model: LiveModel, content: Content) -> Input:
    """Tokenise one input as the model was trained: with the special tokens of its tokenizer.

    Special tokens that the text itself begins or ends with are not added again. A text longer than
    the model's window loses its end, or its beginning in a causal LM, whose predictions follow the
    end.

    Args:
        model: The model.
        content: A text, or a mapping of `text` with `text_pair` (a second segment) or
            `continuation` (text for a causal LM or a decoder to predict); or chat messages, alone
            or as `messages`.

    Raises:
        ConfigError: The text is empty, the model does not take such an input, or has no row for a
            token of it.
    """
    parts = as_mapping(content)
    text = text_of(model, content)
    pair, continuation = (parts.get(key) for key in ("text_pair", "continuation"))
    if not plain_ids(model, text):
        raise ConfigError(f"the text is empty ({text!r}); an attribution needs tokens to score")
    if not isinstance(continuation, str | None):
        raise ConfigError(f"a continuation is a text, not of type {type(continuation).__name__}")
    if continuation and not model.is_causal:
        raise ConfigError(f"{model.name} predicts no continuation, its task is {model.task}")
    continuation_ids = following_ids(model, continuation) if continuation else []
    room = model.max_length
    if room is not None and len(continuation_ids) >= room:
        raise ConfigError(
            f"the continuation has {len(continuation_ids)} tokens, the window of {model.name} has "
            f"{room}"
        )
    if room is not None and not model.is_encoder_decoder:
        room -= len(continuation_ids)
    tokens, dropped = tokens_with_special(model, text, pair, room)
    _check_ids(model, [*tokens.ids, *continuation_ids])
    decoder = _decoder_start(model, tokens) if model.is_encoder_decoder else None
    encoded = Input(text, tokens, decoder=decoder, dropped=dropped)
    return encoded.followed_by(model, continuation_ids) if continuation_ids else encoded


def _check_ids(model: LiveModel, ids: Sequence[int]) -> None:
    """Refuse a token that was added to the tokenizer, and never to the model.

    Raises:
        ConfigError: An id has no row in the embedding.
    """
    rows = model.network.config.get_text_config().vocab_size
    if (token_id := max(ids)) >= rows:
        token = model.tokenizer.convert_ids_to_tokens(token_id)
        raise ConfigError(
            f"{token!r} has id {token_id} in the tokenizer of {model.name}, whose embedding has "
            f"{rows} rows; leave it out of the input"
        )


def to_batch(model: LiveModel, inputs: Sequence[Input]) -> Batch:
    """Pad the inputs on the right to one batch."""
    tokens = [encoded.tokens for encoded in inputs]
    return model.padded(
        [sequence.ids for sequence in tokens],
        [sequence.segments for sequence in tokens if sequence.segments is not None],
        [encoded.decoder.ids for encoded in inputs if encoded.decoder is not None],
    )


def parse_token(model: LiveModel, written: str) -> int:
    """Return the id of a token from its vocabulary entry, its printed text, or `id:N`.

    Raises:
        ConfigError: The text is several tokens, none or an unknown one, or the id is outside the
            vocabulary.
    """
    rows = model.network.config.get_text_config().vocab_size
    if match := re.fullmatch(r"id:(-?\d+)", written):
        if not 0 <= (token_id := int(match[1])) < rows:
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
    inner_ids = _ids_after_letter(model, written) or []
    if surfaces(model, inner_ids) == [written]:
        return inner_ids[0]
    pieces = model.tokenizer.convert_ids_to_tokens(ids)
    spaced = following_ids(model, f" {written}")
    hint = f", or ' {written}', which is one token" if len(spaced) == 1 else ""
    raise ConfigError(
        f"{written!r} is {len(ids)} tokens of {model.name} ({', '.join(map(repr, pieces))}), and a "
        f"target is one; name one of them, or its number as id:N{hint}"
    )


def surfaces(model: LiveModel, ids: Sequence[int]) -> list[str]:
    """Return each token as in running text; its vocabulary entry where that is no valid text."""
    entries = model.tokenizer.convert_ids_to_tokens(list(ids))
    return [
        f"id:{token_id}"  # a row of the embedding without a token
        if entry is None
        else _surface(
            str(entry), str(model.tokenizer.decode([token_id], clean_up_tokenization_spaces=False))
        )
        for token_id, entry in zip(ids, entries, strict=True)
    ]


def _surface(entry: str, text: str) -> str:
    """Return a token as in running text, by its vocabulary entry and its decoded text."""
    if not text or "\N{REPLACEMENT CHARACTER}" in text:
        return entry
    return f" {text}" if entry.startswith(_SPACE_MARKS) and not text[:1].isspace() else text


def plain_ids(model: LiveModel, text: str) -> list[int]:
    """Return the token ids of a text without special tokens."""
    return list(model.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def following_ids(model: LiveModel, text: str) -> list[int]:
    """Return the token ids of a text that follows another, without special tokens.

    Sentencepiece adds a space before every text, so that a text which begins with one would have
    two. A text without a leading space begins a word, if the tokenizer begins texts with words.
    """
    ids = _ids_after_letter(model, text) if text[:1].isspace() else None
    return plain_ids(model, text) if ids is None else ids


def _ids_after_letter(model: LiveModel, text: str) -> list[int] | None:
    """Return the token ids of a text behind a letter; None where the two share a token."""
    letter_ids, ids = plain_ids(model, _LETTER), plain_ids(model, _LETTER + text)
    return ids[len(letter_ids) :] if ids[: len(letter_ids)] == letter_ids else None


def _decoder_start(model: LiveModel, source: Tokens) -> Tokens:
    """Return the decoder's first tokens: its start token, then the source for a classifier."""
    if model.task in ("seq2seq", "none"):
        start = getattr(model.network.config, "decoder_start_token_id", None)
        if start is None:
            raise ConfigError(f"the config of {model.name} has no decoder_start_token_id")
        if model.task == "seq2seq":
            return Tokens([start], [True], [None])
        ids = [start, *source.ids[:-1]]  # a base model does not make its decoder's tokens itself
    else:
        ids = model.decoder_ids(source.ids)
    if ids == list(source.ids):
        return source
    if ids[1:] != list(source.ids[:-1]):
        raise CheckpointError(
            f"{model.name}: its decoder gets the tokens {ids[:_SHOWN]}... for {source.ids[:_SHOWN]}"
            "..., which are not those of the text moved on by one"
        )
    return Tokens(
        [ids[0], *source.ids[:-1]],
        [True, *source.special[:-1]],
        [None, *source.words[:-1]],
        word_texts=source.word_texts,
    )
