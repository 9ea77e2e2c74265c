"""Run by torchrun: `two_processes.py FOLDER` trains with data parallelism, plain and measured.

Once more the run folder cannot be made, and once more the embedding breaks on the way. Each process
leaves the weights that it ends with in `FOLDER/NAME.rank-N.safetensors`.
"""

import atexit
import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from dynamics import NormDynamicsCallback
from dynamics.training.processes import end_process_group
from tests.tracking.trainings import At, build, trainer

SAVES = {"save_strategy": "steps", "save_steps": 1}


def break_row(model):
    with torch.no_grad():
        model.get_input_embeddings().weight[7] = float("nan")


def main():
    atexit.register(end_process_group)
    folder = Path(sys.argv[1])
    (folder / "file").touch()
    cases = {
        "plain": ([], {}),
        "measured": ([NormDynamicsCallback(folder / "run", steps="log2(2)")], SAVES),
        "unwritable": ([NormDynamicsCallback(folder / "file/run", steps="log2(2)")], {}),
        "broken": (
            [At(2, break_row), NormDynamicsCallback(folder / "broken-run", steps="log2(2)")],
            {},
        ),
    }
    for name, (callbacks, settings) in cases.items():
        made = trainer(
            folder / name, *callbacks, model=build(), max_steps=3, ddp_backend="gloo", **settings
        )
        made.train()
        weights = {key: value.contiguous() for key, value in made.model.state_dict().items()}
        save_file(weights, folder / f"{name}.rank-{os.environ['RANK']}.safetensors")


if __name__ == "__main__":
    main()
