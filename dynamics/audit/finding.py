"""Finding of an audit, and short names for many rows or steps."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from dynamics.checkpoints.architectures import Role
from dynamics.errors import first_of

Severity = Literal["wrong", "explained", "note"]


@dataclass(frozen=True)
class Finding:
    """One result of a check of a series.

    Attributes:
        kind: Name of the check.
        severity: `wrong`; `explained` for what looks wrong and is not; `note` for the rest.
        steps: Steps it is about.
        message: The finding in one line.
        role: Tensor it is about, None for all of them.
        flagged: Steps that should be left out because of it.
        link: Address of an issue about it.
        rows: Rows of the tensor that it is about, ascending; the first ones of many.
    """

    kind: str
    severity: Severity
    steps: tuple[int, ...]
    message: str
    role: Role | None = None
    flagged: tuple[int, ...] = ()
    link: str | None = None
    rows: tuple[int, ...] = ()


def name_rows(rows: Sequence[int], max_rows: int = 5) -> str:
    """Return the first few rows as text.

    Example:
        >>> name_rows([5, 7, 9], max_rows=2)
        '5, 7, ...'
    """
    return first_of(rows, max_rows)


def name_steps(steps: Iterable[int], max_parts: int = 5) -> str:
    """Return steps as short text; more than three at one interval become `FIRST..LAST/INTERVAL`.

    Args:
        steps: The steps.
        max_parts: Largest number of parts; beyond it the middle ones become an ellipsis.

    Example:
        >>> name_steps([0, 1, 2, 4, 1000, 2000, 3000, 4000])
        '0, 1, 2, 4, 1000..4000/1000'
    """
    remaining = sorted(steps)
    parts: list[str] = []
    while remaining:
        interval = remaining[1] - remaining[0] if len(remaining) > 1 else 0
        length = next(
            (i for i in range(2, len(remaining)) if remaining[i] - remaining[i - 1] != interval),
            len(remaining),
        )
        if length > 3:
            parts.append(f"{remaining[0]}..{remaining[length - 1]}/{interval}")
            remaining = remaining[length:]
        else:
            parts.append(str(remaining.pop(0)))
    if len(parts) <= max_parts:
        return ", ".join(parts)
    return ", ".join([*parts[: max_parts - 2], "...", parts[-1]])
