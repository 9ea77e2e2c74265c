"""The plan of a run: all that is chosen and checked before its folder is claimed."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, TypedDict, Unpack

import numpy as np

from dynamics.checkpoints.rows import parse_rows
from dynamics.checkpoints.series import CheckpointSeries
from dynamics.checkpoints.step_names import STEP
from dynamics.checkpoints.training_folder import TRAIN_JSON, read_training
from dynamics.corpus.counts import Counts
from dynamics.distribution import versions
from dynamics.errors import ConfigError
from dynamics.files import sha256_file
from dynamics.progress import Report, no_report
from dynamics.runs.measures import MEASURES
from dynamics.runs.record import RunRecord, RunSettings, SeriesRecord
from dynamics.runs.trends import FEWEST_TOKENS
from dynamics.statistics.vocabulary import VocabularyRule, parse_rule
from dynamics.tracking.exposed import Exposed, Exposure, check_exposed
from dynamics.tracking.faulty_steps import LeftOut, find_faults
from dynamics.tracking.matrices import MATRICES
from dynamics.tracking.measuring import Wanted
from dynamics.tracking.origin import check_same_tokenizer, training_folder
from dynamics.tracking.token_columns import token_columns

if TYPE_CHECKING:
    from dynamics.tracking.live_stage import Live, LiveSettings


class TrackOptions(TypedDict, total=False):
    """Options that change what is measured; each may be left out.

    Attributes:
        steps: Which steps, in the step language; `all` by default.
        rule: Vocabulary rule of the main statistics; `count>=10` by default.
        rows: Which rows to read, such as `0:1000` or `5,17,290`; all by default. Measures that
            need every row are then left out, and statistics are of these rows.
        everything: Take slow measures too, and all rows where a part of them will do.
        allow_flagged: Keep steps of a hub that the cheap audit flags; otherwise they are left out,
            and the run says so. What cannot be read is left out either way.
        exposure: `auto` counts what a token was used for up to each step where the stream is on
            this machine; `exact` reads a public stream for it, up to the last step.
        live: What the model is run for at each checkpoint, after all weights were measured; nothing
            when None. It can be added later, in the same folder.
    """

    steps: str
    rule: str
    rows: str | None
    everything: bool
    allow_flagged: bool
    exposure: Exposure
    live: "LiveSettings | None"


@dataclass(frozen=True, eq=False)
class TrackPlan:
    """A run before anything is measured.

    Attributes:
        chosen: The checkpoints to measure.
        left_out: The selected steps that are left out.
        wanted: What is measured of each checkpoint.
        counts: Token counts of the training corpus, None without.
        live: What the models are run for, None when they are not.
        record: Contents of `run.json` so far.
    """

    chosen: CheckpointSeries
    left_out: LeftOut
    wanted: Wanted
    counts: Counts | None
    live: "Live | None"
    record: RunRecord


def plan_run(
    series: CheckpointSeries,
    counts: Counts | None = None,
    *,
    exposed: Exposed | None = None,
    command: str = "",
    report: Report = no_report,
    **options: Unpack[TrackOptions],
) -> TrackPlan:
    """Choose the checkpoints to measure, and check that everything belongs together.

    Args:
        series: Checkpoints of one model.
        counts: Token counts of the training corpus.
        exposed: The stream the series was trained on, in training order.
        command: Recorded in the run, as what made it.
        report: Receives a line for each step that is left out, and for what else was skipped.
        options: See `TrackOptions`.

    Raises:
        ConfigError: The rule is malformed, or keeps too few tokens to correlate anything; or the
            rows are malformed, or not there; or a stream is given without counts; or the model is
            to be run for what does not fit it, or with some rows only.
        MismatchError: Counts, stream and series do not belong together.
        StepError: A step does not exist.
        CheckpointError: A step that `steps` names cannot be measured, or none can; or a hub is out
            of reach.
    """
    steps, rule = options.get("steps", "all"), options.get("rule", "count>=10")
    rows, everything = options.get("rows"), options.get("everything", False)
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
    left_out = LeftOut(series.select(steps), steps, report)
    allow_flagged = options.get("allow_flagged", False)
    left_out.add_all(find_faults(series, steps, allow_flagged=allow_flagged))
    chosen = left_out.kept
    first = chosen.checkpoints[0]
    if note := first.final_norm_note:
        report(note)
    if selection is not None:
        selection.check(first.vocab_size, chosen.name)
    ids = None if selection is None else selection.ids
    tokens = None
    if counts is not None:
        check_same_tokenizer(counts, chosen)
        tokens = token_columns(counts, first.vocab_size, chosen.name, report)
        if ids is None:
            check_enough(counts, keeps, keeps.mask(tokens["count"], tokens["kind"]))
        else:
            tokens = {name: column[ids] for name, column in tokens.items()}
    live = _plan_live(options.get("live"), series, chosen, counts, tokens, keeps, ids, report)
    settings = RunSettings(steps=steps, rule=None if counts is None else rule, all=everything)
    record = new_record(_series_record(chosen), counts, settings, command)
    if selection is not None:
        record.settings.rows = str(selection)
        names = [
            suffix
            for suffix, measure in MEASURES.items()
            if measure.needs_all_rows and (everything or not measure.slow)
        ]
        record.measures_left_out = [*names, *MATRICES]
    if exposed is not None:
        record.settings.stream = exposed.describe()
    record.series.left_out = left_out.recorded
    return TrackPlan(chosen, left_out, Wanted(tokens, ids, keeps, everything), counts, live, record)


def _plan_live(
    settings: "LiveSettings | None",
    series: CheckpointSeries,
    chosen: CheckpointSeries,
    counts: Counts | None,
    tokens: Mapping[str, np.ndarray] | None,
    rule: VocabularyRule,
    ids: np.ndarray | None,
    report: Report,
) -> "Live | None":
    if settings is None:
        return None
    if ids is not None:
        raise ConfigError("the model runs with all rows of its embedding; leave --rows out")
    from dynamics.tracking.live_stage import prepare_live  # what runs models loads slowly

    return prepare_live(settings, chosen, counts, tokens, rule, training_folder(series), report)


def _series_record(chosen: CheckpointSeries) -> SeriesRecord:
    first, folder = chosen.checkpoints[0], training_folder(chosen)
    training = folder and read_training(folder)
    return SeriesRecord(
        name=training.name if training else chosen.name,
        steps=chosen.steps,
        vocab_size=first.vocab_size,
        tied=first.tied,
        final_norm=first.final_norm,
        training=training.settings if training else None,
        training_sha256=folder and sha256_file(folder / TRAIN_JSON),
    )


def new_record(
    series: SeriesRecord, counts: Counts | None, settings: RunSettings, command: str
) -> RunRecord:
    """Contents of `run.json` of a run in which nothing is measured yet.

    Args:
        series: The series.
        counts: Token counts of the training corpus, None without.
        settings: Settings of the measures of weights.
        command: The command that makes the run.
    """
    return RunRecord(
        finished=False,
        command=command,
        versions=versions("torch", "numpy", "scipy", "pyarrow"),
        series=series,
        settings=settings,
        counts=None if counts is None else asdict(counts.info),
        measures=[],
        checkpoints=[],
        tables={},
    )


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
