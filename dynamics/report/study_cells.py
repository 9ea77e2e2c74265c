"""Cells of the tables on a study's page: numbers with intervals, Markdown tables, escaped names."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from dynamics.statistics.seeds import OverSeeds

NOTHING = "–"


def cell(mean: OverSeeds, form: str) -> str:
    """Format mean and interval; the mean alone where there is no interval."""
    if mean.n == 0:
        return NOTHING
    value = format(float(mean.value), form)
    if np.isnan(mean.low):
        return value
    return f"{value} [{format(float(mean.low), form)}, {format(float(mean.high), form)}]"


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; cells without a number hold `NOTHING`."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(map(plain, line))} |" for line in lines)


def plain(name: Any) -> str:
    """Escape what Markdown would take for a column or a tag in a name."""
    return str(name).replace("|", "\\|").replace("<", "&lt;")
