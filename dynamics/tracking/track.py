"""Walk a checkpoint series once and leave a run: measures per step, then trends over steps.

The stages of a call: plan (all checks), claim or resume the folder, walk the checkpoints, follow
their rows if `paths` is set, run the models if `live` is set, finish (tables over all steps).

One checkpoint at a time is read, measured and written whole, so that a killed run can be resumed. A
step whose table has changed is measured again. A step that cannot be measured is left out, with the
reason in the run; the same call adds it once it can be measured.
"""

from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import closing
from pathlib import Path
from typing import Unpack

import numpy as np

from dynamics.checkpoints.checkpoint import Checkpoint
from dynamics.checkpoints.series import CheckpointSeries
from dynamics.progress import OnProgress, Report, no_progress, no_report
from dynamics.runs.finish import finish
from dynamics.runs.record import CheckpointRecord
from dynamics.runs.run import MATRIX_ROWS, Run, measures_path, step_path, write_table
from dynamics.runs.trends import in_columns
from dynamics.tracking.covariates import add_covariates
from dynamics.tracking.faulty_steps import Fault
from dynamics.tracking.paths import has_whole_paths, run_paths
from dynamics.tracking.plan import TrackOptions, TrackPlan, plan_run
from dynamics.tracking.resume import resume, resume_live
from dynamics.tracking.walk import MeasuredCheckpoint, Unmeasurable, WalkResult, walk


def track(
    series: CheckpointSeries,
    output: Path,
    *,
    executor: Executor | None = None,
    ahead: int = 1,
    report: Report = no_report,
    on_checkpoint: OnProgress = no_progress,
    on_live: OnProgress = no_progress,
    **options: Unpack[TrackOptions],
) -> Run:
    """Measure both embeddings at each selected step and compute trends over the steps.

    Args:
        series: Checkpoints of one model.
        output: The run folder; new, or of the same settings.
        executor: Measures checkpoints on threads, processes or other machines; None uses this
            thread.
        ahead: Checkpoints measured at once with an executor.
        report: Receives a line for each step that is left out, for each new note on the files of a
            checkpoint, and for anything else that was skipped.
        on_checkpoint: Called before each checkpoint and after the last; then the same for parts of
            the rows, where these are followed over all steps.
        on_live: The same for the checkpoints whose model is run.
        options: Counts, steps and settings that determine the results, see `TrackOptions`.

    Raises:
        ConfigError: As for `plan_run`.
        MismatchError: The folder holds another run, or counts, stream and series do not belong
            together.
        OutputError: The folder holds something other than a run.
        StepError: A step does not exist.
        CheckpointError: As for `plan_run`.
    """
    plan = plan_run(series, report, **options)
    done = _claim(plan, output)
    with closing(_walk(plan, done, executor, ahead)) as results:
        _write_steps(plan, output, done, results, report, on_checkpoint)
    _follow_rows(plan, output, report, on_checkpoint)
    if plan.live is not None:
        from dynamics.tracking.live_stage import run_live  # imports transformers, which is slow

        run_live(plan.live.without(plan.left_out.reasons), plan.record, output, on_live, report)
    finish(output, plan.record, plan.measure_settings.tokens, plan.measure_settings.rows)
    return Run(output)


def _claim(plan: TrackPlan, output: Path) -> dict[int, CheckpointRecord]:
    """Claim or resume the run folder; return its finished steps, by step.

    Raises:
        ConfigError: The settings of running the models do not fit the first model.
        MismatchError: The folder holds another run, or a covariate of the same name.
        OutputError: The folder holds something other than a run.
    """
    record = plan.record
    done = resume(output, record, plan.series, plan.measure_settings.rows)
    if plan.live is not None:
        resume_live(output, record, plan.live.new_record())
        if not record.live_checkpoints:
            plan.live.check()
    add_covariates(output, record, plan.covariates)
    return done


def _walk(
    plan: TrackPlan, done: Collection[int], executor: Executor | None, ahead: int
) -> Generator[WalkResult]:
    """Measure the checkpoints that are not finished, in order; see `walk`."""
    return walk(
        plan.series,
        {*done},
        plan.measure_settings,
        reference_step=next(iter(plan.record.steps), None),
        executor=executor,
        ahead=ahead,
    )


