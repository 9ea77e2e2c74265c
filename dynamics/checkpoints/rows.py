"""Selection of some rows of an embedding by ids and ranges of ids."""

import re
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int

from dynamics.errors import ConfigError

_PART = re.compile(r"([0-9]+)(?::([0-9]+))?")


@dataclass(frozen=True)
class RowSelection:
    """Some rows, by token id.

    Attributes:
        ranges: First id and the id after the last one of each range, ascending and apart.

    Example:
        >>> str(parse_rows("290, 5,17:19,19:21"))
        '5,17:21,290'
    """

    ranges: tuple[tuple[int, int], ...]

    def __str__(self) -> str:
        return ",".join(
            str(first) if stop == first + 1 else f"{first}:{stop}" for first, stop in self.ranges
        )

    @cached_property
    def ids(self) -> Int[np.ndarray, " n"]:
        """The token ids, ascending."""
        return np.concatenate([np.arange(first, stop) for first, stop in self.ranges])

    def check(self, vocab_size: int, name: str) -> None:
        """Refuse rows that a matrix does not have.

        Raises:
            ConfigError: A row lies beyond the matrix.
        """
        last = self.ranges[-1][1] - 1
        if last >= vocab_size:
            raise ConfigError(
                f"--rows selects row {last}, but the embedding of {name} has {vocab_size} rows; "
                f"the last one is {vocab_size - 1}"
            )


def parse_rows(text: str) -> RowSelection:
    """Parse a selection of rows: `5,17,290`, `0:1000` (without row 1000), or both.

    Raises:
        ConfigError: The text is malformed, or a range holds no row, or a row is given twice.

    Example:
        >>> parse_rows("0:1000").ids.size
        1000
    """
    ranges: list[tuple[int, int]] = []
    for part in text.replace(" ", "").split(","):
        match = _PART.fullmatch(part)
        if match is None:
            raise ConfigError(
                f"cannot read {part!r} in the rows {text!r}; they are token ids and ranges of "
                "them, such as '5,17,290' or '0:1000'"
            )
        first = int(match[1])
        stop = first + 1 if match[2] is None else int(match[2])
        if stop <= first:
            raise ConfigError(
                f"the range {part} in the rows {text!r} holds no row; it goes from its first row "
                "up to the one before its second number"
            )
        ranges.append((first, stop))
    joined: list[tuple[int, int]] = []
    for first, stop in sorted(ranges):
        end = joined[-1][1] if joined else -1
        if first < end:
            raise ConfigError(f"row {first} is given twice in the rows {text!r}")
        joined[-1:] = [(joined[-1][0], stop)] if first == end else [*joined[-1:], (first, stop)]
    return RowSelection(tuple(joined))
