"""Checks of an audit: they turn facts about a series into findings and read no file.

A check takes the facts and the findings of the checks that ran before it. Near equality is no
finding, because storage in float16 makes early steps nearly equal; exact equality is one, and so is
a step off the trajectory.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from dynamics.audit.facts import VECTORS, Block, CheckpointFacts, SeriesFacts
from dynamics.audit.finding import Finding, name_rows, name_steps
from dynamics.audit.known_defects import known_defects
from dynamics.audit.repetitions import repeated_tensors
from dynamics.checkpoints.architectures import ROLES, Role
from dynamics.statistics.jumps import Jump, find_jumps

_ROWS = 100  # most row ids listed in one finding

Check = Callable[[SeriesFacts, Sequence[Finding]], Iterable[Finding]]


def skipped_names(facts: SeriesFacts, findings: Sequence[Finding]) -> Iterator[Finding]:
    """Files, folders or revisions beside the steps that are no step of the series."""
    for note in facts.notes:
        yield Finding("names", "note", (), note)


def missing_steps(facts: SeriesFacts, findings: Sequence[Finding]) -> Iterator[Finding]:
    """Expected steps that do not exist, and steps that cannot be read."""
    if absent := sorted({*facts.selected_steps} - {*facts.existing_steps}):
        message = f"{len(absent)} of {len(facts.selected_steps)} steps do not exist"
        yield Finding("missing", "wrong", tuple(absent), message)
    for checkpoint in facts.checkpoints:
        if checkpoint.unreachable:
            yield Finding("unreachable", "wrong", (checkpoint.step,), checkpoint.problem or "")
        elif checkpoint.problem is not None:
            step = (checkpoint.step,)
            yield Finding("unreadable", "wrong", step, checkpoint.problem, flagged=step)
    expected_count = facts.catalog_entry and facts.catalog_entry.expected_count
    existing_count = len(facts.existing_steps)
    if expected_count is not None and existing_count < expected_count:
        message = f"{existing_count} checkpoints exist, the catalog says {expected_count}"
        yield Finding("missing", "note", (), message)
    if gaps := sorted({*regular_gaps(facts.existing_steps)} - {*absent}):
        message = "the schedule is regular, but for these steps"
        yield Finding("missing", "note", tuple(gaps), message)


def non_finite_rows(facts: SeriesFacts, findings: Sequence[Finding]) -> Iterator[Finding]:
    """Rows and vector elements with NaN or infinity, among those that were read."""
    for checkpoint in facts.checkpoints:
        for role, tensor in checkpoint.tensors.items():
            if rows := tensor.not_finite:
                unit = "rows" if role in ROLES else "elements"
                start, stop = tensor.rows_read or (0, tensor.shape[0])
                message = (
                    f"{len(rows):,} of {stop - start:,} {unit} read hold NaN or infinity "
                    f"({name_rows(rows)})"
                )
                step = (checkpoint.step,)
                yield Finding("not finite", "wrong", step, message, role, step, rows=rows[:_ROWS])


def main_branch(facts: SeriesFacts, findings: Sequence[Finding]) -> Iterator[Finding]:
    """Weights of the branch main that are not those of the last step.

    The last step is that of the catalog entry, if there is one. A message names the steps whose
    weights main has. If main cannot be compared, that is a note. All checks share a signature; this
    one needs no earlier findings.
    """
    main = facts.main
    if main is None:
        return
    if main.problem is not None:
        yield Finding("main", "note", (), f"main cannot be compared: {main.problem}")
        return
    last = (facts.catalog_entry and facts.catalog_entry.main) or facts.last.step
    by_step = {checkpoint.step: checkpoint for checkpoint in facts.with_last}
    if last not in by_step:
        return
    for role in facts.roles:
        comparable = main.payload(role) is not None and not by_step[last].not_finite(role)
        if not comparable or main.payload(role) == by_step[last].payload(role):
            continue
        equal = [step for step in by_step if by_step[step].payload(role) == main.payload(role)]
        if equal:
            message = f"main holds what step {name_steps(equal)} holds, not the last step, {last}"
            # Without an entry in the catalog nothing states that main is the last step.
            flagged = tuple(equal) if facts.catalog_entry is not None else ()
            yield Finding("main", "wrong", tuple(equal), message, role, flagged)
        elif facts.level == "none":
            message = (
                f"the file of main is not that of step {last}; run with `--tensors rows` to see "
                "whether the embeddings differ"
            )
            yield Finding("main", "note", (last,), message, role)
        else:
            severity = "note" if facts.catalog_entry is None else "wrong"
            message = f"main holds neither step {last} nor any other step of this audit"
            yield Finding("main", severity, (last,), message, role)


def changed_tensors(facts: SeriesFacts, findings: Sequence[Finding]) -> Iterator[Finding]:
    """Tensors whose presence, shape, dtype or model type differs from that at most steps."""
    readable = [checkpoint for checkpoint in facts.checkpoints if checkpoint.problem is None]
    for value, usual, place, steps in _deviations(
        {checkpoint.step: checkpoint.model_type for checkpoint in readable if checkpoint.model_type}
    ):
        message = f"config.json calls the architecture {value!r}, {place} {usual!r}"
        yield Finding("changed", "wrong", steps, message, flagged=steps)
    roles: list[Role] = [*facts.roles, *VECTORS]
    for role in roles:
        for field in ("shape", "dtype") if role in ROLES else ("shape",):
            values = {
                checkpoint.step: _field_value(checkpoint, role, field) for checkpoint in readable
            }
            for value, usual, place, steps in _deviations(values):
                if field == "dtype" and value == "none":
                    continue  # the comparison of shapes reports it
                message = f"the {field} is {value}, {place} {usual}"
                if "none" in (value, usual):
                    message = f"there is {_tensor_of(value)}, {place} there is {_tensor_of(usual)}"
                flagged = steps if field == "shape" else ()
                yield Finding("changed", "wrong", steps, message, role, flagged)


def _deviations(values: Mapping[int, str]) -> Iterator[tuple[str, str, str, tuple[int, ...]]]:
    """Yield each unusual value, the usual one, where that one occurs, and the unusual steps."""
    if not values:
        return
    usual, count = Counter(values.values()).most_common(1)[0]  # on a tie, of the earliest step
    place = "at most steps" if 2 * count > len(values) else f"at {count} others"
    for value in sorted({*values.values()} - {usual}):
        yield value, usual, place, tuple(step for step in values if values[step] == value)


def rows(facts: SeriesFacts, findings: Sequence[Finding]) -> Iterator[Finding]:
    """Row counts that differ from the tokenizer's entries or from the catalog."""
    shapes = Counter(
        checkpoint.tensors[role].shape
        for checkpoint in facts.checkpoints
        for role in facts.roles
        if role in checkpoint.tensors
    )
    if not shapes:
        return
    row_count, size = shapes.most_common(1)[0][0][0], facts.tokenizer_size
    if facts.catalog_entry is not None and facts.catalog_entry.rows not in (None, row_count):
        message = f"{row_count:,} rows, the catalog says {facts.catalog_entry.rows:,}"
        yield Finding("rows", "note", (), message)
    if size is not None and row_count > size:
        message = (
            f"{row_count - size:,} of {row_count:,} rows are padding: the tokenizer has "
            f"{size:,} entries"
        )
        yield Finding("rows", "note", (), message)
    if size is not None and row_count < size:
        message = f"{row_count:,} rows, but the tokenizer has {size:,} entries"
        yield Finding("rows", "wrong" if facts.catalog_entry is None else "note", (), message)


