"""Training steps in the names of folders, branches and repositories, whichever program wrote them.

1. `parse_step_name` reads one name: step, tokens, and what tells it from other series (`variant`).
2. `choose_names` takes the names of one training from all the names in one place, and says in words
   which others it passed over.

Names without the word "step" or the like are steps of nothing: `10B` may be a size, `7` a seed.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from fnmatch import fnmatchcase
from functools import cache
from itertools import takewhile

from dynamics.checkpoints.catalog.public_series import catalog
from dynamics.checkpoints.catalog.revision_names import RevisionName, parse_name
from dynamics.errors import StepError

STEP, EPOCH, MILLION_TOKENS = "step", "epoch", "million tokens"
_SCALES = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}

_BEFORE = r"(?P<before>(?:.*[^a-z0-9])?)"
_AFTER = r"(?P<after>(?:[^a-z0-9].*)?)"
_NUMBER = r"(?P<number>\d+(?:\.\d+)?)(?P<scale>[kmbt]?)"
_STEP_WORD = r"(?:checkpoint|ckpt|chkpt|(?:global)?step|iteration|iter|ba)s?"


@dataclass(frozen=True)
class NamePattern:
    """One way to write a step into a name.

    Attributes:
        expression: Regular expression for the whole name in lower case.
        unit: What the number counts.
        examples: Names, and who writes them.
    """

    expression: str
    unit: str
    examples: Mapping[str, str]


PATTERNS = (
    NamePattern(
        rf"{_BEFORE}{_STEP_WORD}[-_=. ]?{_NUMBER}{_AFTER}",
        STEP,
        {
            "checkpoint-500": "transformers' Trainer, Mistral",
            "step-00000500": "`dynamics train`",
            "step143000": "Pythia",
            "step1000-tokens4B": "OLMo, OLMoE, Apertus",
            "step1000-unsharded": "OLMo's trainer",
            "stage1-step1000-tokens3B": "OLMo 2",
            "step1250-seed-default": "DataDecide",
            "global_step1000": "DeepSpeed, BLOOM",
            "iter_0001000": "Megatron, MAP-Neo",
            "ckpt_358": "Amber, K2",
            "CrystalCoder_phase1_checkpoint_079721": "Crystal",
            "multiberts-seed_0-step_20k": "MultiBERTs",
            "step-50K-105b": "TinyLlama",
            "epoch=3-step=1000": "Lightning",
            "ep0-ba1000": "Composer",
        },
    ),
    NamePattern(
        rf"{_BEFORE}{_NUMBER}[-_ ]?(?:steps?|iterations?|iters?){_AFTER}",
        STEP,
        {"model-1000steps": "scripts", "20k_steps": "scripts"},
    ),
    NamePattern(
        rf"{_BEFORE}tokens?[-_=. ]?{_NUMBER}{_AFTER}",
        MILLION_TOKENS,
        {"tokens-4B": "scripts"},
    ),
    NamePattern(
        rf"{_BEFORE}{_NUMBER}[-_ ]?tokens?{_AFTER}", MILLION_TOKENS, {"500M-tokens": "scripts"}
    ),
    NamePattern(
        rf"{_BEFORE}epochs?[-_=. ]?{_NUMBER}{_AFTER}", EPOCH, {"epoch_1": "accelerate's examples"}
    ),
)
"""Tried in this order; the patterns of the public series come after them."""

# What a name may say beside its step without being of another series.
_TOKENS = re.compile(
    r"[-_ .](?:tokens?[-_=]?(?P<said>\d+(?:\.\d+)?)(?P<unit>[kmbt]?)"
    r"|(?P<first>\d+(?:\.\d+)?)(?P<its_unit>[kmbt])[-_]?tokens?)(?![a-z0-9])"
)
_BARE_TOKENS = re.compile(r"-(?P<said>\d+(?:\.\d+)?)(?P<unit>[bt])")  # step-50K-105b
_STAGE = re.compile(r"(?:stage|phase)[-_]?0*(\d+)(?:[-_]?ingredient[-_]?\d+)?(?![a-z0-9])")
_NEUTRAL = re.compile(
    r"(?<![a-z0-9])(?:(?:epoch|ep)[-_=]?\d+|[a-z_]*(?:loss|ppl|acc|accuracy)[-_=]\d+(?:\.\d+)?"
    r"|unsharded|intermediate|hf|safetensors|converted|checkpoint|ckpt|global|train|training)(?![a-z0-9])"
)
_SECOND_NUMBER = re.compile(r"[-_,.]\d+(?![a-z0-9])")
_COPY = re.compile(
    r"(?<![a-z])(?:best|last|latest|final|ema|swa|tmp|temp|partial|backup|bak|old|copy)(?![a-z])"
)


@dataclass(frozen=True)
class StepName(RevisionName):
    """What the name of a checkpoint says, and of which series it is.

    Attributes:
        unit: What `step` counts: steps, or what names without steps count.
        variant: What the name says beyond step, tokens and first stage, in lower case; names of one
            training share it.
    """

    unit: str = STEP
    variant: str = ""


@dataclass(frozen=True)
class ChosenNames:
    """The names of one training.

    Attributes:
        names: What each says, by ascending step.
        unit: What their steps count.
        notes: One line for each reason for which names were passed over, or that a reader of the
            steps must know.
    """

    names: tuple[StepName, ...]
    unit: str = STEP
    notes: tuple[str, ...] = ()


def parse_step_name(name: str) -> StepName | None:
    """Return what a name says, None when it tells no whole step.

    Example:
        >>> found = parse_step_name("OLMo-stage1-step1000-tokens3B")
        >>> found.step, found.tokens_seen, found.stage, found.variant
        (1000, 3000000000, 'stage1', 'olmo')
        >>> parse_step_name("step_20k").step
        20000
        >>> parse_step_name("10B") is None
        True
    """
    for pattern in PATTERNS:
        match = re.fullmatch(pattern.expression, name.lower(), re.ASCII)
        if match is None:
            continue
        number = Decimal(match["number"]) * _SCALES[match["scale"]]
        if pattern.unit == MILLION_TOKENS:
            tokens, number = int(number), number / 10**6
            rounded, rest = bool(match["scale"]), match["after"]
        elif match["scale"] in ("b", "t"):
            continue  # a size, or tokens
        else:
            tokens, rounded, rest = _tokens(match["after"], bool(match["scale"]))
        if number != int(number) or ("." in match["number"] and not match["scale"]):
            continue
        if _SECOND_NUMBER.match(rest):
            continue  # thousands after a mark, an epoch and its step, a range
        # The slash keeps what stands before apart from what stands behind.
        stage, variant = _variant(f"{match['before']}/{rest}")
        return StepName(
            name, int(number), tokens, rounded, stage, unit=pattern.unit, variant=variant
        )
    return _of_the_catalog(name)


def choose_names(
    names: Iterable[str],
    *,
    place: str,
    usable: frozenset[str] | None = None,
    kinds_may_mix: bool = False,
    on_hub: bool = False,
) -> ChosenNames:
    """Choose the names that are steps of one training.

    Args:
        names: Names in one place.
        place: What messages call the place.
        usable: Names that hold weights, all of them when None. Of two names of one step one that
            does not is passed over; one alone of its step stays, so that its fault is told.
        kinds_may_mix: Whether the user has chosen these names, so that several stages or kinds of
            names are one training as long as their steps differ.
        on_hub: Whether the names are those of a repository, which nobody can rename: stages and
            kinds beyond the plain ones are passed over. Elsewhere they are refused.

    Raises:
        StepError: Two names are of one step, or the names are of several trainings or stages.

    Example:
        >>> chosen = choose_names(["step0", "step1000-tokens4B", "last"], place="here")
        >>> [name.step for name in chosen.names]
        [0, 1000]
        >>> [note.partition(";")[0] for note in chosen.notes]
        ['passed over, as the name tells no step: last']
    """
    parsed = {name: parse_step_name(name) for name in dict.fromkeys(names)}
    usable = frozenset(parsed) if usable is None else usable
    notes = []
    stepless = [name for name, said in parsed.items() if said is None and name in usable]
    copies = [name for name, said in parsed.items() if said and _COPY.search(said.variant)]
    if kinds_may_mix and len(copies) == len(parsed) - len(stepless):
        copies = []  # they were asked for
    if stepless:
        advice = "" if on_hub else "rename or link them as step-N to take them in"
        notes.append(_passed_over("the name tells no step", stepless, advice))
    if marked := [name for name in copies if name in usable]:
        pattern = _pattern(marked, [name for name in parsed if name not in marked])
        advice = "" if on_hub or pattern is None else f"'{place}/{pattern}' in quotes takes them"
        reason = "the name marks a copy or a best, last or partial state"
        notes.append(_passed_over(reason, marked, advice))
    told = [said for name, said in parsed.items() if said is not None and name not in copies]

    units = list(dict.fromkeys([STEP, *(said.unit for said in told if said.name in usable)]))
    unit = next(
        (unit for unit in units if any(s.unit == unit and s.name in usable for s in told)), STEP
    )
    if others := [said.name for said in told if said.unit != unit and said.name in usable]:
        notes.append(_passed_over(f"others tell a {unit}", others))
    told = [said for said in told if said.unit == unit]
    if unit != STEP and told:
        example = min(told, key=lambda said: said.step)
        notes.append(f"a step is one {unit} here: {example.name} is step {example.step}")

    if not kinds_may_mix:
        told, passed_over = _one_kind(told, place, usable, on_hub=on_hub)
        if passed_over:
            notes.append(_passed_over("of another stage or kind", passed_over))
    told, empty = _one_per_step(told, place, usable, on_hub=on_hub)
    if empty:
        notes.append(_passed_over("another name of that step holds the weights", empty))
    return ChosenNames(tuple(told), unit, tuple(notes))


def _tokens(after: str, thousands: bool) -> tuple[int | None, bool, str]:
    """Tokens told behind a step, whether they are rounded, and what else is told there."""
    match = _TOKENS.search(after) or (_BARE_TOKENS.match(after) if thousands else None)
    if match is None:
        return None, False, after
    groups = match.groupdict()
    number = groups["said"] or groups["first"]
    unit = groups["unit"] or groups.get("its_unit") or ""
    rest = after[: match.start()] + after[match.end() :]
    return int(Decimal(number) * _SCALES[unit]), bool(unit), rest


def _variant(said: str) -> tuple[str | None, str]:
    """Stage, and what is left of a name beside step, tokens, a first stage and neutral words."""
    stage = None
    if match := _STAGE.search(said):
        stage = match[0]
        if match[1] == "1" and "ingredient" not in stage:
            said = said[: match.start()] + said[match.end() :]
    words = re.split(r"[^a-z0-9]+", _NEUTRAL.sub("", said))
    return stage, "-".join(word for word in words if word)


@cache
def _catalog_patterns() -> dict[tuple[str, int], str]:
    """Patterns of the public series and what their steps are in, with a family of each."""
    return {
        (pattern, series.step_unit): series.family
        for series in catalog().values()
        for pattern in series.revisions
    }


def _of_the_catalog(name: str) -> StepName | None:
    for (pattern, step_unit), family in _catalog_patterns().items():
        if (said := parse_name(name, [pattern], step_unit)) is not None:
            variant = "-".join(filter(None, [said.stage, said.seed]))
            return StepName(**vars(said), unit=f"step of {family}", variant=variant)
    return None


def _one_kind(
    told: list[StepName], place: str, usable: frozenset[str], *, on_hub: bool
) -> tuple[list[StepName], list[str]]:
    """The names of one variant, and the names of others."""
    kinds: dict[str, list[StepName]] = defaultdict(list)
    for said in told:
        kinds[said.variant].append(said)
    if len(kinds) < 2:
        return told, []
    if not on_hub or "" not in kinds:
        shown = "; ".join(_shown(kind) for kind in list(kinds.values())[:4])
        choice = (
            "give `patterns` to open_hub_series that fit one"
            if on_hub
            else f"choose one by a pattern of its names{_example(place, kinds.values())}, or take "
            f"all with '{place}/*' if their steps count on"
        )
        raise StepError(f"{place}: holds names of {len(kinds)} stages or kinds ({shown}); {choice}")
    others = [said.name for said in told if said.variant and said.name in usable]
    return kinds[""], others


def _one_per_step(
    told: list[StepName], place: str, usable: frozenset[str], *, on_hub: bool
) -> tuple[list[StepName], list[str]]:
    """The names by ascending step, and names without weights of steps that another name has."""
    by_step: dict[int, list[StepName]] = defaultdict(list)
    for said in sorted(told, key=lambda said: (said.step, said.name)):
        by_step[said.step].append(said)
    kept, empty = [], []
    for step, names in by_step.items():
        holding = [said for said in names if said.name in usable] or names
        if len(holding) > 1:
            choice = (
                "give `patterns` to open_hub_series that fit one of them"
                if on_hub
                else "remove one of them, or link those that belong together into a folder"
            )
            raise StepError(
                f"{place}: {holding[0].name} and {holding[1].name} are both step {step}; {choice}"
            )
        kept.append(holding[0])
        empty += [said.name for said in names if said is not holding[0]]
    return kept, empty


def _example(place: str, kinds: Iterable[list[StepName]]) -> str:
    """A shell pattern, in quotes, that fits the names of one kind and no others; "" without one."""
    names = [[said.name for said in kind] for kind in kinds]
    for kind in names:
        others = [name for other in names if other is not kind for name in other]
        if (pattern := _pattern(kind, others)) is not None:
            return f" in quotes, such as '{place}/{pattern}'"
    return ""


def _pattern(names: list[str], others: list[str]) -> str | None:
    """A shell pattern that fits names and not others; None where none is at hand."""
    alike = takewhile(lambda letters: len({*letters}) == 1, zip(*names, strict=False))
    start = "".join(letters[0] for letters in alike)
    starts = (start.rstrip("0123456789"), re.sub(r"[0-9]+[^0-9]*$", "", start))
    for pattern in (f"{start}{end}" for start in starts for end in ("*", "*[0-9]")):
        if all(fnmatchcase(name, pattern) for name in names) and not any(
            fnmatchcase(name, pattern) for name in others
        ):
            return pattern
    return None


def _passed_over(reason: str, names: list[str], advice: str = "") -> str:
    return f"passed over, as {reason}: {', '.join(names)}{advice and f'; {advice}'}"


def _shown(kind: list[StepName]) -> str:
    names = [said.name for said in kind[:2]]
    return ", ".join(names) + (", ..." if len(kind) > 2 else "")


def described_names() -> Iterator[tuple[str, StepName, str]]:
    """Each example of `PATTERNS`: the name, what it says, and who writes it."""
    for pattern in PATTERNS:
        for name, writer in pattern.examples.items():
            said = parse_step_name(name)
            assert said is not None
            yield name, said, writer
