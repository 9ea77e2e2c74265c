"""Statistics with their intervals and nulls: arrays in, result objects out."""
