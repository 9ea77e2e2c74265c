"""Checks of every text that is tokenised: for lost characters, and for texts of special tokens."""

from typing import TYPE_CHECKING

from dynamics.corpus.documents.large_text import Document
from dynamics.corpus.tokenizers.special_texts import SpecialTexts
from dynamics.corpus.tokenizers.text_loss import LossMeter, TextLoss, check_loss
from dynamics.progress import Report, no_report

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class TextChecks:
    """Checks of the documents of a corpus, in order.

    Args:
        tokenizer: The tokenizer of the documents.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerFast") -> None:
        self._losses = LossMeter(tokenizer)
        self._special_texts = SpecialTexts(tokenizer)

    def add(self, document: Document) -> None:
        """Check the next document, a large one part by part.

        Raises:
            CorpusError: The backend fails, or the file of a large document cannot be read again.
        """
        self._special_texts.begin_document()
        for part in [document] if isinstance(document, str) else document:
            self._losses.add(part)
            self._special_texts.add(part)

    def finish(self, *, allow_loss: bool = False, report: Report = no_report) -> TextLoss:
        """Report the findings in all documents.

        Args:
            allow_loss: Accept that more than `text_loss.MOST_LOST` of the text becomes no token.
            report: Receives a line for each finding.

        Raises:
            CorpusError: Too much of the text became no token.
        """
        for line in self._special_texts.notes():
            report(line)
        check_loss(loss := self._losses.loss, allow=allow_loss, report=report)
        return loss
