"""A model hub: what revisions a repository has, and where the files of a revision are."""

import difflib
import json
import re
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, urlencode

import httpx2
from huggingface_hub import (
    constants,
    get_hf_file_metadata,
    hf_hub_url,
    snapshot_download,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import (
    build_hf_headers,
    get_session,
    hf_raise_for_status,
    validate_repo_id,
)

from dynamics.checkpoints.hub.cache import TensorCache
from dynamics.checkpoints.hub.http import RemoteFile
from dynamics.checkpoints.hub.transport import Transport, origin, reason, status, unless_absent
from dynamics.errors import CheckpointError, UnreachableError

_SHA256 = re.compile("[0-9a-f]{64}")
_SMALL = 1 << 26  # bytes an answer or a file beside the weights may have
_NAMED = 3  # names a message suggests


@dataclass(frozen=True)
class Reference:
    """A name for one state of a repository.

    Attributes:
        name: Name of the branch or tag, or title of the commit.
        commit: Hash of the commit; that of an annotated tag may be the tag's own.
        kind: What it is the name of.
    """

    name: str
    commit: str
    kind: Literal["branch", "tag", "commit"]


@dataclass(frozen=True)
class Hub:
    """How a model hub is reached; what is None is taken from huggingface_hub's own settings.

    Attributes:
        endpoint: Its address, HF_ENDPOINT when None.
        token: What to identify with, HF_TOKEN or the stored token when None; False for nothing.
        folder: Its local cache, which only `fetch` writes to; HF_HUB_CACHE when None.
        transport: How requests are made.
        kind: What its repositories hold.
    """

    endpoint: str | None = None
    token: str | Literal[False] | None = None
    folder: Path | None = None
    transport: Transport = field(
        default_factory=lambda: Transport(cache=TensorCache.from_environment())
    )
    kind: Literal["model", "dataset"] = "model"

    @property
    def address(self) -> str:
        """Its address, without a slash at the end."""
        return (self.endpoint or constants.ENDPOINT).rstrip("/")

    @property
    def offline(self) -> bool:
        """Whether HF_HUB_OFFLINE forbids every request."""
        return constants.is_offline_mode()

    def references(self, repo: str) -> list[Reference]:
        """The branches and tags of a repository; offline, those in the local cache.

        Raises:
            CheckpointError: It does not exist or may not be read, or the hub cannot be reached.
        """
        with self._explained(repo, repo):
            validate_repo_id(repo)
            if self.offline:
                return self._cached_references(repo)
            (answer,) = self._pages(repo, f"/{repo}/refs")
            return [
                *(
                    Reference(each["name"], each["targetCommit"], "branch")
                    for each in answer["branches"]
                ),
                *(Reference(each["name"], each["targetCommit"], "tag") for each in answer["tags"]),
            ]

    def repositories(self, beginning: str) -> list[str]:
        """Ids of the repositories that begin like that, as namespace/name.

        Raises:
            CheckpointError: The hub cannot be reached.
        """
        author, _, name = beginning.partition("/")
        with self._explained(beginning, beginning):
            return [repo for repo in self._listed(author, name) if repo.startswith(beginning)]

    def files(self, repo: str, revision: str) -> tuple[str, list[str]]:
        """Hash of the commit a revision is, and the names of the files in it.

        Raises:
            CheckpointError: There is no such revision, or as for `references`.
        """
        with self._explained(f"{repo}@{revision}", repo, revision):
            validate_repo_id(repo)
            (answer,) = self._pages(repo, f"/{repo}/revision/{quote(revision, safe='')}")
            return answer["sha"], [each["rfilename"] for each in answer["siblings"]]

    def commits(self, repo: str, revision: str) -> list[Reference]:
        """The commits that led to a revision, by title, newest first.

        Raises:
            CheckpointError: There is no such revision, or as for `references`.
        """
        with self._explained(f"{repo}@{revision}", repo, revision):
            validate_repo_id(repo)
            pages = self._pages(repo, f"/{repo}/commits/{quote(revision, safe='')}")
            return [
                Reference(each["title"], each["id"], "commit") for page in pages for each in page
            ]

    def locate(
        self, repo: str, revision: str, filename: str, commit: str | None = None
    ) -> RemoteFile | None:
        """Where a file is and what the hub says of it, None when there is none of that name.

        Args:
            repo: The repository, as namespace/name.
            revision: Branch, tag or hash of a commit.
            filename: The file.
            commit: Hash of the commit to look in, wherever the revision leads.

        Raises:
            CheckpointError: There is no such revision, or as for `references`.
            UnreachableError: The hub does not tell how long the file is.
        """
        with self._file(repo, revision, filename, commit) as (name, url):
            ask = partial(get_hf_file_metadata, url, token=self.token, timeout=self._timeout)
            found = unless_absent(partial(self.transport.persist, ask, name))
            if found is None:
                return None
            if found.size is None:
                raise UnreachableError(f"{name}: {self.address} does not tell how long the file is")
            etag = found.etag or ""
            about = {"commit": found.commit_hash, "size": found.size}
            about["sha256"] = etag if _SHA256.fullmatch(etag) else None
            if origin(found.location) != origin(self.address):
                return RemoteFile(found.location, signed=True, **about)
            pinned = self._url(repo, found.commit_hash or revision, filename)
            return RemoteFile(pinned, headers=self._headers, **about)

    def read(
        self, repo: str, revision: str, filename: str, commit: str | None = None
    ) -> bytes | None:
        """The whole of a small file, None when there is none of that name.

        Args:
            repo: The repository, as namespace/name.
            revision: Branch, tag or hash of a commit.
            filename: The file.
            commit: Hash of the commit to look in, wherever the revision leads.

        Raises:
            CheckpointError: There is no such revision, or as for `references`.
        """
        with self._file(repo, revision, filename, commit) as (name, url):
            content = unless_absent(partial(self._download, url, name))
            return None if content is None else content[0]

    def cached(self, repo: str, revision: str, filename: str) -> Path | Literal[False] | None:
        """A file in the local cache; False when the cache knows there is none, None when not."""
        found = try_to_load_from_cache(
            repo, filename, cache_dir=self.folder, revision=revision, repo_type=self.kind
        )
        if isinstance(found, str):
            return Path(found)
        return None if found is None else False

    def fetch(self, repo: str, revision: str, patterns: Collection[str]) -> Path:
        """The folder of a revision in the local cache, files that fit a pattern downloaded.

        The only thing here that writes into the cache; whatever reads the hub's cache finds them.

        Raises:
            CheckpointError: There is no such revision, a file cannot be written, or as for
                `references`.
            UnreachableError: The hub cannot be reached, and the cache does not have it.
        """
        with self._explained(f"{repo}@{revision}", repo, revision):
            try:
                return Path(
                    snapshot_download(
                        repo,
                        repo_type=self.kind,
                        revision=revision,
                        cache_dir=self.folder,
                        token=self.token,
                        endpoint=self.address,
                        allow_patterns=list(patterns),
                    )
                )
            except LocalEntryNotFoundError as error:
                raise UnreachableError(
                    f"{repo}@{revision}: cannot be fetched from {self.address}, nor is it in the "
                    "hub cache; check the network and HF_ENDPOINT"
                ) from error

    @property
    def _timeout(self) -> float:
        return self.transport.patience.timeout

    @property
    def _headers(self) -> dict[str, str]:
        return build_hf_headers(token=self.token)

    def _url(self, repo: str, revision: str, filename: str) -> str:
        return hf_hub_url(
            repo, filename, repo_type=self.kind, revision=revision, endpoint=self.address
        )

    @contextmanager
    def _file(
        self, repo: str, revision: str, filename: str, commit: str | None
    ) -> Iterator[tuple[str, str]]:
        """Name and address of a file that is asked for inside."""
        name = f"{repo}@{revision}/{filename}"
        with self._explained(name, repo, revision):
            yield name, self._url(repo, commit or revision, filename)

    def _cached_references(self, repo: str) -> list[Reference]:
        cache = Path(self.folder or constants.HF_HUB_CACHE)
        folder = cache / repo_folder_name(repo_id=repo, repo_type=self.kind) / "refs"
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        if not files:
            raise OfflineModeIsEnabled
        return [
            Reference(path.relative_to(folder).as_posix(), path.read_text().strip(), "branch")
            for path in files
        ]

    def _pages(self, name: str, path: str) -> Iterator[Any]:
        url: str | None = f"{self.address}/api/{self.kind}s{path}"
        while url is not None:
            content, following = self._download(url, name)
            try:
                yield json.loads(content)
            except ValueError as error:
                raise UnreachableError(
                    f"{name}: {self.address} answers with something else than JSON; check "
                    "HF_ENDPOINT"
                ) from error
            url = following

    def _download(self, url: str, name: str) -> tuple[bytes, str | None]:
        """The body behind an address of the hub, and the address of the page after it."""

        def fetch() -> tuple[bytes, str | None]:
            timeout = self._timeout
            with get_session().stream("GET", url, headers=self._headers, timeout=timeout) as answer:
                hf_raise_for_status(answer)
                deadline = self.transport.patience.deadline(_SMALL)
                content = bytearray()
                for chunk in answer.iter_bytes():
                    self.transport.traffic.count(received=len(chunk))
                    content += chunk
                    if len(content) > _SMALL:
                        raise CheckpointError(f"{name}: is larger than {_SMALL} bytes")
                    if time.monotonic() > deadline:
                        raise httpx2.ReadTimeout("too slow", request=answer.request)
                return bytes(content), answer.links.get("next", {}).get("url")

        return self.transport.persist(fetch, name)

    @contextmanager
    def _explained(self, name: str, repo: str, revision: str = "") -> Iterator[None]:
        """Whatever goes wrong inside becomes one line that says what to do."""
        try:
            yield
        except OfflineModeIsEnabled as error:
            raise CheckpointError(
                f"{name}: is not in the hub cache {self.folder or constants.HF_HUB_CACHE}, and "
                "HF_HUB_OFFLINE forbids to fetch it; unset HF_HUB_OFFLINE"
            ) from error
        except HFValidationError as error:
            raise CheckpointError(
                f"{repo!r} is no repository of a hub; namespace/name is expected"
            ) from error
        except GatedRepoError as error:
            known = "authorization" in self._headers
            refused = "the token that is set has no access" if known else "no token is set"
            raise UnreachableError(
                f"{repo}: is gated, and {refused}; accept its terms at {self.address}/{repo} and "
                "set HF_TOKEN to a token of that account"
            ) from error
        except RepositoryNotFoundError as error:
            raise UnreachableError(
                f"{repo}: {self.address} has no such repository, or it is private; "
                f"{self._like(repo)}check the name, or set HF_TOKEN"
            ) from error
        except RevisionNotFoundError as error:
            names = {each.name for each in self.references(repo)}
            raise CheckpointError(
                f"{repo}: has no revision {revision!r} among its {len(names)} branches and tags; "
                + _suggest(revision, names)
            ) from error
        except httpx2.HTTPError as error:
            advice = ""
            if status(error) in (401, 403):
                advice = "; set HF_TOKEN to a token that may read it"
            raise UnreachableError(f"{name}: {reason(error)}{advice}") from error

    def _listed(self, author: str, search: str = "") -> list[str]:
        query = urlencode({"author": author, "search": search, "limit": 1000})
        return [each["id"] for page in self._pages(author, f"?{query}") for each in page]

    def _like(self, repo: str) -> str:
        """Repositories of the same namespace with names like that, as part of a message."""
        author, _, _ = repo.rpartition("/")
        try:
            known = self._listed(author)
        except (CheckpointError, httpx2.HTTPError, ValueError, LookupError, TypeError):
            return ""
        close = difflib.get_close_matches(repo, known, n=_NAMED, cutoff=0.8)
        return f"close are {', '.join(close)}; " if close else ""


def _suggest(name: str, known: set[str]) -> str:
    close = difflib.get_close_matches(name, sorted(known), n=_NAMED)
    return f"the nearest are {', '.join(close)}" if close else f"one of them is {min(known)}"
