"""The stage of tracking that runs the models: importances, surgery and agreement per checkpoint.

It runs after the weights were measured, and can be added to a run that was tracked without it. One
checkpoint at a time is loaded, run and written whole.
"""

import importlib.metadata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Integer
from transformers import PreTrainedTokenizerFast

from dynamics.checkpoints.checkpoint import Checkpoint
from dynamics.checkpoints.series import CheckpointSeries
from dynamics.checkpoints.weight_files import WEIGHTS_FILES
from dynamics.config import TrackingSettings
from dynamics.corpus.counts import Counts, check_tokenizer
from dynamics.corpus.tokenizers.loading import tokenizer_sha256
from dynamics.errors import CheckpointError, ConfigError, MeasureError, UnreachableError
from dynamics.importance.agreement import agreement_rows
from dynamics.importance.held_out import HeldOut
from dynamics.importance.importances import (
    choose_importances,
    measure_importances,
)
from dynamics.importance.probes import ProbeSet, sample_probes
from dynamics.importance.surgery import BATCH, surgery_rows
from dynamics.models.architecture_probes import probe_architecture
from dynamics.models.devices import usable_device
from dynamics.models.live_model import LiveModel
from dynamics.models.load import load_model
from dynamics.models.named_errors import named_errors
from dynamics.progress import OnProgress, Report, no_progress, no_report
from dynamics.runs.record import LiveCheckpointRecord, LiveRecord, RunRecord
from dynamics.runs.run import IMPORTANCE, LIVE_ROWS, step_path, write_table
from dynamics.runs.surgeries import SURGERIES
from dynamics.runs.trends import Row, in_columns
from dynamics.statistics.vocabulary import VocabularyRule
from dynamics.steps import parse
from dynamics.tracking.faulty_steps import without
from dynamics.tracking.measuring import MeasureSettings
from dynamics.tracking.probe_text import open_probe_text
from dynamics.tracking.resume import is_whole
from dynamics.tracking.training_data import series_tokenizer, training_folder

HELD_OUT_ROWS = 64
"""Rows that losses and agreement are measured on, at most."""


@dataclass(frozen=True, eq=False)
class LivePlan:
    """The measures of running models and their inputs, the same for all checkpoints.

    Attributes:
        settings: Settings of the measures.
        checkpoints: The checkpoints to run, which hold whole models.
        left_out: Steps that hold embeddings only.
        probes: Contexts of tokens; None without importances.
        held_out: n rows of T + 1 ids that losses are measured on; None when nothing needs them.
        counts: Token counts of the corpus.
        rule: The main vocabulary rule.
        count: Occurrences of each row's token.
        kind: Kind of each row's token.
        tokenizer: Tokenizer of the models; each has its own when None.
    """

    settings: TrackingSettings
    checkpoints: CheckpointSeries
    left_out: list[int]
    probes: ProbeSet | None
    held_out: Integer[np.ndarray, "n T1"] | None
    counts: Counts
    rule: VocabularyRule
    count: Integer[np.ndarray, " V"]
    kind: np.ndarray
    tokenizer: PreTrainedTokenizerFast | None = None

    @property
    def entries(self) -> Bool[np.ndarray, " V"]:
        """Mask of the rows that are no padding; twins are trained like other tokens."""
        return self.kind != "padding"

    @property
    def device(self) -> str:
        """Device that the models run on, with `auto` resolved."""
        return str(usable_device(self.settings.device))

    def load(self, checkpoint: Checkpoint) -> LiveModel:
        """Load the model of a checkpoint, and check that the settings fit it.

        Raises:
            ConfigError: An importance does not fit the model, or contexts or rows its window.
            CheckpointError: It cannot be loaded.
            MismatchError: Its tokenizer is not that of the counts.
        """
        model = load_model(checkpoint, tokenizer=self.tokenizer, device=self.device)
        check_tokenizer(self.counts, tokenizer_sha256(model.tokenizer), model.name)
        if self.probes is not None:
            choose_importances(self.settings.importance, model)
            window = model.max_length
            if window is not None and self.probes.length > window:
                raise ConfigError(
                    f"contexts of {self.probes.length} ids do not fit the window of {model.name}, "
                    f"{window} tokens; give a smaller context_length"
                )
        if self.held_out is not None:
            HeldOut(model, self.held_out, BATCH)
        return model

    def check(self) -> None:
        """Check that the settings fit the first model that can be loaded; the others are alike.

        Raises:
            ConfigError: As in `load`.
            CheckpointError: None can be loaded.
            UnreachableError: A hub is out of reach.
            MismatchError: Its tokenizer is not that of the counts.
        """
        errors = []
        for checkpoint in self.checkpoints:
            try:
                self.load(checkpoint)
            except UnreachableError:
                raise
            except CheckpointError as error:
                errors.append(error)
            else:
                return
        raise errors[0]

    def without(self, steps: Mapping[int, object]) -> "LivePlan":
        """Return the same plan without the checkpoints of these steps."""
        return replace(self, checkpoints=without(self.checkpoints, steps))

    def new_record(self) -> LiveRecord:
        """Return the settings and digests that determine the results, as in `run.json`."""
        settings, probes = self.settings, self.probes
        probe_record = held_out_sha256 = None
        if probes is not None:
            probe_record = {
                **settings.probe_record(probes.length),
                "probed_tokens": len(np.unique(probes.token_ids)),
                "probed_contexts": len(probes),
                "left_out": probes.left_out,
                "sha256": probes.digest,
            }
        if self.held_out is not None:
            held_out_sha256 = sha256(self.held_out.astype("<i8").tobytes()).hexdigest()
        return LiveRecord(
            settings={
                **settings.live_record(),
                "device": self.device,
                "transformers": importlib.metadata.version("transformers"),
            },
            embeddings_only=self.left_out,
            probes=probe_record,
            held_out_sha256=held_out_sha256,
            checkpoints=[],
        )


