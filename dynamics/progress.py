"""Reporting of progress: the callables that long calls take, and those that do nothing."""

from collections.abc import Callable, Mapping
from typing import Any

Report = Callable[[str], None]
"""Receives a line about what is done, or left out."""

OnProgress = Callable[[int, int], None]
"""Receives how many parts are done and how many there are."""

OnStep = Callable[[dict[str, Any]], None]
"""Receives the record of a training step, a line of `train.jsonl`."""


def no_report(line: str) -> None:
    """Receive a line, and do nothing with it."""


def no_progress(done: int, total: int) -> None:
    """Receive how many parts are done, and do nothing with it."""


def no_step(line: Mapping[str, Any]) -> None:
    """Receive the record of a step, and do nothing with it."""
