"""Settings of studies of several runs: trainings of several arms and seeds, or public series.

The keys of a file determine its kind of study: `arms`, `series`, or those of one training.
"""

import copy
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from dynamics.config import StudySettings
from dynamics.configurations import configuration_file
from dynamics.errors import did_you_mean
from dynamics.measure_groups import DEFAULT_GROUPS, MeasureGroups
from dynamics.settings_files import (
    Settings,
    StepExpression,
    parse_override,
    read_yaml,
    set_key,
    validate,
)

Name = Annotated[str, Field(pattern=r"^[\w-][\w.-]*$")]  # no dots alone: it names a folder


class ArmsStudy(Settings):
    """Trainings of several recipes, each with the same seeds.

    Attributes:
        name: Name of the study, and of its default output folder `runs/NAME`.
        seeds: Seeds of every arm.
        base: Settings of a training, without name and seed, that the arms share; inline, or the
            path of a YAML file relative to the study's.
        arms: The settings that each arm changes, by dotted key: `{training.optimizer: sgd}`.
        claims: Claims that the runs are judged by: the name of a list that comes with the program,
            or a YAML file, relative to the study's; by default the current list.
        counts_with: Arms that are nearly the training of another arm, with the name of that one:
            `{no-decay: decay}`. Verdicts count such arms once.
    """

    name: Name
    seeds: list[Annotated[int, Field(ge=0)]] = Field(min_length=1)
    base: dict[str, Any]
    arms: dict[Name, dict[str, Any]] = Field(min_length=1)
    claims: str | None = None
    counts_with: dict[Name, Name] = Field(default_factory=dict)

    @field_validator("base")
    @classmethod
    def _shared(cls, base: dict[str, Any]) -> dict[str, Any]:
        for key in base.keys() & {"name", "seed"}:
            raise ValueError(f"{key!r} is not shared: arms give the names, 'seeds' the seeds")
        return base

    @field_validator("seeds")
    @classmethod
    def _differ(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds):
            raise ValueError("a seed is given twice")
        return seeds

    @model_validator(mode="after")
    def _counted_arms_exist(self) -> "ArmsStudy":
        for arm, other in self.counts_with.items():
            for name in (arm, other):
                if name not in self.arms:
                    raise ValueError(
                        f"counts_with: there is no arm {name!r}; {did_you_mean(name, self.arms)}"
                    )
            if other in self.counts_with:
                raise ValueError(
                    f"counts_with: {other!r} counts with {self.counts_with[other]!r} itself; name "
                    f"that one for {arm!r} too"
                )
        return self

    def settings(self, arm: str, seed: int) -> StudySettings:
        """Return the settings of the training of one arm and seed, named after the arm.

        Raises:
            ConfigError: A key is unknown or of the wrong type; the message names the arm.
        """
        content = copy.deepcopy(self.base)
        for key, value in self.arms[arm].items():
            set_key(content, key, value)
        return validate(StudySettings, content | {"name": arm, "seed": seed}, f"arm {arm}")


