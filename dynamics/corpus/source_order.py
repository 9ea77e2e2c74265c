"""The rows of a token stream in the order of its text: the permutation of `dynamics` is undone."""

from collections.abc import Iterator

import numpy as np

from dynamics.corpus.tally import TOKENS_PER_CHUNK
from dynamics.corpus.tokens import ROW_ORDER, TokenStream, open_held_out


def in_source_order(
    stream: TokenStream, end: int | None, contiguous: bool
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Chunks of ids, with the number of the document and of the running text of each id.

    The permutation of `dynamics` is undone. Held-out rows are read for the documents that end
    there, and left out; running text ends at them, and in a shuffled third-party stream at every
    row.
    """
    rows_are_torn = stream.info.row_order != ROW_ORDER and not contiguous
    document_count = piece_count = 0
    for rows, trained in _source_rows(stream):
        ends = rows == end if end is not None else np.zeros(rows.shape, bool)
        # The end-of-text token belongs to the document that it ends.
        owners = document_count + np.cumsum(ends).reshape(rows.shape) - ends
        pieces = piece_count + np.cumsum(np.ones(len(rows), bool) if rows_are_torn else ~trained)
        document_count, piece_count = document_count + int(ends.sum()), int(pieces[-1])
        ids = rows[trained].reshape(-1)
        if len(ids):
            width = rows.shape[1]
            yield ids, owners[trained].reshape(-1), np.repeat(pieces[trained], width)


def _source_rows(stream: TokenStream) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Chunks of rows in source order, held-out rows included, and the mask of trained rows."""
    rows_per_chunk = max(1, TOKENS_PER_CHUNK // (stream.sequence_length + 1))
    if stream.info.row_order != ROW_ORDER:
        for start in range(0, stream.rows, rows_per_chunk):
            chunk = stream.ids[start : start + rows_per_chunk]
            yield chunk, np.ones(len(chunk), bool)
        return
    held_out = open_held_out(stream.path.parent)
    rows = stream.rows + stream.info.held_out_rows
    # Position in the permuted stream of each row of the source.
    stream_rows = np.argsort(np.random.default_rng(stream.info.seed).permutation(rows))
    for start in range(0, rows, rows_per_chunk):
        indices = stream_rows[start : start + rows_per_chunk]
        trained = indices < stream.rows
        chunk = np.empty((len(indices), stream.sequence_length + 1), stream.ids.dtype)
        chunk[trained] = stream.ids[indices[trained]]
        if held_out is not None:
            chunk[~trained] = held_out.ids[indices[~trained] - stream.rows]
        yield chunk, trained
