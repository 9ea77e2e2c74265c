"""Walks a checkpoint series once and leaves a run: measures per step, then trends over steps.

One checkpoint at a time is read, measured and written whole, so that a run that was killed goes on
where it was. A table whose bytes have changed is measured again. A step that cannot be measured is
left out, with the reason in the run; the same call adds it when it can be measured.
"""

import importlib.metadata
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamics.checkpoints.rows import parse_rows
from dynamics.checkpoints.series import CheckpointSeries
from dynamics.checkpoints.step_names import STEP
from dynamics.checkpoints.training_folder import described
from dynamics.corpus.counts import Counts
from dynamics.errors import ConfigError
from dynamics.files import sha256_file, write_json
from dynamics.runs.finish import finish
from dynamics.runs.run import (
    MATRIX_ROWS,
    Run,
    measures_path,
    step_path,
    write_table,
)
from dynamics.runs.trends import (
    FEWEST_TOKENS,
    in_columns,
)
from dynamics.statistics.vocabulary import VocabularyRule, parse_rule
from dynamics.tracking.exposed import Exposed, Exposure, check_exposed, exposure_columns
from dynamics.tracking.faulty_steps import Fault, LeftOut, find_faults
from dynamics.tracking.matrices import MATRICES
from dynamics.tracking.measure_functions import NEED_ALL_ROWS, SLOW
from dynamics.tracking.measuring import Wanted
from dynamics.tracking.origin import check_same_tokenizer, training_folder, training_stream
from dynamics.tracking.resume import resume, resume_live
from dynamics.tracking.token_columns import token_columns
from dynamics.tracking.walk import Measured, Unmeasurable, walk

if TYPE_CHECKING:
    from dynamics.tracking.live_stage import LiveSettings

OnCheckpoint = Callable[[int, int], None]


def track(
    series: CheckpointSeries,
    output: Path,
    *,
    counts: Counts | None = None,
    steps: str = "all",
    rule: str = "count>=10",
    rows: str | None = None,
    everything: bool = False,
    command: str = "",
    allow_flagged: bool = False,
    exposure: Exposure = "auto",
    exposed: Exposed | None = None,
    live: "LiveSettings | None" = None,
    executor: Executor | None = None,
    ahead: int = 1,
    report: Callable[[str], None] = lambda line: None,
    on_checkpoint: OnCheckpoint = lambda done, total: None,
    on_live: OnCheckpoint = lambda done, total: None,
) -> Run:
    """Measure both embeddings of a series at every selected step, and what becomes of them.

    Args:
        series: Checkpoints of one model.
        output: The run folder; new, or of the same settings.
        counts: Token counts of the training corpus; without them norms are followed and nothing
            is correlated. Must be of the series' tokenizer.
        steps: Which steps, in the step language.
        rule: Vocabulary rule of the main statistics.
        rows: Which rows to read, such as `0:1000` or `5,17,290`; all when None. Measures that
            need every row are then left out, statistics are of these rows.
        everything: Take slow measures too, and all rows where a part of them will do.
        command: Recorded in the run, as what made it.
        allow_flagged: Keep steps of a hub that the cheap audit finds wrong; otherwise they are
            left out, and the run says so. What cannot be read is left out either way.
        exposure: `auto` counts what a token was used for up to each step where the stream is on
            this machine; `exact` reads a public stream for it, up to the last step.
        exposed: The stream the series was trained on, in training order; None takes that of a
            training of ours.
        live: What the running model is asked at each checkpoint, after all weights were measured;
            nothing when None. It can be asked later, in the same folder.
        executor: Measures checkpoints on threads, processes or other machines; None does it here.
        ahead: Checkpoints under way at once with an executor.
        report: Receives a line for each step that is left out, for each note on the files of a
            checkpoint where it first holds, and for what else was passed over.
        on_checkpoint: Called before each checkpoint and after the last, with how many are done
            and how many there are.
        on_live: The same for the checkpoints whose model is run.

    Raises:
        ConfigError: The rule is malformed, or keeps too few tokens to correlate anything; or the
            rows are malformed, or not there; or a stream is given without counts; or the model is
            asked what does not fit it, or of some rows only.
        MismatchError: The folder holds another run, or counts, stream and series do not belong
            together.
        OutputError: The folder holds something else.
        StepError: A step does not exist.
        CheckpointError: A step that `steps` names cannot be measured, or none can; or a hub is out
            of reach.
    """
    keeps = parse_rule(rule)
    if exposed is not None and series.unit != STEP:
        raise ConfigError(
            f"what was used up to a step is counted in steps, and a step of {series.name} is one "
            f"{series.unit}; leave --stream out"
        )
    check_exposed(exposed, counts)
    selection = None if rows is None else parse_rows(rows)
    for note in series.notes:
        report(note)
    chosen = series.select(steps)
    left_out = LeftOut(chosen, steps, report)
    left_out.add_all(find_faults(series, steps, allow_flagged=allow_flagged))
    chosen = left_out.kept
    if note := chosen.checkpoints[0].final_norm_note:
        report(note)
    if selection is not None:
        selection.check(chosen.checkpoints[0].vocab_size, chosen.name)
    ids = None if selection is None else selection.ids
    tokens = None
    if counts is not None:
        check_same_tokenizer(counts, chosen)
        tokens = token_columns(counts, chosen.checkpoints[0].vocab_size, chosen.name, report)
        if ids is None:
            check_enough(counts, keeps, keeps.mask(tokens["count"], tokens["kind"]))
        else:
            tokens = {name: column[ids] for name, column in tokens.items()}
    if live is not None and ids is not None:
        raise ConfigError("the model runs with all rows of its embedding; leave --rows out")
    asked = None
    if live is not None:
        from dynamics.tracking.live_stage import prepare_live  # what runs models loads slowly

        training = training_folder(series)
        asked = prepare_live(live, chosen, counts, tokens, keeps, training, report)
    info = _describe(chosen, counts, rule, steps, command)
    info["settings"]["all"] = everything
    if selection is not None:
        info["settings"]["rows"] = str(selection)
        wanted = [name for name in NEED_ALL_ROWS if everything or name not in SLOW]
        info["measures_left_out"] = [*wanted, *MATRICES]
    if exposed is not None:
        info["settings"]["stream"] = exposed.describe()
    info["series"]["left_out"] = left_out.recorded
    done = resume(output, info, chosen, ids)
    if asked is not None:
        resume_live(output, info, asked.describe())
        if not info["live"]["checkpoints"]:
            asked.check()
    if exposed is None and counts is not None:
        exposed = training_stream(series)
    seen = exposure_columns(exposed, chosen, counts, exposure)
    reference_step = next((entry["step"] for entry in info["checkpoints"]), None)
    info["checkpoints"] = [done[step] for step in sorted(done)]
    write_json(output / "run.json", info)  # claims the folder
    with closing(
        walk(
            chosen,
            {*done},
            Wanted(tokens, ids, keeps, everything),
            reference_step=reference_step,
            executor=executor,
            ahead=ahead,
        )
    ) as results:
        for at, (checkpoint, used) in enumerate(zip(chosen, seen, strict=True)):
            on_checkpoint(at, len(chosen))
            if checkpoint.step in done:
                continue
            result = next(results)
            if isinstance(result, Measured):
                result = _comparable(result, info["measures"] if done else None)
            if isinstance(result, Unmeasurable):
                left_out.add(checkpoint.step, Fault(result.reason))
                info["series"] |= {"steps": left_out.kept_steps, "left_out": left_out.recorded}
                write_json(output / "run.json", info)
                continue
            if done and checkpoint.step < min(done) and checkpoint.step != reference_step:
                done.clear()  # their distances are to a later step
            taken = result.taken
            info["measures"] = [name for name in taken.columns if name != "token_id"]
            table = write_table(
                measures_path(output, checkpoint.step),
                taken.columns
                | {name: column if ids is None else column[ids] for name, column in used.items()},
            )
            matrices = step_path(output, MATRIX_ROWS, checkpoint.step)
            reported = {note for entry in done.values() for note in entry.get("notes", ())}
            for note in result.notes:
                if note not in reported:
                    report(f"step {checkpoint.step}: {note}")
            done[checkpoint.step] = {
                "step": checkpoint.step,
                "name": checkpoint.name,
                "tokens_seen": checkpoint.tokens_seen,
                "commit": result.commit,
                "file_sha256": result.file_sha256,
                "tensor_sha256" if ids is None else "rows_sha256": taken.tensor_sha256,
                "table_sha256": table,
                "matrices_sha256": write_table(matrices, in_columns(taken.matrices))
                if ids is None
                else None,
                **({"notes": list(result.notes)} if result.notes else {}),
            }
            info["checkpoints"] = [done[step] for step in sorted(done)]
            write_json(output / "run.json", info)
    on_checkpoint(len(chosen), len(chosen))
    if (reference := min(done)) != left_out.selected.steps[0]:
        report(f"distances are to step {reference}, the first that can be measured")
    if asked is not None:
        from dynamics.tracking.live_stage import run_live

        run_live(asked.without(left_out.reasons), info, output, on_live, report)
    finish(output, info, tokens, ids)
    return Run(output)