def _surgery(model: LiveModel, live: LivePlan, rng: np.random.Generator) -> Iterator[Row]:
    assert live.held_out is not None
    return surgery_rows(
        model, live.held_out, live.count, tuple(SURGERIES), rng, entries=live.entries
    )


def _agreement(model: LiveModel, live: LivePlan, rng: np.random.Generator) -> Iterator[Row]:
    assert live.held_out is not None
    length = min(live.settings.context_length, live.held_out.shape[1] - 1)
    return agreement_rows(model, live.held_out[:, :length], live.count, rng)


LIVE: dict[str, Callable[[LiveModel, LivePlan, np.random.Generator], Iterator[Row]]] = {
    "surgery": _surgery,
    "agreement": _agreement,
}
"""Measures of a running model besides importances, by name; each yields rows of trends."""


def prepare_live(
    settings: TrackingSettings,
    series: CheckpointSeries,
    counts: Counts,
    measure_settings: MeasureSettings,
    report: Report = no_report,
) -> LivePlan:
    """Choose the checkpoints, contexts and held-out rows, before anything is measured.

    Args:
        settings: Settings of the measures.
        series: The tracked checkpoints.
        counts: Token counts of the corpus.
        measure_settings: `count` and `kind` of every row of the embedding, and the vocabulary rule;
            contexts are sampled of tokens that it keeps.
        report: Receives a line about steps and tokens that are left out.

    Raises:
        ConfigError: No text to probe is known, or a token that the settings name has no context in
            it.
        CheckpointError: No step holds a whole model.
        CorpusError: The text cannot be read, or is too short.
        MismatchError: The text is of another tokenizer.
        StepError: A step does not exist.
    """
    tokens, rule = measure_settings.tokens, measure_settings.rule
    assert tokens is not None and rule is not None  # as there are counts
    selected = series.select(settings.live_steps)
    left_out = [checkpoint.step for checkpoint in selected if _holds_embeddings_only(checkpoint)]
    models = tuple(checkpoint for checkpoint in selected if checkpoint.step not in left_out)
    if not models:
        raise CheckpointError(
            f"no step of {series.name} among {settings.live_steps!r} holds a whole model, only "
            "embeddings; choose others with live_steps"
        )
    if left_out:
        report(f"{len(left_out)} of {len(selected)} steps hold embeddings only and are not run")
    place, tokenizer = settings.tokenizer, None
    if place is not None or settings.probe.text is not None:
        tokenizer = series_tokenizer(series, place)
    text = open_probe_text(
        settings.probe,
        models[0],
        training_folder(series),
        counts,
        settings.context_length,
        report,
        tokenizer=tokenizer,
    )
    probes = held_out = None
    if settings.importance:
        length = min(settings.context_length, text.sequence_length)
        probe_settings = settings.model_copy(update={"context_length": length})
        rule_mask = rule.mask(tokens["count"], tokens["kind"])
        probes = sample_probes(text.rows, tokens["count"], rule_mask, probe_settings, text.name)
        if probes.left_out:
            report(f"{probes.left_out} tokens are skipped: they do not occur twice in the text")
    if settings.live_parts:
        if text.held_out is None:
            raise ConfigError(
                f"{', '.join(settings.live_parts)} needs rows that were not trained on, and the "
                "probed text has none; give another text with --probe, or hold rows out of the "
                "training with corpus.held_out_rows"
            )
        held_out = _some_rows(text.held_out, np.random.default_rng(settings.probe.seed))
    return LivePlan(
        settings,
        replace(series, checkpoints=models),
        left_out,
        probes,
        held_out,
        counts,
        rule,
        tokens["count"],
        tokens["kind"],
        None if place is None else tokenizer,
    )


