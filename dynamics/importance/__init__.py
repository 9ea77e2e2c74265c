"""Importance: what a model does with each token of its vocabulary, measured while it runs."""
