"""A checkpoint as a live model: loading, representations, the head on top of them."""
