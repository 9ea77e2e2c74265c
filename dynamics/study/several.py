"""Studies of several runs: arms and seeds that are trained, or public series that are read.

Each run is an ordinary one, in a folder of its own, and goes on where it was; at the end a page
with figures is written from the tables of all of them.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynamics.checkpoints.training_folder import is_training, read_training
from dynamics.config import StudySettings
from dynamics.errors import OutputError, StudyError
from dynamics.progress import Report
from dynamics.runs.record import RUN_JSON, read_record
from dynamics.study.settings import ArmsStudy, SeriesStudy
from dynamics.study.single import is_tracked, train_and_track
from dynamics.study.workers import Job, run_jobs


@dataclass(frozen=True)
class TrainedRun:
    """The training of one arm and seed, and the run made of it.

    Attributes:
        settings: Of the training.
        folder: Gets `training/` and `run/`.
        command: Recorded in the run.
    """

    settings: StudySettings
    folder: Path
    command: str

    def __call__(self, report: Report) -> None:
        """Train and track; a line for every tenth of the training."""
        began, total = time.monotonic(), self.settings.training.steps
        every = max(1, total // 10)

        def on_step(line: Mapping[str, Any]) -> None:
            if line["step"] % every == 0:
                report(f"step {line['step']:,} of {total:,}, loss {line['loss_nats']:.3f} nats")

        def on_live(done: int, of: int) -> None:
            if done < of:
                report(f"running the model of {done + 1} of {of} checkpoints")

        train_and_track(
            self.settings,
            self.folder,
            command=self.command,
            report=report,
            on_step=on_step,
            on_live=on_live,
        )
        report(f"done in {time.monotonic() - began:.0f} s")

    @property
    def finished(self) -> bool:
        """Whether a run of just these settings, those of tracking too, is there and whole."""
        training, run = self.folder / "training", self.folder / "run"
        if not is_training(training) or not (run / RUN_JSON).exists():
            return False
        try:
            settings, record = read_training(training).settings, read_record(run)
        except OutputError:  # damaged: training or tracking again says so
            return False
        return (
            settings == self.settings.model_dump(mode="json")
            and record.finished
            and is_tracked(record, self.settings)
        )


@dataclass(frozen=True)
class ReadRun:
    """The run made of one public series.

    Attributes:
        series: Its name.
        study: What is read of it.
        folder: The run folder.
        command: Recorded in the run.
    """

    series: str
    study: SeriesStudy
    folder: Path
    command: str

    def __call__(self, report: Report) -> None:
        """Track the series; steps that are there already are not read again."""
        from dynamics.checkpoints.opening import open_any
        from dynamics.tracking.origin import find_counts
        from dynamics.tracking.track import track

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
        """Never known without asking the hub, which is cheap."""
        return False


def run_arms(
    study: ArmsStudy,
    folder: Path,
    *,
    page: Path | None = None,
    workers: int = 1,
    command: str = "",
    report: Report = lambda message: None,
) -> dict[str, Any]:
    """Train and track every arm with every seed, then write the page over all of them.

    Args:
        study: Arms and seeds.
        folder: Gets `ARM/seed-N/` for each, which an ordinary study would have written.
        page: Where the page goes, with its figures in a folder of its name beside it; `report.md`
            in `folder` by default.
        workers: Trainings at once, each in a process with its share of the threads.
        command: Recorded in the runs, as what made them, and on the page.
        report: Receives a line per stage of each run.

    Returns:
        `page`, `figures` and `runs` (paths).

    Raises:
        StudyError: Some runs failed. The others are done, and the page is about them.
        KeyboardInterrupt: Interrupted; every training has saved its state.
    """
    wanted = {
        f"{arm} seed {seed}": TrainedRun(
            study.settings(arm, seed), folder / arm / f"seed-{seed}", command
        )
        for seed in study.seeds  # seeds first: when time runs out, every arm has some
        for arm in study.arms
    }
    runs = {name: job.folder / "run" for name, job in wanted.items()}
    return _run(study.name, wanted, runs, page or folder / "report.md", workers, command, report)


def run_series(
    study: SeriesStudy,
    folder: Path,
    *,
    page: Path | None = None,
    workers: int = 1,
    command: str = "",
    report: Report = lambda message: None,
) -> dict[str, Any]:
    """Track every series of a study, then write the page over all of them.

    Args:
        study: Which series, and what is read of them.
        folder: Gets a run folder for each series, of its name.
        page: As in `run_arms`.
        workers: Series at once, each in a process.
        command: As in `run_arms`.
        report: Receives a line per stage of each series.

    Returns:
        `page`, `figures` and `runs` (paths).

    Raises:
        StudyError: Some series failed. The others are done, and the page is about them.
        KeyboardInterrupt: Interrupted; what was read is kept.
    """
    wanted = {
        name: ReadRun(name, study, folder / name.strip("/").replace("/", "--"), command)
        for name in study.series
    }
    runs = {name: job.folder for name, job in wanted.items()}
    return _run(study.name, wanted, runs, page or folder / "report.md", workers, command, report)


def _run(
    title: str,
    wanted: Mapping[str, TrainedRun | ReadRun],
    runs: Mapping[str, Path],
    page: Path,
    workers: int,
    command: str,
    report: Report,
) -> dict[str, Any]:
    from dynamics.report.study_page import write_page
    from dynamics.runs.run import Run

    jobs: dict[str, Job] = {name: job for name, job in wanted.items() if not job.finished}
    report(f"{len(jobs)} of {len(wanted)} runs to do, {min(workers, len(jobs))} at once")
    failed = run_jobs(jobs, workers=workers, report=report)
    made = [Run(path) for name, path in runs.items() if name not in failed]
    figures: list[Path] = []
    if made:
        report(f"drawing figures and writing {page}")
        figures = write_page(page, made, title=title, command=command, report=report)
    if failed:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
        raise StudyError(
            f"{len(failed)} of {len(wanted)} runs failed ({reasons}); the others are done, and the "
            "same command does these again"
        )
    return {
        "page": str(page),
        "figures": [str(file) for file in figures],
        "runs": [str(path) for path in runs.values()],
    }
