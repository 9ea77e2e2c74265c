"""Preparation of a training, before its first step: the folder, the token stream, the model."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from dynamics import steps as step_language
from dynamics.checkpoints.training_folder import TrainingRecord, is_training, read_training
from dynamics.config import StudySettings
from dynamics.corpus.counts import count_stream
from dynamics.corpus.documents import corpora
from dynamics.corpus.documents.large_text import Document
from dynamics.corpus.information.settings import InformationSettings
from dynamics.corpus.tokenizers.loading import load_tokenizer, save_tokenizer, train_tokenizer
from dynamics.corpus.tokens import StreamSettings, TokenStream, write_stream
from dynamics.distribution import versions
from dynamics.errors import ConfigError, CorpusError, MismatchError, OutputError
from dynamics.files import whole_folder
from dynamics.progress import Report, no_report
from dynamics.training.data import CausalRows, MaskedRows
from dynamics.training.model import build_model
from dynamics.training.recorded import completed
from dynamics.training.trainer import writing


def schedule(settings: StudySettings) -> tuple[list[int], list[int]]:
    """Steps at which whole models are kept, and further steps at which only embeddings are.

    Raises:
        ConfigError: A step lies beyond the training.
    """
    last = settings.training.steps
    try:
        model_steps = step_language.parse(settings.checkpoints.steps).schedule(last)
        if settings.checkpoints.embeddings is None:
            return model_steps, []
        embedding_steps = step_language.parse(settings.checkpoints.embeddings).schedule(last)
    except step_language.StepError as error:
        raise ConfigError(f"checkpoints: {error}") from error
    return model_steps, [step for step in embedding_steps if step not in model_steps]


def is_claimed(settings: StudySettings, folder: Path) -> bool:
    """Return whether the folder holds a training with these settings.

    Raises:
        OutputError: The folder holds something else, or is damaged.
        MismatchError: It holds a training with other settings.
    """
    if not is_training(folder):
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            raise OutputError(f"{folder} exists and holds no training; give another output folder")
        return False
    recorded = completed(read_training(folder).settings)
    current = settings.model_dump(mode="json")
    if recorded != current:
        raise MismatchError(
            f"{folder} holds a training with other settings "
            f"({_first_difference(recorded, current)}); give another output folder, or remove that "
            "one"
        )
    return True


def claim(settings: StudySettings, folder: Path, processes: int, report: Report) -> None:
    """Make the training folder, with everything that is needed before the first step.

    Raises:
        ConfigError: The settings contradict one another.
        CorpusError: The corpus cannot be read or is too small.
        OutputError: The folder cannot be written.
    """
    schedule(settings)
    with writing(folder), whole_folder(folder) as partial:
        stream, vocab_size = prepare(settings, partial, report)
        training = settings.training
        assert stream.info.tokenizer_sha256 is not None
        TrainingRecord(
            settings=settings.model_dump(mode="json"),
            versions=versions("torch", "transformers", "accelerate", "tokenizers"),
            tokenizer_sha256=stream.info.tokenizer_sha256,
            corpus_digest=stream.info.corpus_digest,
            vocab_size=vocab_size,
            tokens_per_step=training.batch_size * training.sequence_length,
            threads=training.threads or torch.get_num_threads(),
            processes=processes,
        ).write(partial)


def prepare(settings: StudySettings, folder: Path, report: Report) -> tuple[TokenStream, int]:
    """Write tokenizer, token stream and counts; return the stream and the model's vocabulary size.

    Raises:
        ConfigError: The tokenizer has no mask token and the model needs one.
        CorpusError: The corpus cannot be read or is too small.
        OSError: The folder cannot be written.
    """
    corpus, training = settings.corpus, settings.training

    def documents(report: Report = no_report) -> Iterator[Document]:
        with corpora.settings_of("corpus"):
            yield from corpora.documents(
                corpus.source,
                text_column=corpus.text_column,
                split=None if corpus.split == corpora.DEFAULT_SPLIT else corpus.split,
                separator=corpus.separator,
                max_documents=corpus.max_documents,
                format_name=corpus.format,
                report=report,
            )

    if settings.tokenizer.path:
        tokenizer = load_tokenizer(settings.tokenizer.path)
        if settings.model.masked and tokenizer.mask_token_id is None:
            raise ConfigError(
                f"the tokenizer {settings.tokenizer.path} has no mask token, which the "
                f"architecture {settings.model.architecture} needs"
            )
    else:
        report(f"training a tokenizer of {settings.tokenizer.vocab_size:,} entries")
        tokenizer = train_tokenizer(
            documents(), settings.tokenizer.vocab_size, masked=settings.model.masked
        )
    try:
        save_tokenizer(tokenizer, folder / "tokenizer")
    except CorpusError as error:
        raise OSError(str(error)) from error
    report(f"tokenising {corpus.source}")
    shape = StreamSettings(
        training.sequence_length,
        settings.seed,
        max_tokens=corpus.max_tokens,
        held_out_rows=corpus.held_out_rows,
        twins=corpus.twins,
    )
    stream = write_stream(
        folder,
        documents(report),
        tokenizer,
        shape,
        source=corpus.source,
        allow_loss=settings.tokenizer.allow_loss,
        report=report,
    )
    passes = stream.passes(training.steps, training.batch_size)
    held_out = f", {corpus.held_out_rows:,} more held out" if corpus.held_out_rows else ""
    report(
        f"{stream.ids.size:,} tokens in {stream.rows:,} rows{held_out}; training passes "
        f"{passes:.2f} times"
    )
    if passes > training.max_passes:
        raise CorpusError(
            f"{training.steps:,} steps of {training.batch_size} rows pass the corpus "
            f"{passes:.2f} times, more than training.max_passes {training.max_passes:g}; give a "
            "larger corpus or fewer steps, or raise training.max_passes if more passes are intended"
        )
    vocab_size = model_vocab_size(settings, stream)
    window = corpus.information_window
    information = None if window is None else InformationSettings(window)
    counts = count_stream(stream, tokenizer, vocab_size=vocab_size, information=information)
    counts.write(folder / "counts.parquet")
    return stream, vocab_size


def training_rows(settings: StudySettings, stream: TokenStream, prepared: Path) -> CausalRows:
    """The rows of all steps, in order; `prepared` has the tokenizer."""
    training = settings.training
    examples = training.steps * training.batch_size
    if not settings.model.masked:
        return CausalRows(stream, examples)
    tokenizer = load_tokenizer(prepared / "tokenizer")
    # Only tokens that occur replace masked ones: the row of a token that never occurs is unused.
    occurring = np.setdiff1d(np.unique(stream.ids), tokenizer.all_special_ids)
    mask_id = tokenizer.mask_token_id
    assert isinstance(mask_id, int)
    return MaskedRows(
        stream,
        examples,
        mask_id=mask_id,
        random_ids=occurring,
        share=training.masked_share,
        seed=settings.seed,
    )


def model_vocab_size(settings: StudySettings, stream: TokenStream) -> int:
    """Rows of the model's embeddings: the tokenizer's entries, then twins, then placebo rows."""
    assert stream.info.id_count is not None
    return stream.info.id_count + settings.corpus.placebo_rows


def initial_model(settings: StudySettings, stream: TokenStream) -> PreTrainedModel:
    """The model before its first step."""
    assert stream.info.end_of_text_id is not None
    twins = settings.corpus.twins
    return build_model(
        settings.model,
        vocab_size=model_vocab_size(settings, stream),
        positions=settings.training.sequence_length,
        end_of_text=stream.info.end_of_text_id,
        seed=settings.seed,
        copies=stream.info.twins if twins and twins.initial_rows == "copied" else None,
    )


def parameter_count(model: PreTrainedModel) -> int:
    """Numbers in a model, a tied matrix once."""
    return sum(parameter.numel() for parameter in model.parameters())


def _first_difference(recorded: dict[str, Any], current: dict[str, Any], prefix: str = "") -> str:
    """First setting in which two trainings differ, by dotted key, with both values."""
    for key in dict.fromkeys([*current, *recorded]):
        old, new = recorded.get(key), current.get(key)
        if isinstance(old, dict) and isinstance(new, dict) and old != new:
            return _first_difference(old, new, f"{prefix}{key}.")
        if old != new:
            return f"{prefix}{key} is {old} in the folder, {new} in the settings"
    return "none"
