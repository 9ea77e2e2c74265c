"""A run folder that is written during the training, from the model itself."""

import logging
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_file
from torch import Tensor

from dynamics.checkpoints.architectures import ROLES, Role
from dynamics.checkpoints.formats.tensors import digest
from dynamics.checkpoints.stores import LocalFolder
from dynamics.checkpoints.weights import Weights
from dynamics.corpus.counts import Counts
from dynamics.errors import MeasureError, MismatchError, OutputError, one_line
from dynamics.files import PARTIAL, whole_folder, write_json
from dynamics.runs.finish import finish
from dynamics.runs.run import (
    CALLBACK,
    MATRIX_ROWS,
    measures_path,
    read_info,
    step_path,
    write_table,
)
from dynamics.runs.trends import in_columns
from dynamics.statistics.vocabulary import parse_rule
from dynamics.tracking.measuring import Wanted, measure_tensors
from dynamics.tracking.model_tensors import ModelTensors
from dynamics.tracking.references import StoredRows
from dynamics.tracking.resume import first_difference, is_whole
from dynamics.tracking.token_columns import token_columns
from dynamics.tracking.track import check_enough, describe

FIRST = "first"
"""Folder of the embeddings at the first step, which distances are taken to after a restart too."""

FOLDERS = {"measures": "table_sha256", MATRIX_ROWS: "matrices_sha256"}
"""Folders of the tables of a step, and where `run.json` keeps their digests."""

Info = dict[str, Any]
"""Content of `run.json`."""


