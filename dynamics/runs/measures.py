"""Measures by name: the columns that exposure stands in."""

EXPOSURE = {"input_embedding": "exposure_as_input", "output_embedding": "exposure_as_target"}