def identical_rows(facts: SeriesFacts, findings: Sequence[Finding]) -> Iterator[Finding]:
    """Rows of the last step that equal another row of their matrix bit by bit."""
    steps = [c for c in facts.checkpoints if any(c.block(role) for role in facts.roles)]
    messages, rows = [], ()
    for role, tensor in steps[-1].tensors.items() if steps else ():
        if (identical := tensor.identical) is None or not identical.groups:
            continue
        start, stop = tensor.rows_read or (0, tensor.shape[0])
        largest = tuple(row + start for row in identical.largest.tolist())
        rows = rows or largest
        messages.append(
            f"{len(identical.ids):,} of {stop - start:,} rows of the {role.replace('_', ' ')} read "
            f"equal another bit by bit, in {identical.groups:,} "
            f"group{'s' if identical.groups > 1 else ''}; the largest has {len(largest):,} "
            f"({name_rows(largest)})"
        )
    if messages:
        step = (steps[-1].step,)
        yield Finding("identical rows", "note", step, "; ".join(messages), rows=rows[:_ROWS])


def jumps(facts: SeriesFacts, findings: Sequence[Finding]) -> Iterator[Finding]:
    """Steps far off the trajectory of the other steps, and breaks in that trajectory."""
    doubtful = {step for finding in findings for step in finding.flagged}
    for role in facts.roles:
        course: dict[int, Block] = {}
        previous = None
        for checkpoint in facts.checkpoints:
            block = checkpoint.block(role)
            # Consecutive equal blocks are one point: `find_jumps` needs points that differ.
            if block is not None and checkpoint.step not in doubtful and block.digest != previous:
                course[checkpoint.step], previous = block, block.digest
        if course:
            points = np.stack([block.sketch for block in course.values()])
            for jump in find_jumps(list(course), points):
                steps, message = jump.steps or (jump.at,), _describe_jump(jump, course)
                yield Finding("jump", "wrong", steps, message, role, jump.steps)


