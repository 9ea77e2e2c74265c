"""Training steps in the names of folders, branches and repositories, whichever program wrote them.

1. `parse_step_name` reads one name: step, tokens, and the part that separates series (`variant`).
2. `select_names` picks the names of one training from all the names in a folder or repository, and
   has a note for each reason why names were skipped.

A name needs the word "step" or the like to count: `10B` may be a size, `7` a seed.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from fnmatch import fnmatchcase
from functools import cache
from itertools import takewhile

from dynamics.checkpoints.catalog.public_series import catalog
from dynamics.checkpoints.catalog.revision_names import RevisionName, parse_name
from dynamics.errors import StepError, first_of

STEP, EPOCH, MILLION_TOKENS = "step", "epoch", "million tokens"
_SCALES = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}

_PREFIX = r"(?P<prefix>(?:.*[^a-z0-9])?)"
_SUFFIX = r"(?P<suffix>(?:[^a-z0-9].*)?)"
_NUMBER = r"(?P<number>\d+(?:\.\d+)?)(?P<scale>[kmbt]?)"
_STEP_WORD = r"(?:checkpoint|ckpt|chkpt|(?:global)?step|iteration|iter|ba)s?"


@dataclass(frozen=True)
class NamePattern:
    """A spelling of a step in a name.

    Attributes:
        expression: Regular expression for the whole name in lower case.
        unit: Unit that the number counts.
        examples: Names, and the programs or series that use them.
    """

    expression: str
    unit: str
    examples: Mapping[str, str]


PATTERNS = (
    NamePattern(
        rf"{_PREFIX}{_STEP_WORD}[-_=. ]?{_NUMBER}{_SUFFIX}",
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
        rf"{_PREFIX}{_NUMBER}[-_ ]?(?:steps?|iterations?|iters?){_SUFFIX}",
        STEP,
        {"model-1000steps": "scripts", "20k_steps": "scripts"},
    ),
    NamePattern(
        rf"{_PREFIX}tokens?[-_=. ]?{_NUMBER}{_SUFFIX}", MILLION_TOKENS, {"tokens-4B": "scripts"}
    ),
    NamePattern(
        rf"{_PREFIX}{_NUMBER}[-_ ]?tokens?{_SUFFIX}", MILLION_TOKENS, {"500M-tokens": "scripts"}
    ),
    NamePattern(
        rf"{_PREFIX}epochs?[-_=. ]?{_NUMBER}{_SUFFIX}", EPOCH, {"epoch_1": "accelerate's examples"}
    ),
)
"""Tried in this order; the patterns of the public series come after them."""

# Parts of a name, beside its step, that do not make it a name of another series.
_TOKENS = re.compile(
    r"[-_ .](?:tokens?[-_=]?(?P<amount>\d+(?:\.\d+)?)(?P<unit>[kmbt]?)"
    r"|(?P<leading_amount>\d+(?:\.\d+)?)(?P<leading_unit>[kmbt])[-_]?tokens?)(?![a-z0-9])"
)
_BARE_TOKENS = re.compile(r"-(?P<amount>\d+(?:\.\d+)?)(?P<unit>[bt])")  # step-50K-105b
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
    """Content of a checkpoint's name, with its unit and the part that separates series.

    Attributes:
        unit: Unit of `step`: steps, or epochs or million tokens where names have no steps.
        variant: Rest of the name beyond step, tokens and first stage, in lower case; the same for
            all names of one training.
    """

    unit: str = STEP
    variant: str = ""


@dataclass(frozen=True)
class SelectedNames:
    """The names of one training.

    Attributes:
        names: The parsed names, by ascending step.
        unit: Unit of their steps.
        notes: One line for each reason why names were skipped, and on units that are not steps.
    """

    names: tuple[StepName, ...]
    unit: str = STEP
    notes: tuple[str, ...] = ()


def parse_step_name(name: str) -> StepName | None:
    """Parse the name of a checkpoint; None when it has no whole step.

    Example:
        >>> parsed = parse_step_name("OLMo-stage1-step1000-tokens3B")
        >>> parsed.step, parsed.tokens_seen, parsed.stage, parsed.variant
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
            rounded, remainder = bool(match["scale"]), match["suffix"]
        elif match["scale"] in ("b", "t"):
            continue  # a model size, or a number of tokens
        else:
            tokens, rounded, remainder = _parse_tokens(match["suffix"], bool(match["scale"]))
        if number != int(number) or ("." in match["number"] and not match["scale"]):
            continue
        if _SECOND_NUMBER.match(remainder):
            continue  # a thousands separator, an epoch and its step, or a range
        # The slash keeps the text in front of the step apart from the text behind it.
        stage, variant = _parse_variant(f"{match['prefix']}/{remainder}")
        return StepName(
            name, int(number), tokens, rounded, stage, unit=pattern.unit, variant=variant
        )
    return _parse_by_catalog(name)


