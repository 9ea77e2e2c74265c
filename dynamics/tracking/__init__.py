"""Tracking: measures of the checkpoints of a series, or of a model in training, in a run folder."""
