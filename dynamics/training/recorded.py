"""Settings of a training folder, compared with those of today's program and file."""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dynamics.checkpoints.training_folder import is_training, read_training
from dynamics.config import StudySettings
from dynamics.progress import Report, no_report

FORMER_TWINS = {"drawn": "fixed", "initial_rows": "independent"}
"""What `corpus.twins` was before it had these settings."""


def as_recorded(settings: StudySettings, folder: Path, report: Report = no_report) -> StudySettings:
    """Return settings with which a training of an older version resumes as what it was.

    A training folder that was written before twins had a setting has made them in the former way.
    It is kept where the settings do not state another.

    Args:
        settings: Settings of the training.
        folder: The training folder; need not exist.
        report: Receives a line if something is kept.

    Raises:
        OutputError: The folder is damaged.
    """
    twins = settings.corpus.twins
    if twins is None or not is_training(folder):
        return settings
    recorded = _twins(read_training(folder).settings)
    former = {
        name: value
        for name, value in FORMER_TWINS.items()
        if recorded and name not in recorded and name not in twins.model_fields_set
    }
    if not former:
        return settings
    kept = ", ".join(f"corpus.twins.{name}={value}" for name, value in former.items())
    report(f"{folder} was begun by an older version; its twins stay as they are ({kept})")
    corpus = settings.corpus.model_copy(update={"twins": twins.model_copy(update=former)})
    return settings.model_copy(update={"corpus": corpus})


def completed(recorded: dict[str, Any]) -> dict[str, Any]:
    """Complete settings of an older version: those that did not exist then get their defaults.

    Settings of twins get what twins were then. Settings that are no longer valid are returned as
    they are.
    """
    if twins := _twins(recorded):
        corpus = recorded["corpus"] | {"twins": FORMER_TWINS | twins}
        recorded = recorded | {"corpus": corpus}
    try:
        return StudySettings.model_validate(recorded).model_dump(mode="json")
    except ValidationError:
        return recorded


def _twins(recorded: dict[str, Any]) -> dict[str, Any] | None:
    """Return the settings of twins in the record of a training; None where it has none."""
    corpus = recorded.get("corpus")
    twins = corpus.get("twins") if isinstance(corpus, dict) else None
    return twins if isinstance(twins, dict) else None
