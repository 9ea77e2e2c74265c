"""A training from its settings: corpus, tokenizer and token stream, then the model, step by step.

A training folder is claimed by one rename, with everything that precedes the first step in it
(`train.json`, `tokenizer/`, `tokens.bin`, `counts.parquet`); from then on the same settings go on
where they were, and others are refused.
"""

import atexit
import gc
import importlib.metadata
import json
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import PreTrainedModel, TrainingArguments

from dynamics import steps as step_language
from dynamics.config import StudySettings
from dynamics.corpus import sources
from dynamics.corpus.counts import count_stream
from dynamics.corpus.tokenizer import load_tokenizer, train_tokenizer
from dynamics.corpus.tokens import TokenStream, open_stream, write_stream
from dynamics.errors import ConfigError, CorpusError, MismatchError, OutputError
from dynamics.files import sha256_file, whole_folder, write_json
from dynamics.models.quiet import quiet_transformers
from dynamics.training.data import CausalRows, MaskedRows
from dynamics.training.model import build_model
from dynamics.training.optimization import build_optimizer
from dynamics.training.trainer import (
    Recorder,
    StreamTrainer,
    as_one_batch,
    check_state,
    checkpoint_folder,
    latest_state,
    remove_leftovers,
    writing,
)

Report = Callable[[str], None]
OnStep = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Preview:
    """What a training will do and cost.

    Attributes:
        steps: Optimizer steps.
        checkpoints: Steps of whole models.
        embeddings: Steps of embeddings-only snapshots.
        parameters: Numbers in the model, a tied matrix once.
        tokens: Positions fed in all steps.
        stream_tokens: Ids in one pass of the token stream.
        passes: Passes over the stream.
        disk_bytes: Checkpoints, state and stream together.
        seconds: Training time, from some steps timed here.
    """

    steps: int
    checkpoints: list[int]
    embeddings: list[int]
    parameters: int
    tokens: int
    stream_tokens: int
    passes: float
    disk_bytes: int
    seconds: float

    def describe(self) -> str:
        """The preview for people."""
        snapshots = f"; embeddings alone at {len(self.embeddings)} more" if self.embeddings else ""
        shown = ", ".join(f"{step:,}" for step in self.checkpoints)
        return (
            f"{self.steps:,} steps of a model of {self.parameters:,} parameters\n"
            f"{self.tokens:,} tokens, {self.passes:.2f} passes over a corpus of "
            f"{self.stream_tokens:,}\n"
            f"{len(self.checkpoints)} checkpoints ({shown}){snapshots}\n"
            f"{self.disk_bytes / 1e6:,.0f} MB on disk\n"
            f"about {self.seconds / 60:.1f} minutes of training on this machine"
        )


