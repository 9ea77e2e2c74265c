"""Token counts from a table that a user brings, instead of a corpus that is counted here."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dynamics.corpus.counts import Counts, CountsInfo, TableInfo
from dynamics.corpus.tally import counts_table
from dynamics.corpus.token_matching import UNMATCHED, Matched, Spellings, match, spellings
from dynamics.corpus.token_table import TokenTable, read_token_table
from dynamics.corpus.tokenizers.kinds import surfaces_and_kinds
from dynamics.corpus.tokenizers.loading import tokenizer_sha256, vocabulary_size
from dynamics.corpus.tokenizers.spelling import normalized, piece_marks, space_mark
from dynamics.errors import CorpusError, MismatchError
from dynamics.progress import Report, no_report

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

COUNT_COLUMNS = ("count", "frequency")
"""Columns that hold how often a token occurs, in the order in which they are preferred."""

PER_BILLION = 1_000_000_000
"""Tokens that frequencies which are no whole numbers are expressed in."""


def read_table_counts(
    path: str | Path,
    tokenizer: "PreTrainedTokenizerFast | None",
    rows: int,
    name: str,
    report: Report = no_report,
) -> Counts:
    """Read counts from a CSV, TSV or parquet file with a column `count` or `frequency`.

    A token without a row has kind `uncounted`: whether it occurs is not known, so it neither enters
    a correlation nor counts as never seen. Frequencies that are no whole numbers become occurrences
    per billion tokens of the table, which is what a rule such as `count>=10` then refers to.

    Args:
        path: The file.
        tokenizer: Tokenizer of the series; None where there is none, and the table then needs ids.
        rows: V, rows of the embedding.
        name: Name of the series, for messages.
        report: Receives how many rows matched and how much of the vocabulary they cover.

    Raises:
        CorpusError: The file is no table of counts; a count is missing, negative or not a number.
        MismatchError: Its tokens are not those of the series, or two rows are one token.
    """
    table = read_token_table(path)
    known = vocabulary_spellings(tokenizer, rows, name)
    matched = match(table, known)
    for note in (*table.notes, *matched.notes):
        report(note)
    values, per_billion = _occurrences(table)
    if per_billion:
        report(
            f"{table.name}: its frequencies are no whole numbers and become occurrences per "
            "billion tokens, to which count>=N refers"
        )
        share = values / values[matched.ids != UNMATCHED].sum()
        values = np.rint(share * PER_BILLION)
    counts = matched.spread(values, known.rows, fill=0).astype(np.int64)
    is_listed = matched.spread(np.ones(len(table)), known.rows, fill=0) > 0
    report(_coverage(matched, is_listed, known))
    return _counts(table, counts, is_listed, tokenizer, matched.matched, per_billion=per_billion)


def vocabulary_spellings(
    tokenizer: "PreTrainedTokenizerFast | None", rows: int, name: str
) -> Spellings:
    """Return the spellings of a tokenizer; without one the ids alone, of `rows` rows.

    A model has more rows than its tokenizer has entries where rows are padded.
    """
    if tokenizer is None:
        return Spellings(name, rows, {}, {}, {})
    backend = tokenizer.backend_tokenizer
    surfaces, kinds = surfaces_and_kinds(tokenizer, max(rows, vocabulary_size(tokenizer)))
    mark = space_mark(backend)

    def as_read(word: str) -> str:
        text = normalized(backend, word)
        return (text if mark is None else text.replace(mark, " ")).strip()

    return spellings(name, surfaces, kinds, tokenizer.get_vocab(), as_read)


def _occurrences(table: TokenTable) -> tuple[np.ndarray, bool]:
    """Return how often each row's token occurs, and whether these are no whole numbers.

    Raises:
        CorpusError: There is no such column, or a number is missing, negative or no whole count.
    """
    column = next((name for name in COUNT_COLUMNS if name in table.columns), None)
    if column is None:
        raise CorpusError(
            f"{table.name} has no column count or frequency; its columns are: "
            f"{', '.join(table.columns)}; name one so"
        )
    values = table.numbers(column)
    is_fraction = values % 1 != 0
    wrong = np.isnan(values) | (values < 0) | (is_fraction & (column == "count"))
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        cell = table.columns[column][row]
        kind = "whole number" if column == "count" else "number"
        raise CorpusError(
            f"{table.where(row)}: column {column!r} holds {cell!r}, expected a {kind} of 0 or "
            "more; correct it, or remove the row"
        )
    if not values.any():
        raise CorpusError(f"{table.name}: every {column} is 0; give a table of a corpus")
    return values, bool(is_fraction.any())


def _coverage(matched: Matched, is_listed: np.ndarray, known: Spellings) -> str:
    """Line on the rows that matched, and on the tokens they cover."""
    table, entries = matched.table, len(is_listed)
    if known.are_known:
        entries = len({i for ids in known.texts.values() for i in ids})
    line = f"{table.name}: {matched.matched:,} of {len(table):,} rows match a token"
    if (unmatched := np.flatnonzero(matched.ids == UNMATCHED)).size:
        row = int(unmatched[0])
        line += f" (not {table.columns[table.key][row]!r}, {table.places[row]})"
    line += f"; they cover {is_listed.sum() / entries:.1%} of {entries:,} tokens of {known.name}"
    if (without := entries - int(is_listed.sum())) > 0:
        line += f"; of the other {without:,} nothing is known: list those that never occur with 0"
    return line


def _refuse_padding(table: TokenTable, counts: np.ndarray, kinds: np.ndarray) -> None:
    """Refuse counts of ids for which the tokenizer has no entry.

    Raises:
        MismatchError: There are such.
    """
    without_entry = np.flatnonzero((counts > 0) & (kinds == "padding"))
    if without_entry.size:
        raise MismatchError(
            f"{table.name} counts token_id {without_entry[0]}, for which the tokenizer has no "
            "entry; give ids of the tokenizer of the series"
        )


def _counts(
    table: TokenTable,
    counts: np.ndarray,
    is_listed: np.ndarray,
    tokenizer: "PreTrainedTokenizerFast | None",
    matched: int,
    *,
    per_billion: bool,
) -> Counts:
    """Return the counts of a vocabulary, with kinds that a tokenizer tells."""
    if tokenizer is None:
        surfaces, kinds = [""] * len(counts), np.full(len(counts), "unknown", object)
        marks, sha256 = (None, None), None
    else:
        surfaces, names = surfaces_and_kinds(tokenizer, len(counts), counts > 0)
        kinds = np.array(names, object)
        _refuse_padding(table, counts, kinds)
        marks, sha256 = piece_marks(tokenizer.backend_tokenizer), tokenizer_sha256(tokenizer)
    kinds[~is_listed & ~np.isin(kinds, ("padding", "special"))] = "uncounted"
    info = CountsInfo(
        sha256,
        table.sha256,
        int(counts.sum()),
        len(counts),
        *marks,
        table=TableInfo(len(table), matched, int(is_listed.sum()), per_billion=per_billion),
    )
    return Counts(counts_table(surfaces, list(kinds), counts), info, table.name)
