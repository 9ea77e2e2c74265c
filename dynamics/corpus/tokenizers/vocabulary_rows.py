"""Counts and matrices of different heights: a tokenizer's last entries that have no row.

A padding or chat token is often added to a tokenizer without enlarging the matrix. Where such
entries are the tokenizer's last, special or added, and never occur, the counts are cut to the
matrix; any other difference means that the two do not belong together. (Rows without an entry are
padding.)
"""

from typing import TYPE_CHECKING

from dynamics.corpus.tokenizers.kinds import own_tokens
from dynamics.corpus.tokenizers.loading import vocabulary_size
from dynamics.errors import MismatchError
from dynamics.progress import Report, no_report

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedTokenizerFast

_SHOWN = 3


def check_rows(tokenizer: "PreTrainedTokenizerFast", rows: int | None) -> None:
    """Refuse a tokenizer with entries without a row that are neither special nor added.

    Raises:
        MismatchError: There are such entries.
    """
    if rows is None or (entries := vocabulary_size(tokenizer)) <= rows:
        return
    allowed = own_tokens(tokenizer)
    vocabulary = tokenizer.get_vocab().items()
    beyond = {i: token for token, i in vocabulary if i >= rows and i not in allowed}
    if beyond:
        difference = f"the tokenizer has {entries} entries, the vocabulary only {rows} rows"
        raise MismatchError(_refusal(difference, [], [beyond[i] for i in sorted(beyond)]))


def cut_to_rows(
    table: "pd.DataFrame", rows: int, difference: str, report: Report = no_report
) -> "pd.DataFrame":
    """Leave out the last rows of a table of counts that a matrix does not have.

    Args:
        table: `token`, `count` and `kind` of each entry.
        rows: V, rows of the matrix.
        difference: Clause on the two heights, which begins a message.
        report: Receives a line on the entries that are left out.

    Returns:
        The table itself where it has no more than V rows.

    Raises:
        MismatchError: A row that would be left out occurs, or is neither special nor added.
    """
    beyond = table[rows:]
    if not len(beyond):
        return table
    is_extra = beyond["kind"].isin(["special", "added"])
    # ids without an entry
    skipped = (beyond["kind"] == "padding") & is_extra[::-1].cummax()[::-1]
    occurring = beyond["token"][beyond["count"] > 0].tolist()
    ordinary = beyond["token"][~is_extra & ~skipped].tolist()
    if occurring or ordinary:
        raise MismatchError(_refusal(difference, occurring, ordinary))
    report(
        f"{difference}; the last {_listed(beyond['token'][is_extra].tolist())}, special or added, "
        "never occur and are left out"
    )
    return table[:rows]


def _refusal(difference: str, occurring: list[str], ordinary: list[str]) -> str:
    """Message on entries without a row that occur, or are neither special nor added."""
    reasons = []
    if occurring:
        reasons.append(f"{_listed(occurring)} occur")
    if ordinary:
        reasons.append(f"{_listed(ordinary)} are neither special nor added")
    return (
        f"{difference}, and of those beyond {' and '.join(reasons)}; give the tokenizer and the "
        "matrix of one model"
    )


def _listed(tokens: list[str]) -> str:
    """Number of tokens and the first few of them."""
    more = f" and {len(tokens) - _SHOWN:,} more" if len(tokens) > _SHOWN else ""
    shown = ", ".join(repr(token) if token else "padding" for token in tokens[:_SHOWN])
    return f"{len(tokens):,} ({shown}{more})"
