"""A study from its settings: train, count, track and plot into one folder, each stage resumable."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynamics.checkpoints.training_folder import is_training
from dynamics.config import StudySettings
from dynamics.errors import ConfigError, OutputError
from dynamics.progress import OnProgress, Report, no_progress, no_report
from dynamics.runs.record import RunRecord

if TYPE_CHECKING:
    from dynamics.runs.run import Run
    from dynamics.tracking.live_stage import LiveSettings

OnStep = Callable[[dict[str, Any]], None]


def run_study(
    settings: StudySettings,
    folder: Path,
    *,
    command: str = "",
    report: Report = no_report,
    on_step: OnStep = lambda line: None,
    on_checkpoint: OnProgress = no_progress,
    on_live: OnProgress = no_progress,
) -> dict[str, Any]:
    """Do everything a study asks for; what a former call has finished is not done again.

    The folder gets `training/`, `run/` and `figures/`.

    Args:
        settings: What to train and how.
        folder: The study folder.
        command: Recorded in the run, as what made it.
        report: Receives a line per stage.
        on_step: Receives each line of `train.jsonl` as it is written.
        on_checkpoint: Receives how many checkpoints are measured, of how many.
        on_live: Receives how many models were run, of how many.

    Returns:
        `findings` (sentences computed from the run), `run`, `training` and `figures` (paths).

    Raises:
        ConfigError: There is no importance of a name.
        OutputError: The folder, or one inside it, is in use for something else.
    """
    from dynamics.report.figures import plot
    from dynamics.runs.findings import findings
    from dynamics.training.rates import unused_row_factor

    run = train_and_track(
        settings,
        folder,
        command=command,
        report=report,
        on_step=on_step,
        on_checkpoint=on_checkpoint,
        on_live=on_live,
    )
    report("drawing figures")
    figures = plot([run], folder / "figures", report=report)
    decays = settings.training.optimizer == "adamw" or settings.training.weight_decay == 0
    expected = unused_row_factor(settings.training, run.steps[-1]) if decays else None
    return {
        "findings": findings(run, unused_row_factor=None if settings.model.tied else expected),
        "training": str(folder / "training"),
        "run": str(run.path),
        "figures": [str(file) for file in figures],
    }


def train_and_track(
    settings: StudySettings,
    folder: Path,
    *,
    command: str = "",
    report: Report = no_report,
    on_step: OnStep = lambda line: None,
    on_checkpoint: OnProgress = no_progress,
    on_live: OnProgress = no_progress,
) -> "Run":
    """The run of a study, without its figures; what a former call has finished is not done again.

    Args:
        settings: What to train and how.
        folder: The study folder, which gets `training/` and `run/`.
        command: Recorded in the run, as what made it.
        report: Receives a line per stage.
        on_step: Receives each line of `train.jsonl` as it is written.
        on_checkpoint: Receives how many checkpoints are measured, of how many.
        on_live: Receives how many models were run, of how many.

    Raises:
        ConfigError: There is no importance of a name, or no row to measure losses on.
        OutputError: The folder, or one inside it, is in use for something else.
    """
    from dynamics.checkpoints.series import open_series
    from dynamics.tracking.origin import find_counts
    from dynamics.tracking.track import track
    from dynamics.training.train import train

    if is_training(folder):
        raise OutputError(f"{folder} is a training folder; give the study a folder of its own")
    training = folder / "training"
    live = live_settings(settings)  # what cannot be asked is told before the training
    series = open_series(train(settings, training, report=report, on_step=on_step))
    report(f"tracking {len(series)} checkpoints")
    return track(
        series,
        folder / "run",
        counts=find_counts(series, "auto"),
        everything=settings.tracking.all,
        command=command,
        live=live,
        report=report,
        on_checkpoint=on_checkpoint,
        on_live=on_live,
    )


def live_settings(settings: StudySettings) -> "LiveSettings | None":
    """What the running model is asked, None when nothing is."""
    asked = settings.tracking
    if not (asked.importance or asked.surgery or asked.agreement):
        return None
    from dynamics.importance.probes import ProbeSettings
    from dynamics.tracking.live_stage import LiveSettings

    if (asked.surgery or asked.agreement) and not settings.corpus.held_out_rows:
        raise ConfigError(
            "tracking.surgery and tracking.agreement need rows that are not trained on; set "
            "corpus.held_out_rows, 64 for one"
        )
    return LiveSettings(
        importance=tuple(asked.importance),
        surgery=asked.surgery,
        agreement=asked.agreement,
        steps=asked.live_steps,
        probes=ProbeSettings(
            tokens_per_stratum=asked.probe_tokens_per_stratum,
            contexts=asked.contexts,
            length=asked.context_length,
        ),
        device=asked.device,
    )


def is_tracked(record: RunRecord, settings: StudySettings) -> bool:
    """Whether a run was tracked as settings of a study want it.

    Where nothing is wanted of the running model, it may have been asked something. `auto` is any
    device.

    Args:
        record: Contents of the run's `run.json`.
        settings: Of the study.
    """
    wanted = settings.tracking
    if record.settings.all != wanted.all:
        return False
    parts = [name for name in ("surgery", "agreement") if getattr(wanted, name)]
    if not (wanted.importance or parts):
        return True
    if record.live is None:
        return False
    asked, probes = record.live.settings, record.live.probes or {}
    expected = {
        "tokens_per_stratum": wanted.probe_tokens_per_stratum,
        "contexts": wanted.contexts,
        "length": min(wanted.context_length, settings.training.sequence_length),
    }
    return (
        (asked["importance"], asked["parts"]) == (list(wanted.importance), parts)
        and asked["steps"] == wanted.live_steps
        and wanted.device in ("auto", asked["device"])
        and all(probes.get(name) == value for name, value in expected.items() if wanted.importance)
    )
