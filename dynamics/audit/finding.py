"""What an audit finds: one finding, and how it names steps."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from dynamics.checkpoints.architectures import Role

Severity = Literal["wrong", "explained", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing that is worth telling about a series.

    Attributes:
        kind: Name of the check.
        severity: `wrong`; `explained` for what looks wrong and is not; `note` for the rest.
        steps: Steps it is about.
        message: What was found, in one line.
        role: Tensor it is about, None for all of them.
        flagged: Steps that should be left out because of it.
        link: Address of an issue about it.
        rows: Rows of the tensor that it is about, ascending; of many the first.
    """

    kind: str
    severity: Severity
    steps: tuple[int, ...]
    message: str
    role: Role | None = None
    flagged: tuple[int, ...] = ()
    link: str | None = None
    rows: tuple[int, ...] = ()


def name_rows(rows: Sequence[int], most: int = 5) -> str:
    """The first few rows in words.

    Example:
        >>> name_rows([5, 7, 9], most=2)
        '5, 7, ...'
    """
    return ", ".join(map(str, rows[:most])) + (", ..." if len(rows) > most else "")


def name_steps(steps: Iterable[int], most: int = 5) -> str:
    """Steps in a few words; what goes on at one interval becomes `FIRST..LAST/INTERVAL`.

    Args:
        steps: The steps.
        most: How many parts there may be; of more, those in the middle become an ellipsis.

    Example:
        >>> name_steps([0, 1, 2, 4, 1000, 2000, 3000, 4000])
        '0, 1, 2, 4, 1000..4000/1000'
    """
    left = sorted(steps)
    parts: list[str] = []
    while left:
        interval = left[1] - left[0] if len(left) > 1 else 0
        run = next(
            (at for at in range(2, len(left)) if left[at] - left[at - 1] != interval), len(left)
        )
        if run > 3:
            parts.append(f"{left[0]}..{left[run - 1]}/{interval}")
            left = left[run:]
        else:
            parts.append(str(left.pop(0)))
    if len(parts) <= most:
        return ", ".join(parts)
    return ", ".join([*parts[: most - 2], "...", parts[-1]])
