"""Repositories in the cache of `huggingface_hub`, read from their folders without a request.

models--ORGANISATION--NAME/refs/REVISION      holds the hash of a commit
models--ORGANISATION--NAME/snapshots/COMMIT/  the files of that commit, links into blobs
"""

from dataclasses import dataclass
from pathlib import Path

_PREFIX = "models--"


@dataclass(frozen=True)
class CachedRepository:
    """One repository in the cache.

    Attributes:
        folder: Its `models--ORGANISATION--NAME`.
        snapshots: Folders of the revisions in `refs` that have one, by revision.
        absent: Revisions in `refs` whose snapshot is not in the cache.
        unnamed: Snapshots that no revision in `refs` names.
    """

    folder: Path
    snapshots: dict[str, Path]
    absent: tuple[str, ...]
    unnamed: tuple[Path, ...]

    @property
    def name(self) -> str:
        """Repository as namespace/name."""
        return self.folder.name.removeprefix(_PREFIX).replace("--", "/")

    def revisions_of(self, snapshot: Path) -> list[str]:
        """Return the revisions that name a snapshot, ascending."""
        return sorted(name for name, path in self.snapshots.items() if path == snapshot)


def cached_repository(folder: Path) -> CachedRepository | None:
    """Read a repository's folder in the cache; None where `folder` is something else.

    Args:
        folder: `models--ORGANISATION--NAME`, or the `snapshots` in it.
    """
    if folder.name == "snapshots":
        folder = folder.parent
    if not (folder / "snapshots").is_dir() or not (
        folder.name.startswith(_PREFIX) or (folder / "refs").is_dir()
    ):
        return None
    commits = cached_commits(folder)
    places = {name: folder / "snapshots" / commit for name, commit in commits.items()}
    snapshots = {name: snapshot for name, snapshot in places.items() if snapshot.is_dir()}
    absent = tuple(sorted(places.keys() - snapshots.keys()))
    named = set(snapshots.values())
    stored = sorted(path for path in (folder / "snapshots").iterdir() if path.is_dir())
    unnamed = tuple(path for path in stored if path not in named)
    return CachedRepository(folder, snapshots, absent, unnamed)


def cached_commits(folder: Path) -> dict[str, str]:
    """Return the commit of each revision in the `refs` of a repository's folder, by name."""
    refs = folder / "refs"
    return {
        path.relative_to(refs).as_posix(): path.read_text("utf-8", errors="replace").strip()
        for path in sorted(refs.rglob("*"))
        if path.is_file()
    }


def cached_repositories(folder: Path) -> list[CachedRepository]:
    """List the repositories of models in a cache, by name; empty where `folder` is no cache."""
    folders = sorted(path for path in folder.glob(f"{_PREFIX}*--*") if path.is_dir())
    return [repository for path in folders if (repository := cached_repository(path)) is not None]
