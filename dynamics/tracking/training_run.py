"""A run folder that is written during a training, from the model in memory."""

import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors.torch import save_file
from torch import Tensor

from dynamics.checkpoints.architectures import ROLES, Role
from dynamics.checkpoints.formats.tensors import digest
from dynamics.checkpoints.stores import LocalFolder
from dynamics.checkpoints.weights import Weights
from dynamics.corpus.counts import Counts
from dynamics.errors import MeasureError, MismatchError, OutputError, one_line
from dynamics.files import PARTIAL, whole_folder
from dynamics.measure_groups import MeasureGroup
from dynamics.runs.finish import finish
from dynamics.runs.record import (
    CALLBACK,
    RUN_JSON,
    CheckpointRecord,
    RunRecord,
    RunSettings,
    SeriesRecord,
    StopRecord,
    read_record,
)
from dynamics.runs.run import MATRIX_ROWS, measures_path, step_path, write_table
from dynamics.runs.trends import in_columns
from dynamics.statistics.vocabulary import parse_rule
from dynamics.tracking.measuring import MeasureSettings, measure_tensors
from dynamics.tracking.model_tensors import ModelTensors
from dynamics.tracking.plan import check_enough, new_record
from dynamics.tracking.references import StoredRows
from dynamics.tracking.resume import difference_of_runs, is_whole
from dynamics.tracking.token_columns import token_columns

FIRST = "first"
"""Folder of the embeddings at the first step; distances are to them, also after a restart."""

FOLDERS = {"measures": "table_sha256", MATRIX_ROWS: "matrices_sha256"}
"""Folders of the tables of a step, and the keys of their digests in `run.json`."""