def _write_steps(
    plan: TrackPlan,
    output: Path,
    done: dict[int, CheckpointRecord],
    results: Iterator[WalkResult],
    report: Report,
    on_checkpoint: OnProgress,
) -> None:
    """Write the tables of each measured step and its entry in `run.json`, or why it is left out.

    Args:
        plan: The plan; its record is written after each step.
        output: The run folder.
        done: The finished steps, by step; it gets the others.
        results: What was measured of each checkpoint that is not finished, in order.
        report: As in `track`.
        on_checkpoint: As in `track`.
    """
    record, left_out = plan.record, plan.left_out
    reference_step = next(iter(record.steps), None)
    record.checkpoints = [done[step] for step in sorted(done)]
    record.write(output)
    for index, (checkpoint, exposures) in enumerate(zip(plan.series, plan.exposures, strict=True)):
        on_checkpoint(index, len(plan.series))
        if checkpoint.step in done:
            continue
        result = next(results)
        if isinstance(result, MeasuredCheckpoint):
            result = _comparable(result, record.measures if done else None)
        if isinstance(result, Unmeasurable):
            left_out.add(checkpoint.step, Fault(result.reason))
            record.series.steps = left_out.remaining_steps
            record.series.left_out = left_out.recorded
            record.write(output)
            continue
        if done and checkpoint.step < min(done) and checkpoint.step != reference_step:
            done.clear()  # their distances were to a later step
        reported = {note for measured in done.values() for note in measured.notes}
        for note in result.notes:
            if note not in reported:
                report(f"step {checkpoint.step}: {note}")
        record.measures = result.measure_names
        done[checkpoint.step] = _write_step(
            output, checkpoint, result, exposures, plan.measure_settings.rows
        )
        record.checkpoints = [done[step] for step in sorted(done)]
        record.write(output)
    on_checkpoint(len(plan.series), len(plan.series))
    if (reference := min(done)) != left_out.selected.steps[0]:
        report(f"distances are to step {reference}, the first that can be measured")


def _write_step(
    output: Path,
    checkpoint: Checkpoint,
    result: MeasuredCheckpoint,
    exposures: Mapping[str, np.ndarray],
    ids: np.ndarray | None,
) -> CheckpointRecord:
    """Write the tables of a step, and return its entry in `run.json`."""
    step_measures = result.step_measures
    table = step_measures.columns | {
        name: column if ids is None else column[ids] for name, column in exposures.items()
    }
    matrices = step_path(output, MATRIX_ROWS, checkpoint.step)
    checkpoint_record = CheckpointRecord(
        step=checkpoint.step,
        name=checkpoint.name,
        tokens_seen=checkpoint.tokens_seen,
        commit=result.commit,
        file_sha256=result.file_sha256,
        table_sha256=write_table(measures_path(output, checkpoint.step), table),
        matrices_sha256=write_table(matrices, in_columns(step_measures.matrices))
        if ids is None
        else None,
    )
    if ids is None:
        checkpoint_record.tensor_sha256 = step_measures.tensor_sha256
    else:
        checkpoint_record.rows_sha256 = step_measures.tensor_sha256
    if result.device != "cpu":
        checkpoint_record.device = result.device
    if result.notes:
        checkpoint_record.notes = list(result.notes)
    return checkpoint_record


def _follow_rows(plan: TrackPlan, output: Path, report: Report, on_part: OnProgress) -> None:
    """Follow all rows over the steps if the plan says so; else drop paths that are not of them."""
    record, ids = plan.record, plan.measure_settings.rows
    if has_whole_paths(record, output, record.series.vocab_size if ids is None else len(ids)):
        return
    if plan.paths:
        report(f"reading {len(record.steps)} steps again, to follow each row over them")
        run_paths(plan.series, record, output, ids, on_part)
    elif record.paths is not None:
        record.unset("paths")
        report("the paths of rows are not of all rows and steps, and left out; --paths redoes them")


def _comparable(result: MeasuredCheckpoint, measures: Sequence[str] | None) -> WalkResult:
    """Return the result if it has the measures of the earlier steps, else why it is left out."""
    if measures is None or not (differing := {*result.measure_names} ^ {*measures}):
        return result
    return Unmeasurable(
        f"has other tensors than earlier steps: they do not share {', '.join(sorted(differing))}"
    )
