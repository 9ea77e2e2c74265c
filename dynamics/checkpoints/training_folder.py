"""The folder that a training wrote: its `train.json`."""

import json
from pathlib import Path
from typing import Any


def described(training: Path) -> dict[str, Any]:
    """Content of the `train.json` of a training folder."""
    return json.loads((training / "train.json").read_text("utf-8"))
