"""Tokenizers: loaded, checked for text they lose, and what each entry is."""
