"""The checks of an audit: from facts about a series to findings, nothing is read here.

A check takes the facts and what the checks before it found. Near equality is never held against a
step: storage in float16 makes early steps nearly equal. Only equality and leaving the course are.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from dynamics.audit.facts import ROLES, VECTORS, Block, CheckpointFacts, SeriesFacts
from dynamics.audit.finding import Finding, name_rows, name_steps
from dynamics.audit.known_defects import known_defects
from dynamics.audit.repetitions import repeated
from dynamics.checkpoints.architectures import Role
from dynamics.statistics.jumps import Jump, find_jumps

_ROWS = 100  # ids of rows that a finding keeps

Check = Callable[[SeriesFacts, Sequence[Finding]], Iterable[Finding]]


def passed_over(facts: SeriesFacts, found: Sequence[Finding]) -> Iterator[Finding]:
    """What lies in the place of the series and is no step of it."""
    for note in facts.notes:
        yield Finding("names", "note", (), note)


def missing(facts: SeriesFacts, found: Sequence[Finding]) -> Iterator[Finding]:
    """Steps that should be there and are not, or that hold nothing readable."""
    if absent := sorted({*facts.wanted} - {*facts.existing}):
        message = f"{len(absent)} of {len(facts.wanted)} steps do not exist"
        yield Finding("missing", "wrong", tuple(absent), message)
    for each in facts.checkpoints:
        if each.unreachable:
            yield Finding("unreachable", "wrong", (each.step,), each.problem or "")
        elif each.problem is not None:
            yield Finding("unreadable", "wrong", (each.step,), each.problem, flagged=(each.step,))
    count = None if facts.known is None else facts.known.expected_count
    if count is not None and len(facts.existing) < count:
        message = f"{len(facts.existing)} checkpoints exist, the catalog says {count}"
        yield Finding("missing", "note", (), message)
    if gaps := sorted({*regular_gaps(facts.existing)} - {*absent}):
        message = "the schedule is regular, but for these steps"
        yield Finding("missing", "note", tuple(gaps), message)


def not_finite(facts: SeriesFacts, found: Sequence[Finding]) -> Iterator[Finding]:
    """Rows and vectors that hold NaN or infinity, of those read."""
    for each in facts.checkpoints:
        for role, tensor in each.tensors.items():
            if rows := tensor.not_finite:
                what = "rows" if role in ROLES else "elements"
                first, end = tensor.rows_read or (0, tensor.shape[0])
                message = (
                    f"{len(rows):,} of {end - first:,} {what} read hold NaN or infinity "
                    f"({name_rows(rows)})"
                )
                yield Finding(
                    "not finite",
                    "wrong",
                    (each.step,),
                    message,
                    role,
                    (each.step,),
                    rows=rows[:_ROWS],
                )


def main_is_last(facts: SeriesFacts, found: Sequence[Finding]) -> Iterator[Finding]:
    """Whether the branch main holds the last step."""
    main = facts.main
    if main is None:
        return
    if main.problem is not None:
        yield Finding("main", "note", (), f"main cannot be compared: {main.problem}")
        return
    last = facts.last.step if facts.known is None else (facts.known.main or facts.last.step)
    by_step = {each.step: each for each in facts.read}
    if last not in by_step:
        return
    for role in facts.roles:
        if main.payload(role) in (None, by_step[last].payload(role)) or by_step[last].broken(role):
            continue
        same = [step for step in by_step if by_step[step].payload(role) == main.payload(role)]
        if same:
            message = f"main holds what step {name_steps(same)} holds, not the last step, {last}"
            flagged = tuple(same) if facts.known is not None else ()  # it says main is the last
            yield Finding("main", "wrong", tuple(same), message, role, flagged)
        elif facts.level == "none":
            message = (
                f"the file of main is not that of step {last}; `--tensors rows` tells whether the "
                "embeddings differ"
            )
            yield Finding("main", "note", (last,), message, role)
        else:
            severity = "note" if facts.known is None else "wrong"
            message = f"main holds neither step {last} nor any other step looked at"
            yield Finding("main", severity, (last,), message, role)


def changed(facts: SeriesFacts, found: Sequence[Finding]) -> Iterator[Finding]:
    """Tensors that are not there, or of another shape, dtype or model type, than at most steps."""
    readable = [each for each in facts.checkpoints if each.problem is None]
    for other, usual, most, steps in _others(
        {e.step: e.model_type for e in readable if e.model_type}
    ):
        message = f"config.json calls the architecture {other!r}, {most} {usual!r}"
        yield Finding("changed", "wrong", steps, message, flagged=steps)
    roles: list[Role] = [*facts.roles, *VECTORS]
    for role in roles:
        for what in ("shape", "dtype") if role in ROLES else ("shape",):
            said = {each.step: _said(each, role, what) for each in readable}
            for other, usual, most, steps in _others(said):
                if what == "dtype" and other == "none":
                    continue  # told of its shape
                message = f"the {what} is {other}, {most} {usual}"
                if "none" in (other, usual):
                    message = f"there is {_one(other)}, {most} there is {_one(usual)}"
                flagged = steps if what == "shape" else ()
                yield Finding("changed", "wrong", steps, message, role, flagged)


def _others(said: Mapping[int, str]) -> Iterator[tuple[str, str, str, tuple[int, ...]]]:
    """What some steps say and most do not: it, what most say, how many those are, and the steps."""
    if not said:
        return
    usual, count = Counter(said.values()).most_common(1)[0]  # of equally many the first
    most = "at most steps" if 2 * count > len(said) else f"at {count} others"
    for other in sorted({*said.values()} - {usual}):
        yield other, usual, most, tuple(step for step in said if said[step] == other)


def rows(facts: SeriesFacts, found: Sequence[Finding]) -> Iterator[Finding]:
    """Rows that are more or fewer than the tokenizer has entries, or than the catalog says."""
    shapes = Counter(
        each.tensors[role].shape
        for each in facts.checkpoints
        for role in facts.roles
        if role in each.tensors
    )
    if not shapes:
        return
    count, size = shapes.most_common(1)[0][0][0], facts.tokenizer_size
    if facts.known is not None and facts.known.rows not in (None, count):
        message = f"{count:,} rows, the catalog says {facts.known.rows:,}"
        yield Finding("rows", "note", (), message)
    if size is not None and count > size:
        message = (
            f"{count - size:,} of {count:,} rows are padding: the tokenizer has {size:,} entries"
        )
        yield Finding("rows", "note", (), message)
    if size is not None and count < size:
        message = f"{count:,} rows, but the tokenizer has {size:,} entries"
        yield Finding("rows", "wrong" if facts.known is None else "note", (), message)


def jumps(facts: SeriesFacts, found: Sequence[Finding]) -> Iterator[Finding]:
    """Steps far off the course of the others, and places where the course breaks."""
    doubtful = {step for finding in found for step in finding.flagged}
    for role in facts.roles:
        course: dict[int, Block] = {}
        before = None
        for each in facts.checkpoints:
            block = each.block(role)
            if block is not None and each.step not in doubtful and block.digest != before:
                course[each.step], before = block, block.digest
        if course:
            points = np.stack([block.sketch for block in course.values()])
            for jump in find_jumps(list(course), points):
                about = jump.steps or (jump.at,)
                yield Finding("jump", "wrong", about, _told(jump, course), role, jump.steps)


def files(facts: SeriesFacts, found: Sequence[Finding]) -> Iterator[Finding]:
    """What a reader of the numbers should know of the files of checkpoints, each note once."""
    steps_by_note: dict[str, list[int]] = defaultdict(list)
    for checkpoint in facts.checkpoints:
        for note in checkpoint.notes:
            steps_by_note[note].append(checkpoint.step)
    for note, steps in steps_by_note.items():
        yield Finding("files", "note", tuple(steps), note)


def comparable(facts: SeriesFacts, found: Sequence[Finding]) -> Iterator[Finding]:
    """Steps of which nothing tells whether they repeat others."""
    untold = [
        each.step
        for each in facts.checkpoints
        if any(
            each.payload(role) is None and not each.tensors[role].not_finite
            for role in facts.roles
            if role in each.tensors
        )
    ]
    if untold:
        message = "no hash is told, so that repetitions are not seen; `--tensors rows` sees them"
        yield Finding("not compared", "note", tuple(untold), message)


CHECKS: dict[str, Check] = {
    "names": passed_over,
    "missing": missing,
    "not finite": not_finite,
    "repeated": repeated,
    "main": main_is_last,
    "changed": changed,
    "rows": rows,
    "jumps": jumps,
    "files": files,
    "comparable": comparable,
    "known defects": known_defects,
}


def run_checks(facts: SeriesFacts) -> list[Finding]:
    """Every finding; what holds for all embeddings alike is told once."""
    found: list[Finding] = []
    for check in CHECKS.values():
        found += _merged(list(check(facts, found)), facts)
    return found


def regular_gaps(steps: Sequence[int]) -> list[int]:
    """Steps left out of a schedule that is regular before and after them.

    Example:
        >>> regular_gaps([0, 1, 2, 4, 16, 32, 64, 100, 200, 400, 500])
        [8, 300]
    """
    gaps: list[int] = []
    distances = np.diff(steps).tolist()
    for at in range(1, len(distances) - 1):
        interval = distances[at - 1]
        if interval == distances[at + 1] and distances[at] % interval == 0:
            gaps += range(steps[at] + interval, steps[at + 1], interval)
    powers = {step for step in steps if step > 0 and step & (step - 1) == 0}
    lengths = range(min(powers, default=1).bit_length(), max(powers, default=1).bit_length())
    absent = {1 << length for length in lengths} - powers
    return sorted({*gaps, *(absent if 3 * len(absent) < len(powers) else ())})


def _one(shape: str) -> str:
    return "none" if shape == "none" else f"one of shape {shape}"


def _said(each: CheckpointFacts, role: Role, what: str) -> str:
    tensor = each.tensors.get(role)
    if tensor is None:
        return "none"
    return "x".join(map(str, tensor.shape)) if what == "shape" else tensor.dtype


def _told(jump: Jump, course: Mapping[int, Block]) -> str:
    steps = list(course)
    at = steps.index(jump.at)
    norms = [f"{course[step].mean_norm:.4g} at {step}" for step in steps[at - 1 : at + 2]]
    if jump.kind == "detour":
        what = f"off the course: the way over it is {jump.ratio:.3g} times the direct one"
    else:
        what = (
            f"the course breaks from step {steps[at - 1]} to {jump.at}: {jump.ratio:.3g} times as "
            "far as the steps around allow"
        )
    return f"{what} (mean norm {', '.join(norms)})"


def _merged(findings: Sequence[Finding], facts: SeriesFacts) -> Iterator[Finding]:
    """The same findings, those alike for every role as one."""
    alike: dict[tuple[object, ...], list[Finding]] = defaultdict(list)
    for each in findings:
        key = (each.kind, each.severity, each.steps, each.flagged, each.link, each.rows)
        alike[key].append(each)
    for same in alike.values():
        if {each.role for each in same} == {*facts.roles} and len(same) > 1:
            yield replace(same[0], role=None)
        else:
            yield from same
