"""The step language: expressions that select training steps, of a schedule or a series.

An expression is a union, joined by `+` or `,`, of

    all          every step
    last         the last step
    512          that step, which must exist
    log2(512)    0 and the powers of two up to 512
    every(1000)  0 and the multiples of 1000

A number must exist: a missing step is an error. `log2` and `every` are patterns: they select those
of their steps that exist.
"""

import re
from bisect import bisect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from dynamics.errors import StepError

_PATTERN = re.compile(r"(log2|every)\((\d+)\)")


# Whether a step is one of the pattern with this argument; n & (n - 1) is 0 for 0 and powers of two.
_PATTERNS: dict[str, Callable[[int, int], bool]] = {
    "log2": lambda step, limit: step <= limit and step & (step - 1) == 0,
    "every": lambda step, interval: step % interval == 0,
}


@dataclass(frozen=True)
class Steps:
    """A parsed step expression.

    Attributes:
        expression: The expression as written.
        numbers: Steps given as numbers, ascending; each must exist.
        patterns: Name and argument of each pattern, in order of appearance.
        last: Whether the last step is selected.
        all: Whether every step is selected.
    """

    expression: str
    numbers: tuple[int, ...] = ()
    patterns: tuple[tuple[str, int], ...] = ()
    last: bool = False
    all: bool = False

    def select(self, existing: Iterable[int]) -> list[int]:
        """Return the selected steps among the existing ones, ascending.

        Raises:
            StepError: A step given as a number does not exist, or nothing is selected.

        Example:
            >>> parse("0,last+log2(4)").select([0, 1, 3, 4, 9])
            [0, 1, 4, 9]
        """
        steps = sorted(set(existing))
        if missing := [step for step in self.numbers if step not in steps]:
            raise StepError(f"step {missing[0]} does not exist; {_nearest(missing[0], steps)}")
        selected = [
            step
            for step in steps
            if self.all
            or step in self.numbers
            or (self.last and step == steps[-1])
            or any(_PATTERNS[name](step, argument) for name, argument in self.patterns)
        ]
        if not selected:
            raise StepError(f"{self.expression!r} selects none of the {len(steps)} steps there are")
        return selected

    def schedule(self, last: int) -> list[int]:
        """Return the selected steps of a training of `last` steps, including 0 and `last`.

        Raises:
            StepError: A step given as a number lies beyond `last`.

        Example:
            >>> parse("log2(8)").schedule(20)
            [0, 1, 2, 4, 8, 20]
        """
        if beyond := [step for step in self.numbers if step > last]:
            raise StepError(f"step {beyond[0]} lies beyond the last step of this training, {last}")
        return sorted({0, last, *(self.select(range(last + 1)))})


def parse(expression: str) -> Steps:
    """Parse a step expression.

    Raises:
        StepError: The expression is malformed, names a number twice, or has a zero argument.

    Example:
        >>> parse("log2(512)+every(1000)").patterns
        (('log2', 512), ('every', 1000))
    """
    numbers: list[int] = []
    patterns: list[tuple[str, int]] = []
    words: set[str] = set()
    for term in re.split(r"[+,]", expression.replace(" ", "")):
        match = _PATTERN.fullmatch(term)
        if match and int(match[2]) > 0:
            patterns.append((match[1], int(match[2])))
        elif term in ("all", "last"):
            words.add(term)
        elif term.isascii() and term.isdigit():
            numbers.append(int(term))
        else:
            raise StepError(
                f"cannot read {term!r} in the steps {expression!r}; a step is a number, 'all', "
                "'last', 'log2(N)' or 'every(N)', joined by '+' or ','"
            )
    if twice := {step for step in numbers if numbers.count(step) > 1}:
        raise StepError(f"step {min(twice)} is given twice in {expression!r}")
    return Steps(
        expression, tuple(sorted(numbers)), tuple(patterns), "last" in words, "all" in words
    )


def summarize_steps(steps: Sequence[int], unit: str = "step") -> str:
    """Return in a few words how many steps there are, and the first and last of them.

    Args:
        steps: The steps, ascending.
        unit: What they count.

    Example:
        >>> summarize_steps([0, 1, 2, 400])
        '4 steps, 0 to 400'
        >>> summarize_steps([7], "epoch")
        'epoch 7'
        >>> summarize_steps([])
        'no steps'
    """
    if not steps:
        return f"no {unit}s"
    if len(steps) == 1:
        return f"{unit} {steps[0]}"
    return f"{len(steps)} {unit}s, {steps[0]} to {steps[-1]}"


def _nearest(step: int, steps: Sequence[int]) -> str:
    """Return the end of a message: the existing steps on either side of a missing one."""
    if not steps:
        return "there are no steps"
    index = bisect(steps, step)
    return f"the nearest are {' and '.join(map(str, steps[max(0, index - 1) : index + 1]))}"
