"""Special tokens that stand in a text as text, and documents that are separated by such a text."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

from dynamics.errors import CorpusError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_LINE_ENDS = "\r\n"
_PREFIX = 2  # characters of a special token that are looked for first


class SpecialTexts:
    """Counts occurrences of the special tokens' own text in documents.

    Args:
        tokenizer: Has the special tokens; in a document they are text like any other.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerFast") -> None:
        added = tokenizer.backend_tokenizer.get_added_tokens_decoder().values()
        texts = {*tokenizer.all_special_tokens, *(each.content for each in added if each.special)}
        # Some tokenizers have hundreds, most of which begin alike: beginnings are searched first.
        self._by_prefix: dict[str, list[str]] = {}
        for text in sorted(texts - {""}):
            self._by_prefix.setdefault(text[:_PREFIX], []).append(text)
        self._occurrences: Counter[str] = Counter()
        self._documents: Counter[str] = Counter()
        self._searched = 0

    def add(self, document: str) -> None:
        """Search the next document."""
        self._searched += 1
        for prefix, texts in self._by_prefix.items():
            if prefix not in document:
                continue
            for text in texts:
                if occurrences := document.count(text):
                    self._occurrences[text] += occurrences
                    self._documents[text] += 1

    def notes(self) -> Iterator[str]:
        """A line for each special token whose text was met, the most frequent first."""
        for text, occurrences in self._occurrences.most_common():
            yield (
                f"{text!r}, a special token, stands as text {occurrences:,} times, in "
                f"{self._documents[text]:,} of {self._searched:,} documents, and is tokenised as "
                f"text; if it separates documents, give --separator {text!r} (corpus.separator in "
                "a configuration)"
            )


def split_documents(
    read: Callable[[int | None], Iterable[str]], separator: str | None, max_documents: int | None
) -> Iterator[str]:
    """Documents of a source, each split where a separator stands.

    Neither the separator nor the line ends that touch it are part of a document; parts of nothing
    but white space are left out.

    Args:
        read: Reads no more than so many documents of the source, all for None.
        separator: Text between documents, as `<|endoftext|>` in TinyStories; None splits nothing.
        max_documents: Stop after so many documents, as they are after splitting.

    Raises:
        CorpusError: The separator is empty, or (behind the last document) was in none of them.
    """
    if separator == "":
        raise CorpusError("the separator is empty; give the text that stands between documents")
    if separator is None:
        return iter(read(max_documents))
    return islice(_split(read(None), separator), max_documents)


def _split(documents: Iterable[str], separator: str) -> Iterator[str]:
    """Parts of all documents.

    Raises:
        CorpusError: The separator is in none of them.
    """
    met = False
    for document in documents:
        parts = document.split(separator)
        met = met or len(parts) > 1
        for index, part in enumerate(parts):
            if index:
                part = part.lstrip(_LINE_ENDS)
            if index < len(parts) - 1:
                part = part.rstrip(_LINE_ENDS)
            if part.strip():
                yield part
    if not met:
        raise CorpusError(
            f"the separator {separator!r} is nowhere in the text; check its spelling, or leave it "
            "out"
        )
