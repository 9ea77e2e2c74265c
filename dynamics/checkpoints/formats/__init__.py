"""File formats of weights: from bytes to one tensor."""
