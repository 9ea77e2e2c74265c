"""Claims: ranges of quantities that were stated before a study, in dated files with a digest.

A claim names the arms it applies to, a quantity, and the two ends of the range that confirms it;
`judge` compares it with runs. The files that come with the program lie in `CLAIM_FILES`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from datetime import date
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from dynamics.config import StudySettings
from dynamics.errors import ConfigError, did_you_mean, first_problem
from dynamics.files import sha256_file
from dynamics.runs.compare import CORRELATIONS, ONSET, Arm, Quantity
from dynamics.settings_files import Settings, read_yaml, validate
from dynamics.statistics.vocabulary import parse_rule

INPUT, OUTPUT = "input_embedding_norm", "output_embedding_norm"
UNIFORM, UNIGRAM = f"{OUTPUT}_centered", f"{OUTPUT}_centered_frequency"

SAME_TOKENS = "log_slope_of_twinned"
"""The observational slope over the tokens that have a twin, which `twin_log_slope` is about."""

CLAIM_FILES = Path(__file__).parent / "claim_files"
"""Folder of the lists of claims that come with the program, each named after its date."""

CURRENT = "2026-11-27-tiny"
"""The list that a study is judged by unless it names another."""


def _as_quantity(content: Any) -> Any:
    """Return the quantity of a mapping; anything else unchanged, for pydantic to check."""
    if not isinstance(content, Mapping):
        return content
    known_keys = [field.name for field in fields(Quantity)]
    for key in content:
        if key not in known_keys:
            raise ValueError(f"unknown key {key!r}; {did_you_mean(str(key), known_keys)}")
    try:
        return TypeAdapter(Quantity).validate_python(content)
    except ValidationError as error:
        raise ValueError(first_problem(error)) from error


ClaimedQuantity = Annotated[Quantity, BeforeValidator(_as_quantity)]


class Claim(Settings):
    """An expectation about one quantity of some arms, as a range with two ends.

    A range without an end would be confirmed by an effect of another kind: that a mean takes a
    correlation away, from -.9 to +.1, by a reversal to +.7.

    Attributes:
        name: The claim as a sentence.
        expected: What was known when it was stated: sign and size in earlier runs.
        arms: Settings that a training must have for the claim to apply, by dotted key.
        quantity: The quantity that is measured.
        above: Lower end of the range that confirms the claim.
        below: Upper end.
        minus: Quantity of the same run that is subtracted.
        minus_times: Factor of the subtracted quantity.
        minus_arm: Settings changed in the arm whose quantity is subtracted.
        free: Further settings in which that arm may differ, because they go with those changed.
        centrings: True for a claim about output norms without the uniform mean that has to hold
            without the unigram mean too: one centring alone decides nothing.
        seed_sd: Standard deviation over seeds in earlier runs, on Fisher's z scale for a
            correlation; simulations of error rates use it. None where it is not known.
    """

    name: str = Field(min_length=1)
    expected: str = Field(min_length=1)
    arms: dict[str, Any] = Field(default_factory=dict)
    quantity: ClaimedQuantity
    above: float
    below: float
    minus: ClaimedQuantity | None = None
    minus_times: float = Field(default=1.0, gt=0)
    minus_arm: dict[str, Any] = Field(default_factory=dict)
    free: list[str] = Field(default_factory=list)
    centrings: bool = False
    seed_sd: float | None = Field(default=None, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _has_two_ends(cls, content: Any) -> Any:
        if isinstance(content, Mapping) and not {"above", "below"} <= content.keys():
            raise ValueError(
                "a claim needs both ends, 'above' and 'below', so that an effect of another kind "
                "cannot confirm it"
            )
        return content

    @model_validator(mode="after")
    def _fits_together(self) -> "Claim":
        if self.above >= self.below:
            raise ValueError(f"'above' {self.above:g} is not less than 'below' {self.below:g}")
        if self.on_fisher_scale and not (self.above > -1 and self.below < 1):
            raise ValueError(
                "a correlation lies between -1 and 1, and an end there or beyond excludes nothing"
            )
        if self.minus and self.minus_arm:
            raise ValueError("give either 'minus' or 'minus_arm'")
        if self.minus_times != 1 and not self.minus:
            raise ValueError("'minus_times' is a factor of 'minus', which is missing")
        if self.free and not self.minus_arm:
            raise ValueError("'free' names settings of the arm that 'minus_arm' subtracts")
        if self.centrings and self.quantity.measure != UNIFORM:
            raise ValueError(f"'centrings' is for claims about {UNIFORM}")
        for key in (*self.arms, *self.minus_arm, *self.free):
            _check_setting(key)
        return self

    def applies_to(self, arm: Arm) -> bool:
        """Return whether `dynamics` trained an arm, with the settings that the claim names."""
        named = self.arms.items()
        return bool(arm.training) and all(arm.setting(key) == value for key, value in named)

    @property
    def quantities(self) -> tuple[tuple[Quantity, Quantity | None], ...]:
        """Measured quantity and the one subtracted from it, for each centring that counts."""
        if not self.centrings:
            return ((self.quantity, self.minus),)
        return tuple(
            (_of(measure, self.quantity), self.minus and _of(measure, self.minus))
            for measure in (UNIFORM, UNIGRAM)
        )

    @property
    def width(self) -> float:
        """Width of the claimed range."""
        return self.below - self.above

    @property
    def on_fisher_scale(self) -> bool:
        """True if its mean over seeds is taken on Fisher's z scale."""
        one_correlation = self.quantity.statistic in CORRELATIONS
        return one_correlation and self.minus is None and not self.minus_arm

    @property
    def of_steps(self) -> bool:
        """True if its unit is training steps, which are known up to the next checkpoint."""
        return self.quantity.statistic.endswith(ONSET)


