"""A run on disk and everything that is computed from its tables, without torch."""
