"""A transformers.Trainer that follows the recorded order of rows and survives being killed.

What it changes: the loss is the sum over targets divided by their fixed number in a step, which is
the same on one process and on many; the resumable state appears by a rename, whole or not at all;
weights come back by the names in the file, all of them or an error. Checkpoints and the log are
written by `Recorder`.
"""

import json
import math
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional
from transformers import (
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from dynamics.checkpoints.architectures import FAMILIES, find_family, find_roles
from dynamics.checkpoints.stores import LocalFolder
from dynamics.checkpoints.weights import Weights
from dynamics.errors import CheckpointError, DynamicsError, OutputError
from dynamics.files import sha256_file, whole_file, whole_folder, write_json
from dynamics.training.data import IGNORED, Batch

DIGESTS = "digests.json"  # in a state: SHA-256 of each of its other files


class TrainingDivergedError(DynamicsError):
    """The loss is no longer a number."""


def checkpoint_folder(folder: Path, step: int) -> Path:
    """Path of the checkpoint of a step in a training folder."""
    return folder / "checkpoints" / f"step-{step:08d}"


def latest_state(folder: Path) -> Path | None:
    """Path of the resumable state in a training folder, None where there is none."""
    states = sorted((folder / "state").glob("step-????????"))
    return states[-1] if states else None


def remove_leftovers(folder: Path) -> None:
    """Remove partial states that a kill while saving left beside the latest state."""
    latest = latest_state(folder)
    for path in [*(folder / "state").glob("step-*"), folder / "state" / "partial"]:
        if path != latest:
            shutil.rmtree(path, ignore_errors=True)


def check_state(state: Path) -> None:
    """Check that every file of a resumable state is there and as it was written.

    Raises:
        CheckpointError: A file is missing or changed; the stock trainer would ignore some of them.
    """
    try:
        digests = json.loads((state / DIGESTS).read_text("utf-8"))
        changed = [name for name in digests if sha256_file(state / name) != digests[name]]
        damage = f"{changed[0]} is not as it was written" if changed else ""
    except (OSError, ValueError, TypeError) as error:
        damage = str(error)
    if damage:
        raise CheckpointError(
            f"the state {state} is damaged ({damage}); restore it, or remove {state.parent} to "
            "train again from step 0"
        )


class StreamTrainer(Trainer):
    """A Trainer whose steps consume the token stream in its order.

    Attributes:
        folder: The training folder.
        step_loss: Loss of the current step so far, this process's share, in nats per target.
    """

    loss_is_scaled_for_ga = True

    def __init__(self, *, folder: Path, targets_per_step: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.folder = folder
        self.targets_per_step = targets_per_step
        self.model_accepts_loss_kwargs = False
        self.step_loss = torch.zeros((), device=self.args.device)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Cross-entropy in nats, divided by the targets of the whole step over all processes."""
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = functional.cross_entropy(
            outputs.logits.flatten(0, 1).float(),
            labels.flatten(),
            ignore_index=IGNORED,
            reduction="sum",
        )
        # DistributedDataParallel averages gradients over processes; here they must be summed.
        loss = loss / self.targets_per_step * self.args.world_size
        self.step_loss += loss.detach()
        return (loss, outputs) if return_outputs else loss

    def end_step(self, *, stop: bool) -> tuple[float, bool]:
        """End the step; return its loss in nats, and whether any process requests to stop."""
        loss_and_stop = torch.stack([self.step_loss, self.step_loss.new_tensor(float(stop))])
        mean = self.accelerator.reduce(loss_and_stop, "mean")
        assert isinstance(mean, torch.Tensor)
        self.step_loss = torch.zeros_like(self.step_loss)
        loss, stopping = mean.tolist()
        return loss, stopping > 0

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.folder / "state" / "partial")

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        states, step = self.folder / "state", self.state.global_step
        partial = states / "partial"
        with writing(states):
            if self.args.should_save:
                shutil.rmtree(partial, ignore_errors=True)
            self.accelerator.wait_for_everyone()
            try:
                super()._save_checkpoint(model, trial)
                self.accelerator.wait_for_everyone()
                if self.args.should_save:
                    saved = partial / f"checkpoint-{step}"
                    digests = {file.name: sha256_file(file) for file in sorted(saved.iterdir())}
                    write_json(saved / DIGESTS, digests)
                    older = list(states.glob("step-*"))
                    saved.rename(states / f"step-{step:08d}")
                    for folder in older:
                        shutil.rmtree(folder)
            finally:
                if self.args.should_save:
                    shutil.rmtree(partial, ignore_errors=True)
        self.accelerator.wait_for_everyone()

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        # The stock method loads keys as they are in the file, where an untied GPT-NeoX's output
        # embedding has another name than in memory, and leaves it at its initial values.
        target = self.model if model is None else model
        assert isinstance(target, PreTrainedModel)
        saved = type(target).from_pretrained(resume_from_checkpoint)
        target.load_state_dict(saved.state_dict(), strict=True)


class Recorder(TrainerCallback):
    """Writes checkpoints at scheduled steps and a line of `train.jsonl` for each step.

    Args:
        model_steps: Steps at which the whole model is kept.
        embedding_steps: Steps at which only embeddings and final norm are kept.
        state_every: Steps between two resumable states.
        tokens_per_step: Positions that a step feeds.
        on_step: Called after each step with the line of the log, on the first process.
    """

    def __init__(
        self,
        folder: Path,
        *,
        model_steps: list[int],
        embedding_steps: list[int],
        state_every: int,
        tokens_per_step: int,
        on_step: Callable[[dict[str, Any]], None],
    ) -> None:
        self.folder = folder
        self.model_steps = set(model_steps)
        self.embedding_steps = set(embedding_steps) - self.model_steps
        self.state_every = state_every
        self.tokens_per_step = tokens_per_step
        self.on_step = on_step
        self.stop_requested = False
        self.stopping = False
        self.trainer: StreamTrainer | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Drop the log lines of steps that will be repeated; keep the checkpoint of step 0."""
        self.step_began = time.perf_counter()
        if state.is_world_process_zero:
            _keep_lines(self.folder / "train.jsonl", state.global_step)
            if state.global_step == 0:
                self._keep(0, kwargs["model"])

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Log the update that was just made, before the schedule moves on."""
        assert self.trainer is not None
        # Processes receive Ctrl-C at different times; all must stop after the same step.
        loss, self.stopping = self.trainer.end_step(stop=self.stop_requested)
        step = state.global_step + 1
        if not math.isfinite(loss):
            raise TrainingDivergedError(
                f"the loss is not a number at step {step}; lower training.learning_rate or set "
                "training.gradient_clip"
            )
        now = time.perf_counter()
        if state.is_world_process_zero:
            line = {
                "step": step,
                "loss_nats": loss,
                "learning_rate": kwargs["optimizer"].param_groups[0]["lr"],
                "tokens_seen": step * self.tokens_per_step,
                "tokens_per_second": round(self.tokens_per_step / (now - self.step_began), 1),
            }
            log = self.folder / "train.jsonl"
            with writing(log), log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            self.on_step(line)
        self.step_began = now

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Keep the model when its step is scheduled, and request a state when one is due."""
        step = state.global_step
        if state.is_world_process_zero:
            self._keep(step, kwargs["model"])
        last = step == state.max_steps
        control.should_save = last or self.stopping or step % self.state_every == 0
        control.should_training_stop = last or self.stopping

    def _keep(self, step: int, model: nn.Module) -> None:
        """Write the checkpoint of a step that is scheduled and not yet there."""
        target = checkpoint_folder(self.folder, step)
        if target.exists() or step not in self.model_steps | self.embedding_steps:
            return
        module = cast(PreTrainedModel, getattr(model, "module", model))
        with writing(target), whole_folder(target) as partial:
            if step in self.model_steps:
                module.save_pretrained(partial)
            else:
                first = checkpoint_folder(self.folder, 0)
                save_file(embeddings_of(module, first), partial / "embeddings.safetensors")


def embeddings_of(model: PreTrainedModel, like: Path) -> dict[str, torch.Tensor]:
    """Tensors that have a role, under the keys that they have in the checkpoint `like`."""
    weights = Weights(LocalFolder(like))
    family = find_family(weights)
    assert family is not None, "save_pretrained writes checkpoints of known families"
    state = model.state_dict()
    output = cast(nn.Linear, model.get_output_embeddings())
    in_memory = {"output_embedding": output.weight, "output_bias": output.bias}
    return {
        key: (state[key] if key in state else in_memory[role].detach()).cpu().contiguous()
        for role, key in find_roles(FAMILIES[family], weights).items()
    }


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn errors of writing on a full or read-only disk into an `OutputError` of one line."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise OutputError(
            f"cannot write {path}: {reason}; everything written before is complete, and the same "
            "command resumes from there"
        ) from error


def _keep_lines(path: Path, count: int) -> None:
    """Cut a log to its first lines; a missing one becomes empty."""
    lines = path.read_text("utf-8").splitlines(keepends=True)[:count] if path.exists() else []
    with writing(path), whole_file(path) as partial:
        partial.write_text("".join(lines), "utf-8")


def as_one_batch(rows: Batch) -> Batch:
    """Return the batch unchanged: collator of a dataset that already returns whole batches."""
    return rows
