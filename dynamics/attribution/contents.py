"""Texts and conversations to attribute, and the text that a model gets of each."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from dynamics.errors import ConfigError, message_of
from dynamics.models.live_model import LiveModel

Content = str | Mapping[str, Any] | Sequence[Mapping[str, str]]


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
    """Return whether an input is a list of chat messages, one or more."""
    return (
        isinstance(content, Sequence)
        and not isinstance(content, str)
        and len(content) > 0
        and all(isinstance(part, Mapping) and {"role", "content"} <= {*part} for part in content)
    )
