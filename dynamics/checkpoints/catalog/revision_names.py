"""Steps told from names that exist: branches, tags, titles of commits, repositories.

Names are parsed, never constructed: tokens in a label are rounded up by one family, down by another
and drift in a third.
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
    """What the name of a checkpoint says.

    Attributes:
        name: The name.
        step: Training steps taken, of the stage where stages count their own.
        tokens_seen: Tokens trained on up to this step, None when unknown.
        tokens_rounded: Whether `tokens_seen` is no more than the label of the name.
        stage: Stage of the training, where the name tells.
        seed: Seed of the training, where the name tells.
    """

    name: str
    step: int
    tokens_seen: int | None = None
    tokens_rounded: bool = False
    stage: str | None = None
    seed: str | None = None


def parse_name(name: str, patterns: Iterable[str], step_unit: int = 1) -> RevisionName | None:
    r"""What a name says by the first pattern that fits all of it; None when none does.

    Args:
        name: The name.
        patterns: Regular expressions with a group `step`, and groups `tokens` (in billions, or in
            trillions where a group `unit` is T), `stage` and `seed` where names tell.
        step_unit: What a step in a name stands for: 1000 where names count thousands.

    Example:
        >>> found = parse_name("step-50K-105b", [r"step-(?P<step>\d+)K-(?P<tokens>\d+)b"], 1000)
        >>> found.step, found.tokens_seen
        (50000, 105000000000)
    """
    for pattern in patterns:
        if match := re.fullmatch(pattern, name):
            said = match.groupdict()
            label = said.get("tokens")
            unit = _BILLION * (1000 if said.get("unit") in ("T", "t") else 1)
            return RevisionName(
                name=name,
                step=int(said["step"]) * step_unit,
                tokens_seen=int(Decimal(label) * unit) if label else None,
                tokens_rounded=label is not None,
                stage=said.get("stage"),
                seed=said.get("seed"),
            )
    return None


def with_tokens(
    found: RevisionName, per_step: int | Mapping[int, int] | None, first: int = 0
) -> RevisionName:
    """The same with tokens counted from its step, where it is known how many a step sees.

    Args:
        found: What a name says.
        per_step: Tokens per step; by the step from which they hold, where they change.
        first: Tokens seen at step 0.
    """
    if per_step is None:
        return found
    return replace(found, tokens_seen=tokens_at(found.step, per_step, first), tokens_rounded=False)


def tokens_at(step: int, per_step: int | Mapping[int, int], first: int = 0) -> int:
    """Tokens seen up to a step.

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


def one_per_step(found: Iterable[RevisionName]) -> dict[int, RevisionName]:
    """By step, ascending.

    Raises:
        StepError: Two names are of one step.
    """
    steps: dict[int, RevisionName] = {}
    for each in sorted(found, key=lambda name: (name.step, name.name)):
        if (other := steps.get(each.step)) is not None:
            stages = sorted({str(name.stage) for name in (other, each)})
            hint = f"choose the stage, {' or '.join(stages)}" if len(stages) > 1 else "keep one"
            raise StepError(f"{other.name!r} and {each.name!r} are both step {each.step}; {hint}")
        steps[each.step] = each
    return steps


def is_chosen(found: str | None, wanted: str | None, default: Collection[str] | None) -> bool:
    """Whether a name is meant by its stage or seed: the wanted one, else none or a default one."""
    if wanted is not None:
        return found == wanted
    return found is None or default is None or found in default


@cache
def expand_steps(rule: str, last: int | None) -> tuple[int, ...]:
    """Steps that a rule of the catalog means, ascending.

    Args:
        rule: In the step language, with ranges `FIRST..LAST/INTERVAL` beside it.
        last: Last step there is, which patterns need.

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