def select_names(
    names: Iterable[str],
    *,
    place: str,
    usable: frozenset[str] | None = None,
    kinds_may_mix: bool = False,
    on_hub: bool = False,
) -> SelectedNames:
    """Select the names that are steps of one training.

    Args:
        names: Names in one folder or repository.
        place: Name of that folder or repository in messages.
        usable: Names that hold weights, all of them when None. Of two names of one step, the one
            without weights is skipped; the only name of a step stays, so that its fault is seen.
        kinds_may_mix: Whether the user picked these names by a pattern, so that several stages or
            kinds of names are one training as long as their steps differ.
        on_hub: Whether the names are those of a repository, which the user cannot rename: stages
            and kinds beyond the plain ones are skipped there, and refused in a folder.

    Raises:
        StepError: Two names are of one step, or the names are of several trainings or stages.

    Example:
        >>> selection = select_names(["step0", "step1000-tokens4B", "last"], place="here")
        >>> [name.step for name in selection.names]
        [0, 1000]
        >>> [note.partition(";")[0] for note in selection.notes]
        ['skipped because the name has no step: last']
    """
    parsed = {name: parse_step_name(name) for name in dict.fromkeys(names)}
    usable = frozenset(parsed) if usable is None else usable
    notes = []
    stepless = [name for name in parsed if parsed[name] is None and name in usable]
    with_step = [name for name in parsed.values() if name is not None]
    copies = [name.name for name in with_step if _COPY.search(name.variant)]
    if kinds_may_mix and len(copies) == len(parsed) - len(stepless):
        copies = []  # the pattern of the user means them
    if stepless:
        advice = "" if on_hub else "rename or link them as step-N to include them"
        notes.append(_skipped_note("the name has no step", stepless, advice))
    if marked := [name for name in copies if name in usable]:
        pattern = _pattern(marked, [name for name in parsed if name not in marked])
        advice = "" if on_hub or pattern is None else f"'{place}/{pattern}' in quotes selects them"
        reason = "the name marks a copy or a best, last or partial state"
        notes.append(_skipped_note(reason, marked, advice))
    candidates = [name for name in with_step if name.name not in copies]

    usable_units = [name.unit for name in candidates if name.name in usable]
    unit = STEP if STEP in usable_units or not usable_units else usable_units[0]
    skipped = [name.name for name in candidates if name.unit != unit and name.name in usable]
    if skipped:
        notes.append(_skipped_note(f"other names give a {unit}", skipped))
    candidates = [name for name in candidates if name.unit == unit]
    if unit != STEP and candidates:
        example = min(candidates, key=lambda name: name.step)
        notes.append(f"a step is one {unit} here: {example.name} is step {example.step}")

    if not kinds_may_mix:
        candidates, skipped = _select_kind(candidates, place, usable, on_hub=on_hub)
        if skipped:
            notes.append(_skipped_note("they are of another stage or kind", skipped))
    candidates, skipped = _select_per_step(candidates, place, usable, on_hub=on_hub)
    if skipped:
        notes.append(_skipped_note("another name of that step holds the weights", skipped))
    return SelectedNames(tuple(candidates), unit, tuple(notes))


def _parse_tokens(suffix: str, thousands: bool) -> tuple[int | None, bool, str]:
    """Return the tokens given behind a step, whether they are rounded, and the rest of the text."""
    match = _TOKENS.search(suffix) or (_BARE_TOKENS.match(suffix) if thousands else None)
    if match is None:
        return None, False, suffix
    groups = match.groupdict()
    number = groups["amount"] or groups["leading_amount"]
    unit = groups["unit"] or groups.get("leading_unit") or ""
    remainder = suffix[: match.start()] + suffix[match.end() :]
    return int(Decimal(number) * _SCALES[unit]), bool(unit), remainder


