"""Preview of a training and its cost: the corpus is tokenised and three steps are timed."""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

from dynamics.config import StudySettings
from dynamics.corpus.tokens import TokenStream, open_held_out, open_stream
from dynamics.progress import Report, no_report
from dynamics.training.optimization import build_optimizer
from dynamics.training.prepare import (
    initial_model,
    is_claimed,
    parameter_count,
    prepare,
    schedule,
    training_rows,
)
from dynamics.training.recorded import as_recorded


@dataclass(frozen=True)
class Preview:
    """Steps, sizes and cost of a training that has not been run.

    Attributes:
        steps: Optimizer steps.
        checkpoints: Steps at which whole models are kept.
        embeddings: Further steps at which only embeddings are kept.
        parameters: Parameters of the model, a tied matrix counted once.
        tokens: Positions fed in all steps.
        stream_tokens: Ids in one pass of the token stream.
        passes: Passes over the stream.
        disk_bytes: Checkpoints, state and stream together.
        seconds: Training time, extrapolated from three steps timed on this machine.
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
        """Return the preview as text of several lines."""
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


def preview(settings: StudySettings, folder: Path, *, report: Report = no_report) -> Preview:
    """Estimate what `train` would do: tokenise the corpus, time three steps, and keep nothing.

    Raises:
        OutputError: The folder is in use for something else.
        MismatchError: The folder belongs to a training with other settings.
        CorpusError: The corpus cannot be read or is too small.
        ConfigError: The settings contradict one another.
    """
    settings = as_recorded(settings, folder, report)
    training = settings.training
    model_steps, embedding_steps = schedule(settings)
    with tempfile.TemporaryDirectory() as temporary:
        prepared = folder if is_claimed(settings, folder) else Path(temporary)
        if prepared != folder:
            prepare(settings, prepared, report)
        stream = open_stream(prepared)
        model = initial_model(settings, stream)
        seconds = _seconds_per_step(settings, stream, prepared, model) * training.steps
        stream_tokens = stream.ids.size
        held_out = open_held_out(prepared)
        stream_bytes = stream.ids.nbytes + (0 if held_out is None else held_out.ids.nbytes)
        passes = stream.passes(training.steps, training.batch_size)
    model_bytes = 4 * parameter_count(model)
    embedding_bytes = 4 * model.config.vocab_size * settings.model.hidden_size
    snapshot_bytes = embedding_bytes * (1 if settings.model.tied else 2)
    state_bytes = model_bytes * (3 if training.optimizer == "adamw" else 2)
    return Preview(
        steps=training.steps,
        checkpoints=model_steps,
        embeddings=embedding_steps,
        parameters=parameter_count(model),
        tokens=training.steps * training.batch_size * training.sequence_length,
        stream_tokens=stream_tokens,
        passes=passes,
        disk_bytes=len(model_steps) * model_bytes
        + len(embedding_steps) * snapshot_bytes
        + state_bytes
        + stream_bytes,
        seconds=seconds,
    )


def _seconds_per_step(
    settings: StudySettings, stream: TokenStream, prepared: Path, model: PreTrainedModel
) -> float:
    """Shortest of three timed steps."""
    dataset = training_rows(settings, stream, prepared)
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