class SeriesStudy(Settings):
    """Public series that are tracked and compared.

    Attributes:
        name: Name of the study, and of its default output folder `runs/NAME`.
        series: Names of the catalog, hub repositories or folders; `{1..9}` stands for each number.
        steps: Steps to measure, in the step language.
        rule: Vocabulary rule of the main statistics.
        counts: As for `dynamics track`: `auto`, `none`, or a path.
        measures: Groups of measures of the weights, as for `dynamics track`.
        arms: Series that are seeds of one arm, by the arm's name, where their own names do not say
            so: `{pythia-70m: [pythia-70m, "pythia-70m-seed{1..9}"]}`. Series of other shapes, last
            steps or rules cannot be of one arm. The others are grouped by their names.
    """

    name: Name
    series: list[str] = Field(min_length=1)
    steps: StepExpression = "all"
    rule: str = "count>=10"
    counts: str = "auto"
    measures: MeasureGroups = Field(default_factory=lambda: list(DEFAULT_GROUPS))
    arms: dict[Name, list[str]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _arms_are_of_series(self) -> "SeriesStudy":
        named = []
        for arm, patterns in self.arms.items():
            self.arms[arm] = [name for pattern in patterns for name in _expanded(pattern)]
            for name in self.arms[arm]:
                if name not in self.series:
                    raise ValueError(
                        f"arms: {arm!r} names the series {name!r}, which is not one of the "
                        f"study's; {did_you_mean(name, self.series)}"
                    )
                if name in named:
                    raise ValueError(f"arms: the series {name!r} is given twice")
                named.append(name)
        return self

    @field_validator("series")
    @classmethod
    def _expand(cls, series: list[str]) -> list[str]:
        written_out = [name for pattern in series for name in _expanded(pattern)]
        if dots := [name for name in written_out if not run_folder(name).strip(".")]:
            raise ValueError(
                f"the series {dots[0]!r} gives the folder of its run no name; write its path as "
                f"{str(Path(dots[0]).resolve())!r}"
            )
        if doubled := [name for name in written_out if written_out.count(name) > 1]:
            raise ValueError(f"the series {doubled[0]!r} is given twice")
        return written_out


AnyStudy = StudySettings | ArmsStudy | SeriesStudy


def load_study(path: str | Path, overrides: Sequence[str] = ()) -> AnyStudy:
    """Read a study of any kind, then apply overrides of the form `key=value`.

    In a study of arms, `name`, `seeds` and `arms` belong to the study; any other key changes the
    base, so that the settings of an arm take precedence.

    Args:
        path: The file, or the name of a configuration that comes with the program.
        overrides: Settings that replace those of the file.

    Raises:
        ConfigError: The file or its claims cannot be read, or a key is unknown, doubled or of the
            wrong type; the settings of every arm are checked.
    """
    file = configuration_file(path)
    content = read_yaml(file)
    kind = next((kind for key, kind in KINDS.items() if key in content), StudySettings)
    base = _base(content, file) if kind is ArmsStudy else content
    if kind is ArmsStudy:
        _resolve_claims(content, file)
    for key, value in map(parse_override, overrides):
        of_study = kind is ArmsStudy and key in ArmsStudy.model_fields
        set_key(content if of_study else base, key, value)
    study = validate(kind, content, str(path))
    if isinstance(study, ArmsStudy):
        for arm in study.arms:
            study.settings(arm, study.seeds[0])
        if study.claims is not None:
            from dynamics.verdicts.claims import read_claims

            read_claims(study.claims)  # raises before the trainings
    return study


KINDS: dict[str, type[ArmsStudy | SeriesStudy]] = {"series": SeriesStudy, "arms": ArmsStudy}
"""Kinds of studies, by a key that only they have; the first that a file has counts."""


def run_folder(series: str) -> str:
    """Return the name of the folder of a series' run: its name or path, `--` between the parts."""
    return series.strip("/").replace("/", "--")


def _base(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the settings that arms share, read from their own file if `base` is a path."""
    base = content.setdefault("base", {})
    if isinstance(base, str):
        base = content["base"] = read_yaml(path.parent / base)
        base.pop("name", None)
        base.pop("seed", None)
    return base if isinstance(base, dict) else {}


def _resolve_claims(content: dict[str, Any], path: Path) -> None:
    """Make the path of a study's own claims relative to the study's file."""
    claims = content.get("claims")
    if isinstance(claims, str):
        from dynamics.verdicts.claims import shipped_claims

        if claims not in shipped_claims():
            content["claims"] = str(path.parent / claims)


def _expanded(pattern: str) -> Iterator[str]:
    """Yield the names that a pattern stands for: `{1..9}` is each of the numbers."""
    numbers = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if numbers is None:
        yield pattern
        return
    first, last = map(int, numbers.groups())
    for number in range(first, last + 1):
        yield from _expanded(pattern[: numbers.start()] + str(number) + pattern[numbers.end() :])
