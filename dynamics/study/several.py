"""Studies of several runs: arms and seeds that are trained, or public series that are read.

Each run has an ordinary run folder and can be resumed; at the end a page with figures is written
from the tables of all runs.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynamics.checkpoints.training_folder import is_training, read_training
from dynamics.config import StudySettings, TrackingSettings
from dynamics.errors import OutputError, StudyError
from dynamics.progress import Report, no_report
from dynamics.runs.record import RUN_JSON, read_record
from dynamics.study.settings import ArmsStudy, SeriesStudy, run_folder
from dynamics.study.single import is_tracked, train_and_track
from dynamics.study.workers import Job, run_jobs
from dynamics.training.recorded import as_recorded, completed

if TYPE_CHECKING:
    from dynamics.runs.grouping import Arms
    from dynamics.runs.run import Run
    from dynamics.verdicts.judgement import Judgement


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
    def run(self) -> Path:
        """The run folder."""
        return self.folder / "run"

    @property
    def finished(self) -> bool:
        """True if the folder holds a finished run with exactly these settings."""
        training = self.folder / "training"
        if not is_training(training) or not (self.run / RUN_JSON).exists():
            return False
        try:
            settings, record = read_training(training).settings, read_record(self.run)
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
        study: The study, whose steps, rule, counts and measures are used.
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
            settings=TrackingSettings(measures=self.study.measures),
            command=self.command,
            report=report,
        )
        report("done")

    @property
    def run(self) -> Path:
        """The run folder."""
        return self.folder

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
        folder: Output folder; each run is an ordinary study in its subfolder `ARM/seed-N/`, and
            `verdicts.json` holds the verdicts and the digest of the claims.
        page: Path of the page, whose figures go to a folder of the same name beside it;
            `report.md` in `folder` by default.
        workers: Trainings at once, each in a process with its share of the threads.
        command: The command line, recorded in the runs and on the page.
        report: Receives a line per stage of each run.

    Returns:
        `page`, `figures` and `runs` (paths).

    Raises:
        ConfigError: The claims cannot be read.
        OutputError: `verdicts.json` is damaged.
        StudyError: Some runs failed. The others are finished, and the page is about them.
        KeyboardInterrupt: Interrupted; every training has saved its state.
    """
    from dynamics.runs.compare import arms_of
    from dynamics.verdicts.claims import CURRENT, read_claims
    from dynamics.verdicts.judgement import judge_study, read_verdicts, write_verdicts

    claims, previous = read_claims(study.claims or CURRENT), read_verdicts(folder)
    jobs = {
        f"{arm} seed {seed}": TrainedRun(
            study.settings(arm, seed), folder / arm / f"seed-{seed}", command
        )
        for seed in study.seeds  # outer loop: every arm has its first seeds early
        for arm in study.arms
    }
    outcome = _run(jobs, workers, report)
    judgement = None
    if outcome.finished:
        judgement = judge_study(
            *(arms_of(outcome.finished), claims),
            counts_with=study.counts_with,
            previous=previous,
        )
        if judgement.change is not None:
            report(judgement.change)
        write_verdicts(folder, judgement)
    page = page or folder / "report.md"
    return _result(outcome, page, study.name, command, report, judgement)


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
        MismatchError: Series of an arm that is set differ in rule, last step or model.
        StudyError: Some series failed. The others are finished, and the page is about them.
        KeyboardInterrupt: Interrupted; what was read is kept.
    """
    jobs = {name: ReadRun(name, study, folder / run_folder(name), command) for name in study.series}
    outcome = _run(jobs, workers, report)
    run_of = {run.path: run for run in outcome.finished}
    grouping = {
        arm: [run_of[jobs[name].run] for name in names if jobs[name].run in run_of]
        for arm, names in study.arms.items()
    }
    page = page or folder / "report.md"
    return _result(outcome, page, study.name, command, report, grouping=grouping)


@dataclass(frozen=True, eq=False)
class _Outcome:
    """Jobs that were run, the reason of each that failed, and the runs of the others."""

    jobs: Mapping[str, TrainedRun | ReadRun]
    failed: Mapping[str, str]
    finished: "Sequence[Run]"


def _run(jobs: Mapping[str, TrainedRun | ReadRun], workers: int, report: Report) -> _Outcome:
    """Run the jobs that are not finished."""
    from dynamics.runs.run import Run

    unfinished: dict[str, Job] = {name: job for name, job in jobs.items() if not job.finished}
    at_once = min(workers, len(unfinished))
    report(f"{len(unfinished)} of {len(jobs)} runs to do, {at_once} at once")
    failed = run_jobs(unfinished, workers=workers, report=report)
    return _Outcome(
        jobs, failed, [Run(job.run) for name, job in jobs.items() if name not in failed]
    )


def _result(
    outcome: _Outcome,
    page: Path,
    title: str,
    command: str,
    report: Report,
    judgement: "Judgement | None" = None,
    grouping: "Arms | None" = None,
) -> dict[str, Any]:
    """Write the page over the finished runs, and return what the study made."""
    from dynamics.report.study_page import write_page

    figures: list[Path] = []
    if outcome.finished:
        report(f"drawing figures and writing {page}")
        figures = write_page(
            *(page, outcome.finished),
            title=title,
            command=command,
            grouping=grouping,
            judgement=judgement,
            report=report,
        )
    if outcome.failed:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in outcome.failed.items())
        raise StudyError(
            f"{len(outcome.failed)} of {len(outcome.jobs)} runs failed ({reasons}); the others are "
            "finished; run the same command again to retry the failed ones"
        )
    return {
        "page": str(page),
        "figures": [str(file) for file in figures],
        "runs": [str(job.run) for job in outcome.jobs.values()],
    }
