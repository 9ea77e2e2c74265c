"""Runs grouped into arms: seeds of one recipe together, everything else apart, with the reason."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from dynamics.errors import MismatchError, OutputError
from dynamics.runs.arms import Arm, recipe_of
from dynamics.runs.run import Run

Arms = Mapping[str, Sequence[Run | str | Path]]
"""Runs of each arm by the arm's name: a run, its folder, or the name of its series."""

Runs = Sequence[Run] | Sequence[Arm]
"""Runs that are grouped into arms, or the arms of a grouping."""

_SEED = re.compile(r"[-_](data-|weight-)?seed[-_]?(\d+)$")
_VARIES = {None: "initialisation and order", "data-": "order", "weight-": "initialisation"}
_SHOWN = 3
"""Most differences between two arms that a line names."""


@dataclass(frozen=True)
class Traits:
    """What runs must share to be seeds of one arm.

    Attributes:
        fixed: What statistics and shapes rest on: no arm joins runs that differ here. None where
            older runs do not record it, which differs from nothing.
        recipe: Settings of the training, or the name of a public series without its seed.
    """

    fixed: dict[str, Any]
    recipe: dict[str, Any]

    def differences(self, other: "Traits") -> dict[str, tuple[Any, Any]]:
        """Each trait in which two runs differ, with both values; those that fix most first."""
        return _differing(self.fixed, other.fixed, unknown=True) | _differing(
            self.recipe, other.recipe
        )


def traits_of(run: Run) -> Traits:
    """Return what a run must share with others to be a seed of their arm."""
    series, settings = run.record.series, run.record.settings
    fixed = {
        "vocabulary rule": settings.rule or "none",
        "rows read": settings.rows or "all",
        "last step": run.steps[-1],
        "rows of the embedding": series.vocab_size,
        "tied": series.tied,
        "final norm": series.final_norm or "none",
        **{f"shape of the {_plain(role)}": shape for role, shape in (series.shapes or {}).items()},
        **(series.architecture or {}),
    }
    if series.training is None:
        kind = _SEED.search(run.name)
        return Traits(fixed, {"series": _SEED.sub("", run.name), "seed of": kind and kind[1]})
    corpus = (run.record.counts or {}).get("corpus_digest")
    return Traits(fixed, recipe_of(series.training) | {"corpus": corpus})


def arms_of(runs: Runs, arms: Arms | None = None) -> list[Arm]:
    """Runs grouped as seeds of one recipe, in the order in which recipes first appear.

    Runs are of one arm when their `traits_of` are equal: the vocabulary rule, the last step and
    the shapes of the model; and the recipe. Trainings of `dynamics train` are of one recipe when
    their settings are equal but for name, seed, device, threads and tracking; public series when
    their names are equal but for `-seedN`. Runs of one recipe with the same seed are each an arm
    of its own. `grouping_lines` says what was grouped, and what keeps arms apart.

    Args:
        runs: The runs; arms, which are returned as they are.
        arms: Runs of each arm by its name, where the grouping is set; the others are grouped as
            above. A recipe may differ within an arm that is set.

    Raises:
        MismatchError: Two runs are of different tokenizers, or runs of an arm that is set differ in
            rule, last step or model; both are named.
        OutputError: An arm that is set names a run that is not there, or not one alone.
    """
    if runs and isinstance(runs[0], Arm):
        return [arm for arm in runs if isinstance(arm, Arm)]
    opened = [run for run in runs if isinstance(run, Run)]
    check_vocabularies(opened)
    named = {name: refs for name, refs in (arms or {}).items() if refs}
    set_arms = {name: _named_runs(opened, refs, name) for name, refs in named.items()}
    placed = [run for group in set_arms.values() for run in group]
    if twice := [run for run in placed if placed.count(run) > 1]:
        raise OutputError(f"the run {twice[0].path} is named twice in the arms; name it once")
    grouped = [
        *(_set_arm(name, group) for name, group in set_arms.items()),
        *_with_distinct_names(list(_found_arms([run for run in opened if run not in placed]))),
    ]
    return sorted(grouped, key=lambda arm: min(map(opened.index, arm.runs)))


def grouping_lines(arms: Sequence[Arm]) -> list[str]:
    """Lines that say which runs form which arm, and what keeps arms apart; none for one run."""
    if sum(len(arm.runs) for arm in arms) < 2:
        return []
    lines = []
    for arm in arms:
        seeds = f"seeds {', '.join(seed or 'default' for seed in arm.seeds)}"
        folders = ", ".join(str(run.path) for run in arm.runs)
        lines.append(f"arm {arm.name}: {seeds if len(arm.runs) > 1 else 'one run'} ({folders})")
    return [*lines, *apart_lines(arms)]


def apart_lines(arms: Sequence[Arm]) -> list[str]:
    """Lines that say for each arm after the first what it differs in from the most similar one."""
    lines = []
    for index, arm in enumerate(arms[1:], start=1):
        apart = {earlier.name: _apart(arm, earlier) for earlier in arms[:index]}
        nearest = min(apart, key=lambda name: len(apart[name]))
        lines.append(f"{arm.name} is not of the arm {nearest}: {_told(apart[nearest])}")
    return lines


