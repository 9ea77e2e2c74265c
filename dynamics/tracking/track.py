"""Walk a checkpoint series once and leave a run: measures per step, then trends over steps.

The stages of a call: plan (all checks), claim or resume the folder, walk the checkpoints, run the
models if `live` is set, finish (tables over all steps).

One checkpoint at a time is read, measured and written whole, so that a killed run can be resumed. A
step whose table has changed is measured again. A step that cannot be measured is left out, with the
reason in the run; the same call adds it once it can be measured.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from contextlib import closing
from pathlib import Path
from typing import Unpack

import numpy as np

from dynamics.checkpoints.checkpoint import Checkpoint
from dynamics.checkpoints.series import CheckpointSeries
from dynamics.corpus.counts import Counts
from dynamics.progress import OnProgress, Report, no_progress, no_report
from dynamics.runs.finish import finish
from dynamics.runs.record import CheckpointRecord
from dynamics.runs.run import MATRIX_ROWS, Run, measures_path, step_path, write_table
from dynamics.runs.trends import in_columns
from dynamics.tracking.exposed import Exposed, exposure_columns
from dynamics.tracking.faulty_steps import Fault
from dynamics.tracking.plan import TrackOptions, plan_run
from dynamics.tracking.resume import resume, resume_live
from dynamics.tracking.training_data import training_stream
from dynamics.tracking.walk import MeasuredCheckpoint, Unmeasurable, WalkResult, walk


def track(
    series: CheckpointSeries,
    output: Path,
    *,
    counts: Counts | None = None,
    exposed: Exposed | None = None,
    command: str = "",
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
        counts: Token counts of the training corpus with the series' tokenizer; without them norms
            are measured but not correlated with frequency.
        exposed: The stream the series was trained on, in training order; None takes that of
            the training folder, if `dynamics train` made the series.
        command: The command line, recorded in the run.
        executor: Measures checkpoints on threads, processes or other machines; None uses this
            thread.
        ahead: Checkpoints measured at once with an executor.
        report: Receives a line for each step that is left out, for each new note on the files of a
            checkpoint, and for anything else that was skipped.
        on_checkpoint: Called before each checkpoint and after the last.
        on_live: The same for the checkpoints whose model is run.
        options: Options that change what is measured, see `TrackOptions`.

    Raises:
        ConfigError: As for `plan_run`.
        MismatchError: The folder holds another run, or counts, stream and series do not belong
            together.
        OutputError: The folder holds something other than a run.
        StepError: A step does not exist.
        CheckpointError: As for `plan_run`.
    """
    plan = plan_run(series, counts, exposed=exposed, command=command, report=report, **options)
    record, left_out, ids = plan.record, plan.left_out, plan.measure_settings.rows
    done = resume(output, record, plan.series, ids)
    if plan.live is not None:
        resume_live(output, record, plan.live.new_record())
        if not record.live_checkpoints:
            plan.live.check()
    if exposed is None and counts is not None:
        exposed = training_stream(series)
    exposure = options.get("exposure", "auto")
    step_exposures = exposure_columns(exposed, plan.series, counts, exposure)
    reference_step = next(iter(record.steps), None)
    record.checkpoints = [done[step] for step in sorted(done)]
    record.write(output)  # claims the folder
    with closing(
        walk(
            plan.series,
            {*done},
            plan.measure_settings,
            reference_step=reference_step,
            executor=executor,
            ahead=ahead,
        )
    ) as results:
        for index, (checkpoint, exposures) in enumerate(
            zip(plan.series, step_exposures, strict=True)
        ):
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
            done[checkpoint.step] = _write_step(output, checkpoint, result, exposures, ids)
            record.checkpoints = [done[step] for step in sorted(done)]
            record.write(output)
    on_checkpoint(len(plan.series), len(plan.series))
    if (reference := min(done)) != left_out.selected.steps[0]:
        report(f"distances are to step {reference}, the first that can be measured")
    if plan.live is not None:
        from dynamics.tracking.live_stage import run_live  # imports transformers, which is slow

        run_live(plan.live.without(left_out.reasons), record, output, on_live, report)
    finish(output, record, plan.measure_settings.tokens, ids)
    return Run(output)


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
    if result.notes:
        checkpoint_record.notes = list(result.notes)
    return checkpoint_record


def _comparable(result: MeasuredCheckpoint, measures: Sequence[str] | None) -> WalkResult:
    """Return the result if it has the measures of the earlier steps, else why it is left out."""
    if measures is None or not (differing := {*result.measure_names} ^ {*measures}):
        return result
    return Unmeasurable(
        f"has other tensors than earlier steps: they do not share {', '.join(sorted(differing))}"
    )
