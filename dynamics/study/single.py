"""A study from its settings: train, count, track and plot into one folder, each stage resumable."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynamics.checkpoints.training_folder import is_training
from dynamics.config import StudySettings
from dynamics.errors import ConfigError, OutputError
from dynamics.progress import OnProgress, OnStep, Report, no_progress, no_report, no_step
from dynamics.runs.record import RunRecord

if TYPE_CHECKING:
    from dynamics.runs.run import Run


def run_study(
    settings: StudySettings,
    folder: Path,
    *,
    command: str = "",
    report: Report = no_report,
    on_step: OnStep = no_step,
    on_checkpoint: OnProgress = no_progress,
    on_live: OnProgress = no_progress,
) -> dict[str, Any]:
    """Train, count, track and plot; stages that an earlier call has finished are not repeated.

    The folder gets `training/`, `run/` and `figures/`.

    Args:
        settings: Settings of the study.
        folder: The study folder.
        command: The command line, recorded in the run.
        report: Receives a line per stage.
        on_step: Receives each line of `train.jsonl` as it is written.
        on_checkpoint: Receives the number of measured checkpoints and their total.
        on_live: Receives the number of models run and their total.

    Returns:
        `findings` (sentences computed from the run), `run`, `training` and `figures` (paths).

    Raises:
        ConfigError: There is no importance of a name.
        OutputError: The folder, or one inside it, holds something else.
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
    on_step: OnStep = no_step,
    on_checkpoint: OnProgress = no_progress,
    on_live: OnProgress = no_progress,
) -> "Run":
    """Train and track a study without figures; finished stages are not repeated.

    Args:
        settings: Settings of the study.
        folder: The study folder, which gets `training/` and `run/`.
        command: The command line, recorded in the run.
        report: Receives a line per stage.
        on_step: Receives each line of `train.jsonl` as it is written.
        on_checkpoint: Receives the number of measured checkpoints and their total.
        on_live: Receives the number of models run and their total.

    Raises:
        ConfigError: There is no importance of a name, or no row to measure losses on.
        OutputError: The folder, or one inside it, holds something else.
    """
    from dynamics.checkpoints.series import open_series
    from dynamics.tracking.executors import executor_for
    from dynamics.tracking.track import track
    from dynamics.tracking.training_data import find_counts
    from dynamics.training.train import train

    if is_training(folder):
        raise OutputError(f"{folder} is a training folder; give the study a folder of its own")
    training = folder / "training"
    check_tracking(settings)
    series = open_series(train(settings, training, report=report, on_step=on_step))
    report(f"tracking {len(series)} checkpoints")
    with executor_for(1, settings.tracking.dask) as (executor, ahead):
        return track(
            series,
            folder / "run",
            counts=find_counts(series, "auto"),
            settings=settings.tracking,
            command=command,
            executor=executor,
            ahead=ahead,
            report=report,
            on_checkpoint=on_checkpoint,
            on_live=on_live,
        )


def check_tracking(settings: StudySettings) -> None:
    """Check before a training that its checkpoints can be measured as the settings say.

    Raises:
        ConfigError: There is no importance of a name, or no row to measure losses on, or too few
            checkpoints to follow rows over.
    """
    from dynamics.tracking.paths import check_enough_steps
    from dynamics.tracking.plan import check_importances
    from dynamics.training.prepare import schedule

    tracking = settings.tracking
    check_importances(tracking)
    if tracking.paths:
        model_steps, embedding_steps = schedule(settings)
        check_enough_steps({*model_steps, *embedding_steps})
    if tracking.live_parts and not (settings.corpus.held_out_rows or tracking.probe.text):
        raise ConfigError(
            "tracking.surgery and tracking.agreement need rows that are not trained on; set "
            "corpus.held_out_rows, for example to 64"
        )


def is_tracked(record: RunRecord, settings: StudySettings) -> bool:
    """Return whether a run was tracked with the settings of a study.

    A study that does not run the models, or follow rows, accepts a run that did, and one of more
    groups of measures than its own. `auto` is any device.

    Args:
        record: Contents of the run's `run.json`.
        settings: Settings of the study.
    """
    tracking, live = settings.tracking, record.live
    if not {*tracking.measures} <= {*record.settings.measures}:
        return False
    if record.settings.every_row != tracking.every_row:
        return False
    if tracking.paths and record.paths is None:
        return False
    if not tracking.runs_models or live is None:
        return not tracking.runs_models
    length = min(tracking.context_length, settings.training.sequence_length)
    probes = tracking.probe_record(length) if tracking.importance else {}
    return (
        tracking.live_record().items() <= live.settings.items()
        and tracking.device in ("auto", live.settings["device"])
        and probes.items() <= (live.probes or {}).items()
    )
