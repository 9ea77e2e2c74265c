"""Trains tiny language models over a token stream whose order is data."""
