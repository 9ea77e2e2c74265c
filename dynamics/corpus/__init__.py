"""Text to a token stream on disk, and the stream to counts."""
