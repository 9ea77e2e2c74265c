"""`run.json`: what a run measured of what, as typed records read and written in one place.

Values are plain, so that tables can be opened without torch. A field that was never set is not
written: equal runs give equal bytes.
"""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from dynamics.errors import OutputError, first_problem, message_of
from dynamics.files import write_json
from dynamics.measure_groups import MEASURE_GROUPS, MeasureGroup

RUN_JSON = "run.json"
FORMAT = 1
"""Format of the file: 0 (not written) had no list of stages."""

_FORMER_GROUPS: tuple[MeasureGroup, ...] = ("norms", "distances", "ranks", "readouts")
"""Groups that every run of 0.1 measured."""

CALLBACK = "NormDynamicsCallback"
"""`command` of a run that a training wrote while it was under way."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid")

    def plain(self) -> dict[str, Any]:
        """Return the fields that are set, as JSON has them."""
        return self.model_dump(mode="json", exclude_unset=True)

    def unset(self, field: str) -> None:
        """Forget a field, so that it is not written."""
        setattr(self, field, type(self).model_fields[field].get_default(call_default_factory=True))
        self.model_fields_set.discard(field)


class SeriesRecord(_Record):
    """The series that is measured.

    Attributes:
        name: Its name.
        steps: Steps that are measured, ascending.
        vocab_size: Rows of the embedding.
        tied: Whether the output embedding is the input embedding.
        final_norm: Type of the norm before the output embedding; None without one, or unknown.
        logit_softcap: Number that no logit exceeds, 0 without such a cap; None where not known.
        shapes: Rows and columns of each embedding; not set by older versions.
        architecture: Entries of the model's configuration that give it its shape; not set by older
            versions.
        training: Settings of the training that made it, where `dynamics train` did.
        training_sha256: Digest of the `train.json` of that training.
        left_out: Reason why each of the other selected steps is not measured, by step.
    """

    name: str
    steps: list[int] | None = None
    vocab_size: int
    tied: bool
    final_norm: str | None
    logit_softcap: float | None = None
    shapes: dict[str, list[int]] | None = None
    architecture: dict[str, Any] | None = None
    training: dict[str, Any] | None = None
    training_sha256: str | None = None
    left_out: dict[str, str] = {}


class RunSettings(_Record):
    """Settings that change what is measured of the weights.

    Attributes:
        steps: Which steps, in the step language.
        rule: Vocabulary rule of the main statistics; None without counts.
        measures: Groups of measures that are taken; not set in folders from before matrices were
            measured.
        every_row: Whether every row enters effective ranks and read-outs, not a sample; not set
            when a sample does.
        rows: Which rows are read; not set when all are.
        stream: The token stream that exposure is counted in, where it was named.
    """

    steps: str
    rule: str | None
    measures: list[MeasureGroup] = []
    every_row: bool = False
    rows: str | None = None
    stream: dict[str, Any] | None = None


class CheckpointRecord(_Record):
    """One measured step.

    Attributes:
        step: The step.
        name: Name of the checkpoint.
        tokens_seen: Tokens trained on up to it, where known.
        commit: Its commit on a hub.
        file_sha256: Digest of the file of each embedding, where a hub tells it.
        device: Device that measured it; not set for `cpu`. Numbers of two devices differ in their
            last digits.
        tensor_sha256: Digest of the values of each embedding; not set when some rows were read.
        rows_sha256: Digest of the rows that were read of each embedding.
        table_sha256: Digest of its table of measures.
        matrices_sha256: Digest of its table of matrix statistics; None when some rows were read.
        notes: What a reader of its numbers should know of its files.
    """

    step: int
    name: str
    tokens_seen: int | None
    commit: str | None
    file_sha256: dict[str, str | None]
    device: str | None = None
    tensor_sha256: dict[str, str] = {}
    rows_sha256: dict[str, str] = {}
    table_sha256: str
    matrices_sha256: str | None = None
    notes: list[str] = []


class LiveCheckpointRecord(_Record):
    """One step whose model was run: the step, and the digest of each of its tables by folder."""

    step: int
    tables: dict[str, str]


class LiveRecord(_Record):
    """The live stage: settings, inputs and tables of running the models.

    Attributes:
        settings: Importances, parts, steps, device and version of transformers.
        embeddings_only: Steps that hold no whole model.
        probes: Settings and digest of the probed contexts; None when none were.
        held_out_sha256: Digest of the held-out rows; None when none were needed.
        checkpoints: The steps whose model was run, ascending.
        left_out: Reason why the model of each other step was not run, by step.
        architecture: What the models make of the scale of their embeddings, measured: values of
            `probe_architecture`; a key is missing where it is not known.
    """

    settings: dict[str, Any]
    embeddings_only: list[int]
    probes: dict[str, Any] | None
    held_out_sha256: str | None
    checkpoints: list[LiveCheckpointRecord]
    left_out: dict[str, str] = {}
    architecture: dict[str, Any] = {}


class PathTableRecord(_Record):
    """A table of the paths of some rows: position of its first row, its rows, and its digest."""

    start: int
    rows: int
    sha256: str


class PathsRecord(_Record):
    """The stage that follows each row over all steps.

    Attributes:
        weights_sha256: Digest of the steps, and of the embeddings at each, that paths are of.
        tables: The finished tables, each of consecutive rows, ascending.
    """

    weights_sha256: str
    tables: list[PathTableRecord]


class CovariateRecord(_Record):
    """One covariate of tokens, from a table that a user brought.

    Attributes:
        name: Name of its column.
        source: Table that it came from.
        tokens: Tokens of which it is known.
        has_halves: Whether it was measured twice.
        values_sha256: Digest of its values per token.
        table_sha256: Digest of its table in the run folder.
    """

    name: str
    source: str
    tokens: int
    has_halves: bool
    values_sha256: str
    table_sha256: str


class StopRecord(_Record):
    """A step at which measuring ended before the training did, and the reason."""

    step: int
    reason: str


class StageRecord(_Record):
    """A stage of a run: its name, its settings, and digests of what settings do not tell."""

    name: str
    settings: dict[str, Any]
    digests: dict[str, str]


class RunRecord(_Record):
    """Contents of `run.json`.

    Attributes:
        format: Format of the file.
        finished: Whether the tables over all steps are written.
        command: The command that made the run.
        versions: Version of each package that has a part in the result.
        series: The series.
        settings: Settings of the measures of weights.
        counts: What the token counts are of; None without counts.
        measures: Names of the measures, in the order of the tables.
        checkpoints: The measured steps, ascending.
        tables: Digest of each table over all steps, by file name.
        measures_left_out: Measures that need every row, when some rows were read.
        live: What the models were run for; not set when they were not.
        paths: Paths of the rows over all steps; not set when they were not followed.
        covariates: Covariates of tokens, in the order in which they were added; not set without.
        stops: Where measuring ended before the training did.
        without_trends: Reason why no trends could be computed.
        stages: Stages of the run with their settings and digests.
    """

    format: int = 0
    finished: bool
    command: str
    versions: dict[str, str]
    series: SeriesRecord
    settings: RunSettings
    counts: dict[str, Any] | None
    measures: list[str]
    checkpoints: list[CheckpointRecord]
    tables: dict[str, str]
    measures_left_out: list[str] = []
    live: LiveRecord | None = None
    paths: PathsRecord | None = None
    covariates: list[CovariateRecord] = []
    stops: list[StopRecord] = []
    without_trends: str | None = None
    stages: list[StageRecord] = []

    @model_validator(mode="before")
    @classmethod
    def _former_all(cls, content: Any) -> Any:
        """Read what 0.1 measured: `all` in place of groups, and the same groups by a callback."""
        settings = content.get("settings") if isinstance(content, dict) else None
        if not isinstance(settings, dict) or "measures" in settings:
            return content
        if "all" not in settings and content.get("command") != CALLBACK:
            return content
        settings = dict(settings)
        if settings.pop("all", False):
            settings |= {"measures": list(MEASURE_GROUPS), "every_row": True}
        else:
            settings["measures"] = list(_FORMER_GROUPS)
        return {**content, "settings": settings}

    @property
    def steps(self) -> list[int]:
        """Steps that are measured, ascending."""
        return [checkpoint.step for checkpoint in self.checkpoints]

    @property
    def live_checkpoints(self) -> list[LiveCheckpointRecord]:
        """The steps whose model was run, ascending."""
        return self.live.checkpoints if self.live else []

    @property
    def architecture(self) -> dict[str, Any]:
        """What the models make of the scale of their embeddings, if they were run for surgery."""
        return self.live.architecture if self.live else {}

    @property
    def is_output_shift_free(self) -> bool:
        """Whether a vector added to every output row is known to change no prediction.

        It then adds one number to all logits of a position, which a softmax over the vocabulary
        ignores, with a bias of the head too. Not so where the rows are those of the input as well,
        or where logits are capped. False where the run does not know; what was measured on the live
        model counts before what the checkpoint's config says.
        """
        softcap = self.architecture.get("logit_softcap", self.series.logit_softcap)
        if softcap is None and self.series.training is not None:
            softcap = 0.0  # a folder from before it was recorded; `dynamics train` caps no logits
        return not self.series.tied and softcap == 0

    def write(self, run: Path) -> None:
        """Write `run.json` into a run folder, atomically."""
        self.format, self.stages = FORMAT, self._stages()
        write_json(run / RUN_JSON, self.plain())

    def _stages(self) -> list[StageRecord]:
        counts = self.counts or {}
        digests = {
            name: counts[key]
            for name, key in (("tokenizer", "tokenizer_sha256"), ("corpus", "corpus_digest"))
            if counts.get(key)
        }
        stages = [
            StageRecord(name="weights", settings=self.settings.plain(), digests=digests),
        ]
        if self.paths is not None:
            digests = {"weights": self.paths.weights_sha256}
            stages.append(StageRecord(name="paths", settings={}, digests=digests))
        if self.live is not None:
            probes = (self.live.probes or {}).get("sha256")
            inputs = {"probes": probes, "held_out": self.live.held_out_sha256}
            digests = {name: sha256 for name, sha256 in inputs.items() if sha256 is not None}
            stages.append(StageRecord(name="live", settings=self.live.settings, digests=digests))
        if self.covariates:
            sources = {covariate.name: covariate.source for covariate in self.covariates}
            digests = {covariate.name: covariate.values_sha256 for covariate in self.covariates}
            stages.append(StageRecord(name="covariates", settings=sources, digests=digests))
        return stages


def read_record(run: Path) -> RunRecord:
    """Read the `run.json` of a run folder, finished or not.

    Raises:
        OutputError: The file is damaged, of a newer version, or not what `dynamics track` writes.
    """
    path = run / RUN_JSON
    try:
        content = json.loads(path.read_text("utf-8"))
        written = content.get("format", 0) if isinstance(content, dict) else 0
        if isinstance(written, int) and written > FORMAT:
            raise OutputError(
                f"{path} has format {written}, and this version reads up to {FORMAT}; update "
                "dynamics"
            )
        return RunRecord.model_validate(content)
    except ValidationError as error:
        problem = first_problem(error)
    except (ValueError, OSError) as error:
        problem = message_of(error)
    raise OutputError(
        f"{path} is damaged, or not what `dynamics track` writes ({problem}); remove the folder "
        f"{run} to have it redone, or give another"
    )