def _parse_variant(text: str) -> tuple[str | None, str]:
    """Return the stage, and a name's rest without step, tokens, a first stage and neutral words."""
    stage = None
    if match := _STAGE.search(text):
        stage = match[0]
        if match[1] == "1" and "ingredient" not in stage:
            text = text[: match.start()] + text[match.end() :]
    words = re.split(r"[^a-z0-9]+", _NEUTRAL.sub("", text))
    return stage, "-".join(word for word in words if word)


@cache
def _catalog_patterns() -> dict[tuple[str, int], str]:
    """Return the family of the public series for each pattern of names and unit of steps."""
    return {
        (pattern, series.step_unit): series.family
        for series in catalog().values()
        for pattern in series.revisions
    }


def _parse_by_catalog(name: str) -> StepName | None:
    """Parse a name by the patterns of the public series; None where none fits."""
    for (pattern, step_unit), family in _catalog_patterns().items():
        if (parsed := parse_name(name, [pattern], step_unit)) is not None:
            variant = "-".join(filter(None, [parsed.stage, parsed.seed]))
            return StepName(**vars(parsed), unit=f"step of {family}", variant=variant)
    return None


def _select_kind(
    names: list[StepName], place: str, usable: frozenset[str], *, on_hub: bool
) -> tuple[list[StepName], list[str]]:
    """Return the names of one variant, and the names of the other variants."""
    kinds: dict[str, list[StepName]] = defaultdict(list)
    for name in names:
        kinds[name.variant].append(name)
    if len(kinds) < 2:
        return names, []
    if not on_hub or "" not in kinds:
        groups = [[name.name for name in kind] for kind in kinds.values()]
        shown = "; ".join(first_of(group, 2) for group in groups[:4])
        choice = (
            "give `patterns` to open_hub_series that fit one"
            if on_hub
            else f"choose one by a pattern of its names{_pattern_hint(place, groups)}, or "
            f"all of them with '{place}/*' if their steps continue each other"
        )
        raise StepError(f"{place}: holds names of {len(kinds)} stages or kinds ({shown}); {choice}")
    skipped = [name.name for name in names if name.variant and name.name in usable]
    return kinds[""], skipped


def _select_per_step(
    step_names: list[StepName], place: str, usable: frozenset[str], *, on_hub: bool
) -> tuple[list[StepName], list[str]]:
    """Return one name per step, ascending, and the skipped names without weights."""
    by_step: dict[int, list[StepName]] = defaultdict(list)
    for name in sorted(step_names, key=lambda name: (name.step, name.name)):
        by_step[name.step].append(name)
    selected, skipped = [], []
    for step, names in by_step.items():
        with_weights = [name for name in names if name.name in usable] or names
        first = with_weights[0]
        if len(with_weights) > 1:
            advice = (
                "give `patterns` to open_hub_series that fit one of them"
                if on_hub
                else "remove one of them, or link those that belong together into a folder"
            )
            raise StepError(
                f"{place}: {first.name} and {with_weights[1].name} are both step {step}; {advice}"
            )
        selected.append(first)
        skipped += [name.name for name in names if name is not first]
    return selected, skipped


def _pattern_hint(place: str, groups: list[list[str]]) -> str:
    """Return a hint at a shell pattern that fits the names of one group only; "" without one."""
    for names in groups:
        excluded = [
            name for other_names in groups if other_names is not names for name in other_names
        ]
        if (pattern := _pattern(names, excluded)) is not None:
            return f" in quotes, such as '{place}/{pattern}'"
    return ""


def _pattern(names: list[str], excluded: list[str]) -> str | None:
    """Return the common start of `names` with `*` or `*[0-9]`, if that fits none of `excluded`."""
    shared_letters = takewhile(lambda letters: len({*letters}) == 1, zip(*names, strict=False))
    start = "".join(letters[0] for letters in shared_letters)
    starts = (start.rstrip("0123456789"), re.sub(r"[0-9]+[^0-9]*$", "", start))
    for pattern in (f"{start}{end}" for start in starts for end in ("*", "*[0-9]")):
        if all(fnmatchcase(name, pattern) for name in names) and not any(
            fnmatchcase(name, pattern) for name in excluded
        ):
            return pattern
    return None


def _skipped_note(reason: str, names: list[str], advice: str = "") -> str:
    """Return a note on names that were skipped for one reason."""
    return f"skipped because {reason}: {', '.join(names)}{advice and f'; {advice}'}"
