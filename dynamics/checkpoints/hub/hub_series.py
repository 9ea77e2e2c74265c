"""Checkpoints of one training, from the revisions of a repository on a hub."""

from collections.abc import Collection, Iterable, Mapping
from itertools import pairwise

from dynamics.checkpoints.catalog.revision_names import RevisionName, parse_name, with_tokens
from dynamics.checkpoints.checkpoint import Checkpoint
from dynamics.checkpoints.hub.client import Hub, Reference
from dynamics.checkpoints.hub.revisions import HubRevision
from dynamics.checkpoints.series import CheckpointSeries
from dynamics.checkpoints.step_names import STEP, choose_names
from dynamics.errors import CheckpointError, StepError

_SHOWN = 5  # names a message shows


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
        patterns: Names that count, see `parse_name`. When None, those that tell a step to
            `choose_names`; a repository that has none of them is a single model, `main`, of step 0.
        branch: Take the commits on this branch by their titles, not the branches and tags by
            their names.
        tokens_per_step: Tokens of a step, see `tokens_at`; names tell them rounded, or not at all.
        hub: The hub, as the environment says when None.

    Raises:
        CheckpointError: The repository does not exist or may not be read, no name fits a
            pattern, or the hub cannot be reached.
        StepError: Two names give the same step.
    """
    hub = hub or Hub()
    references = hub.references(repo) if branch is None else hub.commits(repo, branch)
    unit, notes = STEP, ()
    if patterns is None:
        chosen = choose_names(
            [reference.name for reference in references if reference.name != "main"],
            place=repo,
            on_hub=True,
        )
        unit, notes = chosen.unit, chosen.notes
        found = _referenced(references, chosen.names)
        main = next((each for each in references if each.name == "main"), None)
        if not found and branch is None and main is not None:
            found, notes = [(main, RevisionName("main", 0))], ()
    else:
        parsed = (parse_name(each.name, patterns) for each in references)
        found = _referenced(references, [said for said in parsed if said is not None])
    if not found:
        names = [each.name for each in references]
        raise CheckpointError(
            f"{repo}: none of its {len(names)} names "
            f"{'tells a step' if patterns is None else 'fits ' + ' or '.join(patterns)}; "
            f"they are {', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''}"
        )
    for (before, first), (after, second) in pairwise(found):
        if first.step == second.step:
            raise StepError(
                f"{repo}: {before.kind} {before.name!r} and {after.kind} {after.name!r} are both "
                f"step {first.step}; give patterns that fit one of them"
            )
    checkpoints = [
        Checkpoint(
            revision_of(hub, repo, reference),
            said.step,
            with_tokens(said, tokens_per_step).tokens_seen,
        )
        for reference, said in found
    ]
    return CheckpointSeries(repo, tuple(checkpoints), unit, notes)


def revision_of(hub: Hub, repo: str, reference: Reference) -> HubRevision:
    """The files of what a name on a hub stands for.

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


def _referenced(
    references: Iterable[Reference], names: Iterable[RevisionName]
) -> list[tuple[Reference, RevisionName]]:
    """References by these names, and what each name says, by ascending step."""
    said_by = {said.name: said for said in names}
    found = {
        # A tag and a branch of one name and one commit are one.
        (reference.name, reference.commit): (reference, said_by[reference.name])
        for reference in references
        if reference.name in said_by
    }
    return sorted(found.values(), key=lambda each: (each[1].step, each[0].name))