def _comparable(result: Measured, measures: Sequence[str] | None) -> Measured | Unmeasurable:
    """What was measured, unless it is something else than at the steps before."""
    names = {*result.taken.columns} - {"token_id"}
    if measures is None or not (differing := names ^ {*measures}):
        return result
    return Unmeasurable(
        f"has other tensors than the steps before: they do not share {', '.join(sorted(differing))}"
    )


def _describe(
    chosen: CheckpointSeries, counts: Counts | None, rule: str, steps: str, command: str
) -> dict[str, Any]:
    first = chosen.checkpoints[0]
    training = training_folder(chosen)
    series = {
        "name": described(training)["settings"]["name"] if training else chosen.name,
        "steps": chosen.steps,
        "vocab_size": first.vocab_size,
        "tied": first.tied,
        "final_norm": first.final_norm,
        "training": training and described(training)["settings"],
        "training_sha256": training and sha256_file(training / "train.json"),
    }
    return describe(series, counts, rule, steps, command)


def describe(
    series: dict[str, Any], counts: Counts | None, rule: str, steps: str, command: str
) -> dict[str, Any]:
    """What `run.json` says of a run in which nothing is measured yet.

    Args:
        series: `name`, `steps`, `vocab_size`, `tied`, `final_norm` and what else tells its models
            from others.
        counts: As in `track`.
        rule: As in `track`.
        steps: As in `track`.
        command: As in `track`.
    """
    return {
        "finished": False,
        "command": command,
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("dynamics", "torch", "numpy", "scipy", "pyarrow")
        },
        "series": series,
        "settings": {"steps": steps, "rule": None if counts is None else rule},
        "counts": None if counts is None else asdict(counts.info),
        "measures": [],
        "checkpoints": [],
        "tables": {},
    }


def check_enough(counts: Counts, rule: VocabularyRule, kept: np.ndarray) -> None:
    """Refuse a vocabulary rule that keeps too few tokens to correlate anything.

    Raises:
        ConfigError: It does.
    """
    if kept.sum() < FEWEST_TOKENS:
        raise ConfigError(
            f"the vocabulary rule {rule} keeps {kept.sum()} of the {len(kept)} tokens of "
            f"{counts.name}, and a correlation needs {FEWEST_TOKENS}; give another rule, or count "
            "more text"
        )
