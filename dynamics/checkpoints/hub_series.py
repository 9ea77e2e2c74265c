"""Checkpoints of one training, from the revisions of a repository on a hub."""

from collections.abc import Collection, Iterable, Mapping
from itertools import pairwise

from dynamics.checkpoints.checkpoint import Checkpoint
from dynamics.checkpoints.hub import Hub, Reference
from dynamics.checkpoints.revision_names import RevisionName, parse_name, with_tokens
from dynamics.checkpoints.revisions import HubRevision
from dynamics.checkpoints.series import CheckpointSeries
from dynamics.errors import CheckpointError, StepError

# checkpoint-N, stepN, step-N, step_N, global_stepN, stage1-stepN, each perhaps with -tokensNB
STEP_NAMES = (
    r"(?:checkpoint[-_]|(?:global_|stage1-)?step[-_]?)(?P<step>\d+)"
    r"(?:-tokens(?P<tokens>\d+)(?P<unit>[BT]))?",
)
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
        patterns: Names that count, see `parse_name`. When None, the usual ones; a repository that
            has none of them is a single model, `main`, of step 0.
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
    found = _numbered(references, patterns or STEP_NAMES)
    if not found and patterns is None and branch is None:
        main = {each.name: each for each in references}.get("main")
        found = [(main, RevisionName("main", 0))] if main else []
    if not found:
        names = [each.name for each in references]
        raise CheckpointError(
            f"{repo}: none of its {len(names)} names fits {' or '.join(patterns or STEP_NAMES)}; "
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
    return CheckpointSeries(repo, tuple(checkpoints))


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


def _numbered(
    references: Iterable[Reference], patterns: Collection[str]
) -> list[tuple[Reference, RevisionName]]:
    """References whose name fits, and what it says, by ascending step."""
    found = {
        # A tag and a branch of one name and one commit are one.
        (reference.name, reference.commit): (reference, said)
        for reference in references
        if (said := parse_name(reference.name, patterns)) is not None
    }
    return sorted(found.values(), key=lambda each: (each[1].step, each[0].name))
