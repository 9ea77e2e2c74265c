"""Public token streams, read by ranges."""
