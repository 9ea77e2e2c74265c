"""Run by torchrun: `two_processes.py FOLDER NAME...` trains `FOLDER/NAME.yaml` into `FOLDER/NAME`.

Each process records in `FOLDER/NAME.rank-N.json` which examples it was given, in their order. From
the step in DISK_FULL_FROM_STEP on, the first process writes no file of more than 100 kB.
"""

import json
import os
import resource
import sys
from pathlib import Path

from dynamics.config import load
from dynamics.training.data import CausalRows, MaskedRows
from dynamics.training.train import train

GIVEN = []


def recorded(method):
    def getitems(rows, indices):
        GIVEN.append(list(indices))
        return method(rows, indices)

    return getitems


def fill_disk(line):
    if str(line["step"]) == os.environ.get("DISK_FULL_FROM_STEP"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))


def main():
    folder = Path(sys.argv[1])
    for kind in (CausalRows, MaskedRows):
        kind.__getitems__ = recorded(kind.__getitems__)
    for name in sys.argv[2:]:
        GIVEN.clear()
        train(load(folder / f"{name}.yaml"), folder / name, on_step=fill_disk)
        (folder / f"{name}.rank-{os.environ['RANK']}.json").write_text(json.dumps(GIVEN))


if __name__ == "__main__":
    main()
