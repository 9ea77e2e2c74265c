"""Checkpoints on a model hub, read by byte ranges and kept in a cache."""
