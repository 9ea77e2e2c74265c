"""Information gain of tokens from their contexts."""
