"""The judgement of a study: its claims file, the arms judged, their verdicts, and its record.

The record, `verdicts.json` in the folder of the study, keeps the digests of the claims files that
the runs were judged by, so that a file that was changed after a judgement is reported.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from dynamics.errors import OutputError, first_problem
from dynamics.files import write_json
from dynamics.runs.compare import Arm
from dynamics.verdicts.claims import ClaimsFile
from dynamics.verdicts.judge import Verdict, judge
from dynamics.verdicts.same_training import CountedOnce, counted_once

VERDICTS_JSON = "verdicts.json"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ClaimsRecord(_Record):
    """A claims file: its name, its date and the SHA-256 of its bytes."""

    name: str
    stated: str
    sha256: str


class EstimateRecord(_Record):
    """Mean over n seeds and its interval; None where there is none."""

    value: float | None
    low: float | None
    high: float | None
    n: int


class VerdictRecord(_Record):
    """One verdict: the claim's sentence, the arms that it is about, and their numbers."""

    claim: str
    arms: list[str]
    estimates: list[EstimateRecord]
    verdict: str


class VerdictsRecord(_Record):
    """Contents of `verdicts.json`.

    Attributes:
        claims: The claims file of the verdicts.
        earlier: Other claims files that runs in this folder were judged by before, oldest first.
        verdicts: The verdicts.
    """

    claims: ClaimsRecord
    earlier: list[ClaimsRecord]
    verdicts: list[VerdictRecord]


@dataclass(frozen=True, eq=False)
class Judgement:
    """Verdicts on the claims of a file, and what they are about.

    Attributes:
        file: The claims file.
        verdicts: The verdicts, in the order of the claims.
        counted_once: Groups of several arms that are nearly one training.
        other_rule: Arms that are not judged, because they are under another vocabulary rule than
            the claims.
        earlier: Other claims files that these runs were judged by before, oldest first.
    """

    file: ClaimsFile
    verdicts: tuple[Verdict, ...]
    counted_once: tuple[CountedOnce, ...]
    other_rule: tuple[Arm, ...]
    earlier: tuple[ClaimsRecord, ...] = ()

    @property
    def change(self) -> str | None:
        """Sentence on other claims that these runs were judged by before; None without any."""
        if not self.earlier:
            return None
        before = ", ".join(f"{claims.name}, SHA-256 {claims.sha256}" for claims in self.earlier)
        return (
            f"The claims have changed since these runs were first judged: before {before}; now "
            f"{self.file.name}, SHA-256 {self.file.sha256}."
        )

    @property
    def record(self) -> VerdictsRecord:
        """Contents of `verdicts.json`."""
        return VerdictsRecord(
            claims=_claims_record(self.file),
            earlier=list(self.earlier),
            verdicts=[
                VerdictRecord(
                    claim=verdict.claim.name,
                    arms=[arm.name for arm in verdict.arms],
                    estimates=[
                        EstimateRecord(
                            value=_number(estimate.value),
                            low=_number(estimate.low),
                            high=_number(estimate.high),
                            n=int(estimate.n),
                        )
                        for estimate in verdict.estimates
                    ],
                    verdict=verdict.verdict,
                )
                for verdict in self.verdicts
            ],
        )


def judge_study(
    arms: Sequence[Arm],
    file: ClaimsFile,
    *,
    counts_with: Mapping[str, str] | None = None,
    previous: VerdictsRecord | None = None,
) -> Judgement:
    """Judge the arms of a study by a claims file.

    Args:
        arms: The arms.
        file: The claims file.
        counts_with: Name of the arm that an arm counts with, by name.
        previous: Record of an earlier judgement of the same runs.
    """
    contents = file.contents
    judged = [
        arm
        for arm in arms
        if contents.rule is None or all(str(run.rule) == contents.rule for run in arm.runs)
    ]
    groups = counted_once(judged, contents.claims, counts_with)
    before = [] if previous is None else [*previous.earlier, previous.claims]
    earlier = {record.sha256: record for record in before if record.sha256 != file.sha256}
    return Judgement(
        file,
        tuple(judge(judged, contents.claims, [group.arms for group in groups])),
        tuple(group for group in groups if len(group.arms) > 1),
        tuple(arm for arm in arms if arm not in judged),
        tuple(earlier.values()),
    )


def read_verdicts(folder: Path) -> VerdictsRecord | None:
    """Return the record of an earlier judgement of the runs in a folder; None if there is none.

    Raises:
        OutputError: `verdicts.json` is damaged.
    """
    path = folder / VERDICTS_JSON
    if not path.exists():
        return None
    try:
        return VerdictsRecord.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise OutputError(
            f"{path} is no record of verdicts ({first_problem(error)}); restore it, or remove it "
            "and with it the digests of the claims that these runs were judged by"
        ) from error


def write_verdicts(folder: Path, judgement: Judgement) -> None:
    """Write `verdicts.json` into the folder of a study; equal judgements give equal bytes."""
    write_json(folder / VERDICTS_JSON, judgement.record.model_dump(mode="json"))


def _claims_record(file: ClaimsFile) -> ClaimsRecord:
    """Name, date and digest of a claims file."""
    return ClaimsRecord(name=file.name, stated=str(file.contents.stated), sha256=file.sha256)


def _number(value: Any) -> float | None:
    """Return a number as JSON has it; None for NaN and infinities."""
    return float(value) if math.isfinite(value) else None