def train(
    settings: StudySettings,
    folder: Path,
    *,
    report: Report = lambda message: None,
    on_step: OnStep = lambda line: None,
) -> Path:
    """Train a model, or go on with a training that was interrupted.

    On one kind of CPU and the same number of threads the weights are the same bits however often
    the training was killed. Under `torchrun` every process calls this.

    Args:
        settings: What to train, on what.
        folder: The training folder; new, or of the same settings.
        report: Receives a line per stage.
        on_step: Receives each new line of `train.jsonl`.

    Returns:
        The folder of checkpoints.

    Raises:
        OutputError: The folder is in use for something else, or cannot be written.
        MismatchError: The folder belongs to a training with other settings or of another number of
            processes.
        CorpusError: The corpus cannot be read or is too small, or the token stream is damaged.
        CheckpointError: The resumable state is damaged.
        ConfigError: The settings contradict one another.
        TrainingDivergedError: The loss is no longer a number.
        KeyboardInterrupt: Interrupted; the state was saved first.
    """
    training = settings.training
    arguments = _arguments(settings, folder)
    if arguments.world_size > 1:
        atexit.register(_leave_processes)
    with arguments.main_process_first(local=False):
        if arguments.process_index == 0:
            if not _is_claimed(settings, folder):
                _claim(settings, folder, arguments.world_size, report)
            remove_leftovers(folder)
    if not _is_claimed(settings, folder):
        raise OutputError(f"the first process could not make {folder}; its message says why")
    described = _described(folder)
    if described["processes"] != arguments.world_size:
        raise MismatchError(
            f"{folder} was begun with {described['processes']} processes and cannot go on with "
            f"{arguments.world_size}; start it with as many"
        )
    state = latest_state(folder)
    if checkpoint_folder(folder, training.steps).exists() and (
        state is None or _step_of(state) == training.steps
    ):
        return folder / "checkpoints"
    if state:
        check_state(state)
    torch.set_num_threads(described["threads"])

    stream = open_stream(folder)
    if sha256_file(stream.path) != stream.info.tokens_sha256:
        raise CorpusError(
            f"{stream.path} is not the file that was written for this training; restore it, or "
            f"remove {folder} to begin again"
        )
    dataset = _dataset(settings, stream, folder)
    model = _model(settings, stream)
    whole, embeddings = schedule(settings)
    recorder = Recorder(
        folder,
        whole=whole,
        embeddings=embeddings,
        state_every=settings.checkpoints.state_every or max(1, training.steps // 10),
        tokens_per_step=described["tokens_per_step"],
        on_step=on_step,
    )
    trainer = StreamTrainer(
        folder=folder,
        targets_per_step=training.batch_size * dataset.targets_per_row,
        model=model,
        args=arguments,
        train_dataset=dataset,
        data_collator=as_one_batch,
        optimizers=build_optimizer(model, training),
        callbacks=[recorder],
    )
    trainer.remove_callback(transformers.PrinterCallback)
    recorder.trainer = trainer
    at = f", going on at step {_step_of(state):,}" if state else ""
    report(f"training {_size(model):,} parameters for {training.steps:,} steps{at}")
    with quiet_transformers(), _finish_step_when_interrupted(recorder):
        trainer.train(resume_from_checkpoint=str(state) if state else None)
    if trainer.state.global_step < training.steps:
        raise KeyboardInterrupt
    return folder / "checkpoints"


def preview(
    settings: StudySettings, folder: Path, *, report: Report = lambda message: None
) -> Preview:
    """What `train` would do; tokenises the corpus aside and times three steps, keeps nothing.

    Raises:
        OutputError: The folder is in use for something else.
        MismatchError: The folder belongs to a training with other settings.
        CorpusError: The corpus cannot be read or is too small.
        ConfigError: The settings contradict one another.
    """
    training = settings.training
    whole, embeddings = schedule(settings)
    with tempfile.TemporaryDirectory() as aside:
        prepared = folder if _is_claimed(settings, folder) else Path(aside)
        if prepared != folder:
            _prepare(settings, prepared, report)
        stream = open_stream(prepared)
        model = _model(settings, stream)
        seconds = _seconds_per_step(settings, stream, prepared, model) * training.steps
        stream_tokens = stream.ids.size
        stream_bytes = stream.ids.nbytes
        passes = stream.passes(training.steps, training.batch_size)
    model_bytes = 4 * _size(model)
    embedding_bytes = 4 * model.config.vocab_size * settings.model.hidden_size
    snapshot_bytes = embedding_bytes * (1 if settings.model.tied else 2)
    state_bytes = model_bytes * (3 if training.optimizer == "adamw" else 2)
    return Preview(
        steps=training.steps,
        checkpoints=whole,
        embeddings=embeddings,
        parameters=_size(model),
        tokens=training.steps * training.batch_size * training.sequence_length,
        stream_tokens=stream_tokens,
        passes=passes,
        disk_bytes=len(whole) * model_bytes
        + len(embeddings) * snapshot_bytes
        + state_bytes
        + stream_bytes,
        seconds=seconds,
    )


def schedule(settings: StudySettings) -> tuple[list[int], list[int]]:
    """Steps of whole models, and the further steps of which only embeddings are kept.

    Raises:
        ConfigError: A step lies beyond the training.
    """
    last = settings.training.steps
    try:
        whole = step_language.parse(settings.checkpoints.steps).schedule(last)
        if settings.checkpoints.embeddings is None:
            return whole, []
        wanted = step_language.parse(settings.checkpoints.embeddings).schedule(last)
    except step_language.StepError as error:
        raise ConfigError(f"checkpoints: {error}") from error
    return whole, [step for step in wanted if step not in whole]


def _arguments(settings: StudySettings, folder: Path) -> TrainingArguments:
    training = settings.training
    use_cpu = training.device == "cpu" or (
        training.device == "auto" and not torch.cuda.is_available()
    )
    if training.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("training.device is cuda, but torch finds no such device here")
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    per_device = training.device_batch_size or max(1, training.batch_size // processes)
    accumulation, rest = divmod(training.batch_size, per_device * processes)
    if rest or accumulation == 0:
        raise ConfigError(
            f"training.batch_size {training.batch_size} is not a multiple of {per_device} rows on "
            f"each of {processes} processes"
        )
    arguments = TrainingArguments(
        output_dir=str(folder / "state"),
        max_steps=training.steps,
        per_device_train_batch_size=per_device,
        gradient_accumulation_steps=accumulation,
        max_grad_norm=training.gradient_clip,
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        use_cpu=use_cpu,
        ddp_backend="gloo" if use_cpu and processes > 1 else None,
        ddp_find_unused_parameters=False,  # our models use all of theirs
        bf16=training.precision == "bfloat16",
        seed=settings.seed,
        save_strategy="no",
        logging_strategy="no",
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=not use_cpu,
    )
    # One process uses one device; the Trainer would spread the rows of a step over all it sees.
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments


def _is_claimed(settings: StudySettings, folder: Path) -> bool:
    """Whether the folder is a training of these settings; that of others is an error."""
    if not (folder / "train.json").exists():
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            raise OutputError(f"{folder} exists and holds no training; give another output folder")
        return False
    found, wanted = _described(folder)["settings"], settings.model_dump(mode="json")
    if found != wanted:
        raise MismatchError(
            f"{folder} holds a training with other settings ({_first_difference(found, wanted)}"
            "); give another output folder, or remove that one"
        )
    return True


def _described(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "train.json").read_text("utf-8"))
    except ValueError as error:
        raise OutputError(f"{folder / 'train.json'} is damaged ({error}); restore it") from error


def _claim(settings: StudySettings, folder: Path, processes: int, report: Report) -> None:
    """Make the training folder, with all that precedes the first step."""
    schedule(settings)
    with writing(folder), whole_folder(folder) as partial:
        stream, vocab_size = _prepare(settings, partial, report)
        training = settings.training
        write_json(
            partial / "train.json",
            {
                "settings": settings.model_dump(mode="json"),
                "versions": {
                    name: importlib.metadata.version(name)
                    for name in ("dynamics", "torch", "transformers", "accelerate", "tokenizers")
                },
                "tokenizer_sha256": stream.info.tokenizer_sha256,
                "corpus_digest": stream.info.corpus_digest,
                "vocab_size": vocab_size,
                "tokens_per_step": training.batch_size * training.sequence_length,
                "threads": training.threads or torch.get_num_threads(),
                "processes": processes,
            },
        )


def _prepare(settings: StudySettings, folder: Path, report: Report) -> tuple[TokenStream, int]:
    """Tokenizer, token stream and counts into `folder`; the stream and the model's vocabulary."""
    corpus, training = settings.corpus, settings.training

    def documents() -> Iterator[str]:
        return sources.documents(
            corpus.source,
            text_column=corpus.text_column,
            split=corpus.split,
            max_documents=corpus.max_documents,
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
        tokenizer.save_pretrained(folder / "tokenizer")
    except Exception as error:  # the Rust side raises bare `Exception`
        raise OSError(str(error)) from error
    report(f"tokenising {corpus.source}")
    stream = write_stream(
        folder,
        documents(),
        tokenizer,
        sequence_length=training.sequence_length,
        seed=settings.seed,
        max_tokens=corpus.max_tokens,
        source=corpus.source,
    )
    passes = stream.passes(training.steps, training.batch_size)
    report(
        f"{stream.ids.size:,} tokens in {stream.rows:,} rows; training passes {passes:.2f} times"
    )
    if passes > training.max_passes:
        raise CorpusError(
            f"{training.steps:,} steps of {training.batch_size} rows pass the corpus "
            f"{passes:.2f} times, more than training.max_passes {training.max_passes:g}; give a "
            "larger corpus or fewer steps, or raise training.max_passes if that is meant"
        )
    assert stream.info.vocab_size is not None
    vocab_size = stream.info.vocab_size + corpus.placebo_rows
    count_stream(stream, tokenizer, vocab_size=vocab_size).write(folder / "counts.parquet")
    return stream, vocab_size


def _dataset(settings: StudySettings, stream: TokenStream, prepared: Path) -> CausalRows:
    training = settings.training
    examples = training.steps * training.batch_size
    if not settings.model.masked:
        return CausalRows(stream, examples)
    tokenizer = load_tokenizer(prepared / "tokenizer")
    # Only tokens that occur stand in for masked ones, so that never seen means never used.
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


def _model(settings: StudySettings, stream: TokenStream) -> PreTrainedModel:
    assert stream.info.vocab_size is not None and stream.info.end_of_text_id is not None
    return build_model(
        settings.model,
        vocab_size=stream.info.vocab_size + settings.corpus.placebo_rows,
        positions=settings.training.sequence_length,
        end_of_text=stream.info.end_of_text_id,
        seed=settings.seed,
    )


def _seconds_per_step(
    settings: StudySettings, stream: TokenStream, prepared: Path, model: PreTrainedModel
) -> float:
    dataset = _dataset(settings, stream, prepared)
    optimizer, _ = build_optimizer(model, settings.training)
    torch.set_num_threads(settings.training.threads or torch.get_num_threads())
    seconds = []
    for step in range(3):
        began = time.perf_counter()
        batch = dataset.__getitems__(
            range(step * settings.training.batch_size, (step + 1) * settings.training.batch_size)
        )
        logits = model(input_ids=batch["input_ids"]).logits
        torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), batch["labels"].flatten()
        ).backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def _step_of(state: Path) -> int:
    return int(state.name.removeprefix("step-"))


def _size(model: PreTrainedModel) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _first_difference(found: dict[str, Any], wanted: dict[str, Any], prefix: str = "") -> str:
    for key in dict.fromkeys([*wanted, *found]):
        here, there = found.get(key), wanted.get(key)
        if isinstance(here, dict) and isinstance(there, dict) and here != there:
            return _first_difference(here, there, f"{prefix}{key}.")
        if here != there:
            return f"{prefix}{key} is {here} there and {there} here"
    return "none"


def _leave_processes() -> None:
    """End gloo's threads: one that outlives the interpreter now and then aborts the process."""
    # The model's hooks keep the group, which owns the threads, in a circle. They go first: whoever
    # drops the group joins its threads, and only destroy_process_group does so without the GIL.
    gc.collect()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@contextmanager
def _finish_step_when_interrupted(recorder: Recorder) -> Iterator[None]:
    """Let the first Ctrl-C end the step and save; a second one interrupts at once."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread is told of signals
        return

    def stop(number: int, frame: object) -> None:
        recorder.stop_requested = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
