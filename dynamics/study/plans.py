"""What studies of several runs will do and cost, before they do it."""

from dataclasses import dataclass
from typing import Any

from dynamics import steps as step_language
from dynamics.checkpoints.opening import open_any
from dynamics.config import StudySettings
from dynamics.importance.importances import forwards_per_context
from dynamics.study.settings import ArmsStudy, SeriesStudy
from dynamics.study.single import live_settings
from dynamics.tracking.cost import TrackCost, track_cost
from dynamics.training.prepare import schedule


@dataclass(frozen=True)
class ArmsPlan:
    """What a study of arms will do, over all of its runs.

    Attributes:
        name: Of the study.
        arms: Names of the arms, each with what it changes.
        seeds: Seeds of every arm.
        runs: Trainings.
        steps: Optimizer steps.
        tokens: Positions fed in training.
        checkpoints: Checkpoints that are tracked.
        live_checkpoints: Those of them whose models are run.
        forwards: Forward passes over contexts of `context_length` tokens for importances, at most;
            surgery and agreement come on top.
        context_length: Tokens of a context.
    """

    name: str
    arms: dict[str, dict[str, Any]]
    seeds: list[int]
    runs: int
    steps: int
    tokens: int
    checkpoints: int
    live_checkpoints: int
    forwards: int
    context_length: int

    def describe(self) -> str:
        """The plan for people."""
        width = max(map(len, self.arms))
        changes = [
            f"  {arm:{width}}  " + ", ".join(f"{key}={value}" for key, value in keys.items())
            for arm, keys in self.arms.items()
        ]
        return "\n".join(
            [
                f"{self.name}: {len(self.arms)} arms of {len(self.seeds)} seeds "
                f"({', '.join(map(str, self.seeds))}), {self.runs} trainings",
                *(line.rstrip() for line in changes),
                f"{self.steps:,} steps, {self.tokens:,} tokens, {self.checkpoints:,} checkpoints",
                f"{self.live_checkpoints:,} models to run, {self.forwards:,} forward passes of "
                f"{self.context_length} tokens for importances, at most",
            ]
        )


@dataclass(frozen=True)
class SeriesPlan:
    """What tracking the series of a study will read.

    Attributes:
        name: Of the study.
        series: What each costs, by name.
    """

    name: str
    series: dict[str, TrackCost]

    def describe(self) -> str:
        """The plan for people."""
        total = sum(each.checkpoints * each.bytes_per_checkpoint for each in self.series.values())
        each = "\n".join(cost.describe() for cost in self.series.values())
        return f"{each}\n{self.name}: {len(self.series)} series, {total / 1e9:,.2f} GB in all"


def plan_arms(study: ArmsStudy) -> ArmsPlan:
    """What a study of arms will do; nothing is read or trained.

    Raises:
        ConfigError: A step of a schedule lies beyond the training.
    """
    settings = [study.settings(arm, seed) for arm in study.arms for seed in study.seeds]
    trainings = [each.training for each in settings]
    kept = [sorted(whole + rows) for whole, rows in map(schedule, settings)]
    live = [_live_models(each, steps) for each, steps in zip(settings, kept, strict=True)]
    return ArmsPlan(
        name=study.name,
        arms=study.arms,
        seeds=study.seeds,
        runs=len(settings),
        steps=sum(each.steps for each in trainings),
        tokens=sum(each.steps * each.batch_size * each.sequence_length for each in trainings),
        checkpoints=sum(map(len, kept)),
        live_checkpoints=sum(live),
        forwards=sum(models * _forwards(each) for each, models in zip(settings, live, strict=True)),
        context_length=settings[0].tracking.context_length,
    )


def plan_series(study: SeriesStudy) -> SeriesPlan:
    """What a study of series will read; of each the index of its last step is read for it.

    Raises:
        CheckpointError: A series does not exist or cannot be read.
        StepError: A step does not exist.
    """
    costs = {name: track_cost(open_any(name), study.steps) for name in study.series}
    return SeriesPlan(study.name, costs)


def _live_models(settings: StudySettings, kept: list[int]) -> int:
    """How many models of a training are run: at those of the kept steps that are asked for."""
    live = live_settings(settings)
    if live is None:
        return 0
    whole, _ = schedule(settings)
    return len(set(step_language.parse(live.steps).select(kept)) & set(whole))


def _forwards(settings: StudySettings) -> int:
    """Forward passes over contexts that the importances of one model take."""
    live = live_settings(settings)
    if live is None or not live.importance:
        return 0
    passes = forwards_per_context(live.importance, live.probes.length)
    return live.probes.most_tokens * live.probes.contexts * passes
