"""The training that made a series, its token stream and its counts."""

from pathlib import Path
from typing import TYPE_CHECKING

from dynamics.checkpoints.hub.revisions import HubRevision
from dynamics.checkpoints.series import CheckpointSeries
from dynamics.checkpoints.training_folder import read_training, training_of
from dynamics.corpus.counts import Counts, check_tokenizer, is_counts_file, read_counts
from dynamics.corpus.public.public_counts import find_public_counts
from dynamics.corpus.table_counts import read_table_counts
from dynamics.corpus.tokenizers.loading import (
    fetch_tokenizer,
    load_tokenizer,
    tokenizer_folder,
    tokenizer_sha256,
)
from dynamics.corpus.tokens import open_stream
from dynamics.errors import MismatchError, NoTokenizerError
from dynamics.progress import OnProgress, Report, no_progress, no_report
from dynamics.tracking.exposed import Exposed

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def training_folder(series: CheckpointSeries) -> Path | None:
    """Return the training folder of a series; None if `dynamics train` did not make it."""
    return training_of(series.checkpoints[0].path)


def training_stream(series: CheckpointSeries) -> Exposed | None:
    """Return the token stream of a series that `dynamics train` made; None for another."""
    folder = training_folder(series)
    if folder is None:
        return None
    return Exposed(open_stream(folder), read_training(folder).batch_size)


def find_counts(
    series: CheckpointSeries,
    counts: str,
    *,
    tokenizer: str | None = None,
    report: Report = no_report,
    on_progress: OnProgress = no_progress,
) -> Counts | None:
    """Find the counts that belong to a series.

    Args:
        series: The series.
        counts: Path of a `counts.parquet`, or of a table with a row per token
            (`read_table_counts`); `auto` for the counts in the training folder of the series, or
            else of a sample of its public training stream, None where neither is known; `none` for
            None.
        tokenizer: As for `series_tokenizer`.
        report: Receives a line about the sample, before and after it is read; or about the table.
        on_progress: Receives how many blocks of the sample are counted, of how many.

    Raises:
        CorpusError: There are no counts at the path.
        MismatchError: The tokens of the table are not those of the series.
    """
    if counts == "none":
        return None
    if counts != "auto":
        if is_counts_file(counts) or not Path(counts).expanduser().exists():
            return read_counts(counts)
        rows = series.checkpoints[0].vocab_size
        known = series_tokenizer(series, tokenizer)
        return read_table_counts(counts, known, rows, series.name, report)
    training = training_folder(series)
    if training is not None:
        return read_counts(training / "counts.parquet")
    if series.checkpoints[0].path is not None:
        return None
    return find_public_counts(series.name, report=report, on_progress=on_progress)


def series_tokenizer(
    series: CheckpointSeries, place: str | None = None
) -> "PreTrainedTokenizerFast | None":
    """Load the tokenizer of a series; None where no checkpoint has one beside it.

    It is that of the training folder, or of the first checkpoint with one, or of the folder of the
    checkpoints, where trainers leave it too; on a hub that of the revision `main`.

    Args:
        series: The series.
        place: Folder, `tokenizer.json` or hub name of the tokenizer to take instead.

    Raises:
        CorpusError: It is damaged, or not backed by `tokenizers`; or there is none at the place.
        CheckpointError: The hub cannot be reached.
        MismatchError: Another was used in the training that made the series.
    """
    training = training_folder(series)
    if place is not None:
        tokenizer = load_tokenizer(place)
        if training is not None:
            _check_trained_with(tokenizer, training, place)
        return tokenizer
    store = series.checkpoints[0].store
    if isinstance(store, HubRevision):
        try:
            return fetch_tokenizer(store.sibling("main"))
        except NoTokenizerError:
            return None
    paths = (checkpoint.path for checkpoint in series if checkpoint.path is not None)
    folder = next(filter(None, map(tokenizer_folder, paths)), None)
    return None if folder is None else load_tokenizer(folder)


def _check_trained_with(tokenizer: "PreTrainedTokenizerFast", training: Path, place: str) -> None:
    """Refuse a tokenizer that is not the one of the training."""
    if tokenizer_sha256(tokenizer) != read_training(training).tokenizer_sha256:
        raise MismatchError(
            f"{place} is another tokenizer than {training} was trained with; leave --tokenizer out"
        )


def check_same_tokenizer(
    counts: Counts, series: CheckpointSeries, place: str | None = None
) -> None:
    """Refuse counts of another tokenizer or corpus than the series', or without its twins.

    The corpus is compared for series that `dynamics train` made.

    Args:
        counts: The counts.
        series: The series.
        place: As for `series_tokenizer`.

    Raises:
        MismatchError: The counts do not belong to the series.
    """
    training = training_folder(series)
    if training is None:
        if (tokenizer := series_tokenizer(series, place)) is not None:
            check_tokenizer(counts, tokenizer_sha256(tokenizer), place or series.name)
        return
    if place is not None:
        series_tokenizer(series, place)  # refuses another than that of the training
    record = read_training(training)
    check_tokenizer(counts, record.tokenizer_sha256, str(training))
    _check_corpus(counts, record.corpus_digest, training)
    _check_twins(counts, training)


def _check_corpus(counts: Counts, corpus_digest: str | None, training: Path) -> None:
    """Refuse counts of another corpus than that of the training."""
    if corpus_digest is None or counts.info.table is not None:  # of a table no corpus is known
        return
    if counts.info.corpus_digest != corpus_digest:
        raise MismatchError(
            f"{counts.name} was counted on another corpus ({counts.info.corpus_digest[:12]}) than "
            f"{training} was trained on ({corpus_digest[:12]}); give "
            f"{training / 'counts.parquet'}, or leave --counts out"
        )


def _check_twins(counts: Counts, training: Path) -> None:
    """Refuse counts without the twins of the training: they would seem never to occur.

    Trainings with other seeds have twins of the same ids and of other tokens.

    Raises:
        MismatchError: A pair of a token and its twin is missing, or there are others.
    """
    twins = open_stream(training).info.twins or {}
    expected = {(twin, token_id) for token_id, ids in twins.items() for twin in ids}
    table = counts.table
    rows = table[table["twin_of"] >= 0] if "twin_of" in table else table[:0].assign(twin_of=-1)
    counted = set(zip(rows["token_id"].tolist(), rows["twin_of"].tolist(), strict=True))
    if counted != expected:
        raise MismatchError(
            f"{training} has {len(expected)} pairs of a token and its twin, {counts.name} has "
            f"{len(counted & expected)} of them and {len(counted - expected)} others; give "
            f"{training / 'counts.parquet'}, or count {training} itself"
        )
