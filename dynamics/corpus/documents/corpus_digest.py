"""Digest of the documents of a corpus."""

import hashlib

from dynamics.corpus.documents.large_text import Document


class CorpusDigest:
    """SHA-256 over documents, each framed by its length, so that moving a boundary changes it."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.documents = 0

    def add(self, document: Document) -> None:
        """Add the next document; a `LargeText` is read once more."""
        if isinstance(document, str):
            content = document.encode()
            self._hash.update(len(content).to_bytes(8, "little") + content)
        else:
            self._hash.update(document.byte_count.to_bytes(8, "little"))
            for part in document:
                self._hash.update(part.encode())
        self.documents += 1

    def hexdigest(self) -> str:
        """Digest of the documents so far."""
        return self._hash.hexdigest()
