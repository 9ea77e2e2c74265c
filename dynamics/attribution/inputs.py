"""Texts to token ids, and batches of them.

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
    """Token ids and what the text says of each.

    Attributes:
        ids: Token ids.
        special: Which ones are special tokens, whether the tokenizer added them or the text holds
            them; what stands for a word (the unknown and the mask token) is none.
        words: Index of the whitespace-separated word each belongs to, None for special tokens.
        segments: Segment of each, for models that have segments.
        word_texts: Text of each word, with the white space before it; empty where none is known.
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

    def followed_by(self, model: LiveModel, ids: Sequence[int]) -> "Input":
        """This input with tokens behind those that a causal prediction follows.

        Args:
            model: The model, whose tokenizer has the tokens; one that begins with a space begins a
                word.
            ids: The tokens.
        """
        before = self.predicting
        entries = [str(entry) for entry in model.tokenizer.convert_ids_to_tokens(list(ids))]
        starts = [
            entry.startswith(_SPACE_MARKS) or surface[:1].isspace()
            for entry, surface in zip(entries, surfaces(model, ids), strict=True)
        ]
        last = max((word for word in before.words if word is not None), default=-1)
        words = [last + count for count in accumulate(map(int, starts))]
        texts = [*before.word_texts]
        texts += [""] * (max(last, 0) + 1 - len(texts))
        for word in dict.fromkeys(words):
            of_word = [index for index, own in enumerate(words) if own == word]
            decoded = model.tokenizer.decode(
                [ids[index] for index in of_word], clean_up_tokenization_spaces=False
            )
            text = _surface(entries[of_word[0]], str(decoded))
            texts[word:] = [texts[word] + text if word < len(texts) else text]
        longer = Tokens(
            [*before.ids, *ids],
            [*before.special, *[False] * len(ids)],
            [*before.words, *words],
            word_texts=texts,
        )
        if self.decoder is None:
            return replace(self, tokens=longer, given=len(before))
        return replace(self, decoder=longer, given=len(before))


def as_texts(texts: Content | Iterable[Content]) -> Iterable[Content]:
    """Inputs one by one, where one alone was given as well.

    A string is one text, a mapping one input and a list of chat messages one conversation.

    Raises:
        ConfigError: It is none of them, and not several.
    """
    if isinstance(texts, str | Mapping) or _is_conversation(texts):
        return [cast(Content, texts)]
    if isinstance(texts, bytes) or not isinstance(texts, Iterable):
        raise ConfigError(
            f"what is to be explained is of type {type(texts).__name__}; give a text, chat "
            "messages, a mapping with 'text', or several of them"
        )
    return cast(Iterable[Content], texts)


def as_mapping(content: Content) -> Mapping[str, Any]:
    """One input by the names of its parts."""
    if isinstance(content, str):
        return {"text": content}
    return content if isinstance(content, Mapping) else {"messages": content}


