"""A run folder that is written during the training, from the model itself."""

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_file

from dynamics.checkpoints.architectures import Role
from dynamics.checkpoints.stores import LocalFolder
from dynamics.checkpoints.tensors import digest
from dynamics.checkpoints.weights import Weights
from dynamics.corpus.counts import Counts
from dynamics.errors import MismatchError, OutputError
from dynamics.files import PARTIAL, whole_folder, write_json
from dynamics.statistics.vocabulary import parse_rule
from dynamics.tracking.finish import finish
from dynamics.tracking.measures import ROLES
from dynamics.tracking.measuring import Wanted, measure_tensors
from dynamics.tracking.model_tensors import ModelTensors
from dynamics.tracking.references import StoredRows
from dynamics.tracking.resume import first_difference, is_whole
from dynamics.tracking.run import MATRIX_ROWS, measures_path, read_info, step_path, write_table
from dynamics.tracking.token_columns import token_columns
from dynamics.tracking.track import check_enough, describe
from dynamics.tracking.trends import in_columns

FIRST = "first"
"""Folder of the embeddings at the first step, which distances are taken to after a restart too."""

FOLDERS = {"measures": "table_sha256", MATRIX_ROWS: "matrices_sha256"}
"""Folders of the tables of a step, and where `run.json` keeps their digests."""

_COMMAND = "NormDynamicsCallback"


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
        self.info: dict[str, Any] = {}
        self.tokens: dict[str, np.ndarray] | None = None

    @property
    def measured(self) -> list[int]:
        """Steps that are measured, ascending."""
        return [entry["step"] for entry in self.info["checkpoints"]]

    def begin(self, model: ModelTensors) -> None:
        """Claim the folder, or go on with it: what it holds of later steps is dropped.

        Raises:
            ConfigError: The rule keeps too few tokens.
            MismatchError: The folder holds the run of another training, or counts and model do not
                belong together.
            OutputError: It holds something else, or is damaged.
        """
        if self.counts is not None:
            self.tokens = token_columns(
                self.counts, model.vocab_size, self.name, logging.getLogger(__name__).warning
            )
            keeps = parse_rule(self.rule)
            kept = keeps.mask(self.tokens["count"], self.tokens["kind"])
            check_enough(self.counts, keeps, kept)
        series = {
            "name": self.name,
            "vocab_size": model.vocab_size,
            "tied": model.tied,
            "final_norm": model.final_norm,
        }
        self.info = describe(series, self.counts, self.rule, self.steps, _COMMAND)
        if (self.output / "run.json").exists():
            self._go_on(model)
        elif self.output.exists() and any(p.suffix != PARTIAL for p in self.output.iterdir()):
            raise OutputError(f"{self.output} exists and holds no run; give another output folder")
        self._write()

    def measure(self, model: ModelTensors, tokens_seen: int | None = None) -> dict[str, np.ndarray]:
        """Measure a step and write its table; a step that was measured is measured again.

        Args:
            model: The model at that step, later than those that are measured, or the last of them.
            tokens_seen: Tokens trained on up to it, where known.

        Returns:
            Every measure, one value per token.

        Raises:
            MeasureError: A row is not finite.
        """
        if not self.measured:
            self._keep_first(model)
        taken = measure_tensors(
            model,
            Wanted(self.tokens, rule=parse_rule(self.rule)),
            read=model.tensor,
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
        before = [each for each in self.info["checkpoints"] if each["step"] < model.step]
        self.info["checkpoints"] = [*before, entry]
        self.info["measures"] = [name for name in taken.columns if name != "token_id"]
        self._write()
        return {name: taken.columns[name] for name in self.info["measures"]}

    def finish(self) -> None:
        """Write the tables over all steps that are measured, as `dynamics track` does."""
        finish(self.output, self.info, self.tokens, None)

    def _write(self) -> None:
        self.info["series"]["steps"] = self.measured
        write_json(self.output / "run.json", self.info)

    def _go_on(self, model: ModelTensors) -> None:
        """Take over the steps up to the model's, and remove those after it."""
        found = read_info(self.output)
        found["series"].pop("steps", None)
        for part in ("settings", "counts", "series", "versions"):
            if difference := first_difference(found.get(part), self.info[part]):
                raise self._other(f"{part}: {difference}")
        entries = {entry["step"]: entry for entry in found["checkpoints"]}
        if model.step == 0 and entries and 0 not in entries:
            raise self._other(f"it begins at step {min(entries)}")
        here = entries.get(model.step, {"tensor_sha256": {}})["tensor_sha256"]
        for role in ROLES:
            if role in here and digest(model.tensor(role)) != here[role]:
                raise self._other(
                    f"the {role.replace('_', ' ')} is another one at step {model.step}"
                )
        kept = {step: entry for step, entry in entries.items() if step <= model.step}
        self._check_whole(kept)
        for step in entries.keys() - kept.keys():
            for folder in FOLDERS:
                step_path(self.output, folder, step).unlink(missing_ok=True)
        for name in found["tables"]:
            (self.output / name).unlink(missing_ok=True)
        self.info["measures"] = found["measures"]
        self.info["checkpoints"] = list(kept.values())

    def _check_whole(self, kept: Mapping[int, Mapping[str, Any]]) -> None:
        """Refuse damage: what is gone by was in memory only, and cannot be measured again."""
        if not kept:
            return
        damaged = [
            path
            for step, entry in kept.items()
            for folder, digest_of in FOLDERS.items()
            if not is_whole(path := step_path(self.output, folder, step), entry[digest_of])
        ]
        if not self._first_is_whole(kept[min(kept)]["tensor_sha256"]):
            damaged.append(self.output / FIRST)
        if damaged:
            raise OutputError(
                f"{damaged[0]} is damaged or missing, and a step of a training that has gone on "
                f"cannot be measured again; give another output folder, or remove {self.output}"
            )

    def _other(self, difference: str) -> MismatchError:
        return MismatchError(
            f"{self.output} holds the run of another training ({difference}); give another output "
            "folder, or remove that one"
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