def run_live(
    live: LivePlan,
    record: RunRecord,
    output: Path,
    on_checkpoint: OnProgress = no_progress,
    report: Report = no_report,
) -> None:
    """Run the model of each checkpoint that has no tables yet, or damaged ones.

    A model that cannot be loaded or gives values that are not finite is left out, with the reason
    in the run, and the others are run.

    Args:
        live: The measures and their inputs.
        record: Contents of the run's `run.json`, written after each checkpoint; its `live` lists
            the finished ones.
        output: The run folder.
        on_checkpoint: Called before each checkpoint and after the last.
        report: Receives a line for each model that is left out.

    Raises:
        ConfigError: An importance does not fit the model, or a context its window.
        CheckpointError: A model that the steps name by number cannot be loaded, or none can be.
        UnreachableError: A hub is out of reach.
        MeasureError: A model that the steps name by number gives values that are not finite.
        MismatchError: A tokenizer is not that of the counts.
    """
    stage, checkpoints = record.live, live.checkpoints
    assert stage is not None
    done = {entry.step: entry for entry in stage.checkpoints if _is_done(output, entry)}
    stage.unset("left_out")
    for index, checkpoint in enumerate(checkpoints):
        on_checkpoint(index, len(checkpoints))
        if checkpoint.step not in done:
            try:
                done[checkpoint.step] = _run_model(live, checkpoint, output, stage)
            except UnreachableError:
                raise
            except (CheckpointError, MeasureError) as error:
                if checkpoint.step in parse(live.settings.live_steps).numbers:
                    raise
                report(f"the model of step {checkpoint.step} is left out: {error}")
                stage.left_out = {**stage.left_out, str(checkpoint.step): str(error)}
        stage.checkpoints = [done[step] for step in sorted(done)]
        record.write(output)
    on_checkpoint(len(checkpoints), len(checkpoints))
    if not done:
        raise CheckpointError(
            f"no model of {checkpoints.name} could be run; give other steps with live_steps"
        )


def _run_model(
    live: LivePlan, checkpoint: Checkpoint, output: Path, stage: LiveRecord
) -> LiveCheckpointRecord:
    """Run the model of one checkpoint, write its tables and record its architecture."""
    model = live.load(checkpoint)
    with named_errors(model.network, model.name, "running the model over the contexts"):
        if live.settings.surgery:
            # All checkpoints have one architecture; a probe may decide nothing at the first step.
            stage.architecture = {**stage.architecture, **probe_architecture(model)}
        tables = dict(_tables(model, live, checkpoint.step))
    digests = {
        folder: write_table(step_path(output, folder, checkpoint.step), columns)
        for folder, columns in tables.items()
    }
    return LiveCheckpointRecord(step=checkpoint.step, tables=digests)


def _tables(
    model: LiveModel, live: LivePlan, step: int
) -> Iterator[tuple[str, Mapping[str, np.ndarray | list[Any]]]]:
    """Yield folder and columns of each table of a checkpoint."""
    if live.probes is not None:
        yield (
            IMPORTANCE,
            measure_importances(
                model, live.probes, live.settings.importance, live.count, live.entries
            ),
        )
    if live.settings.live_parts:
        rows = [
            {**row, "step": step, "rule": str(live.rule)}
            for name in live.settings.live_parts
            for row in LIVE[name](model, live, np.random.default_rng(live.settings.probe.seed))
        ]
        yield LIVE_ROWS, in_columns(rows)


def _some_rows(
    rows: Integer[np.ndarray, "R T1"], rng: np.random.Generator
) -> Integer[np.ndarray, "n T1"]:
    if len(rows) > HELD_OUT_ROWS:
        rows = rows[np.sort(rng.choice(len(rows), HELD_OUT_ROWS, replace=False))]
    return np.asarray(rows, np.int64)


def _holds_embeddings_only(checkpoint: Checkpoint) -> bool:
    return checkpoint.locate("input_embedding").filename == WEIGHTS_FILES[-1]


def _is_done(output: Path, checkpoint: LiveCheckpointRecord) -> bool:
    return all(
        is_whole(step_path(output, folder, checkpoint.step), sha256)
        for folder, sha256 in checkpoint.tables.items()
    )
