"""Run by torchrun: `two_processes.py FOLDER` trains with data parallelism, plain and measured.

Each process leaves the weights that it ends with in `FOLDER/NAME.rank-N.safetensors`.
"""

import os
import sys
from pathlib import Path

from safetensors.torch import save_file

from dynamics import NormDynamicsCallback
from tests.tracking.trainings import build, trainer


def main():
    folder = Path(sys.argv[1])
    for name in ("plain", "measured"):
        callbacks = [NormDynamicsCallback(folder / "run", steps="log2(2)")] * (name == "measured")
        saves = {"save_strategy": "steps", "save_steps": 1} if callbacks else {}
        made = trainer(
            folder / name, *callbacks, model=build(), max_steps=3, ddp_backend="gloo", **saves
        )
        made.train()
        weights = {key: value.contiguous() for key, value in made.model.state_dict().items()}
        save_file(weights, folder / f"{name}.rank-{os.environ['RANK']}.safetensors")


if __name__ == "__main__":
    main()
