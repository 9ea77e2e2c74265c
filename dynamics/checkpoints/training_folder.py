"""The `train.json` in the folder of a training."""

import json
from pathlib import Path
from typing import Any


def read_train_json(training: Path) -> dict[str, Any]:
    """Read the `train.json` of a training folder."""
    return json.loads((training / "train.json").read_text("utf-8"))
