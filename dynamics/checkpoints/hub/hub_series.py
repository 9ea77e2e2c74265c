"""Checkpoints of one training, opened from the revisions of a repository on a hub."""

from collections.abc import Collection, Iterable, Mapping
from itertools import pairwise

from dynamics.checkpoints.catalog.revision_names import RevisionName, parse_name, with_tokens
from dynamics.checkpoints.checkpoint import Checkpoint
from dynamics.checkpoints.hub.client import Hub, Reference
from dynamics.checkpoints.hub.revisions import HubRevision
from dynamics.checkpoints.series import CheckpointSeries
from dynamics.checkpoints.step_names import STEP, select_names
from dynamics.errors import CheckpointError, StepError, first_of

_SHOWN = 5  # names listed in a message


def open_hub_series(
    repo: str,
    patterns: Collection[str] | None = None,
    *,
    branch: str | None = None,
    tokens_per_step: int | Mapping[int, int] | None = None,
    hub: Hub | None = None,
) -> CheckpointSeries:
    """Open the checkpoints in a repository of a model hub, without reading any.

    Args:
        repo: The repository, as namespace/name.
        patterns: Patterns of the names to select, see `parse_name`. When None, the names in which
            `select_names` finds a step; a repository without any is a single model, `main`, of
            step 0.
        branch: Use the commits on this branch by their titles, in place of the branches and tags
            by their names.
        tokens_per_step: Tokens per step, see `tokens_at`; names have rounded numbers, or none.
        hub: The hub; when None, the one that the environment configures.

    Raises:
        CheckpointError: The repository does not exist or may not be read, no name fits a
            pattern, or the hub cannot be reached.
        StepError: Two names give the same step.
    """
    hub = hub or Hub()
    references = hub.references(repo) if branch is None else hub.commits(repo, branch)
    unit, notes = STEP, ()
    if patterns is None:
        selection = select_names(
            [reference.name for reference in references if reference.name != "main"],
            place=repo,
            on_hub=True,
        )
        unit, notes = selection.unit, selection.notes
        named_references = _pair_references(references, selection.names)
        main = next((reference for reference in references if reference.name == "main"), None)
        if not named_references and branch is None and main is not None:
            named_references, notes = [(main, RevisionName("main", 0))], ()
    else:
        parsed = (parse_name(reference.name, patterns) for reference in references)
        named_references = _pair_references(
            references, [name for name in parsed if name is not None]
        )
    if not named_references:
        names = [reference.name for reference in references]
        fault = "has a step" if patterns is None else f"fits {' or '.join(patterns)}"
        raise CheckpointError(
            f"{repo}: none of its {len(names)} names {fault}; they are {first_of(names, _SHOWN)}"
        )
    named_references = [
        (reference, with_tokens(name, tokens_per_step)) for reference, name in named_references
    ]
    for (earlier, first), (later, second) in pairwise(named_references):
        if first.step == second.step:
            raise StepError(
                f"{repo}: {earlier.kind} {earlier.name!r} and {later.kind} {later.name!r} are both "
                f"step {first.step}; give patterns that fit one of them"
            )
    checkpoints = tuple(
        Checkpoint(revision_of(hub, repo, reference), name.step, name.tokens_seen)
        for reference, name in named_references
    )
    return CheckpointSeries(repo, checkpoints, unit, notes)


def revision_of(hub: Hub, repo: str, reference: Reference) -> HubRevision:
    """Return the files of the revision that a name on a hub stands for.

    Args:
        hub: The hub.
        repo: The repository, as namespace/name.
        reference: The name.
    """
    match reference.kind:
        case "commit":
            return HubRevision(hub, repo, reference.commit)
        case "tag":  # the hash may be that of the tag, not of what it names
            return HubRevision(hub, repo, reference.name)
        case "branch":
            return HubRevision(hub, repo, reference.name, reference.commit)


def _pair_references(
    references: Iterable[Reference], names: Iterable[RevisionName]
) -> list[tuple[Reference, RevisionName]]:
    """Pair references with their parsed names, by ascending step; others are left out."""
    by_name = {name.name: name for name in names}
    pairs = {
        # A tag and a branch of one name and one commit are one.
        (reference.name, reference.commit): (reference, by_name[reference.name])
        for reference in references
        if reference.name in by_name
    }
    return sorted(pairs.values(), key=lambda pair: (pair[1].step, pair[0].name))
