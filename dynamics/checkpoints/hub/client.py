"""Client of a model hub: the revisions of a repository, and the files of a revision."""

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
from huggingface_hub import errors as hub_errors
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import (
    build_hf_headers,
    get_session,
    hf_raise_for_status,
    validate_repo_id,
)

from dynamics.checkpoints.cached_repositories import cached_commits
from dynamics.checkpoints.hub.cache import TensorCache
from dynamics.checkpoints.hub.http import RemoteFile
from dynamics.checkpoints.hub.transport import Transport, origin, reason, status, unless_absent
from dynamics.errors import CheckpointError, UnreachableError

SHA256 = re.compile("[0-9a-f]{64}")
_SMALL = 1 << 26  # most bytes of a response or of a file beside the weights
_NAMED = 3  # names suggested in a message


ReferenceKind = Literal["branch", "tag", "commit"]


@dataclass(frozen=True)
class Reference:
    """A name for one state of a repository.

    Attributes:
        name: Name of the branch or tag, or title of the commit.
        commit: Hash of the commit; that of an annotated tag may be the tag's own.
        kind: Kind of the name.
    """

    name: str
    commit: str
    kind: ReferenceKind


@dataclass(frozen=True)
class Hub:
    """Access to a model hub; None stands for the settings of huggingface_hub.

    Attributes:
        endpoint: Address, HF_ENDPOINT when None.
        token: Access token, HF_TOKEN or the stored token when None; False for no token.
        folder: Local cache, which only `fetch` writes to; HF_HUB_CACHE when None.
        transport: Means of making requests.
        kind: Kind of its repositories.
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
        """Address without a slash at the end."""
        return (self.endpoint or constants.ENDPOINT).rstrip("/")

    @property
    def offline(self) -> bool:
        """Whether HF_HUB_OFFLINE forbids every request."""
        return constants.is_offline_mode()

    def references(self, repo: str) -> list[Reference]:
        """List the branches and tags of a repository; offline, those in the local cache.

        Raises:
            CheckpointError: The repository does not exist or may not be read, or the hub cannot be
                reached.
        """
        with self._explained_errors(repo, repo):
            validate_repo_id(repo)
            if self.offline:
                return self._cached_references(repo)
            (page,) = self._pages(repo, f"/{repo}/refs")
            kinds: dict[ReferenceKind, str] = {"branch": "branches", "tag": "tags"}
            return [
                Reference(item["name"], item["targetCommit"], kind)
                for kind, field_name in kinds.items()
                for item in page[field_name]
            ]

    def repositories(self, beginning: str) -> list[str]:
        """List the ids, as namespace/name, of the repositories that begin with a text.

        Raises:
            CheckpointError: The hub cannot be reached.
        """
        author, _, name = beginning.partition("/")
        with self._explained_errors(beginning, beginning):
            ids = self._repository_ids(author, name)
            return [repo for repo in ids if repo.startswith(beginning)]

    def files(self, repo: str, revision: str) -> tuple[str, list[str]]:
        """Return the hash of the commit of a revision, and the names of its files.

        Raises:
            CheckpointError: There is no such revision, or as for `references`.
        """
        with self._explained_errors(f"{repo}@{revision}", repo, revision):
            validate_repo_id(repo)
            (page,) = self._pages(repo, f"/{repo}/revision/{quote(revision, safe='')}")
            return page["sha"], [item["rfilename"] for item in page["siblings"]]

    def commits(self, repo: str, revision: str) -> list[Reference]:
        """List the commits up to a revision by title, newest first.

        Raises:
            CheckpointError: There is no such revision, or as for `references`.
        """
        with self._explained_errors(f"{repo}@{revision}", repo, revision):
            validate_repo_id(repo)
            pages = self._pages(repo, f"/{repo}/commits/{quote(revision, safe='')}")
            return [
                Reference(item["title"], item["id"], "commit") for page in pages for item in page
            ]

    def locate(
        self, repo: str, revision: str, filename: str, commit: str | None = None
    ) -> RemoteFile | None:
        """Locate a file on the hub, None when there is none of that name.

        Args:
            repo: The repository, as namespace/name.
            revision: Branch, tag or hash of a commit.
            filename: The file.
            commit: Hash of the commit to read, in place of the one that the revision names now.

        Raises:
            CheckpointError: There is no such revision, or as for `references`.
            UnreachableError: The hub does not send the length of the file.
        """
        with self._file(repo, revision, filename, commit) as (name, url):
            timeout = self.transport.patience.timeout
            request = partial(get_hf_file_metadata, url, token=self.token, timeout=timeout)
            metadata = unless_absent(partial(self.transport.persist, request, name))
            if metadata is None:
                return None
            if metadata.size is None:
                raise UnreachableError(
                    f"{name}: {self.address} does not send the length of the file"
                )
            etag = metadata.etag or ""  # of a large file its SHA-256, of a small one git's SHA-1
            fields = {"commit": metadata.commit_hash, "size": metadata.size}
            fields["sha256"] = etag if SHA256.fullmatch(etag) else None
            if origin(metadata.location) != origin(self.address):
                return RemoteFile(metadata.location, signed=True, **fields)
            pinned = self._url(repo, metadata.commit_hash or revision, filename)
            return RemoteFile(pinned, headers=self._headers, **fields)

    def read(
        self, repo: str, revision: str, filename: str, commit: str | None = None
    ) -> bytes | None:
        """Read a small file whole, None when there is none of that name.

        Args:
            repo: The repository, as namespace/name.
            revision: Branch, tag or hash of a commit.
            filename: The file.
            commit: Hash of the commit to read, in place of the one that the revision names now.

        Raises:
            CheckpointError: There is no such revision, or as for `references`.
        """
        with self._file(repo, revision, filename, commit) as (name, url):
            content = unless_absent(partial(self._download, url, name))
            return None if content is None else content[0]

    def cached(self, repo: str, revision: str, filename: str) -> Path | Literal[False] | None:
        """Look up a file in the local cache; False when it is known not to exist, else None."""
        path = try_to_load_from_cache(
            repo, filename, cache_dir=self.folder, revision=revision, repo_type=self.kind
        )
        if isinstance(path, str):
            return Path(path)
        return None if path is None else False

    def fetch(self, repo: str, revision: str, patterns: Collection[str]) -> Path:
        """Download the files of a revision that fit a pattern, and return its folder in the cache.

        No other method writes into the cache, which other programs share.

        Raises:
            CheckpointError: There is no such revision, a file cannot be written, or as for
                `references`.
            UnreachableError: The hub cannot be reached, and the cache does not have it.
        """
        with self._explained_errors(f"{repo}@{revision}", repo, revision):
            folder = snapshot_download(
                repo,
                repo_type=self.kind,
                revision=revision,
                cache_dir=self.folder,
                token=self.token,
                endpoint=self.address,
                allow_patterns=list(patterns),
            )
            return Path(folder)

    @property
    def _headers(self) -> dict[str, str]:
        """Headers of a request, with the access token where there is one."""
        return build_hf_headers(token=self.token)

    def _url(self, repo: str, revision: str, filename: str) -> str:
        """Return the address of a file."""
        place = {"repo_type": self.kind, "revision": revision, "endpoint": self.address}
        return hf_hub_url(repo, filename, **place)

    @contextmanager
    def _file(
        self, repo: str, revision: str, filename: str, commit: str | None
    ) -> Iterator[tuple[str, str]]:
        """Yield the name in messages and the address of a file, within `_explained_errors`."""
        name = f"{repo}@{revision}/{filename}"
        with self._explained_errors(name, repo, revision):
            yield name, self._url(repo, commit or revision, filename)

    def _cached_references(self, repo: str) -> list[Reference]:
        """List the revisions of a repository that the local cache has."""
        cache = Path(self.folder or constants.HF_HUB_CACHE)
        commits = cached_commits(cache / repo_folder_name(repo_id=repo, repo_type=self.kind))
        if not commits:
            raise hub_errors.OfflineModeIsEnabled
        return [Reference(name, commit, "branch") for name, commit in commits.items()]

    def _pages(self, name: str, path: str) -> Iterator[Any]:
        """Yield the pages of a list that the hub's API returns, parsed from JSON.

        Args:
            name: Name of the requested object in messages.
            path: Address behind the kind of repositories, with its query.

        Raises:
            UnreachableError: The answer is no JSON.
        """
        url: str | None = f"{self.address}/api/{self.kind}s{path}"
        while url is not None:
            content, following = self._download(url, name)
            try:
                yield json.loads(content)
            except ValueError as error:
                raise UnreachableError(
                    f"{name}: {self.address} did not answer with JSON; check HF_ENDPOINT"
                ) from error
            url = following

    def _download(self, url: str, name: str) -> tuple[bytes, str | None]:
        """Download the body behind an address, and return it with the address of the next page."""

        def fetch() -> tuple[bytes, str | None]:
            """Make one attempt; a body that is too large or too slow is given up."""
            patience = self.transport.patience
            options = {"headers": self._headers, "timeout": patience.timeout}
            with get_session().stream("GET", url, **options) as response:
                hf_raise_for_status(response)
                deadline = patience.deadline(_SMALL)
                content = bytearray()
                for chunk in response.iter_bytes():
                    self.transport.traffic.count(received=len(chunk))
                    content += chunk
                    if len(content) > _SMALL:
                        raise CheckpointError(f"{name}: is larger than {_SMALL} bytes")
                    if time.monotonic() > deadline:
                        raise httpx2.ReadTimeout("too slow", request=response.request)
                return bytes(content), response.links.get("next", {}).get("url")

        return self.transport.persist(fetch, name)

    @contextmanager
    def _explained_errors(self, name: str, repo: str, revision: str = "") -> Iterator[None]:
        """Turn errors inside into one line with a remedy."""
        try:
            yield
        except hub_errors.OfflineModeIsEnabled as error:
            raise CheckpointError(
                f"{name}: is not in the hub cache {self.folder or constants.HF_HUB_CACHE}, and "
                "HF_HUB_OFFLINE forbids to fetch it; unset HF_HUB_OFFLINE"
            ) from error
        except hub_errors.LocalEntryNotFoundError as error:
            raise UnreachableError(
                f"{name}: cannot be fetched from {self.address}, nor is it in the hub cache; check "
                "the network and HF_ENDPOINT"
            ) from error
        except hub_errors.HFValidationError as error:
            raise CheckpointError(
                f"{repo!r} is no repository of a hub; namespace/name is expected"
            ) from error
        except hub_errors.GatedRepoError as error:
            has_token = "authorization" in self._headers
            fault = "the token that is set has no access" if has_token else "no token is set"
            raise UnreachableError(
                f"{repo}: is gated, and {fault}; accept its terms at {self.address}/{repo} and "
                "set HF_TOKEN to a token of that account"
            ) from error
        except hub_errors.RepositoryNotFoundError as error:
            raise UnreachableError(
                f"{repo}: {self.address} has no such repository, or it is private; "
                f"{self._similar(repo)}check the name, or set HF_TOKEN"
            ) from error
        except hub_errors.RevisionNotFoundError as error:
            names = {reference.name for reference in self.references(repo)}
            raise CheckpointError(
                f"{repo}: has no revision {revision!r} among its {len(names)} branches and tags; "
                + _suggest(revision, names)
            ) from error
        except httpx2.HTTPError as error:
            forbidden = status(error) in (401, 403)
            advice = "; set HF_TOKEN to a token that may read it" if forbidden else ""
            raise UnreachableError(f"{name}: {reason(error)}{advice}") from error

    def _repository_ids(self, author: str, search: str = "") -> list[str]:
        """List the ids of an author's repositories whose names contain a text."""
        query = urlencode({"author": author, "search": search, "limit": 1000})
        return [item["id"] for page in self._pages(author, f"?{query}") for item in page]

    def _similar(self, repo: str) -> str:
        """Name similar repositories of the same namespace, as part of a message."""
        author, _, _ = repo.rpartition("/")
        try:
            repositories = self._repository_ids(author)
        except (CheckpointError, httpx2.HTTPError, ValueError, LookupError, TypeError):
            return ""
        close = difflib.get_close_matches(repo, repositories, n=_NAMED, cutoff=0.8)
        return f"similar names are {', '.join(close)}; " if close else ""


def _suggest(name: str, names: set[str]) -> str:
    """Return the end of a message: the nearest names, or any one of them."""
    close = difflib.get_close_matches(name, sorted(names), n=_NAMED)
    return f"the nearest are {', '.join(close)}" if close else f"one of them is {min(names)}"
