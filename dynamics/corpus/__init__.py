"""Corpora: from text to a token stream on disk, and from the stream to counts."""
