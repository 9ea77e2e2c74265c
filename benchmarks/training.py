"""Training tokens per second of `dynamics.training` against a bare PyTorch loop.

    python benchmarks/training.py

Both train the demo model on the demo corpus (configs/demo.yaml) in one process, in turns of some
steps, so that what else the machine does falls on both; the ratio is what carries over between
machines: of the median turns, and the median over neighbouring turns. Only the log is written in
the measured turns, no checkpoint and no state.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from dynamics.config import StudySettings, load
from dynamics.corpus.tokens import open_stream
from dynamics.training.model import build_model
from dynamics.training.optimization import build_optimizer
from dynamics.training.prepare import model_vocab_size
from dynamics.training.train import train

DEMO = Path(__file__).parents[1] / "configs" / "demo.yaml"
TURNS, STEPS = 16, 6


class BareLoop:
    """The same steps, without anything around them."""

    def __init__(self, settings: StudySettings, folder: Path) -> None:
        self.stream, self.batch_size = open_stream(folder), settings.training.batch_size
        self.clip = settings.training.gradient_clip
        self.model = build_model(
            settings.model,
            vocab_size=model_vocab_size(settings, self.stream),
            positions=self.stream.sequence_length,
            end_of_text=0,
            seed=settings.seed,
        ).train()
        self.optimizer, self.schedule = build_optimizer(self.model, settings.training)
        self.step = 0

    def run(self, steps: int) -> None:
        """Take some steps."""
        for _ in range(steps):
            rows = self.stream.rows_for_step(self.step, self.batch_size).astype("int64")
            batch = torch.from_numpy(rows)
            logits = self.model(input_ids=batch[:, :-1]).logits
            functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten()).backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
            self.optimizer.step()
            self.schedule.step()
            self.optimizer.zero_grad()
            self.step += 1


def measure(rows: int) -> tuple[list[float], list[float]]:
    """Seconds of each turn at so many rows a step: ours, and the bare loop's.

    The bare loop takes its turns in the callback that ends ours; the first turn of each warms up.
    """
    last = STEPS * (TURNS + 1) + 1
    sizes = [f"training.batch_size={rows}", f"training.steps={last}"]
    kept = ["checkpoints.steps=last", f"checkpoints.state_every={last}"]
    settings = load(DEMO, [*sizes, *kept])
    ours: list[float] = []
    theirs: list[float] = []
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "training"
        loops: list[BareLoop] = []
        began = time.perf_counter()

        def take_turns(line: dict[str, Any]) -> None:
            nonlocal began
            if line["step"] % STEPS:
                return
            ended = time.perf_counter()
            ours.append(ended - began)
            loops[:] = loops or [BareLoop(settings, folder)]
            bare_began = time.perf_counter()
            loops[0].run(STEPS)
            began = time.perf_counter()
            theirs.append(began - bare_began)

        train(settings, folder, on_step=take_turns)
    return ours[1:], theirs[1:]


def main() -> None:
    """Measure at 2,048 and at 256 tokens a step and print the table."""
    print(f"{TURNS} turns of {STEPS} steps each, {torch.get_num_threads()} threads\n")
    print(
        f"{'tokens a step':>13}  {'ours tokens/s':>13}  {'bare tokens/s':>13}  ratio  of neighbours"
    )
    for rows in (16, 2):
        tokens = rows * 128
        ours, theirs = measure(rows)
        speeds = [STEPS * tokens / statistics.median(each) for each in (ours, theirs)]
        neighbours = statistics.median(bare / own for own, bare in zip(ours, theirs, strict=True))
        print(
            f"{tokens:>13,}  {speeds[0]:>13,.0f}  {speeds[1]:>13,.0f}  "
            f"{speeds[0] / speeds[1]:>5.3f}  {neighbours:.3f}"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    main()
