"""The plan of a run: checkpoints and settings, checked before its folder is claimed."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import numpy as np

from dynamics.checkpoints.rows import parse_rows
from dynamics.checkpoints.series import CheckpointSeries
from dynamics.checkpoints.training_folder import TRAIN_JSON, read_training
from dynamics.config import TrackingSettings
from dynamics.corpus.counts import Counts
from dynamics.corpus.covariates import Covariate
from dynamics.distribution import versions
from dynamics.errors import ConfigError
from dynamics.files import sha256_file
from dynamics.former_names import warn_of
from dynamics.measure_groups import MEASURE_GROUPS
from dynamics.models.devices import usable_device
from dynamics.progress import Report, no_report
from dynamics.runs.measures import MEASURES
from dynamics.runs.record import RunRecord, RunSettings, SeriesRecord
from dynamics.runs.trends import FEWEST_TOKENS
from dynamics.statistics.vocabulary import VocabularyRule, parse_rule
from dynamics.tracking.covariates import plan_covariates
from dynamics.tracking.exposed import (
    Exposed,
    Exposure,
    check_exposed,
    exposure_columns,
    open_exposed,
)
from dynamics.tracking.faulty_steps import LeftOut, find_faults
from dynamics.tracking.matrices import MATRICES
from dynamics.tracking.measuring import MeasureSettings
from dynamics.tracking.paths import check_enough_steps
from dynamics.tracking.token_columns import token_columns
from dynamics.tracking.training_data import check_same_tokenizer, training_folder, training_stream

if TYPE_CHECKING:
    from dynamics.tracking.live_stage import LivePlan


class TrackOptions(TypedDict, total=False):
    """Options that determine the results; each may be left out.

    Attributes:
        counts: Token counts of the training corpus with the series' tokenizer; without them norms
            are measured but not correlated with frequency.
        steps: Steps to measure, in the step language; `all` by default.
        rule: Vocabulary rule of the main statistics; `count>=10` by default.
        rows: Rows to read, such as `0:1000` or `5,17,290`; all by default. Measures that
            need every row are then left out, and statistics are of these rows.
        settings: Settings of what is measured of each checkpoint. Running the models, after all
            weights were measured, can be added later, in the same folder.
        exposed: The stream the series was trained on, in training order, in place of that of the
            settings or of the training folder.
        command: The command line, recorded in the run.
        everything: The former keyword for all groups of measures, of every row.
        allow_flagged: Replaces `allow_flagged` of the settings.
        exposure: Replaces `exposure` of the settings.
        live: The settings, by the keyword that they had before.
    """

    counts: Counts | None
    steps: str
    rule: str
    rows: str | None
    settings: TrackingSettings
    exposed: Exposed | None
    command: str
    everything: bool
    allow_flagged: bool
    exposure: Exposure
    live: TrackingSettings | None


@dataclass(frozen=True, eq=False)
class TrackPlan:
    """A run before anything is measured.

    Attributes:
        series: The checkpoints to measure.
        left_out: The selected steps that are left out.
        measure_settings: Settings of the measures of weights.
        exposures: Iterator over the checkpoints, of how often each token was used before.
        live: The plan of running the models, None when they are not run.
        paths: Whether to follow each row over all steps.
        covariates: Covariates to add to the run.
        record: Contents of `run.json` so far.
    """

    series: CheckpointSeries
    left_out: LeftOut
    measure_settings: MeasureSettings
    exposures: Iterator[dict[str, np.ndarray]]
    live: "LivePlan | None"
    paths: bool
    covariates: list[Covariate]
    record: RunRecord


def plan_run(
    series: CheckpointSeries, report: Report = no_report, **options: Unpack[TrackOptions]
) -> TrackPlan:
    """Choose the checkpoints to measure, and check that everything belongs together.

    Args:
        series: Checkpoints of one model.
        report: Receives a line for each step that is left out, and for what else was skipped.
        options: See `TrackOptions`.

    Raises:
        ConfigError: The rule is malformed, or keeps too few tokens to correlate anything; or the
            rows are malformed, or not there; or there is a stream without counts; or paths are
            wanted of fewer than 3 steps; or the settings of running the models do not fit them, or
            come with some rows only.
        MismatchError: Counts, stream and series do not belong together.
        StepError: A step does not exist.
        CheckpointError: A step that `steps` names cannot be measured, or none can; or a hub is out
            of reach.
    """
    settings, counts = _settings(options), options.get("counts")
    check_importances(settings)
    steps, rule = options.get("steps", "all"), options.get("rule", "count>=10")
    rows = options.get("rows")
    parsed_rule = parse_rule(rule)
    exposed = options.get("exposed") or open_exposed(settings.stream)
    check_exposed(exposed, series, counts)
    selection = None if rows is None else parse_rows(rows)
    for note in series.notes:
        report(note)
    left_out = LeftOut(series.select(steps), steps, report)
    left_out.add_all(find_faults(series, steps, allow_flagged=settings.allow_flagged))
    measurable = left_out.remaining
    if settings.paths:
        check_enough_steps(measurable.steps)
    first = measurable.checkpoints[0]
    if note := first.final_norm_note:
        report(note)
    if selection is not None:
        selection.check(first.vocab_size, measurable.name)
    ids = None if selection is None else selection.ids
    tokens = None
    if counts is not None:
        check_same_tokenizer(counts, measurable, settings.tokenizer)
        tokens = token_columns(counts, first.vocab_size, measurable.name, report)
        if ids is None:
            check_enough(counts, parsed_rule, parsed_rule.mask(tokens["count"], tokens["kind"]))
        else:
            tokens = {name: column[ids] for name, column in tokens.items()}
    measure_settings = MeasureSettings(
        tokens,
        ids,
        parsed_rule,
        groups=tuple(settings.measures),
        every_row=settings.every_row,
        device=str(usable_device(settings.device)),
    )
    covariates = plan_covariates(settings, measurable, counts, measure_settings, report)
    live = _plan_live(settings, measurable, counts, measure_settings, report)
    run_settings = RunSettings(
        steps=steps, rule=None if counts is None else rule, measures=settings.measures
    )
    if settings.every_row:
        run_settings.every_row = True
    record = new_record(
        _series_record(measurable), counts, run_settings, options.get("command", "")
    )
    if selection is not None:
        record.settings.rows = str(selection)
        records = {**{n: m for n, m in MEASURES.items() if m.needs_all_rows}, **MATRICES}
        record.measures_left_out = [
            name for name, measure in records.items() if measure.group in settings.measures
        ]
    if exposed is not None:
        record.settings.stream = exposed.describe()
    record.series.left_out = left_out.recorded
    if exposed is None and counts is not None:
        exposed = training_stream(series)
    exposures = exposure_columns(exposed, measurable, counts, settings.exposure)
    return TrackPlan(
        measurable,
        left_out,
        measure_settings,
        exposures,
        live,
        settings.paths,
        covariates,
        record,
    )


def _settings(options: TrackOptions) -> TrackingSettings:
    """Return the settings of the options, with the single ones that keywords replace."""
    settings = options.get("settings") or options.get("live") or TrackingSettings()
    keywords = ("allow_flagged", "exposure")
    changes: dict[str, Any] = {key: options.get(key) for key in keywords if key in options}
    if options.get("everything"):
        warn_of(
            "the argument 'everything' of track", 'settings with measures="all", every_row=True'
        )
        changes |= {"measures": list(MEASURE_GROUPS), "every_row": True}
    return settings.model_copy(update=changes)


def check_importances(settings: TrackingSettings) -> None:
    """Refuse names that no importance has.

    Raises:
        ConfigError: There is no importance of a name.
    """
    if settings.importance:
        from dynamics.importance import importances  # imports torch, which is slow

        importances.check_importances(settings.importance)


def _plan_live(
    settings: TrackingSettings,
    series: CheckpointSeries,
    counts: Counts | None,
    measure_settings: MeasureSettings,
    report: Report,
) -> "LivePlan | None":
    """Return the plan of running the models, None when nothing is measured of them."""
    if not settings.runs_models:
        return None
    if measure_settings.rows is not None:
        raise ConfigError("the model runs with all rows of its embedding; leave --rows out")
    if counts is None or measure_settings.tokens is None:
        raise ConfigError(
            "tokens to probe are sampled by frequency, which needs token counts; give --counts"
        )
    from dynamics.tracking.live_stage import prepare_live  # imports transformers, which is slow

    return prepare_live(settings, series, counts, measure_settings, report)


def _series_record(series: CheckpointSeries) -> SeriesRecord:
    checkpoint, folder = series.checkpoints[0], training_folder(series)
    training = folder and read_training(folder)
    return SeriesRecord(
        name=training.name if training else series.name,
        steps=series.steps,
        vocab_size=checkpoint.vocab_size,
        tied=checkpoint.tied,
        final_norm=checkpoint.final_norm,
        logit_softcap=checkpoint.logit_softcap,
        shapes=checkpoint.shapes,
        architecture=checkpoint.architecture,
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
