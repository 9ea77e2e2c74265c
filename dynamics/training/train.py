"""A training from its settings, step by step, in the folder that `prepare` has made.

A training folder is claimed by one rename, with everything that precedes the first step in it
(`train.json`, `tokenizer/`, `tokens.bin`, `counts.parquet`); from then on the same settings resume
it, and other settings are refused.
"""

import atexit
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import transformers
from transformers import TrainingArguments

from dynamics.checkpoints.training_folder import read_training
from dynamics.config import StudySettings
from dynamics.corpus.tokens import open_stream
from dynamics.errors import ConfigError, CorpusError, MismatchError, OutputError
from dynamics.files import sha256_file
from dynamics.models.quiet import quiet_transformers
from dynamics.progress import OnStep, Report, no_report, no_step
from dynamics.training.optimization import build_optimizer
from dynamics.training.prepare import (
    claim,
    initial_model,
    is_claimed,
    parameter_count,
    schedule,
    training_rows,
)
from dynamics.training.processes import end_process_group
from dynamics.training.recorded import as_recorded
from dynamics.training.trainer import (
    Recorder,
    StreamTrainer,
    as_one_batch,
    check_state,
    checkpoint_folder,
    latest_state,
    remove_leftovers,
)


def train(
    settings: StudySettings,
    folder: Path,
    *,
    report: Report = no_report,
    on_step: OnStep = no_step,
) -> Path:
    """Train a model, or resume a training that was interrupted.

    On one kind of CPU and the same number of threads the weights are the same bits however often
    the training was killed. Under `torchrun` every process calls this.

    Args:
        settings: Settings of model, corpus and training.
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
    settings = as_recorded(settings, folder, report)
    training = settings.training
    arguments = _arguments(settings, folder)
    if arguments.world_size > 1:
        atexit.register(end_process_group)
    with arguments.main_process_first(local=False):
        if arguments.process_index == 0:
            if not is_claimed(settings, folder):
                claim(settings, folder, arguments.world_size, report)
            remove_leftovers(folder)
    if not is_claimed(settings, folder):
        raise OutputError(f"the first process could not make {folder}; see its message")
    record = read_training(folder)
    if record.processes != arguments.world_size:
        raise MismatchError(
            f"{folder} was begun with {record.processes} processes and cannot be resumed with "
            f"{arguments.world_size}; start it with {record.processes}"
        )
    state = latest_state(folder)
    if checkpoint_folder(folder, training.steps).exists() and (
        state is None or _step_of(state) == training.steps
    ):
        return folder / "checkpoints"
    if state:
        check_state(state)
    torch.set_num_threads(record.threads or torch.get_num_threads())

    stream = open_stream(folder)
    if sha256_file(stream.path) != stream.info.tokens_sha256:
        raise CorpusError(
            f"{stream.path} is not the file that was written for this training; restore it, or "
            f"remove {folder} to begin again"
        )
    dataset = training_rows(settings, stream, folder)
    model = initial_model(settings, stream)
    model_steps, embedding_steps = schedule(settings)
    recorder = Recorder(
        folder,
        model_steps=model_steps,
        embedding_steps=embedding_steps,
        state_every=settings.checkpoints.state_every or max(1, training.steps // 10),
        tokens_per_step=record.tokens_per_step,
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
    resumed = f", resumed at step {_step_of(state):,}" if state else ""
    report(f"training {parameter_count(model):,} parameters for {training.steps:,} steps{resumed}")
    with quiet_transformers(), _finish_step_when_interrupted(recorder):
        trainer.train(resume_from_checkpoint=str(state) if state else None)
    if trainer.state.global_step < training.steps:
        raise KeyboardInterrupt
    return folder / "checkpoints"


def _arguments(settings: StudySettings, folder: Path) -> TrainingArguments:
    """Arguments of the stock Trainer; rows of a step are shared by all processes."""
    training = settings.training
    use_cpu = training.device == "cpu" or (
        training.device == "auto" and not torch.cuda.is_available()
    )
    if training.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "training.device is cuda, but torch finds no CUDA device; set it to cpu or auto"
        )
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    per_device = training.device_batch_size or max(1, training.batch_size // processes)
    accumulation, remainder = divmod(training.batch_size, per_device * processes)
    if remainder or accumulation == 0:
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
        ddp_find_unused_parameters=False,  # every parameter is used
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


def _step_of(state: Path) -> int:
    """Step of a resumable state, from the name of its folder."""
    return int(state.name.removeprefix("step-"))


@contextmanager
def _finish_step_when_interrupted(recorder: Recorder) -> Iterator[None]:
    """Let the first Ctrl-C end the step and save; a second one interrupts at once."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread receives signals
        return

    def stop(number: int, frame: object) -> None:
        recorder.stop_requested = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    previous_handler = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous_handler)
