"""How a study's page writes what was measured: numbers with intervals, tables, names as text."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from dynamics.statistics.seeds import OverSeeds

NOTHING = "–"


def cell(mean: OverSeeds, form: str) -> str:
    """Mean and interval in a format; the mean alone where there is no interval."""
    if mean.n == 0:
        return NOTHING
    value = format(float(mean.value), form)
    if np.isnan(mean.low):
        return value
    return f"{value} [{format(float(mean.low), form)}, {format(float(mean.high), form)}]"


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; `NOTHING` in it is a cell without a number."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(map(plain, line))} |" for line in lines)


def plain(name: Any) -> str:
    """A name is text: what Markdown would take for a column or a tag is escaped."""
    return str(name).replace("|", "\\|").replace("<", "&lt;")
