"""Open a series by a folder, a name in the catalog or a repository on a hub."""

from fnmatch import fnmatchcase
from pathlib import Path

from dynamics.checkpoints.catalog.public_series import PublicSeries, find
from dynamics.checkpoints.checkpoint import Checkpoint
from dynamics.checkpoints.hub.client import Hub
from dynamics.checkpoints.hub.hub_series import open_hub_series, revision_of
from dynamics.checkpoints.hub.revisions import HubRevision
from dynamics.checkpoints.series import CheckpointSeries, open_series
from dynamics.errors import CheckpointError, first_of

_SHOWN = 5  # names listed in a note


def open_any(series: str, hub: Hub | None = None) -> CheckpointSeries:
    """Open a series without reading any checkpoint.

    Args:
        series: A folder as in `open_series`, a name of the catalog (`pythia-160m`), or a hub
            repository (`EleutherAI/pythia-160m`), whose steps are its revisions.
        hub: The hub; when None, the one that the environment configures.

    Raises:
        CheckpointError: There is no such folder, name or repository; the nearest names are shown.
        StepError: Two checkpoints are of one step.
    """
    path = Path(series).expanduser()
    if path.exists() or _looks_like_a_path(series, path):
        return open_series(series)
    try:
        entry = find(series)
    except CheckpointError as error:
        if series.count("/") != 1:
            raise CheckpointError(f"there is no folder {series!r}, and {error}") from error
        return open_hub_series(series, hub=hub)
    return open_public_series(entry, hub)


def open_public_series(entry: PublicSeries, hub: Hub | None = None) -> CheckpointSeries:
    """Open a series of the catalog, its steps parsed from the names that exist.

    Args:
        entry: Entry of the catalog.
        hub: The hub; when None, the one that the environment configures.

    Raises:
        CheckpointError: The series has no tensors to read, does not exist, or none of the names
            in its repository is a step of it.
        StepError: Two names are of one step.
    """
    if not entry.readable:
        raise CheckpointError(f"{entry.name} cannot be read: {entry.unreadable_because}")
    hub = hub or Hub()
    if entry.where == "repository":
        places = {repo: HubRevision(hub, repo, "main") for repo in _repositories(entry, hub)}
    else:
        (repo,) = entry.repositories
        references = hub.commits(repo, entry.branch) if entry.branch else hub.references(repo)
        places = {reference.name: revision_of(hub, repo, reference) for reference in references}
    names = entry.parse(places)
    if not names:
        raise CheckpointError(
            f"{entry.name}: none of the {len(places)} names in its repository is a step of it; the "
            f"catalog expects names such as {entry.revisions[0]}"
        )
    checkpoints = tuple(
        Checkpoint(places[name.name], step, name.tokens_seen) for step, name in names.items()
    )
    series_name = entry.name if entry.where == "repository" else entry.repositories[0]
    skipped = {*places} - {name.name for name in names.values()} - {"main"}
    return CheckpointSeries(series_name, checkpoints, notes=_skipped_note(entry.name, skipped))


def _skipped_note(name: str, skipped: set[str]) -> tuple[str, ...]:
    """Return a note on names that are no steps of a series; empty where there are none."""
    if not skipped:
        return ()
    shown = f"{first_of(sorted(skipped), _SHOWN)} ({len(skipped)} in all)"
    return (f"skipped because they are no steps of {name} in the catalog: {shown}",)


def _repositories(entry: PublicSeries, hub: Hub) -> list[str]:
    """Return the repositories that exist, one for each checkpoint."""
    repositories: list[str] = []
    for pattern in entry.repositories:
        if "*" in pattern:
            candidates = hub.repositories(pattern.partition("*")[0])
            repositories += [repo for repo in candidates if fnmatchcase(repo, pattern)]
        else:
            repositories.append(pattern)
    return repositories


def _looks_like_a_path(series: str, path: Path) -> bool:
    """Return whether a series that does not exist on disk was meant as a folder."""
    return series.startswith((".", "~", "/")) or ("/" in series and path.parent.is_dir())
