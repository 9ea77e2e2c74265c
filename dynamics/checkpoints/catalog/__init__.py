"""The public series that can be opened by name."""
