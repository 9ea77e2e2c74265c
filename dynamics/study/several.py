"""Studies of several runs: arms and seeds that are trained, or public series that are read.

Each run has an ordinary run folder and can be resumed; at the end a page with figures is written
from the tables of all runs.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynamics.checkpoints.training_folder import is_training, read_training
from dynamics.config import StudySettings
from dynamics.errors import OutputError, StudyError
from dynamics.progress import Report, no_report
from dynamics.runs.record import RUN_JSON, read_record
from dynamics.study.settings import ArmsStudy, SeriesStudy, run_folder
from dynamics.study.single import is_tracked, train_and_track
from dynamics.study.workers import Job, run_jobs
from dynamics.training.recorded import as_recorded, completed


@dataclass(frozen=True)
class TrainedRun:
    """The job of training and tracking one arm and seed.

    Attributes:
        settings: Settings of the training.
        folder: Folder for `training/` and `run/`.
        command: The command line, recorded in the run.
    """

    settings: StudySettings
    folder: Path
    command: str

    def __call__(self, report: Report) -> None:
        """Train and track, and report a line for every tenth of the training."""
        start, total = time.monotonic(), self.settings.training.steps
        interval = max(1, total // 10)

        def on_step(line: Mapping[str, Any]) -> None:
            if line["step"] % interval == 0:
                report(f"step {line['step']:,} of {total:,}, loss {line['loss_nats']:.3f} nats")

        def on_live(done: int, checkpoints: int) -> None:
            if done < checkpoints:
                report(f"running the model of {done + 1} of {checkpoints} checkpoints")

        train_and_track(
            self.settings,
            self.folder,
            command=self.command,
            report=report,
            on_step=on_step,
            on_live=on_live,
        )
        report(f"done in {time.monotonic() - start:.0f} s")

    @property
    def finished(self) -> bool:
        """True if the folder holds a finished run with exactly these settings."""
        training, run = self.folder / "training", self.folder / "run"
        if not is_training(training) or not (run / RUN_JSON).exists():
            return False
        try:
            settings, record = read_training(training).settings, read_record(run)
        except OutputError:  # damaged: calling the job raises it again
            return False
        return (
            completed(settings) == as_recorded(self.settings, training).model_dump(mode="json")
            and record.finished
            and is_tracked(record, self.settings)
        )


@dataclass(frozen=True)
class ReadRun:
    """The job of tracking one public series.

    Attributes:
        series: Name of the series.
        study: The study, whose steps, rule and counts are used.
        folder: The run folder.
        command: The command line, recorded in the run.
    """

    series: str
    study: SeriesStudy
    folder: Path
    command: str

    def __call__(self, report: Report) -> None:
        """Track the series; steps measured before are not read again."""
        from dynamics.checkpoints.opening import open_any
        from dynamics.tracking.track import track
        from dynamics.tracking.training_data import find_counts

        series = open_any(self.series)
        report(f"tracking {len(series.select(self.study.steps))} checkpoints")
        track(
            series,
            self.folder,
            counts=find_counts(series, self.study.counts, report=report),
            steps=self.study.steps,
            rule=self.study.rule,
            command=self.command,
            report=report,
        )
        report("done")

    @property
    def finished(self) -> bool:
        """Always False: the hub may have new steps, and checking is cheap."""
        return False


def run_arms(
    study: ArmsStudy,
    folder: Path,
    *,
    page: Path | None = None,
    workers: int = 1,
    command: str = "",
    report: Report = no_report,
) -> dict[str, Any]:
    """Train and track every arm with every seed, then write the page over all runs.

    Args:
        study: Arms and seeds.
        folder: Output folder; each run is an ordinary study in its subfolder `ARM/seed-N/`.
        page: Path of the page, whose figures go to a folder of the same name beside it;
            `report.md` in `folder` by default.
        workers: Trainings at once, each in a process with its share of the threads.
        command: The command line, recorded in the runs and on the page.
        report: Receives a line per stage of each run.

    Returns:
        `page`, `figures` and `runs` (paths).

    Raises:
        StudyError: Some runs failed. The others are finished, and the page is about them.
        KeyboardInterrupt: Interrupted; every training has saved its state.
    """
    jobs = {
        f"{arm} seed {seed}": TrainedRun(
            study.settings(arm, seed), folder / arm / f"seed-{seed}", command
        )
        for seed in study.seeds  # outer loop: every arm has its first seeds early
        for arm in study.arms
    }
    runs = {name: job.folder / "run" for name, job in jobs.items()}
    return _run(study.name, jobs, runs, page or folder / "report.md", workers, command, report)


def run_series(
    study: SeriesStudy,
    folder: Path,
    *,
    page: Path | None = None,
    workers: int = 1,
    command: str = "",
    report: Report = no_report,
) -> dict[str, Any]:
    """Track every series of a study, then write the page over all runs.

    Args:
        study: The series, and the settings of tracking them.
        folder: Output folder, with a run folder named after each series.
        page: As in `run_arms`.
        workers: Series at once, each in a process.
        command: As in `run_arms`.
        report: Receives a line per stage of each series.

    Returns:
        `page`, `figures` and `runs` (paths).

    Raises:
        StudyError: Some series failed. The others are finished, and the page is about them.
        KeyboardInterrupt: Interrupted; what was read is kept.
    """
    jobs = {name: ReadRun(name, study, folder / run_folder(name), command) for name in study.series}
    runs = {name: job.folder for name, job in jobs.items()}
    return _run(study.name, jobs, runs, page or folder / "report.md", workers, command, report)


def _run(
    title: str,
    jobs: Mapping[str, TrainedRun | ReadRun],
    runs: Mapping[str, Path],
    page: Path,
    workers: int,
    command: str,
    report: Report,
) -> dict[str, Any]:
    from dynamics.report.study_page import write_page
    from dynamics.runs.run import Run

    unfinished: dict[str, Job] = {name: job for name, job in jobs.items() if not job.finished}
    at_once = min(workers, len(unfinished))
    report(f"{len(unfinished)} of {len(jobs)} runs to do, {at_once} at once")
    failed = run_jobs(unfinished, workers=workers, report=report)
    finished = [Run(path) for name, path in runs.items() if name not in failed]
    figures: list[Path] = []
    if finished:
        report(f"drawing figures and writing {page}")
        figures = write_page(page, finished, title=title, command=command, report=report)
    if failed:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
        raise StudyError(
            f"{len(failed)} of {len(jobs)} runs failed ({reasons}); the others are finished; run "
            "the same command again to retry the failed ones"
        )
    return {
        "page": str(page),
        "figures": [str(file) for file in figures],
        "runs": [str(path) for path in runs.values()],
    }