class TrainingRun:
    """What `dynamics track` would write of the checkpoints of a training, step by step.

    Args:
        output: The run folder; new, or that of the same training.
        counts: As in `track`.
        steps: As in `track`; recorded.
        rule: As in `track`.
        name: What the run is called.
    """

    def __init__(
        self, output: Path, *, counts: Counts | None, steps: str, rule: str, name: str
    ) -> None:
        self.output = output
        self.counts = counts
        self.steps = steps
        self.rule = rule
        self.name = name
        self.info: Info = {}
        self.tokens: dict[str, np.ndarray] | None = None

    @property
    def measured(self) -> list[int]:
        """Steps that are measured, ascending; none before the folder is claimed."""
        return [entry["step"] for entry in self.info.get("checkpoints", ())]

    def begin(self, model: ModelTensors) -> None:
        """Claim the folder, or go on with it: what it holds of later steps is dropped.

        Raises:
            ConfigError: The rule keeps too few tokens.
            MismatchError: The folder holds the run of another training, or counts and model do not
                belong together.
            OutputError: It holds something else, or is damaged.
        """
        self._read_counts(model.vocab_size)
        series = {
            "name": self.name,
            "vocab_size": model.vocab_size,
            "tied": model.tied,
            "final_norm": model.final_norm,
        }
        info = describe(series, self.counts, self.rule, self.steps, CALLBACK)
        if (self.output / "run.json").exists():
            self._go_on(read_info(self.output), info, model)
        elif self.output.exists() and any(p.suffix != PARTIAL for p in self.output.iterdir()):
            raise OutputError(f"{self.output} exists and holds no run; give another output folder")
        else:
            self._write(info)

    def measure(self, model: ModelTensors, tokens_seen: int | None = None) -> dict[str, np.ndarray]:
        """Measure a step and write its table; a step that was measured is measured again.

        Args:
            model: The model at that step, later than those that are measured, or the last of them.
            tokens_seen: Tokens trained on up to it, where known.

        Returns:
            Every measure, one value per token.

        Raises:
            MeasureError: A row is not finite, or the model has other embeddings than at the first
                step.
            OutputError: The folder is gone.
        """
        if not (self.output / "run.json").exists():
            raise OutputError(f"{self.output} was removed or renamed during the training")
        if not self.measured:
            self._keep_first(model)

        def read(role: Role) -> Tensor:
            matrix = model.tensor(role)
            self._check_shape(role, tuple(matrix.shape), model)
            return matrix

        taken = measure_tensors(
            model,
            Wanted(self.tokens, rule=parse_rule(self.rule)),
            read=read,
            first=self._first,
            again=lambda matrix: matrix,
        )
        entry = {
            "step": model.step,
            "name": f"step-{model.step}",
            "tokens_seen": tokens_seen,
            "commit": None,
            "file_sha256": {},
            "tensor_sha256": taken.tensor_sha256,
            "table_sha256": write_table(measures_path(self.output, model.step), taken.columns),
            "matrices_sha256": write_table(
                step_path(self.output, MATRIX_ROWS, model.step), in_columns(taken.matrices)
            ),
        }
        earlier = [entry for entry in self.info["checkpoints"] if entry["step"] < model.step]
        names = [name for name in taken.columns if name != "token_id"]
        self._write({**self.info, "measures": names, "checkpoints": [*earlier, entry]})
        return {name: taken.columns[name] for name in names}

    def finish(self) -> None:
        """Write the tables over all steps that are measured, as `dynamics track` does.

        Raises:
            MeasureError: A step is damaged, or the statistics over the steps cannot be computed.
                The run is finished all the same, without that step, or without them.
            OSError: The disk is full, or the folder cannot be written.
            OutputError: No step is whole.
        """
        self.info.pop("without_trends", None)
        try:
            finish(self.output, self.info, self.tokens, None)
        except OSError:
            raise
        except Exception as error:  # of whatever kind: the measures of each step can be read
            if damaged := list(self._damaged_tables(self.info["checkpoints"])):
                self._keep_whole_steps()
                if not self.measured:
                    raise OutputError(f"{self.output} holds no step that is whole") from error
                self.finish()
                raise MeasureError(
                    f"{damaged[0]} is damaged or missing; its step is left out of the run"
                ) from error
            self.info["without_trends"] = one_line(error)
            finish(self.output, self.info, self.tokens, None, over_steps=False)
            raise MeasureError(
                f"no trends over the steps of {self.output} could be computed: {one_line(error)}; "
                "the measures of each step can be read"
            ) from error

    def stop(self, step: int, reason: str) -> None:
        """Record why measuring ends before the training does, and finish with what there is.

        A folder that `begin` could not claim is left as it is, one that is gone stays away.

        Args:
            step: The step that could not be measured.
            reason: Why, in one line.

        Raises:
            MeasureError: As in `finish`.
            OSError: As in `finish`.
        """
        if not self.output.exists():
            self.info = {}
        if not self.info:
            return
        if step not in self.measured:
            self._remove_tables(step)
        self._keep_whole_steps()
        self.info.setdefault("stops", []).append({"step": step, "reason": reason})
        if not self.measured:
            shutil.rmtree(self.output / FIRST, ignore_errors=True)
        self._write(self.info)
        if self.measured:
            self.finish()

    def reopen(self) -> None:
        """Take over the folder of a training that was cut off, to finish it as it is.

        Raises:
            MismatchError: Counts, rule or steps are not those of the run.
            OutputError: The folder holds no run of a training, or no step of one.
        """
        if not (self.output / "run.json").exists():
            raise OutputError(f"{self.output} holds no run (no run.json); give the folder of one")
        stored = read_info(self.output)
        if stored.get("command") != CALLBACK:
            raise OutputError(
                f"{self.output} was not written by {CALLBACK}; the command that wrote it finishes "
                "it"
            )
        series = stored["series"]
        info = describe(series, self.counts, self.rule, self.steps, CALLBACK)
        if difference := _difference(stored, info):
            raise MismatchError(
                f"{self.output} was measured with other arguments ({difference}); give those it had"
            )
        self._read_counts(series["vocab_size"])
        self.info = stored
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

    def _write(self, info: Info) -> None:
        """Write `run.json`; this object describes what was written last."""
        info["series"]["steps"] = [entry["step"] for entry in info["checkpoints"]]
        write_json(self.output / "run.json", info)
        self.info = info

    def _go_on(self, stored: Info, info: Info, model: ModelTensors) -> None:
        """Take over the steps up to the model's, and remove those after it."""
        if difference := _difference(stored, info) or _other_weights(stored, model):
            raise MismatchError(
                f"{self.output} holds the run of another training ({difference}); give another "
                "output folder, or remove that one"
            )
        earlier = [entry for entry in stored["checkpoints"] if entry["step"] <= model.step]
        self._check_whole(earlier)
        info["measures"] = stored["measures"]
        info["checkpoints"] = earlier
        if stops := [stop for stop in stored.get("stops", ()) if stop["step"] < model.step]:
            info["stops"] = stops
        self._write(info)  # before anything is removed: a full disk then leaves the run as it was
        for entry in stored["checkpoints"][len(earlier) :]:
            self._remove_tables(entry["step"])
        for name in stored["tables"]:
            (self.output / name).unlink(missing_ok=True)

    def _check_whole(self, entries: list[Info]) -> None:
        """Refuse damage: what is gone by was in memory only, and cannot be measured again."""
        if not entries:
            return
        damaged = list(self._damaged_tables(entries))
        if not self._first_is_whole(entries[0]["tensor_sha256"]):
            damaged.append(self.output / FIRST)
        if damaged:
            raise OutputError(
                f"{damaged[0]} is damaged or missing, and a step of a training that has gone on "
                f"cannot be measured again; give another output folder, or remove {self.output}"
            )

    def _damaged_tables(self, entries: Iterable[Info]) -> Iterable[Path]:
        for entry in entries:
            for folder, digest_key in FOLDERS.items():
                path = step_path(self.output, folder, entry["step"])
                if not is_whole(path, entry[digest_key]):
                    yield path

    def _keep_whole_steps(self) -> None:
        """Drop the steps whose tables are not as they were written."""
        self.info["checkpoints"] = [
            entry for entry in self.info["checkpoints"] if not list(self._damaged_tables([entry]))
        ]
        self.info["series"]["steps"] = self.measured

    def _remove_tables(self, step: int) -> None:
        for folder in FOLDERS:
            step_path(self.output, folder, step).unlink(missing_ok=True)

    def _check_shape(self, role: Role, shape: tuple[int, ...], model: ModelTensors) -> None:
        """Refuse embeddings that are not those of the first step, row by row."""
        first_step = self.measured[0] if self.measured else model.step
        if model.tied != self.info["series"]["tied"]:
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

    def _keep_first(self, model: ModelTensors) -> None:
        apart = ROLES[:1] if model.tied else ROLES
        matrices = {str(role): model.tensor(role).contiguous() for role in apart if model.has(role)}
        shutil.rmtree(self.output / FIRST, ignore_errors=True)
        with whole_folder(self.output / FIRST) as partial:
            save_file(matrices, partial / "embeddings.safetensors")

    def _first(self, role: Role) -> StoredRows:
        located = Weights(LocalFolder(self.output / FIRST))[role]
        return StoredRows(located.shape, located.dtype, located.read)

    def _first_is_whole(self, digests: Mapping[str, str]) -> bool:
        if not (self.output / FIRST).is_dir():
            return False
        held = Weights(LocalFolder(self.output / FIRST))
        return all(role in held and digest(held[role].read()) == digests[role] for role in held)


def _difference(stored: Info, info: Info) -> str | None:
    """First setting, count, property of the embeddings or version that differs, if any."""
    stored = {**stored, "series": {**stored["series"], "steps": None}}
    info = {**info, "series": {**info["series"], "steps": None}}
    for part in ("settings", "counts", "series", "versions"):
        if difference := first_difference(stored.get(part), info[part]):
            return f"{part}: {difference}"
    return None


def _other_weights(stored: Info, model: ModelTensors) -> str | None:
    """Reason why a run is not of this model: its first step, or its embeddings at this step."""
    entries = {entry["step"]: entry for entry in stored["checkpoints"]}
    if model.step == 0 and entries and 0 not in entries:
        return f"it begins at step {min(entries)}"
    digests = entries.get(model.step, {"tensor_sha256": {}})["tensor_sha256"]
    for role in ROLES:
        if role in digests and digest(model.tensor(role)) != digests[role]:
            return f"the {role.replace('_', ' ')} is another one at step {model.step}"
    return None