class TrainingRun:
    """A run of `dynamics track`, written step by step while the training is running.

    Args:
        output: The run folder; new, or that of the same training.
        counts: As in `track`.
        steps: As in `track`; recorded.
        rule: As in `track`.
        measures: Groups of measures to take.
        name: Name of the run in figures.
    """

    def __init__(
        self,
        output: Path,
        *,
        counts: Counts | None,
        steps: str,
        rule: str,
        measures: Sequence[MeasureGroup],
        name: str,
    ) -> None:
        self.output = output
        self.counts = counts
        self.steps = steps
        self.rule = rule
        self.measures = list(measures)
        self.name = name
        self.record: RunRecord | None = None
        self.tokens: dict[str, np.ndarray] | None = None

    @property
    def measured(self) -> list[int]:
        """Steps that are measured, ascending; none before the folder is claimed."""
        return self.record.steps if self.record else []

    @property
    def _claimed(self) -> RunRecord:
        assert self.record is not None  # `begin` or `reopen` was called
        return self.record

    def begin(self, model: ModelTensors) -> None:
        """Claim the folder, or resume it; tables of steps after the model's are removed.

        Raises:
            ConfigError: The rule keeps too few tokens.
            MismatchError: The folder holds the run of another training, or counts and model do not
                belong together.
            OutputError: The folder holds something other than a run, or is damaged.
        """
        self._read_counts(model.vocab_size)
        record = self._new_record(
            SeriesRecord(
                name=self.name,
                vocab_size=model.vocab_size,
                tied=model.tied,
                final_norm=model.final_norm,
                logit_softcap=model.logit_softcap,
                shapes=model.shapes,
                architecture=model.architecture,
            )
        )
        if (self.output / RUN_JSON).exists():
            self._resume(read_record(self.output), record, model)
        elif self.output.exists() and any(p.suffix != PARTIAL for p in self.output.iterdir()):
            raise OutputError(f"{self.output} exists and holds no run; give another output folder")
        else:
            self._write(record)

    def measure(self, model: ModelTensors, tokens_seen: int | None = None) -> dict[str, np.ndarray]:
        """Measure a step and write its table; a step that was measured is measured again.

        Args:
            model: The model at the step, which is the last measured one or later.
            tokens_seen: Tokens trained on up to the step, None if not known.

        Returns:
            Every measure, one value per token.

        Raises:
            MeasureError: A row is not finite, or the model has other embeddings than at the first
                step.
            OutputError: The folder is gone.
        """
        if not (self.output / RUN_JSON).exists():
            raise OutputError(f"{self.output} was removed or renamed during the training")
        if not self.measured:
            self._save_first(model)

        def read(role: Role) -> Tensor:
            matrix = model.tensor(role)
            self._check_shape(role, tuple(matrix.shape), model)
            return matrix

        step_measures = measure_tensors(
            model,
            MeasureSettings(self.tokens, rule=parse_rule(self.rule), groups=tuple(self.measures)),
            read=read,
            first=self._first,
            reread=lambda matrix: matrix,
        )
        checkpoint = CheckpointRecord(
            step=model.step,
            name=f"step-{model.step}",
            tokens_seen=tokens_seen,
            commit=None,
            file_sha256={},
            tensor_sha256=step_measures.tensor_sha256,
            table_sha256=write_table(measures_path(self.output, model.step), step_measures.columns),
            matrices_sha256=write_table(
                step_path(self.output, MATRIX_ROWS, model.step), in_columns(step_measures.matrices)
            ),
        )
        earlier = [entry for entry in self._claimed.checkpoints if entry.step < model.step]
        names = [name for name in step_measures.columns if name != "token_id"]
        changes = {"measures": names, "checkpoints": [*earlier, checkpoint]}
        self._write(self._claimed.model_copy(update=changes))
        return {name: step_measures.columns[name] for name in names}

    def finish(self) -> None:
        """Write the tables over all measured steps, as `dynamics track` does.

        Raises:
            MeasureError: A step is damaged, or the statistics over the steps cannot be computed.
                The run is still finished, without that step or without the statistics.
            OSError: The disk is full, or the folder cannot be written.
            OutputError: No step is whole.
        """
        self._claimed.unset("without_trends")
        try:
            finish(self.output, self._claimed, self.tokens, None)
        except OSError:
            raise
        except Exception as error:  # of any kind: the measures of each step can still be read
            if damaged := list(self._damaged_tables(self._claimed.checkpoints)):
                self._keep_whole_steps()
                if not self.measured:
                    raise OutputError(f"{self.output} holds no step that is whole") from error
                self.finish()
                raise MeasureError(
                    f"{damaged[0]} is damaged or missing; its step is left out of the run"
                ) from error
            self._claimed.without_trends = one_line(error)
            finish(self.output, self._claimed, self.tokens, None, over_steps=False)
            raise MeasureError(
                f"no trends over the steps of {self.output} could be computed: {one_line(error)}; "
                "the measures of each step can be read"
            ) from error

    def stop(self, step: int, reason: str) -> None:
        """Record why measuring ends before the training does, and finish the measured steps.

        A folder that `begin` could not claim is left unchanged; a removed one is not recreated.

        Args:
            step: The step that could not be measured.
            reason: The reason, in one line.

        Raises:
            MeasureError: As in `finish`.
            OSError: As in `finish`.
        """
        if not self.output.exists():
            self.record = None
        if self.record is None:
            return
        if step not in self.measured:
            self._remove_tables(step)
        self._keep_whole_steps()
        self.record.stops = [*self.record.stops, StopRecord(step=step, reason=reason)]
        if not self.measured:
            shutil.rmtree(self.output / FIRST, ignore_errors=True)
        self._write(self.record)
        if self.measured:
            self.finish()

    def reopen(self) -> None:
        """Take over the folder of an interrupted training, to finish it with the steps it has.

        Raises:
            MismatchError: Counts, rule or steps are not those of the run.
            OutputError: The folder holds no run of a training, or a run without whole steps.
        """
        if not (self.output / RUN_JSON).exists():
            raise OutputError(f"{self.output} holds no run (no run.json); give the folder of one")
        stored = read_record(self.output)
        if stored.command != CALLBACK:
            raise OutputError(
                f"{self.output} was not written by {CALLBACK}; finish it with the command that "
                "wrote it"
            )
        if difference := _difference(stored, self._new_record(stored.series)):
            raise MismatchError(
                f"{self.output} was measured with other arguments ({difference}); give the same "
                "arguments"
            )
        self._read_counts(stored.series.vocab_size)
        self.record = stored
        self._keep_whole_steps()
        if not self.measured:
            raise OutputError(f"{self.output} holds no step that is whole; train again")

    def _read_counts(self, rows: int) -> None:
        if self.counts is not None:
            warn = logging.getLogger(__name__).warning
            self.tokens = token_columns(self.counts, rows, self.name, warn)
            rule = parse_rule(self.rule)
            kept_mask = rule.mask(self.tokens["count"], self.tokens["kind"])
            check_enough(self.counts, rule, kept_mask)

    def _new_record(self, series: SeriesRecord) -> RunRecord:
        settings = RunSettings(
            steps=self.steps,
            rule=None if self.counts is None else self.rule,
            measures=self.measures,
        )
        return new_record(series, self.counts, settings, CALLBACK)

    def _write(self, record: RunRecord) -> None:
        """Write `run.json`, and keep the record as the one written last."""
        record.series.steps = record.steps
        record.write(self.output)
        self.record = record

    def _resume(self, stored: RunRecord, record: RunRecord, model: ModelTensors) -> None:
        """Take over the steps up to the model's, and remove those after it."""
        if difference := _difference(stored, record) or _other_weights(stored, model):
            raise MismatchError(
                f"{self.output} holds the run of another training ({difference}); give another "
                "output folder, or remove that one"
            )
        earlier = [entry for entry in stored.checkpoints if entry.step <= model.step]
        self._check_whole(earlier)
        record.measures = stored.measures
        record.checkpoints = earlier
        if stops := [stop for stop in stored.stops if stop.step < model.step]:
            record.stops = stops
        self._write(record)  # before anything is removed: a full disk then leaves the run as it was
        for checkpoint in stored.checkpoints[len(earlier) :]:
            self._remove_tables(checkpoint.step)
        for name in stored.tables:
            (self.output / name).unlink(missing_ok=True)

    def _check_whole(self, checkpoints: list[CheckpointRecord]) -> None:
        """Refuse damaged steps: their weights were in memory only, and cannot be measured again."""
        if not checkpoints:
            return
        damaged = list(self._damaged_tables(checkpoints))
        if not self._first_is_whole(checkpoints[0].tensor_sha256):
            damaged.append(self.output / FIRST)
        if damaged:
            raise OutputError(
                f"{damaged[0]} is damaged or missing, and a step that the training has passed "
                f"cannot be measured again; give another output folder, or remove {self.output}"
            )

    def _damaged_tables(self, checkpoints: Iterable[CheckpointRecord]) -> Iterable[Path]:
        for checkpoint in checkpoints:
            for folder, field in FOLDERS.items():
                path = step_path(self.output, folder, checkpoint.step)
                if not is_whole(path, getattr(checkpoint, field)):
                    yield path

    def _keep_whole_steps(self) -> None:
        """Drop the steps whose tables are missing or damaged."""
        record = self._claimed
        record.checkpoints = [
            entry for entry in record.checkpoints if not list(self._damaged_tables([entry]))
        ]
        record.series.steps = record.steps

    def _remove_tables(self, step: int) -> None:
        for folder in FOLDERS:
            step_path(self.output, folder, step).unlink(missing_ok=True)

    def _check_shape(self, role: Role, shape: tuple[int, ...], model: ModelTensors) -> None:
        """Refuse embeddings whose rows do not correspond to those of the first step."""
        first_step = self.measured[0] if self.measured else model.step
        if model.tied != self._claimed.series.tied:
            tied, untied = (model.step, first_step) if model.tied else (first_step, model.step)
            raise MeasureError(
                f"the embeddings are one matrix at step {tied} and two at step {untied}"
            )
        first_shape = self._first(role).shape
        if shape != first_shape:
            raise MeasureError(
                f"the {role.replace('_', ' ')} has shape {shape} at step {model.step} and "
                f"{first_shape} at step {first_step}, so that its rows cannot be followed"
            )

    def _save_first(self, model: ModelTensors) -> None:
        distinct_roles = ROLES[:1] if model.tied else ROLES
        matrices = {
            str(role): model.tensor(role).contiguous() for role in distinct_roles if model.has(role)
        }
        shutil.rmtree(self.output / FIRST, ignore_errors=True)
        with whole_folder(self.output / FIRST) as partial:
            save_file(matrices, partial / "embeddings.safetensors")

    def _first(self, role: Role) -> StoredRows:
        located = Weights(LocalFolder(self.output / FIRST))[role]
        return StoredRows(located.shape, located.dtype, located.read)

    def _first_is_whole(self, digests: Mapping[str, str]) -> bool:
        if not (self.output / FIRST).is_dir():
            return False
        first = Weights(LocalFolder(self.output / FIRST))
        return all(role in first and digest(first[role].read()) == digests[role] for role in first)


def _difference(stored: RunRecord, record: RunRecord) -> str | None:
    """Return the first setting, count, embedding property or version that differs, if any."""
    pair = [stored.plain(), record.plain()]
    for content in pair:
        content["series"]["steps"] = None
    return difference_of_runs(*pair)


def _other_weights(stored: RunRecord, model: ModelTensors) -> str | None:
    """Return why a run is not of this model (first step or embeddings differ), None if it is."""
    digests = {checkpoint.step: checkpoint.tensor_sha256 for checkpoint in stored.checkpoints}
    if model.step == 0 and digests and 0 not in digests:
        return f"it begins at step {min(digests)}"
    for role in ROLES:
        sha256 = digests.get(model.step, {}).get(role)
        if sha256 is not None and digest(model.tensor(role)) != sha256:
            return f"the {role.replace('_', ' ')} is another one at step {model.step}"
    return None