def file_notes(facts: SeriesFacts, findings: Sequence[Finding]) -> Iterator[Finding]:
    """Notes on the files of checkpoints, each note once with all its steps."""
    steps_by_note: dict[str, list[int]] = defaultdict(list)
    for checkpoint in facts.checkpoints:
        for note in checkpoint.notes:
            steps_by_note[note].append(checkpoint.step)
    for note, steps in steps_by_note.items():
        yield Finding("files", "note", tuple(steps), note)


def not_comparable(facts: SeriesFacts, findings: Sequence[Finding]) -> Iterator[Finding]:
    """Steps that cannot be compared with others, since neither rows nor a hash are known."""
    steps = [
        checkpoint.step
        for checkpoint in facts.checkpoints
        if any(
            checkpoint.payload(role) is None and not checkpoint.tensors[role].not_finite
            for role in facts.roles
            if role in checkpoint.tensors
        )
    ]
    if steps:
        message = (
            "no hash is known, so repeated tensors cannot be found; run with `--tensors rows` to "
            "compare rows"
        )
        yield Finding("not compared", "note", tuple(steps), message)


# In an order in which each finds the findings that it depends on.
CHECKS: tuple[Check, ...] = (
    skipped_names,
    missing_steps,
    non_finite_rows,
    repeated_tensors,
    main_branch,
    changed_tensors,
    rows,
    identical_rows,
    jumps,
    file_notes,
    not_comparable,
    known_defects,
)


def run_checks(facts: SeriesFacts) -> list[Finding]:
    """Run all checks and return their findings, one that holds for every embedding once."""
    findings: list[Finding] = []
    for check in CHECKS:
        findings += _merge_roles(list(check(facts, findings)), facts)
    return findings


def regular_gaps(steps: Sequence[int]) -> list[int]:
    """Return the steps left out of a schedule that is regular before and after them.

    Example:
        >>> regular_gaps([0, 1, 2, 4, 16, 32, 64, 100, 200, 400, 500])
        [8, 300]
    """
    gaps: list[int] = []
    distances = np.diff(steps).tolist()
    # A gap is a multiple of the interval that holds on both sides of it.
    for i in range(1, len(distances) - 1):
        interval = distances[i - 1]
        if interval == distances[i + 1] and distances[i] % interval == 0:
            gaps += range(steps[i] + interval, steps[i + 1], interval)
    # Powers of 2 count as a schedule when fewer than one is missing per three present.
    powers = {step for step in steps if step > 0 and step & (step - 1) == 0}
    lengths = range(min(powers, default=1).bit_length(), max(powers, default=1).bit_length())
    absent = {1 << length for length in lengths} - powers
    return sorted({*gaps, *(absent if 3 * len(absent) < len(powers) else ())})


def _tensor_of(shape: str) -> str:
    """Return a shape as part of a message, or `none` where there is no tensor."""
    return "none" if shape == "none" else f"one of shape {shape}"


def _field_value(checkpoint: CheckpointFacts, role: Role, field: str) -> str:
    """Return the shape or the dtype of a tensor as text, `none` where there is no tensor."""
    tensor = checkpoint.tensors.get(role)
    if tensor is None:
        return "none"
    return "x".join(map(str, tensor.shape)) if field == "shape" else tensor.dtype


def _describe_jump(jump: Jump, course: Mapping[int, Block]) -> str:
    """Describe a jump in one line, with the mean norms at the steps around it."""
    steps = list(course)
    index = steps.index(jump.at)
    norms = [f"{course[step].mean_norm:.4g} at {step}" for step in steps[index - 1 : index + 2]]
    if jump.kind == "detour":
        text = f"off the course: the path over it is {jump.ratio:.3g} times the direct one"
    else:
        text = (
            f"the course breaks from step {steps[index - 1]} to {jump.at}: {jump.ratio:.3g} times "
            "as far as the steps around allow"
        )
    return f"{text} (mean norm {', '.join(norms)})"


def _merge_roles(findings: Sequence[Finding], facts: SeriesFacts) -> Iterator[Finding]:
    """Merge findings that are alike for every role into one without a role."""
    groups: dict[Finding, list[Finding]] = defaultdict(list)
    for finding in findings:
        groups[replace(finding, role=None, message="")].append(finding)
    for group in groups.values():
        if {finding.role for finding in group} == {*facts.roles} and len(group) > 1:
            yield replace(group[0], role=None)
        else:
            yield from group
