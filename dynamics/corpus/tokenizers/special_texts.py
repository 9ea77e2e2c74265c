"""Texts of special tokens in documents, and documents that are separated by such a text."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

from dynamics.corpus.documents.large_text import Document
from dynamics.errors import CorpusError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_LINE_ENDS = "\r\n"
_PREFIX = 2  # characters of a special token that are looked for first


class SpecialTexts:
    """Counts occurrences of the texts of special tokens in documents.

    Args:
        tokenizer: Tokenizer with the special tokens, whose texts are tokenised like any other text.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerFast") -> None:
        added = tokenizer.backend_tokenizer.get_added_tokens_decoder().values()
        special = (token.content for token in added if token.special)
        texts = {*tokenizer.all_special_tokens, *special}
        # Some tokenizers have hundreds, most of which begin alike: beginnings are searched first.
        self._by_prefix: dict[str, list[str]] = {}
        for text in sorted(texts - {""}):
            self._by_prefix.setdefault(text[:_PREFIX], []).append(text)
        self._occurrences: Counter[str] = Counter()
        self._documents: Counter[str] = Counter()
        self._searched = 0
        self._longest = max(map(len, texts), default=0)
        self._tail = ""  # of the previous part: an occurrence may cross the cut
        self._met: set[str] = set()  # in this document

    def begin_document(self) -> None:
        """Begin the next document."""
        self._searched += 1
        self._tail, self._met = "", set()

    def add(self, part: str) -> None:
        """Search the next part of the document, or all of it."""
        searched = self._tail + part
        for prefix, texts in self._by_prefix.items():
            if prefix not in searched:
                continue
            for text in texts:
                # An occurrence that ended in the previous part was counted there.
                start = max(0, len(self._tail) - len(text) + 1)
                if occurrences := searched.count(text, start):
                    self._occurrences[text] += occurrences
                    self._documents[text] += text not in self._met
                    self._met.add(text)
        self._tail = searched[-self._longest :]

    def notes(self) -> Iterator[str]:
        """A line for each special token whose text occurred, the most frequent first."""
        by_frequency = sorted(self._occurrences.items(), key=lambda item: (-item[1], item[0]))
        for text, occurrences in by_frequency:
            yield (
                f"{text!r}, a special token, occurs as text {occurrences:,} times, in "
                f"{self._documents[text]:,} of {self._searched:,} documents, and is tokenised as "
                f"text; if it separates documents, give --separator {text!r} (corpus.separator in "
                "a configuration)"
            )


def split_documents(
    read: Callable[[int | None], Iterable[Document]],
    separator: str | None,
    max_documents: int | None,
) -> Iterator[Document]:
    """Documents of a source, each split at every separator.

    Neither the separator nor the line ends that touch it are part of a document; parts of nothing
    but white space are left out.

    Args:
        read: Reads at most the given number of documents of the source, all for None.
        separator: Text between documents, as `<|endoftext|>` in TinyStories; None splits nothing.
        max_documents: Stop after this number of documents, counted after splitting.

    Raises:
        CorpusError: The separator is empty, or (after the last document) did not occur.
    """
    if separator == "":
        raise CorpusError("the separator is empty; give the text that stands between documents")
    if separator is None:
        return iter(read(max_documents))
    return islice(_split(read(None), separator), max_documents)


def _split(documents: Iterable[Document], separator: str) -> Iterator[str]:
    """Split all documents into parts.

    Raises:
        CorpusError: The separator does not occur.
    """
    has_separator = False
    for document in documents:
        behind_separator = False
        for part, before_separator in _cut(document, separator):
            has_separator = has_separator or before_separator
            if behind_separator:
                part = part.lstrip(_LINE_ENDS)
            if before_separator:
                part = part.rstrip(_LINE_ENDS)
            behind_separator = True
            if part.strip():
                yield part
    if not has_separator:
        raise CorpusError(
            f"the separator {separator!r} does not occur in the text; check its spelling, or leave "
            "it out"
        )


def _cut(document: Document, separator: str) -> Iterator[tuple[str, bool]]:
    """Texts between separators, and whether a separator follows; a large document is read once."""
    pending: list[str] = []
    tail = ""  # the separator may lie across two parts of the document
    for part in [document] if isinstance(document, str) else document:
        if separator in tail + part:
            *finished, last = "".join([*pending, part]).split(separator)
            yield from ((text, True) for text in finished)
            pending = [last]
        else:
            pending.append(part)
        tail = (tail + part)[-len(separator) + 1 :] if len(separator) > 1 else ""
    yield "".join(pending), False
