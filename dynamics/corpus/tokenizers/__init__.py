"""Tokenizers: loading, checks for lost text, and kinds of vocabulary entries."""