class ClaimList(Settings):
    """Claims that were stated on one date.

    Attributes:
        stated: The date.
        source: What they rest on, in a sentence or two.
        rule: Vocabulary rule of their statistics; arms under another are not judged. None for any.
        seen_seeds: Seeds whose runs had been looked at when the claims were stated.
        claims: The claims.
    """

    stated: Annotated[date, Field(strict=False)]
    source: str = Field(min_length=1)
    rule: str | None = None
    seen_seeds: list[int] = Field(default_factory=list)
    claims: list[Claim] = Field(min_length=1)

    @field_validator("rule")
    @classmethod
    def _is_a_rule(cls, rule: str | None) -> str | None:
        try:
            return None if rule is None else str(parse_rule(rule))
        except ConfigError as error:
            raise ValueError(str(error)) from error

    @model_validator(mode="after")
    def _distinct(self) -> "ClaimList":
        names = [claim.name for claim in self.claims]
        if doubled := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"the claim {doubled[0]!r} is given twice")
        return self


@dataclass(frozen=True)
class ClaimsFile:
    """A list of claims with the identity of its file.

    Attributes:
        name: Name of the file, without its folder.
        sha256: Digest of its bytes.
        contents: The claims, and when and from what they were stated.
    """

    name: str
    sha256: str
    contents: ClaimList


def shipped_claims() -> dict[str, Path]:
    """Return the claims files that come with the program, by their names without suffix."""
    return {path.stem: path for path in sorted(CLAIM_FILES.glob("*.yaml"))}


def read_claims(source: str | Path = CURRENT) -> ClaimsFile:
    """Read a list of claims.

    Args:
        source: Path of a YAML file, or the name of one that comes with the program.

    Raises:
        ConfigError: The file cannot be read, is history, or a key is unknown, missing or wrong; the
            message names the claim.
    """
    path = shipped_claims().get(str(source), Path(source))
    if not path.is_file():
        raise ConfigError(
            f"cannot read the claims {source}: neither a file nor a list that comes with the "
            f"program, such as {CURRENT}"
        )
    content = read_yaml(path)
    if "superseded_by" in content:
        raise ConfigError(
            f"{source} is kept as history, with claims that are withdrawn or have one end; judge "
            f"by {content['superseded_by']!r} or a list of your own"
        )
    claims = content.get("claims")
    if isinstance(claims, list):  # one by one, so that a message can name the claim
        content["claims"] = [
            validate(Claim, claim, f"{source}, {_title(number, claim)}")
            for number, claim in enumerate(claims, start=1)
        ]
    return ClaimsFile(path.name, sha256_file(path), validate(ClaimList, content, str(source)))


def _of(measure: str, quantity: Quantity) -> Quantity:
    """The same quantity of another measure."""
    return replace(quantity, measure=measure)


def _title(number: int, claim: Any) -> str:
    """Return how a message names a claim of a file: its place and its sentence."""
    name = claim.get("name") if isinstance(claim, Mapping) else None
    return f"claim {number} ({name!r})" if name else f"claim {number}"


def _check_setting(key: str) -> None:
    """Check that a dotted key is a setting of a training."""
    known_keys = list(_setting_keys(StudySettings))
    if key not in known_keys:
        raise ValueError(f"there is no setting {key!r}; {did_you_mean(key, known_keys)}")


def _setting_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield the dotted key of every setting of a model, those of groups too."""
    for name, field in model.model_fields.items():
        yield prefix + name
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from _setting_keys(kind, f"{prefix}{name}.")
