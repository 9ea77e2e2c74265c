"""Plans of studies of several runs: their trainings, checkpoints and costs."""

from dataclasses import dataclass
from typing import Any

from dynamics import steps as step_language
from dynamics.checkpoints.opening import open_any
from dynamics.config import StudySettings
from dynamics.importance.importances import forwards_per_context
from dynamics.study.settings import ArmsStudy, SeriesStudy
from dynamics.study.single import check_tracking
from dynamics.tracking.cost import TrackCost, track_cost
from dynamics.training.prepare import schedule


@dataclass(frozen=True)
class ArmsPlan:
    """Totals of a study of arms, over all of its runs.

    Attributes:
        name: Name of the study.
        arms: The settings that each arm changes, by its name.
        seeds: Seeds of every arm.
        runs: Number of trainings.
        steps: Optimizer steps.
        tokens: Positions fed in training.
        checkpoints: Checkpoints that are tracked.
        live_checkpoints: Checkpoints among them whose models are run.
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
        """Return the plan as text for a terminal."""
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
    """Costs of tracking the series of a study.

    Attributes:
        name: Name of the study.
        series: Cost of each series, by name.
    """

    name: str
    series: dict[str, TrackCost]

    def describe(self) -> str:
        """Return the plan as text for a terminal."""
        costs = self.series.values()
        total = sum(cost.checkpoints * cost.bytes_per_checkpoint for cost in costs)
        descriptions = "\n".join(cost.describe() for cost in costs)
        return (
            f"{descriptions}\n{self.name}: {len(self.series)} series, {total / 1e9:,.2f} GB in all"
        )


def plan_arms(study: ArmsStudy) -> ArmsPlan:
    """Count what a study of arms will train, save and run; nothing is read or trained.

    Raises:
        ConfigError: A step of a schedule of checkpoints lies beyond the training.
    """
    runs = [study.settings(arm, seed) for arm in study.arms for seed in study.seeds]
    trainings = [run.training for run in runs]
    saved_steps = [sorted(models + rows) for models, rows in map(schedule, runs)]
    live = [_live_models(run, steps) for run, steps in zip(runs, saved_steps, strict=True)]
    return ArmsPlan(
        name=study.name,
        arms=study.arms,
        seeds=study.seeds,
        runs=len(runs),
        steps=sum(training.steps for training in trainings),
        tokens=sum(t.steps * t.batch_size * t.sequence_length for t in trainings),
        checkpoints=sum(map(len, saved_steps)),
        live_checkpoints=sum(live),
        forwards=sum(models * _forwards(run) for run, models in zip(runs, live, strict=True)),
        context_length=runs[0].tracking.context_length,
    )


def plan_series(study: SeriesStudy) -> SeriesPlan:
    """Plan a study of series; reads the index of the last step of each.

    Raises:
        CheckpointError: A series does not exist or cannot be read.
        StepError: A step does not exist.
    """
    costs = {name: track_cost(open_any(name), study.steps) for name in study.series}
    return SeriesPlan(study.name, costs)


def _live_models(settings: StudySettings, saved_steps: list[int]) -> int:
    """Count the models of a training that are run: the selected steps with whole models."""
    check_tracking(settings)
    if not settings.tracking.runs_models:
        return 0
    model_steps, _ = schedule(settings)
    selected_steps = step_language.parse(settings.tracking.live_steps).select(saved_steps)
    return len(set(selected_steps) & set(model_steps))


def _forwards(settings: StudySettings) -> int:
    """Count the forward passes over contexts for the importances of one model."""
    tracking = settings.tracking
    if not tracking.importance:
        return 0
    passes = forwards_per_context(tracking.importance, tracking.context_length)
    return tracking.most_tokens * tracking.contexts * passes
