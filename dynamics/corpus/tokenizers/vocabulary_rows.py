"""Counts and matrices of different heights: entries at the end of a tokenizer that have no row.

People add a padding or chat token to a tokenizer and never enlarge the matrix. Where such entries
are the tokenizer's last, special or added, and never occur, the counts are cut to the matrix; any
other difference means that the two do not belong together. (Rows without an entry are padding.)
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from dynamics.corpus.tokenizers.kinds import own_tokens
from dynamics.corpus.tokenizers.loading import vocabulary_size
from dynamics.errors import MismatchError

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedTokenizerFast

_SHOWN = 3


def check_rows(tokenizer: "PreTrainedTokenizerFast", rows: int | None) -> None:
    """Refuse a tokenizer of which entries that are neither special nor added have no row.

    Raises:
        MismatchError: There are such entries.
    """
    if rows is None or (entries := vocabulary_size(tokenizer)) <= rows:
        return
    own = own_tokens(tokenizer)
    beyond = {i: token for token, i in tokenizer.get_vocab().items() if i >= rows and i not in own}
    if beyond:
        difference = f"the tokenizer has {entries} entries, the vocabulary only {rows} rows"
        raise MismatchError(_refusal(difference, [], [beyond[i] for i in sorted(beyond)]))


def cut_to_rows(
    table: "pd.DataFrame",
    rows: int,
    difference: str,
    report: Callable[[str], None] = lambda line: None,
) -> "pd.DataFrame":
    """Leave out the last rows of a table of counts that a matrix does not have.

    Args:
        table: `token`, `count` and `kind` of each entry.
        rows: V, rows of the matrix.
        difference: How many the two have: the clause that begins a message.
        report: Receives a line that says what is left out.

    Returns:
        The table itself where it has no more than V rows.

    Raises:
        MismatchError: One that would be left out occurs, or is neither special nor added.
    """
    beyond = table[rows:]
    if not len(beyond):
        return table
    own = beyond["kind"].isin(["special", "added"])
    skipped = (beyond["kind"] == "padding") & own[::-1].cummax()[::-1]  # ids without an entry
    occurring = beyond["token"][beyond["count"] > 0].tolist()
    ordinary = beyond["token"][~own & ~skipped].tolist()
    if occurring or ordinary:
        raise MismatchError(_refusal(difference, occurring, ordinary))
    report(
        f"{difference}; the last {_listed(beyond['token'][own].tolist())}, special or added, never "
        "occur and are left out"
    )
    return table[:rows]


def _refusal(difference: str, occurring: list[str], ordinary: list[str]) -> str:
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
    more = f" and {len(tokens) - _SHOWN:,} more" if len(tokens) > _SHOWN else ""
    shown = ", ".join(repr(token) if token else "padding" for token in tokens[:_SHOWN])
    return f"{len(tokens):,} ({shown}{more})"
