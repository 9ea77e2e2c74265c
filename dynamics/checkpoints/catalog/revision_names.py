"""Steps parsed from the names of branches, tags, commits and repositories.

Names are parsed, never constructed: one family rounds the tokens in a name up, another down, and
in a third they drift.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cache

from dynamics.errors import StepError
from dynamics.steps import parse

_RANGE = re.compile(r"(\d+)\.\.(\d+)/(\d+)")
_BILLION = 10**9


@dataclass(frozen=True)
class RevisionName:
    """Content of a checkpoint's name.

    Attributes:
        name: The name.
        step: Training steps taken, within the stage where every stage counts from 0.
        tokens_seen: Tokens trained on up to this step, None when unknown.
        tokens_rounded: Whether `tokens_seen` is the rounded number in the name.
        stage: Stage of the training, None when the name has none.
        seed: Seed of the training, None when the name has none.
    """

    name: str
    step: int
    tokens_seen: int | None = None
    tokens_rounded: bool = False
    stage: str | None = None
    seed: str | None = None


def parse_name(name: str, patterns: Iterable[str], step_unit: int = 1) -> RevisionName | None:
    r"""Parse a name by the first pattern that fits all of it; None when no pattern fits.

    Args:
        name: The name.
        patterns: Regular expressions with a group `step`, and groups `tokens` (in billions, or in
            trillions where a group `unit` is T), `stage` and `seed` where names have them.
        step_unit: Training steps per step in a name: 1000 where names count thousands.

    Example:
        >>> parsed = parse_name("step-50K-105b", [r"step-(?P<step>\d+)K-(?P<tokens>\d+)b"], 1000)
        >>> parsed.step, parsed.tokens_seen
        (50000, 105000000000)
    """
    for pattern in patterns:
        if match := re.fullmatch(pattern, name):
            groups = match.groupdict()
            label = groups.get("tokens")
            unit = _BILLION * (1000 if groups.get("unit") in ("T", "t") else 1)
            return RevisionName(
                name=name,
                step=int(groups["step"]) * step_unit,
                tokens_seen=int(Decimal(label) * unit) if label else None,
                tokens_rounded=label is not None,
                stage=groups.get("stage"),
                seed=groups.get("seed"),
            )
    return None


def with_tokens(
    revision_name: RevisionName, per_step: int | Mapping[int, int] | None, first: int = 0
) -> RevisionName:
    """Return the name with tokens computed from its step; unchanged without `per_step`.

    Args:
        revision_name: The parsed name.
        per_step: Tokens per step; where they change, by the step from which they hold.
        first: Tokens seen at step 0.
    """
    if per_step is None:
        return revision_name
    tokens_seen = tokens_at(revision_name.step, per_step, first)
    return replace(revision_name, tokens_seen=tokens_seen, tokens_rounded=False)


def tokens_at(step: int, per_step: int | Mapping[int, int], first: int = 0) -> int:
    """Return the tokens seen up to a step.

    Example:
        >>> tokens_at(15, {0: 100, 10: 200})
        2000
    """
    spans = {0: per_step} if isinstance(per_step, int) else per_step
    ends = [*sorted(spans)[1:], step]
    return first + sum(
        tokens * max(0, min(end, step) - start)
        for (start, tokens), end in zip(sorted(spans.items()), ends, strict=True)
    )


def index_by_step(names: Iterable[RevisionName]) -> dict[int, RevisionName]:
    """Return names by step, ascending.

    Raises:
        StepError: Two names are of one step.
    """
    steps: dict[int, RevisionName] = {}
    for name in sorted(names, key=lambda name: (name.step, name.name)):
        if (rival := steps.get(name.step)) is not None:
            stages = sorted({str(rival.stage), str(name.stage)})
            hint = f"choose the stage, {' or '.join(stages)}" if len(stages) > 1 else "keep one"
            raise StepError(f"{rival.name!r} and {name.name!r} are both step {name.step}; {hint}")
        steps[name.step] = name
    return steps


def is_selected(value: str | None, requested: str | None, default: Collection[str] | None) -> bool:
    """Return whether a stage or seed is the requested one, else absent or a default one."""
    if requested is not None:
        return value == requested
    return value is None or default is None or value in default


@cache
def expand_steps(rule: str, last: int | None) -> tuple[int, ...]:
    """Return the steps that a rule of the catalog stands for, ascending.

    Args:
        rule: In the step language, with ranges `FIRST..LAST/INTERVAL` beside it.
        last: Last step of the series, which patterns need.

    Raises:
        StepError: The rule is malformed, or has a pattern but no last step.

    Example:
        >>> expand_steps("log2(4)+10..30/10", 143000)
        (0, 1, 2, 4, 10, 20, 30)
    """
    steps: set[int] = set()
    for term in re.split(r"[+,]", rule.replace(" ", "")):
        if match := _RANGE.fullmatch(term):
            first, end, interval = map(int, match.groups())
            steps.update(range(first, end + 1, interval))
            continue
        parsed = parse(term)
        steps.update(parsed.numbers)
        if not parsed.numbers:
            if last is None:
                raise StepError(f"{rule!r}: {term!r} needs the last step, which is not known")
            steps.update(parsed.select(range(last + 1)))
    return tuple(sorted(steps))
