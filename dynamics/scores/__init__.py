"""The scoring core: tensors in, tensors out, no files."""
