"""Encode a document of any length piece by piece, with exactly the ids that the whole one has.

Pieces end at places that are known to be safe (`cut_places`), which is verified once more: each
piece is encoded together with the first characters of the next, and the ids of these characters,
encoded alone, are removed from the end. If the ids do not end with them (an added token may cross
the cut), the cut is given up and the two pieces are joined. So every token is made with all text to
the left of it in its piece, and `_AHEAD` characters to its right; a document without a safe place
becomes a single piece.
"""

import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from dynamics.corpus.documents.cut_places import Separator, find_separators, is_safe
from dynamics.progress import Report, no_report

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PIECE_CHARACTERS = 50_000
_PIECES_AT_ONCE = 32
_AHEAD = 512
_WORTH_REPORTING = 2_500_000  # characters
_BYTES_PER_CHARACTER = 105
"""Peak of encoding English text in one piece: 102 with a BPE of 600 entries, 115 with NeoX's."""


class Piece(NamedTuple):
    """A part of a document.

    Attributes:
        text: Text of the part; all but the first begin with a separator.
        ahead: The first characters of the next piece; empty in the last.
        skipped: Characters at the beginning that are not encoded (see `Separator`).
    """

    text: str
    ahead: str = ""
    skipped: int = 0


class DocumentCutter:
    """Cuts documents into pieces for one tokenizer.

    Args:
        backend: The tokenizer; it neither truncates nor pads.
        report: Called once, with a line about the memory, when a long document is not cut.
    """

    def __init__(self, backend: "Tokenizer", report: Report = no_report) -> None:
        self._backend = backend
        self._report = report
        self._has_reported = False

    @cached_property
    def _separators(self) -> dict[str, Separator]:
        """Separators of the tokenizer, found when the first document is cut."""
        return find_separators(self._backend)

    @cached_property
    def _ahead(self) -> int:
        """Characters of the next piece, longer than any added token, which bypasses the model."""
        added = self._backend.get_added_tokens_decoder().values()
        return max([_AHEAD, *(2 * len(token.content) for token in added)])

    def cut(self, parts: Iterable[str]) -> Iterator[Piece]:
        """Cut a document that comes in parts of any length.

        Returns:
            Pieces whose concatenation is the document; a single one if it cannot be cut.
        """
        if not self._separators:
            yield Piece("".join(parts))
            return
        text, start, searched, skipped = "", 0, 0, 0
        for part in parts:
            text, searched, start = text[start:] + part, max(searched - start, 0), 0
            while place := self._next_place(text, max(start + PIECE_CHARACTERS, searched)):
                yield Piece(text[start:place], text[place : place + self._ahead], skipped)
                start, skipped = place, self._separators[text[place]].skipped
            searched = max(len(text) - self._ahead, start)
        yield Piece(text[start:], skipped=skipped)

    def encode(self, parts: Iterable[str]) -> Iterator[list[int]]:
        """Encode a document that comes in parts of any length.

        Returns:
            The ids of the whole document, in lists one after the other.
        """
        pieces = self.cut(parts)
        waiting: list[Piece] = []
        joined = 1
        while waiting := [*waiting, *islice(pieces, _PIECES_AT_ONCE)]:
            encoded = self._encode_exactly(waiting)
            yield from encoded
            joined = 2 if encoded else 2 * joined
            waiting = waiting[len(encoded) :]
            if waiting:
                waiting = [_join(waiting[:joined]), *waiting[joined:]]

    def _encode_exactly(self, pieces: list[Piece]) -> list[list[int]]:
        """Encode pieces up to the first whose end turns out not to be a place for a cut."""
        self._report_memory(max(len(piece.text) for piece in pieces))
        texts = [piece.text[piece.skipped :] + piece.ahead for piece in pieces]
        starts = [
            piece.ahead[self._separators[piece.ahead[0]].skipped :]
            for piece in pieces
            if piece.ahead
        ]
        encodings = self._backend.encode_batch_fast([*texts, *starts], add_special_tokens=False)
        exact: list[list[int]] = []
        for index, piece in enumerate(pieces):
            ids = encodings[index].ids
            if piece.ahead:
                next_ids = encodings[len(pieces) + index].ids
                end = len(ids) - len(next_ids)
                if end < 1 or ids[end:] != next_ids:
                    break
                del ids[end:]
            exact.append(ids)
        return exact

    def _next_place(self, text: str, start: int) -> int | None:
        """Find a safe place from `start` on; after each unsafe place the search step doubles."""
        separator = re.compile(rf"(?<=\S)[{''.join(self._separators)}](?=\S)")
        step = 1
        while match := separator.search(text, start, len(text) - self._ahead):
            place = match.start()
            left = text[max(place - self._ahead, 0) : place]
            right = text[place : place + self._ahead]
            if is_safe(self._backend, self._separators[match[0]], left, right):
                return place
            start = place + step
            step *= 2
        return None

    def _report_memory(self, characters: int) -> None:
        """Report, once, that a piece of so many characters takes much memory."""
        if characters < _WORTH_REPORTING or self._has_reported:
            return
        self._has_reported = True
        reason = (
            "no space or line break in them is known to be a safe place to cut"
            if self._separators
            else "this tokenizer may join text across spaces, so they are not cut"
        )
        self._report(
            f"{characters:,} characters of one document are tokenised at once, which takes about "
            f"{characters * _BYTES_PER_CHARACTER / 1e9:.1f} GB of memory: {reason}"
        )


def _join(pieces: list[Piece]) -> Piece:
    """One piece of the text of several."""
    return Piece("".join(piece.text for piece in pieces), pieces[-1].ahead, pieces[0].skipped)
