"""The share of a text that becomes no token, and the share that becomes the unknown token.

Characters (code points) of a text are counted that are not white space, which many pre-tokenizers
drop by design. Such a character is

    lost      when it, or one of the bytes that the model gets of it, is in no token: a normalizer
              or a pre-tokenizer removed it, or the model has neither an entry for it nor an unknown
              token
    unknown   when the model gave it its unknown token
    kept      otherwise, also where it was changed (lower case, accents, other quotation marks)

Most byte-level tokenizers are proven to keep every text, and nothing is measured. For others the
first characters of the corpus are measured, and then a random sample of blocks.
"""

import random
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dynamics.corpus.tokenizers.character_fates import CharacterTally, PieceLoss, keeps_all_text
from dynamics.errors import CorpusError
from dynamics.progress import Report, no_report

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

MOST_LOST = 0.01
"""Largest share of lost characters that is accepted by default."""

_MEASURED_WHOLE = 1 << 16  # characters; they take a twentieth of a second
_BLOCK = 2048
_ONE_IN = 300  # measuring takes three times what tokenising does; of each 300th that is 1 %
_EXAMPLES = 3


@dataclass(frozen=True)
class TextLoss:
    """Characters of a text that a tokenizer loses or does not know.

    Attributes:
        length: Characters of the text, white space included.
        measured_length: Number of measured characters; all where nothing can be lost.
        lost_share: Share of the characters that are not white space which became no token.
        unknown_share: Share of them that became the unknown token.
        lost_examples: The most frequent lost characters, most frequent first.
        unknown_examples: The most frequent unknown characters.
    """

    length: int
    measured_length: int
    lost_share: float = 0.0
    unknown_share: float = 0.0
    lost_examples: tuple[str, ...] = ()
    unknown_examples: tuple[str, ...] = ()


class LossMeter:
    """Measures the loss of a tokenizer over documents, or over pieces of them, in order.

    Args:
        tokenizer: Applied as `tokenizer.tokenize` does: special tokens in a text are text.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerFast") -> None:
        backend = tokenizer.backend_tokenizer
        self._pieces = None if keeps_all_text(backend) else PieceLoss(backend)
        self._random = random.Random(0)
        self._head, self._sample = CharacterTally(), CharacterTally()
        self._tally = self._head
        self._remaining = _MEASURED_WHOLE  # characters still to measure before the next gap
        self._gap = self._random.randrange(_BLOCK * (_ONE_IN - 1))
        self._length = 0

    def add(self, text: str) -> None:
        """Measure the next text, or its part in the sample.

        Raises:
            CorpusError: The backend fails.
        """
        self._length += len(text)
        start = 0
        while self._pieces is not None and start < len(text):
            if not self._remaining:
                skipped = min(self._gap, len(text) - start)
                self._gap -= skipped
                start += skipped
                if self._gap:
                    return
                start = _word_start(text, start)
                self._tally, self._remaining = self._sample, _BLOCK
                self._gap = self._random.randrange(2 * _BLOCK * (_ONE_IN - 1))
            stop = _word_stop(text, start, start + self._remaining)
            self._pieces.measure(text[start:stop], self._tally)
            self._remaining = max(0, self._remaining - (stop - start))
            start = stop

    @property
    def loss(self) -> TextLoss:
        """Loss of the texts so far: of the first part, and of the sample for the remainder."""
        head, sample = self._head, self._sample
        if self._pieces is None:
            return TextLoss(self._length, self._length)
        weight = (self._length - head.length) / sample.length if sample.length else 1
        characters = max(1, head.characters + weight * sample.characters)
        return TextLoss(
            self._length,
            head.length + sample.length,
            (head.lost.total() + weight * sample.lost.total()) / characters,
            (head.unknown.total() + weight * sample.unknown.total()) / characters,
            _examples(head.lost + sample.lost),
            _examples(head.unknown + sample.unknown),
        )


def check_loss(loss: TextLoss, *, allow: bool = False, report: Report = no_report) -> None:
    """Report lost and unknown characters, and refuse a text of which too much was lost.

    Args:
        loss: Loss of the text.
        allow: Accept that more than `MOST_LOST` is lost.
        report: Receives a line for lost, and one for unknown characters.

    Raises:
        CorpusError: Too much is lost.
    """
    sample = ""
    if loss.measured_length < loss.length:
        sample = f" (measured on {loss.measured_length:,} of {loss.length:,} characters)"
    if loss.lost_examples:
        line = (
            f"{_percent(loss.lost_share)} of the characters that are not white space became no "
            f"token{sample}, most often {_shown(loss.lost_examples)}"
        )
        if loss.lost_share > MOST_LOST and not allow:
            raise CorpusError(
                f"{line}; give a tokenizer that has tokens for them, or accept the loss with "
                "--allow-loss (tokenizer.allow_loss=true in a configuration)"
            )
        report(line)
    if loss.unknown_examples:
        report(
            f"{_percent(loss.unknown_share)} of the characters that are not white space became the "
            f"unknown token{sample}, most often {_shown(loss.unknown_examples)}"
        )


def _word_start(text: str, start: int) -> int:
    """First position from `start` on that begins the text or follows white space.

    A block's length further, or the end of the text, where none is nearer.
    """
    stop = min(len(text), start + _BLOCK)
    while start < stop and start and not text[start - 1].isspace():
        start += 1
    return start


def _word_stop(text: str, start: int, stop: int) -> int:
    """Position after the last line end before `stop`, else the last space; `stop` if none."""
    if stop >= len(text):
        return len(text)
    half = (start + stop) // 2
    for boundary in ("\n", " "):
        if (index := text.rfind(boundary, half, stop)) >= 0:
            return index + 1
    return stop


def _examples(counts: Counter[int]) -> tuple[str, ...]:
    """The most frequent characters."""
    return tuple(chr(code) for code, _ in counts.most_common(_EXAMPLES))


def _shown(characters: tuple[str, ...]) -> str:
    """Characters in quotes, for a message."""
    return ", ".join(map(repr, characters))


def _percent(share: float) -> str:
    """A share in percent, to three digits."""
    return f"{100 * share:.3g} %"
