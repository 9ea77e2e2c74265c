"""Checkpoint series, and one tensor of a checkpoint without its model."""
