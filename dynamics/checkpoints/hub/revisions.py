"""Files of one revision of a repository on a hub."""

import re
import threading
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from dynamics.checkpoints.formats.byte_sources import LocalFile
from dynamics.checkpoints.hub.client import SHA256, Hub
from dynamics.checkpoints.hub.http import HttpFile, RemoteFile
from dynamics.checkpoints.stores import Traffic
from dynamics.errors import CheckpointError, UnreachableError
from dynamics.files import sha256_file

_COMMIT = re.compile("[0-9a-f]{40}")


class HubRevision:
    """A checkpoint on a hub; files in the local cache are read from there.

    The first response pins the commit: later reads are of the same commit, even when the branch or
    tag has moved on.

    Args:
        hub: The hub.
        repo: The repository, as namespace/name.
        revision: Branch, tag or hash of a commit.
        commit: Hash of the commit of the revision, where it is known.
    """

    def __init__(self, hub: Hub, repo: str, revision: str, commit: str | None = None) -> None:
        self.repo = repo
        self.revision = self.label = revision
        self.commit = revision if _COMMIT.fullmatch(revision) else commit
        self.traffic = Traffic(total=hub.transport.traffic)
        self._hub = replace(hub, transport=replace(hub.transport, traffic=self.traffic))
        self._files: dict[str, HttpFile | Path | None] = {}
        self._opening = threading.Lock()

    def sibling(self, revision: str) -> "HubRevision":
        """Return another revision of the same repository."""
        return HubRevision(self._hub, self.repo, revision)

    @property
    def name(self) -> str:
        """Repository and revision; with a remark when only the local cache is searched."""
        remark = " in the hub cache (HF_HUB_OFFLINE is set)" if self._hub.offline else ""
        return f"{self.repo}@{self.revision}{remark}"

    def open(self, filename: str) -> HttpFile | LocalFile | None:
        """Open a file of the revision, None when there is none of that name.

        Raises:
            CheckpointError: The revision does not exist or may not be read, the hub cannot be
                reached, or its commit has changed.
        """
        with self._opening:
            if filename not in self._files:
                self._files[filename] = self._find(filename)
            located = self._files[filename]
        return LocalFile(located) if isinstance(located, Path) else located

    def read_bytes(self, filename: str) -> bytes | None:
        """Read a small file whole, None when there is none of that name.

        Raises:
            CheckpointError: As for `open`; or the hub is offline, and the cache has no config.json.
        """
        path = self._cached(filename)
        if path is not None:
            return path.read_bytes() if path else None
        if not self._hub.offline:
            return self._hub.read(self.repo, self.revision, filename, self.commit)
        if filename != "config.json":  # other files may be missing
            return None
        raise CheckpointError(
            f"{self.name}: {filename} is missing, and is needed to read its weights; unset "
            "HF_HUB_OFFLINE, or fetch it first with `hf download`"
        )

    def sha256(self, filename: str) -> str | None:
        """Return the hexadecimal SHA-256 of a whole file, None when the hub does not provide it.

        Raises:
            CheckpointError: As for `open`.
        """
        with self._opening:
            located = self._files.get(filename)
        if isinstance(located, HttpFile):
            return located.remote_file.sha256
        if located is None:
            return None if self.open(filename) is None else self.sha256(filename)
        blob = located.resolve().name  # the cache names large files after their digest
        return blob if SHA256.fullmatch(blob) else sha256_file(located)

    def folder(self, patterns: Collection[str]) -> Path:
        """Return the revision's folder in the local cache, with files that fit a pattern fetched.

        Raises:
            CheckpointError: As for `open`.
        """
        if self.commit != self.revision and not self._hub.offline:
            # This records the commit of the name in the cache, so that the name works offline.
            self._hub.fetch(self.repo, self.revision, ["config.json"])
        return self._hub.fetch(self.repo, self.commit or self.revision, patterns)

    def _cached(self, filename: str) -> Any:
        """Look a file up as `Hub.cached` does; a name without a commit is trusted only offline."""
        if self.commit is None and not self._hub.offline:
            return None
        return self._hub.cached(self.repo, self.commit or self.revision, filename)

    def _find(self, filename: str) -> HttpFile | Path | None:
        """Find a file in the local cache or else on the hub, None when there is none."""
        remote_file = None
        if self.commit is None and not self._hub.offline:
            remote_file = self._locate(filename)  # the first response pins the commit
            if remote_file is None:
                return None
        cached = self._cached(filename)
        if cached is not None or self._hub.offline:
            return cached or None
        remote_file = remote_file or self._locate(filename)
        if remote_file is None:
            return None
        name = f"{self.name}/{filename}"
        return HttpFile(name, remote_file, lambda: self._relocate(filename), self._hub.transport)

    def _locate(self, filename: str) -> RemoteFile | None:
        """Locate a file on the hub, and pin or check the commit it is in."""
        remote_file = self._hub.locate(self.repo, self.revision, filename, self.commit)
        if remote_file is not None and remote_file.commit is not None:
            if self.commit not in (None, remote_file.commit):
                raise UnreachableError(
                    f"{self.name}: the hub answers with commit {remote_file.commit} in place of "
                    f"{self.commit}"
                )
            self.commit = remote_file.commit
        return remote_file

    def _relocate(self, filename: str) -> RemoteFile:
        """Locate a file again whose address has expired."""
        remote_file = self._locate(filename)
        if remote_file is None:
            raise CheckpointError(f"{self.name}/{filename}: was removed while it was being read")
        return remote_file

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_files": {}, "_opening": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state | {"_opening": threading.Lock()}
