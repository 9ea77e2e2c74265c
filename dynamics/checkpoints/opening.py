"""A series by whatever names it: a folder, a name in the catalog, a repository on a hub."""

from fnmatch import fnmatchcase
from pathlib import Path

from dynamics.checkpoints.catalog.public_series import PublicSeries, find
from dynamics.checkpoints.checkpoint import Checkpoint
from dynamics.checkpoints.hub.client import Hub
from dynamics.checkpoints.hub.hub_series import open_hub_series, revision_of
from dynamics.checkpoints.hub.revisions import HubRevision
from dynamics.checkpoints.series import CheckpointSeries, open_series
from dynamics.errors import CheckpointError

_SHOWN = 5  # names a note shows


def open_any(series: str, hub: Hub | None = None) -> CheckpointSeries:
    """Open a series without reading any checkpoint.

    Args:
        series: A folder as in `open_series`, a name of the catalog (`pythia-160m`), or a hub
            repository (`EleutherAI/pythia-160m`), whose steps are its revisions.
        hub: The hub, as the environment says when None.

    Raises:
        CheckpointError: There is no such folder, name or repository; the nearest names are shown.
        StepError: Two checkpoints are of one step.
    """
    path = Path(series).expanduser()
    if path.exists() or _looks_like_a_path(series, path):
        return open_series(series)
    try:
        known = find(series)
    except CheckpointError as error:
        if series.count("/") != 1:
            raise CheckpointError(f"there is no folder {series!r} here, and {error}") from error
        return open_hub_series(series, hub=hub)
    return open_public_series(known, hub)


def open_public_series(known: PublicSeries, hub: Hub | None = None) -> CheckpointSeries:
    """Open a series of the catalog, its steps parsed from the names that exist.

    Args:
        known: Entry of the catalog.
        hub: The hub, as the environment says when None.

    Raises:
        CheckpointError: The series is not readable as tensors, does not exist, or none of the
            names found is a step of it.
        StepError: Two names are of one step.
    """
    if not known.readable:
        raise CheckpointError(f"{known.name} cannot be read: {known.unreadable_because}")
    hub = hub or Hub()
    if known.where == "repository":
        places = {repo: HubRevision(hub, repo, "main") for repo in _repositories(known, hub)}
    else:
        (repo,) = known.repositories
        references = hub.commits(repo, known.branch) if known.branch else hub.references(repo)
        places = {each.name: revision_of(hub, repo, each) for each in references}
    steps = known.parse(places)
    if not steps:
        raise CheckpointError(
            f"{known.name}: none of the {len(places)} names found is a step of it; the catalog "
            f"expects names such as {known.revisions[0]}"
        )
    name = known.name if known.where == "repository" else known.repositories[0]
    return CheckpointSeries(
        name,
        tuple(
            Checkpoint(places[said.name], step, said.tokens_seen) for step, said in steps.items()
        ),
        notes=_passed_over(known, {*places} - {said.name for said in steps.values()} - {"main"}),
    )


def _passed_over(known: PublicSeries, others: set[str]) -> tuple[str, ...]:
    """A line on names that are no steps of a series, nothing where there are none."""
    if not others:
        return ()
    shown = ", ".join(sorted(others)[:_SHOWN]) + (", ..." if len(others) > _SHOWN else "")
    return (
        f"passed over, as no steps of {known.name} in the catalog: {shown} ({len(others)} in all)",
    )


def _repositories(known: PublicSeries, hub: Hub) -> list[str]:
    """Repositories that exist, one for each checkpoint."""
    found: list[str] = []
    for listed in known.repositories:
        if "*" in listed:
            alike = hub.repositories(listed.partition("*")[0])
            found += [repo for repo in alike if fnmatchcase(repo, listed)]
        else:
            found.append(listed)
    return found


def _looks_like_a_path(series: str, path: Path) -> bool:
    return series.startswith((".", "~", "/")) or ("/" in series and path.parent.is_dir())
