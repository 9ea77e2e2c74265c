"""Types of progress callbacks, and default callbacks that do nothing."""

from collections.abc import Callable

Report = Callable[[str], None]
"""Receives a line about a finished stage, or something left out."""

OnProgress = Callable[[int, int], None]
"""Receives the number of finished parts and their total."""


def no_report(line: str) -> None:
    """Ignore a line."""


def no_progress(done: int, total: int) -> None:
    """Ignore the numbers of parts."""
