"""The attribution of one input."""
