"""Covariates: numbers per token that a user brings, such as ratings or age of acquisition.

A column NAME may come with NAME_half_1 and NAME_half_2, the same measured twice, from which its
reliability follows; without a column NAME its value is the mean of the two.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from dynamics.config import Words
from dynamics.corpus.token_matching import Matched, Spellings, match
from dynamics.corpus.token_table import KEYS, TokenTable
from dynamics.errors import CorpusError, MismatchError
from dynamics.progress import Report, no_report

HALVES = ("_half_1", "_half_2")
"""Endings of two columns that are halves of one."""


@dataclass(frozen=True, eq=False)
class Covariate:
    """A number per token.

    Attributes:
        name: Name of the column.
        source: Name of its table.
        values: Value of each of V tokens, NaN where it is not known.
        halves: The same measured twice; None where it was not.
    """

    name: str
    source: str
    values: Float[np.ndarray, " V"]
    halves: tuple[Float[np.ndarray, " V"], Float[np.ndarray, " V"]] | None = None

    @property
    def columns(self) -> dict[str, Float[np.ndarray, " V"]]:
        """Values, and the halves where there are any, by name."""
        first, second = HALVES
        halves = self.halves and {first: self.halves[0], second: self.halves[1]}
        return {"": self.values, **(halves or {})}

    @property
    def sha256(self) -> str:
        """Digest of name and values, whatever the file that they came in."""
        digest = hashlib.sha256(self.name.encode())
        for ending, column in self.columns.items():
            digest.update(ending.encode() + column.astype("<f8").tobytes())
        return digest.hexdigest()


def covariates_of(
    tables: Iterable[TokenTable],
    known: Spellings,
    words: Words = "space",
    report: Report = no_report,
) -> list[Covariate]:
    """Return every column of numbers in tables as values per token.

    Args:
        tables: Tables with a row per token.
        known: Spellings of the vocabulary, V tokens.
        words: Token that stands for a word.
        report: Receives what was matched in each table, and the columns of texts that are left out.

    Raises:
        CorpusError: A table has no column of numbers; a column has a cell that is no number among
            its numbers, no variance, or one half only.
        MismatchError: Two columns of different tables have one name; or as for `match`.
    """
    covariates: dict[str, Covariate] = {}
    for table in tables:
        matched = match(table, known, words)
        for note in (*table.notes, *matched.notes, _matched_line(matched, known)):
            report(note)
        for covariate in _columns_of(matched, known.rows, report):
            if (other := covariates.get(covariate.name)) is not None:
                raise MismatchError(
                    f"{other.source} and {table.name} both have a column {covariate.name!r}; "
                    "rename one"
                )
            covariates[covariate.name] = covariate
    return list(covariates.values())


def _matched_line(matched: Matched, known: Spellings) -> str:
    return (
        f"{matched.table.name}: {matched.matched:,} of {len(matched.table):,} rows are a token of "
        f"{known.name}"
    )


def _columns_of(matched: Matched, rows: int, report: Report) -> Iterable[Covariate]:
    """Yield the columns of numbers of a table, halves with their whole."""
    table = matched.table
    names = [name for name in table.columns if name not in KEYS]
    if texts := [name for name in names if not table.holds_numbers(name)]:
        report(f"{table.name}: {_listed(texts)} left out, because no cell of it is a number")
    numbers = [name for name in names if name not in texts]
    if not numbers:
        raise CorpusError(f"{table.name} has no column of numbers beside {table.key}; add one")
    values = {name: matched.spread(table.numbers(name), rows) for name in numbers}
    for name in dict.fromkeys(map(_whole, numbers)):
        halves = [values.get(name + half) for half in HALVES]
        if (halves[0] is None) != (halves[1] is None):
            there, missing = HALVES if halves[1] is None else HALVES[::-1]
            raise CorpusError(
                f"{table.name} has a column {name + there!r} and none {name + missing!r}; add the "
                "other half, or rename it"
            )
        pair = None if halves[0] is None or halves[1] is None else (halves[0], halves[1])
        mean = values.get(name, np.mean(pair, axis=0) if pair else None)
        assert mean is not None  # a name is that of a column, or of two halves
        covariate = Covariate(name, table.name, mean, pair)
        _check_varies(covariate)
        yield covariate


def _whole(column: str) -> str:
    """Name of a column without the ending of a half."""
    return column.removesuffix(HALVES[0]).removesuffix(HALVES[1])


def _check_varies(covariate: Covariate) -> None:
    """Refuse a column that is one number, with which nothing correlates.

    Raises:
        CorpusError: It is, over the tokens that were matched.
    """
    for ending, column in covariate.columns.items():
        values = column[np.isfinite(column)]
        if not len(values) or np.ptp(values) == 0:
            held = f"{values[0]:g} for every token" if len(values) else "known of no token"
            raise CorpusError(
                f"{covariate.source}: column {covariate.name + ending!r} is {held}, and nothing "
                "correlates with it; remove it"
            )


def _listed(names: Sequence[str]) -> str:
    """Columns by name, as the subject of a sentence."""
    return f"column{'s' if len(names) > 1 else ''} {', '.join(map(repr, names))}"
