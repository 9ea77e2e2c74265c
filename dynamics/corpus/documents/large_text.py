"""Documents in files too large for memory, which are read in parts at each iteration."""

import codecs
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from dynamics.corpus.documents.compression import DECOMPRESSION_ERRORS
from dynamics.corpus.documents.rows import refuse_byte
from dynamics.errors import CorpusError

PART_CHARACTERS = 1 << 20


@dataclass(frozen=True, eq=False)
class LargeText:
    """A document in a file; each iteration reads the file and gives its text, part by part.

    Attributes:
        path: The file, for messages.
        open_bytes: Opens the file for reading, decompressed.
        byte_count: Length of the text in UTF-8, without a byte order mark.
        is_blank: True if the text is nothing but white space.
    """

    path: Path
    open_bytes: Callable[[], BinaryIO]
    byte_count: int
    is_blank: bool

    def __iter__(self) -> Iterator[str]:
        """Read the text again.

        Raises:
            CorpusError: The file cannot be read, or has changed.
        """
        byte_count = 0
        for part in read_parts(self.path, self.open_bytes):
            byte_count += len(part.encode())
            yield part
        if byte_count != self.byte_count:
            raise CorpusError(
                f"{self.path} changed while it was read, from {self.byte_count:,} to "
                f"{byte_count:,} bytes of text; run again when nothing writes to it"
            )


def open_large_text(path: Path, open_bytes: Callable[[], BinaryIO]) -> LargeText:
    """Read a file once, to check that it is text and determine its length.

    Raises:
        CorpusError: It cannot be read, or is not UTF-8.
    """
    byte_count, is_blank = 0, True
    for part in read_parts(path, open_bytes):
        byte_count += len(part.encode())
        is_blank = is_blank and not part.strip()
    return LargeText(path, open_bytes, byte_count, is_blank)


def read_parts(path: Path, open_bytes: Callable[[], BinaryIO]) -> Iterator[str]:
    """Decode a file part by part, without a byte order mark.

    Raises:
        CorpusError: It cannot be read, or is not UTF-8.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    start, undecoded, is_first = 0, b"", True
    try:
        with open_bytes() as file:
            while True:
                content = file.read(PART_CHARACTERS)
                undecoded, _ = decoder.getstate()
                part = decoder.decode(content, final=not content)
                yield part.removeprefix("\ufeff") if is_first else part
                is_first = is_first and not part
                if not content:
                    return
                start += len(content)
    except UnicodeDecodeError as error:
        refuse_byte(f"{path}", error.object[error.start], start - len(undecoded) + error.start)
    except DECOMPRESSION_ERRORS as error:
        raise CorpusError(f"{path} cannot be read: {error}; check or fetch it again") from error


Document = str | LargeText


def parts_of(document: Document) -> Iterator[str]:
    """Yield the text of a document part by part."""
    if not isinstance(document, str):
        yield from document
        return
    for start in range(0, len(document), PART_CHARACTERS):
        yield document[start : start + PART_CHARACTERS]