def text_of(model: LiveModel, content: Content) -> str:
    """The text of an input; of chat messages what the model's template makes of them.

    The template is asked to begin an answer, unless the last message is one.

    Raises:
        ConfigError: The text is empty or no string; or the messages are none, the tokenizer has no
            template for them, or the template refuses them.
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
    answers = messages[-1]["role"] == "assistant"
    try:
        return str(
            model.tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=not answers
            )
        )
    except Exception as error:  # a template is a program of whoever wrote the tokenizer
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

    A text that begins or ends with special tokens of its own gets none twice. A text longer than
    the model's window loses its end, or its beginning in a causal LM, whose predictions follow the
    end.

    Args:
        model: The model.
        content: A text, or `text` with `text_pair` (a second segment) or `continuation` (what a
            causal LM or a decoder is given to predict); or chat messages, alone or as `messages`.

    Raises:
        ConfigError: The text is empty, or the model cannot take what was given, or has no row for a
            token of it.
    """
    given = as_mapping(content)
    text = text_of(model, content)
    pair, continuation = (given.get(key) for key in ("text_pair", "continuation"))
    if not plain_ids(model, text):
        raise ConfigError(f"the text is empty ({text!r}); an attribution needs tokens to score")
    if not isinstance(continuation, str | None):
        raise ConfigError(f"a continuation is a text, not of type {type(continuation).__name__}")
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
    return encoded.followed_by(model, follows) if follows else encoded


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
    tokens = [given.tokens for given in inputs]
    return model.padded(
        [each.ids for each in tokens],
        [each.segments for each in tokens if each.segments is not None],
        [given.decoder.ids for given in inputs if given.decoder is not None],
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
    entries = model.tokenizer.convert_ids_to_tokens(list(ids))
    return [
        f"id:{token_id}"  # a row that no token has
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
    if model.task in ("seq2seq", "none"):
        start = getattr(model.network.config, "decoder_start_token_id", None)
        if start is None:
            raise ConfigError(f"the config of {model.name} has no decoder_start_token_id")
        if model.task == "seq2seq":
            return Tokens([start], [True], [None])
        ids = [start, *source.ids[:-1]]  # a base model is given its decoder's tokens
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
class _Row:
    """A token while its input is put together: id, which text it is of, where in it, segment."""

    token_id: int
    sequence: int | None
    span: tuple[int, int]
    segment: int


def _with_special(
    model: LiveModel, text: str, pair: str | None, room: int | None
) -> tuple[Tokens, int]:
    whole = _rows(model, text, pair, None)
    fitting = whole
    dropped = 0 if room is None else max(0, len(whole) - room)
    if room is not None and dropped:
        # Special tokens that the text begins with may be cut off; then those added are no second.
        fitting = _rows(model, text, pair, room)
        for wanted in range(room + 1, room + 3):
            if len(longer := _rows(model, text, pair, wanted)) <= room:
                fitting = longer
    reserved = _reserved_ids(model)
    special = [row.sequence is None or row.token_id in reserved for row in fitting]
    texts = (text, pair or "")
    cuts = [
        [
            row.span
            for row, alone in zip(fitting, special, strict=True)
            if alone and row.sequence == at
        ]
        for at in range(len(texts))
    ]
    spans = [_word_spans(part, cut) for part, cut in zip(texts, cuts, strict=True)]
    starts = [[start for start, _ in part] for part in spans]
    words = [
        None
        if alone or row.sequence is None
        else _word(starts[row.sequence], row.span) + row.sequence * len(spans[0])
        for row, alone in zip(fitting, special, strict=True)
    ]
    tokens = Tokens(
        [row.token_id for row in fitting],
        special,
        words,
        [row.segment for row in fitting] if model.has_segments else None,
        [part[slice(*span)] for part, own in zip(texts, spans, strict=True) for span in own],
    )
    return tokens, dropped


def _rows(model: LiveModel, text: str, pair: str | None, room: int | None) -> list[_Row]:
    """The tokens with the special ones around them, without those that the text itself has there.

    Args:
        model: The model.
        text: The text.
        pair: A second one.
        room: Tokens that are left where it is longer, counted before any is found twice.
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
    rows = [
        _Row(*row)
        for row in zip(
            encoded["input_ids"],
            encoded.sequence_ids(),
            encoded["offset_mapping"],
            encoded["token_type_ids"],
            strict=True,
        )
    ]
    for _ in range(2):  # from the front, then from the back
        added = list(takewhile(lambda row: row.sequence is None, rows))
        own = rows[len(added) : 2 * len(added)]
        if [row.token_id for row in added] == [row.token_id for row in own]:
            rows = rows[len(added) :]
        rows.reverse()
    return rows


def _reserved_ids(model: LiveModel) -> set[int]:
    """Ids of special tokens, without those that stand for a word only."""
    tokenizer = model.tokenizer
    roles = {
        name: getattr(tokenizer, f"{name}_token_id")
        for name in ("bos", "eos", "pad", "cls", "sep", "unk", "mask")
    }
    words = {roles.pop("unk"), roles.pop("mask")} - {*roles.values()}
    return {*tokenizer.all_special_ids} - words


def _word_spans(text: str, special: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Where each word of a text is, with the white space before it, and at the end also behind it.

    Args:
        text: The text.
        special: Where it holds special tokens, which end a word and are of none.
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
    """Index of the word that a token's last character lies in."""
    return max(0, bisect_right(starts, max(span[0], span[1] - 1)) - 1)