def check_vocabularies(runs: Sequence[Run]) -> None:
    """Check that all runs are of one tokenizer; runs without counts or tokenizer are not compared.

    Raises:
        MismatchError: Two are not; both are named.
    """
    tokenizers = {run: (run.record.counts or {}).get("tokenizer_sha256") for run in runs}
    tokenizers = {run: sha256 for run, sha256 in tokenizers.items() if sha256 is not None}
    first = next(iter(tokenizers), None)
    for run, tokenizer in tokenizers.items():
        assert first is not None
        if tokenizer != tokenizers[first]:
            raise MismatchError(
                f"{first.path} ({first.name}) and {run.path} ({run.name}) are of different "
                f"tokenizers ({tokenizers[first][:12]} and {tokenizer[:12]}), so that their tokens "
                "are not the same; compare runs of one vocabulary"
            )


def _found_arms(runs: Sequence[Run]) -> Iterator[Arm]:
    """Yield the arms of runs whose grouping is not set."""
    groups: list[list[Run]] = []
    for run in runs:
        traits = traits_of(run)
        for group in groups:
            if not any(traits.differences(traits_of(member)) for member in group):
                group.append(run)
                break
        else:
            groups.append([run])
    for group in groups:
        seeds = [_seed(run) for run in group]
        if len(set(seeds)) == len(seeds):
            yield _arm(group, seeds)
        else:
            yield from (_arm([run], [seed]) for run, seed in zip(group, seeds, strict=True))


def _set_arm(name: str, runs: Sequence[Run]) -> Arm:
    """Return an arm whose runs are set, after a check that they can be one."""
    for first, second in combinations(runs, 2):
        fixed = _differing(traits_of(first).fixed, traits_of(second).fixed, unknown=True)
        if fixed:
            raise MismatchError(
                f"{first.path} and {second.path} cannot be seeds of one arm {name!r}: "
                f"{_told(fixed)}; put them in arms of their own"
            )
    seeds = [_seed(run) for run in runs]
    if len(set(seeds)) < len(seeds):
        seeds = [_folder(run) for run in runs]
    arm = _arm(runs, seeds)
    recipes = [traits_of(run).recipe for run in runs]
    differing = {key for pair in combinations(recipes, 2) for key in _differing(*pair)}
    return replace(arm, name=name, varies="; ".join(filter(None, [arm.varies, *sorted(differing)])))


def _named_runs(runs: Sequence[Run], refs: Iterable[Run | str | Path], arm: str) -> list[Run]:
    """Return the runs that an arm names, each by itself, its folder or its series."""
    named = []
    for ref in refs:
        matching = [
            run
            for run in runs
            if ref is run or (not isinstance(ref, Run) and _is_named(run, str(ref)))
        ]
        if len(matching) != 1:
            names = ", ".join(f"{run.name} ({run.path})" for run in matching or runs)
            count = "no run" if not matching else f"{len(matching)} runs"
            raise OutputError(f"arm {arm!r} names {str(ref)!r}, which is {count} of: {names}")
        named += matching
    return named


def _is_named(run: Run, ref: str) -> bool:
    """Return whether a text is the name of a run's series, or the run's folder or that above."""
    folder = run.path.resolve()
    return ref == run.name or Path(ref).resolve() in (folder, folder.parent)


def _differing(
    first: dict[str, Any], second: dict[str, Any], *, unknown: bool = False
) -> dict[str, tuple[Any, Any]]:
    """Return the keys whose values differ, with both; with `unknown`, None differs from nothing."""
    pairs = {key: (first.get(key), second.get(key)) for key in first | second}
    return {
        key: pair
        for key, pair in pairs.items()
        if pair[0] != pair[1] and not (unknown and None in pair)
    }


def _apart(arm: Arm, other: Arm) -> dict[str, tuple[Any, Any]]:
    """Return what keeps two arms apart; nothing where they only share a seed or were set."""
    return traits_of(arm.runs[0]).differences(traits_of(other.runs[0]))


def _told(differences: Mapping[str, tuple[Any, Any]]) -> str:
    """Return differences as text: each trait with both values, a few by name, others by number."""
    if not differences:
        return "a seed occurs twice, or the arms were set"
    parts = [f"{key} {_plain(a)} and {_plain(b)}" for key, (a, b) in differences.items()]
    further = len(parts) - _SHOWN
    return ", ".join([*parts[:_SHOWN], *([f"{further} more"] if further > 0 else [])])


def _plain(value: Any) -> str:
    """Return a value or a name as text; a shape as `50304 x 512`."""
    if isinstance(value, list):
        return " x ".join(map(str, value))
    return str(value).replace("_embedding", " embedding")


def _seed(run: Run) -> str:
    settings = run.record.series.training
    if settings is not None:
        return str(settings.get("seed", ""))
    suffix = _SEED.search(run.name)
    return suffix[2] if suffix else ""


def _arm(runs: Sequence[Run], seeds: Sequence[str]) -> Arm:
    suffix = _SEED.search(runs[-1].name)
    varies = _VARIES[suffix[1] if suffix else None] if len(runs) > 1 else ""
    name = _SEED.sub("", runs[0].name) if len(runs) > 1 else runs[0].name
    return Arm(name, tuple(runs), tuple(seeds), varies)


def _with_distinct_names(arms: list[Arm]) -> list[Arm]:
    """Arms of one name get the folder of their first run beside it."""
    names = [arm.name for arm in arms]
    return [
        arm
        if names.count(arm.name) == 1
        else replace(arm, name=f"{arm.name} ({_folder(arm.runs[0])})")
        for arm in arms
    ]


def _folder(run: Run) -> str:
    return "/".join(run.path.resolve().parts[-2:])
