"""Audit of a checkpoint series: facts read from it, and checks on these facts."""
