"""Studies: one training to figures, or several arms, seeds and series."""
