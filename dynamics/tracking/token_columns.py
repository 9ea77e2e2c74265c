"""What a run knows of each token, whatever the step: its counts, and what its spelling tells."""

import numpy as np
import pandas as pd

from dynamics.corpus.counts import Counts
from dynamics.errors import MismatchError

_MARK = "##"


def token_columns(counts: Counts, rows: int, name: str) -> dict[str, np.ndarray]:
    """The counts, a row for each row of the matrix, and what spelling alone tells of a token.

    Raises:
        MismatchError: There are more counts than rows.
    """
    table = counts.table
    if len(table) > rows:
        raise MismatchError(
            f"{counts.name} has {len(table)} tokens but the embedding of {name} has {rows} "
            "rows; count with the tokenizer of this series"
        )
    padding = pd.DataFrame({"token_id": np.arange(len(table), rows), "token": ""})
    padding["count"] = 0
    padding["first_seen"] = -1
    padding["kind"] = "padding"
    if "twin_of" in table:
        padding["twin_of"] = -1
    table = pd.concat([table, padding], ignore_index=True) if len(padding) else table
    kind = _spelled_kind(table)
    surface = _spelling(table["token"], kind)
    columns = {str(name): column.to_numpy() for name, column in table.items()}
    columns["document_count"] = table["document_count"].to_numpy(float, na_value=np.nan)
    seen = np.where(table["count"] > 0, table["count"], np.nan)
    columns["log_frequency"] = np.log(seen / counts.info.tokens_counted)
    columns["characters"] = surface.str.len().to_numpy(np.int32)
    columns["word_start"] = (kind == "word_start").to_numpy()
    columns["ascii_alphabetic"] = np.array([t.isascii() and t.isalpha() for t in surface])
    return columns


def _spelled_kind(table: pd.DataFrame) -> pd.Series:
    """Kind of each row, of a twin that of the token it is spelt like."""
    if "twin_of" not in table:
        return table["kind"]
    spelled_like = table["twin_of"].where(table["twin_of"] >= 0, table["token_id"])
    return table["kind"].take(spelled_like.to_numpy()).reset_index(drop=True)


def _spelling(token: pd.Series, kind: pd.Series) -> pd.Series:
    """The tokens without spaces around them, and without the mark of WordPiece's continuations."""
    surface = token.str.strip()
    continues = kind == "continuation"
    if surface[continues].str.startswith(_MARK).all():  # of another tokenizer one or other does not
        return surface.mask(continues, surface.str.removeprefix(_MARK))
    return surface
