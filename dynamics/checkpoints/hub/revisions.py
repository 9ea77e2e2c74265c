"""The files of one revision of a repository on a hub."""

import re
import threading
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from dynamics.checkpoints.formats.byte_sources import LocalFile
from dynamics.checkpoints.hub.client import Hub
from dynamics.checkpoints.hub.http import HttpFile, RemoteFile
from dynamics.checkpoints.stores import Traffic
from dynamics.errors import CheckpointError, UnreachableError
from dynamics.files import sha256_file

CONFIG = "config.json"
_COMMIT = re.compile("[0-9a-f]{40}")
_SHA256 = re.compile("[0-9a-f]{64}")


class HubRevision:
    """A checkpoint on a hub; a file of it that is in the local cache is read from there.

    The first answer pins the commit: what is read later is of the same, wherever the name leads
    by then.

    Args:
        hub: The hub.
        repo: The repository, as namespace/name.
        revision: Branch, tag or hash of a commit.
        commit: Hash of the commit that the revision is known to be.
    """

    def __init__(self, hub: Hub, repo: str, revision: str, commit: str | None = None) -> None:
        self.repo = repo
        self.revision = revision
        self.commit = revision if _COMMIT.fullmatch(revision) else commit
        self.traffic = Traffic(whole=hub.transport.traffic)
        self._hub = replace(hub, transport=replace(hub.transport, traffic=self.traffic))
        self._files: dict[str, HttpFile | Path | None] = {}
        self._opening = threading.Lock()

    def beside(self, revision: str) -> "HubRevision":
        """Another revision of the same repository."""
        return HubRevision(self._hub, self.repo, revision)

    @property
    def name(self) -> str:
        """Repository and revision, and where it is looked for when that is not the hub."""
        where = " in the hub cache (HF_HUB_OFFLINE is set)" if self._hub.offline else ""
        return f"{self.repo}@{self.revision}{where}"

    @property
    def label(self) -> str:
        """The revision."""
        return self.revision

    def open(self, filename: str) -> HttpFile | LocalFile | None:
        """A file of the revision, None when there is none of that name.

        Raises:
            CheckpointError: The revision does not exist or may not be read, the hub cannot be
                reached, or it answers with another commit than before.
        """
        with self._opening:
            if filename not in self._files:
                self._files[filename] = self._find(filename)
            found = self._files[filename]
        return LocalFile(found) if isinstance(found, Path) else found

    def read_bytes(self, filename: str) -> bytes | None:
        """The whole of a small file, None when there is none of that name.

        Raises:
            CheckpointError: As for `open`; or nothing may be fetched, and the cache has no
                config.json.
        """
        path = self._cached(filename)
        if path is not None:
            return path.read_bytes() if path else None
        if not self._hub.offline:
            return self._hub.read(self.repo, self.revision, filename, self.commit)
        if filename != CONFIG:  # the rest may be missing
            return None
        raise CheckpointError(
            f"{self.name}: {filename} is not there, which reading its weights needs; unset "
            "HF_HUB_OFFLINE, or fetch it first with `hf download`"
        )

    def sha256(self, filename: str) -> str | None:
        """Hexadecimal SHA-256 of a whole file, None when the hub does not tell.

        Raises:
            CheckpointError: As for `open`.
        """
        with self._opening:
            found = self._files.get(filename)
        if isinstance(found, HttpFile):
            return found.found.sha256
        if found is None:
            return None if self.open(filename) is None else self.sha256(filename)
        blob = found.resolve().name  # the cache names large files after their digest
        return blob if _SHA256.fullmatch(blob) else sha256_file(found)

    def folder(self, patterns: Collection[str]) -> Path:
        """The revision in the local cache, its files that fit a pattern fetched where need be.

        Raises:
            CheckpointError: As for `open`.
        """
        if self.commit != self.revision and not self._hub.offline:
            # The cache learns which commit the name stands for, so that it is found offline.
            self._hub.fetch(self.repo, self.revision, ["config.json"])
        return self._hub.fetch(self.repo, self.commit or self.revision, patterns)

    def _cached(self, filename: str) -> Any:
        """As `Hub.cached`; a name is trusted to be what it was only when nothing may be asked."""
        if self.commit is None and not self._hub.offline:
            return None
        return self._hub.cached(self.repo, self.commit or self.revision, filename)

    def _find(self, filename: str) -> HttpFile | Path | None:
        found = None
        if self.commit is None and not self._hub.offline:
            found = self._locate(filename)
            if found is None:
                return None
        cached = self._cached(filename)
        if cached is not None or self._hub.offline:
            return cached or None
        found = found or self._locate(filename)
        if found is None:
            return None
        name = f"{self.name}/{filename}"
        return HttpFile(name, found, lambda: self._relocate(filename), self._hub.transport)

    def _locate(self, filename: str) -> RemoteFile | None:
        found = self._hub.locate(self.repo, self.revision, filename, self.commit)
        if found is not None and found.commit is not None:
            if self.commit not in (None, found.commit):
                raise UnreachableError(
                    f"{self.name}: the hub answers with commit {found.commit} in place of "
                    f"{self.commit}"
                )
            self.commit = found.commit
        return found

    def _relocate(self, filename: str) -> RemoteFile:
        found = self._locate(filename)
        if found is None:
            raise CheckpointError(f"{self.name}/{filename}: has gone while it was being read")
        return found

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_files": {}, "_opening": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state | {"_opening": threading.Lock()}
