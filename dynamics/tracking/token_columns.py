"""Columns of a run's tokens that are the same at every step: counts and features of spelling."""

import numpy as np
import pandas as pd

from dynamics.corpus.counts import Counts, CountsInfo
from dynamics.corpus.tokenizers.vocabulary_rows import cut_to_rows
from dynamics.progress import Report, no_report

_MARK = "##"


def token_columns(
    counts: Counts, rows: int, name: str, report: Report = no_report
) -> dict[str, np.ndarray]:
    """Return the columns of counts and of spelling, with an entry for each row of the matrix.

    Args:
        counts: Token counts with the tokenizer of the series.
        rows: V, rows of the matrix; those without counts are padding.
        name: Name of the series, for messages.
        report: Receives a line when special or added entries at the end have no row.

    Raises:
        MismatchError: There are more counts than rows, other than for such entries.

    Without a tokenizer nothing is known of spelling, and there are no such columns.
    """
    difference = (
        f"{counts.name} has {len(counts.table)} tokens but the embedding of {name} has {rows} rows"
    )
    table = cut_to_rows(counts.table, rows, difference, report)
    padding = pd.DataFrame({"token_id": np.arange(len(table), rows), "token": ""})
    padding["count"] = 0
    padding["first_seen"] = -1
    padding["kind"] = "padding"
    if "twin_of" in table:
        padding["twin_of"] = -1
    if "occurrence_share" in table:
        padding["occurrence_share"] = 1.0
    table = pd.concat([table, padding], ignore_index=True) if len(padding) else table
    columns = {str(name): column.to_numpy() for name, column in table.items()}
    columns["document_count"] = table["document_count"].to_numpy(float, na_value=np.nan)
    positive_count = np.where(table["count"] > 0, table["count"], np.nan)
    columns["log_frequency"] = np.log(positive_count / counts.info.tokens_counted)
    if counts.info.tokenizer_sha256 is None:
        return columns
    kind = _spelled_kind(table)
    surface = _spelling(table["token"], kind, counts.info)
    columns["characters"] = surface.str.len().to_numpy(np.int32)
    columns["word_start"] = (kind == "word_start").to_numpy()
    columns["ascii_alphabetic"] = np.array([t.isascii() and t.isalpha() for t in surface])
    return columns


def _spelled_kind(table: pd.DataFrame) -> pd.Series:
    """Return the kind of each row; for a twin, the kind of its original."""
    if "twin_of" not in table:
        return table["kind"]
    spelled_like = table["twin_of"].where(table["twin_of"] >= 0, table["token_id"])
    return table["kind"].take(spelled_like.to_numpy()).reset_index(drop=True)


def _spelling(token: pd.Series, kind: pd.Series, info: CountsInfo) -> pd.Series:
    """Return the tokens without surrounding spaces and without marks of word pieces."""
    surface = token.str.strip()
    if info.word_end_suffix is not None:
        surface = surface.str.removesuffix(info.word_end_suffix)
    prefix, continues = info.continuation_prefix, kind == "continuation"
    # Older counts do not record the mark; with another tokenizer not all continuations have it.
    if prefix is None and surface[continues].str.startswith(_MARK).all():
        prefix = _MARK
    return surface if prefix is None else surface.mask(continues, surface.str.removeprefix(prefix))
