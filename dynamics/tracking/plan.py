"""The plan of a run: checkpoints and settings, checked before its folder is claimed."""

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
from dynamics.tracking.measuring import MeasureSettings
from dynamics.tracking.token_columns import token_columns
from dynamics.tracking.training_data import check_same_tokenizer, training_folder

if TYPE_CHECKING:
    from dynamics.tracking.live_stage import LivePlan, LiveSettings


class TrackOptions(TypedDict, total=False):
    """Options that change what is measured; each may be left out.

    Attributes:
        steps: Steps to measure, in the step language; `all` by default.
        rule: Vocabulary rule of the main statistics; `count>=10` by default.
        rows: Rows to read, such as `0:1000` or `5,17,290`; all by default. Measures that
            need every row are then left out, and statistics are of these rows.
        everything: Take slow measures too, and use all rows where a sample of them is the default.
        allow_flagged: Keep steps of a hub that the cheap audit flags; otherwise they are left out,
            and the run says so. What cannot be read is left out either way.
        exposure: `auto` counts how often a token was used before each step where the stream is on
            this machine; `exact` also reads a public stream for it, up to the last step.
        live: Settings of what is measured by running the models, after all weights were measured;
            None runs none. It can be added later, in the same folder.
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
        series: The checkpoints to measure.
        left_out: The selected steps that are left out.
        measure_settings: Settings of the measures of weights.
        counts: Token counts of the training corpus, None without.
        live: The plan of running the models, None when they are not run.
        record: Contents of `run.json` so far.
    """

    series: CheckpointSeries
    left_out: LeftOut
    measure_settings: MeasureSettings
    counts: Counts | None
    live: "LivePlan | None"
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
        command: The command line, recorded in the run.
        report: Receives a line for each step that is left out, and for what else was skipped.
        options: See `TrackOptions`.

    Raises:
        ConfigError: The rule is malformed, or keeps too few tokens to correlate anything; or the
            rows are malformed, or not there; or there is a stream without counts; or the
            settings of running the models do not fit them, or come with some rows only.
        MismatchError: Counts, stream and series do not belong together.
        StepError: A step does not exist.
        CheckpointError: A step that `steps` names cannot be measured, or none can; or a hub is out
            of reach.
    """
    steps, rule = options.get("steps", "all"), options.get("rule", "count>=10")
    rows, everything = options.get("rows"), options.get("everything", False)
    parsed_rule = parse_rule(rule)
    if exposed is not None and series.unit != STEP:
        raise ConfigError(
            f"exposure needs checkpoints numbered by training step, and those of {series.name} are "
            f"numbered by {series.unit}; leave --stream out"
        )
    check_exposed(exposed, counts)
    selection = None if rows is None else parse_rows(rows)
    for note in series.notes:
        report(note)
    left_out = LeftOut(series.select(steps), steps, report)
    allow_flagged = options.get("allow_flagged", False)
    left_out.add_all(find_faults(series, steps, allow_flagged=allow_flagged))
    measurable = left_out.remaining
    first = measurable.checkpoints[0]
    if note := first.final_norm_note:
        report(note)
    if selection is not None:
        selection.check(first.vocab_size, measurable.name)
    ids = None if selection is None else selection.ids
    tokens = None
    if counts is not None:
        check_same_tokenizer(counts, measurable)
        tokens = token_columns(counts, first.vocab_size, measurable.name, report)
        if ids is None:
            check_enough(counts, parsed_rule, parsed_rule.mask(tokens["count"], tokens["kind"]))
        else:
            tokens = {name: column[ids] for name, column in tokens.items()}
    live = _plan_live(options.get("live"), measurable, counts, tokens, parsed_rule, ids, report)
    settings = RunSettings(steps=steps, rule=None if counts is None else rule, all=everything)
    record = new_record(_series_record(measurable), counts, settings, command)
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
    measure_settings = MeasureSettings(tokens, ids, parsed_rule, everything)
    return TrackPlan(measurable, left_out, measure_settings, counts, live, record)


def _plan_live(
    settings: "LiveSettings | None",
    series: CheckpointSeries,
    counts: Counts | None,
    tokens: Mapping[str, np.ndarray] | None,
    rule: VocabularyRule,
    ids: np.ndarray | None,
    report: Report,
) -> "LivePlan | None":
    if settings is None:
        return None
    if ids is not None:
        raise ConfigError("the model runs with all rows of its embedding; leave --rows out")
    from dynamics.tracking.live_stage import prepare_live  # imports transformers, which is slow

    return prepare_live(settings, series, counts, tokens, rule, training_folder(series), report)


def _series_record(series: CheckpointSeries) -> SeriesRecord:
    checkpoint, folder = series.checkpoints[0], training_folder(series)
    training = folder and read_training(folder)
    return SeriesRecord(
        name=training.name if training else series.name,
        steps=series.steps,
        vocab_size=checkpoint.vocab_size,
        tied=checkpoint.tied,
        final_norm=checkpoint.final_norm,
        training=training.settings if training else None,
        training_sha256=folder and sha256_file(folder / TRAIN_JSON),
    )


def new_record(
    series: SeriesRecord, counts: Counts | None, settings: RunSettings, command: str
) -> RunRecord:
    """Return the contents of `run.json` of a run in which nothing is measured yet.

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


def check_enough(counts: Counts, rule: VocabularyRule, rule_mask: np.ndarray) -> None:
    """Refuse a vocabulary rule that keeps too few tokens to correlate anything.

    Raises:
        ConfigError: It keeps fewer than `FEWEST_TOKENS`.
    """
    if rule_mask.sum() < FEWEST_TOKENS:
        raise ConfigError(
            f"the vocabulary rule {rule} keeps {rule_mask.sum()} of the {len(rule_mask)} tokens of "
            f"{counts.name}, and a correlation needs {FEWEST_TOKENS}; give another rule, or count "
            "more text"
        )
