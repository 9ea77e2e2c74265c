"""Texts encoded to token ids with their words, and batches of them.

P positions of an input. Truncation is counted, never silent.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, takewhile
from typing import Any, cast

from dynamics.errors import CheckpointError, ConfigError, message_of
from dynamics.models.live_model import Batch, LiveModel

Content = str | Mapping[str, Any] | Sequence[Mapping[str, str]]
_WORD = re.compile(r"\S+")
_LETTER = "a"
_SHOWN = 4  # token ids in a message
_SPACE_MARKS = ("\u2581", "\u0120")  # how sentencepiece and byte-level BPE write a space


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


def as_texts(texts: Content | Iterable[Content]) -> Iterable[Content]:
    """Return an iterable of inputs, also for a single input.

    A string is one text, a mapping one input and a list of chat messages one conversation.

    Raises:
        ConfigError: The argument is neither an input nor an iterable.

    Example:
        >>> as_texts("one text"), as_texts({"text": "one text", "target": "id:5"})
        (['one text'], [{'text': 'one text', 'target': 'id:5'}])
    """
    if isinstance(texts, str | Mapping) or _is_conversation(texts):
        return [cast(Content, texts)]
    if isinstance(texts, bytes) or not isinstance(texts, Iterable):
        raise ConfigError(
            f"the texts are of type {type(texts).__name__}; give a text, chat messages, a mapping "
            "with 'text', or several of them"
        )
    return cast(Iterable[Content], texts)


def as_mapping(content: Content) -> Mapping[str, Any]:
    """Return one input as a mapping with `text` or `messages`."""
    if isinstance(content, str):
        return {"text": content}
    return content if isinstance(content, Mapping) else {"messages": content}


def text_of(model: LiveModel, content: Content) -> str:
    """Return the text of an input; chat messages are rendered by the model's template.

    The template opens an assistant message at the end, unless the last message is one.

    Raises:
        ConfigError: The text is empty or no string; or the messages are malformed, the tokenizer
            has no chat template, or the template refuses them.
    """
    parts = as_mapping(content)
    if "messages" not in parts:
        text = parts.get("text")
        if not isinstance(text, str) or not text.strip():
            raise ConfigError(f"the text is empty ({text!r}); an attribution needs tokens to score")
        return text
    messages = parts["messages"]
    if "text" in parts or not _is_conversation(messages):
        raise ConfigError(
            "chat messages are a list of mappings with 'role' and 'content', without a 'text' "
            f"beside them; got {str(messages)[:60]!r}"
        )
    if not model.tokenizer.chat_template:
        raise ConfigError(
            f"the tokenizer of {model.name} has no chat template; give the text that the model is "
            "to see"
        )
    ends_with_assistant = messages[-1]["role"] == "assistant"
    try:
        return str(
            model.tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=not ends_with_assistant
            )
        )
    except Exception as error:  # a template is foreign code and may raise anything
        reason = message_of(error)
        raise ConfigError(
            f"the chat template of {model.name} refuses the messages: {reason}"
        ) from error


def _is_conversation(content: Any) -> bool:
    return (
        isinstance(content, Sequence)
        and not isinstance(content, str)
        and len(content) > 0
        and all(isinstance(part, Mapping) and {"role", "content"} <= {*part} for part in content)
    )


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
    tokens, dropped = _with_special(model, text, pair, room)
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


@dataclass
class _Token:
    """A token of the tokenizer's output: id, index of its text, span in that text, segment."""

    token_id: int
    sequence: int | None
    span: tuple[int, int]
    segment: int


def _with_special(
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
