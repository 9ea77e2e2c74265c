"""Pre-stated claims, judged from tables alone."""
