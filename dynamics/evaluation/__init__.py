"""Whether attributions can be trusted."""
