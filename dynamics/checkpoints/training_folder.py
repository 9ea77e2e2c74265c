"""The folder that `dynamics train` wrote: its `train.json`, read and written in one place."""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from dynamics.errors import OutputError, first_problem, message_of
from dynamics.files import write_json
from dynamics.steps import parse

TRAIN_JSON = "train.json"


class TrainingRecord(BaseModel):
    """Contents of `train.json`; fields that older versions did not write are None.

    Attributes:
        settings: Settings of the training, as they were resolved.
        versions: Version of each package that has a part in the result.
        tokenizer_sha256: Digest of the tokenizer.
        corpus_digest: Digest of the text that the token stream was made of.
        vocab_size: Rows of the embedding.
        tokens_per_step: Tokens that one step trains on.
        threads: Threads of each process.
        processes: Processes of the training.
    """

    model_config = ConfigDict(extra="forbid")

    settings: dict[str, Any]
    versions: dict[str, str] = {}
    tokenizer_sha256: str
    corpus_digest: str | None = None
    vocab_size: int | None = None
    tokens_per_step: int
    threads: int | None = None
    processes: int | None = None

    @field_validator("settings")
    @classmethod
    def _has_what_readers_need(cls, settings: dict[str, Any]) -> dict[str, Any]:
        """Refuse settings without the fields that the properties below read."""
        training = settings.get("training")
        if not isinstance(settings.get("name"), str):
            raise ValueError("has no name")
        if not isinstance(training, dict) or not isinstance(training.get("batch_size"), int):
            raise ValueError("has no training.batch_size")
        return settings

    @property
    def name(self) -> str:
        """Name of the training."""
        return self.settings["name"]

    @property
    def batch_size(self) -> int:
        """Rows of the token stream that one step trains on."""
        return self.settings["training"]["batch_size"]

    @property
    def planned_steps(self) -> tuple[int, ...]:
        """Steps at which a checkpoint is kept, ascending; empty where the settings do not tell."""
        checkpoints, training = self.settings.get("checkpoints"), self.settings["training"]
        if not isinstance(checkpoints, dict) or not isinstance(training.get("steps"), int):
            return ()
        return tuple(parse(checkpoints["steps"]).schedule(training["steps"]))

    def write(self, folder: Path) -> None:
        """Write `train.json` into a folder."""
        write_json(folder / TRAIN_JSON, self.model_dump(mode="json", exclude_unset=True))


def is_training(folder: Path) -> bool:
    """Return whether a folder is one that `dynamics train` wrote."""
    return (folder / TRAIN_JSON).is_file()


def training_of(checkpoint: Path | None) -> Path | None:
    """Return the training folder whose `checkpoints/` a folder lies in; None where there is none.

    Data sets call files `train.json` too: one beside another folder of checkpoints is not read.
    """
    if checkpoint is None or checkpoint.parent.name != "checkpoints":
        return None
    training = checkpoint.parent.parent
    return training if is_training(training) else None


def read_training(folder: Path) -> TrainingRecord:
    """Read the `train.json` of a training folder.

    Raises:
        OutputError: The file is damaged, or not what `dynamics train` writes.
    """
    path = folder / TRAIN_JSON
    try:
        return TrainingRecord.model_validate(json.loads(path.read_text("utf-8")))
    except ValidationError as error:
        problem = first_problem(error)
    except (ValueError, OSError) as error:
        problem = message_of(error)
    raise OutputError(
        f"{path} is damaged, or not what `dynamics train` writes ({problem}); restore it, or train "
        "again into another folder"
    )
