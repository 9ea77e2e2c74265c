"""Live models: loading a checkpoint, its representations, and the head on top of them."""
