"""A model hub on this machine: it speaks the hub's protocol, slows down and misbehaves on demand.

A repository is a `Repository` of folders; large files are behind a redirect to a second port, with
an address that expires. `python -m tests.hub.standin ROOT` serves ROOT/namespace/name/branch/.
"""

import argparse
import hashlib
import json
import re
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache, partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

LARGE = (".bin", ".safetensors", ".pt")  # kept outside git on a real hub
CHUNK = 1 << 16
PAGE = 50


@dataclass
class Repository:
    """Folders by branch and by tag; `history` has the commits of a branch as (title, folder)."""

    branches: dict[str, Path] = field(default_factory=dict)
    tags: dict[str, Path] = field(default_factory=dict)
    history: dict[str, list[tuple[str, Path]]] = field(default_factory=dict)
    gated: bool = False


@dataclass
class Fault:
    """A way to misbehave, for the requests that match.

    kind: a status (429, 503, ...); or "cut" (the connection breaks after `after` bytes of the
    body), "stall" (nothing more comes after that), "no range" (200 and the whole file), "short"
    (fewer bytes than asked for, said so), "shifted" (bytes of another place, said so), "encoded"
    (called compressed), "page" (a web page in place of the answer), "drop NAME" (that header is
    left out).
    """

    kind: str | int
    match: str = ""
    times: float = float("inf")
    after: int = 1000
    headers: dict = field(default_factory=dict)


class StandIn:
    """The hub. As a context manager it is served meanwhile; `requests` lists what was asked."""

    def __init__(self, repositories=None, token="secret", latency=0.0, mbit=0.0, link_mbit=0.0):
        self.repositories = repositories or {}
        self.token = token
        self.latency = latency
        self.mbit = mbit
        self.link_mbit = link_mbit
        self.signature = 0  # addresses signed with a lower number have expired
        self.redirects = True
        self.faults = []
        self.reset()
        self._lock = threading.Lock()
        self._link_free = 0.0

    def __enter__(self):
        self._servers = [_Server(("127.0.0.1", 0), partial(_Handler, self)) for _ in range(2)]
        self.endpoint, self.storage = (
            f"http://127.0.0.1:{server.server_port}" for server in self._servers
        )
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def reset(self):
        self.requests = []
        self.sent = 0

    def fail(self, kind, match="", times=float("inf"), **settings):
        self.faults.append(Fault(kind, match, times, **settings))

    def expire(self):
        """Addresses given out so far are refused from now on."""
        self.signature += 1

    def fault(self, kinds, request):
        with self._lock:
            for fault in self.faults:
                if fault.kind in kinds and fault.times > 0 and re.search(fault.match, request):
                    fault.times -= 1
                    return fault
        return None

    def log(self, request):
        with self._lock:
            self.requests.append(request)

    def pace(self, count, since, done):
        """Count bytes, and wait until a connection, and the link that all share, would carry them.

        Called before they are written: a client never has a byte that was not counted.
        """
        with self._lock:
            self.sent += count
            now = time.perf_counter()
            until = since + done * 8 / (self.mbit * 1e6) if self.mbit else now
            if self.link_mbit:
                self._link_free = max(now, self._link_free) + count * 8 / (self.link_mbit * 1e6)
                until = max(until, self._link_free)
        if until > now:
            time.sleep(until - now)


def commit_of(repo, folder):
    return hashlib.sha1(f"{repo} {folder}".encode()).hexdigest()


def sha256_of(path):
    return _sha256(path, path.stat().st_mtime_ns)


@lru_cache
def _sha256(path, _changed):
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _blob(path):
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request, client_address):
        pass  # a client that hung up


class _Broken(Exception):
    """The connection is to be closed without another word."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __init__(self, hub, *arguments):
        self.hub = hub
        super().__init__(*arguments)

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        asked = f"{self.command} {self.path}"
        self.hub.log((self.command, self.path, dict(self.headers)))
        time.sleep(self.hub.latency)
        try:
            fault = self.hub.fault(range(400, 600), asked)
            if fault:
                self.answer(fault.kind, b"not now", fault.headers)
            elif self.hub.fault(["page"], asked):
                self.answer(200, b"<html>Please log in</html>", {"Content-Type": "text/html"})
            else:
                self.route(urlsplit(self.path))
        except _Broken:
            self.close_connection = True
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_HEAD = do_POST = do_GET

    def send_header(self, keyword, value):
        if not self.hub.fault([f"drop {keyword}"], f"{self.command} {self.path}"):
            super().send_header(keyword, value)

    def answer(self, status, body=b"", headers=None):
        headers = {"Content-Length": str(len(body)), **(headers or {})}
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.hub.pace(len(body), time.perf_counter(), 0)
            self.wfile.write(body)

    def json(self, content, headers=None):
        self.answer(200, json.dumps(content).encode(), headers)

    def refuse(self, status, code, **headers):
        self.answer(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code, **headers})

    def route(self, url):
        path = url.path.replace("/api/datasets/", "/api/models/datasets/")
        query = parse_qs(url.query)
        if path == "/__counts":
            return self.json({"requests": len(self.hub.requests) - 1, "sent": self.hub.sent})
        if path == "/__reset":
            self.hub.reset()
            return self.json({})
        if match := re.fullmatch(r"/blob/(\d+)(/.+)", path):
            expired = int(match[1]) < self.hub.signature
            return (
                self.refuse(403, "Expired") if expired else self.file(Path(unquote(match[2])), {})
            )
        if path == "/api/models":
            (author,) = query.get("author", [""])
            names = [name for name in self.hub.repositories if name.startswith(f"{author}/")]
            return self.json([{"id": name} for name in names])
        kinds = "revision|refs|tree|paths-info|commits|discussions"
        repo = "((?:datasets/)?[^/]+/[^/]+)"  # a data set is called datasets/namespace/name here
        if match := re.fullmatch(rf"/api/models/{repo}(?:/({kinds})(?:/([^/]+).*)?)?", path):
            return self.api(match[1], match[2], unquote(match[3] or "main"), query)
        if match := re.fullmatch(rf"/{repo}/resolve/([^/]+)/(.+)", path):
            return self.resolve(match[1], unquote(match[2]), unquote(match[3]))
        return self.refuse(404, "NotFound")

    def find(self, repo, revision):
        """The folder of a revision; None after an answer that refuses."""
        known = self.hub.repositories.get(repo)
        if known is None:
            return self.refuse(401, "RepoNotFound")
        by_name = known.branches | known.tags
        by_name |= {branch: commits[0][1] for branch, commits in known.history.items()}
        folders = [
            *by_name.values(),
            *(each for all_ in known.history.values() for _, each in all_),
        ]
        by_commit = {commit_of(repo, folder): folder for folder in folders}
        folder = (by_name | by_commit).get(revision)
        return folder or self.refuse(404, "RevisionNotFound")

    def api(self, repo, kind, revision, query):
        known = self.hub.repositories.get(repo)
        if known is None:
            return self.refuse(401, "RepoNotFound")
        if kind == "refs":
            branches = known.branches | {name: all_[0][1] for name, all_ in known.history.items()}
            return self.json(
                {
                    part: [
                        {"name": name, "ref": f"refs/x/{name}", "targetCommit": commit_of(repo, to)}
                        for name, to in references.items()
                    ]
                    for part, references in (
                        ("branches", branches),
                        ("tags", known.tags),
                        ("converts", {}),
                        ("pullRequests", {}),
                    )
                }
            )
        if kind == "discussions":
            return self.json({"discussions": [], "count": 0, "start": 0})
        folder = self.find(repo, revision)
        if folder is None:
            return None
        if kind == "commits":
            return self.commits(repo, revision, folder, query)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        if kind == "tree":
            return self.json([self.describe(folder, path) for path in files])
        if kind == "paths-info":
            wanted = parse_qs(self.body.decode()).get("paths", [])
            described = [self.describe(folder, path) for path in files]
            return self.json([each for each in described if each["path"] in wanted])
        about = {"id": repo, "modelId": repo, "sha": commit_of(repo, folder), "tags": []}
        about |= {"private": False, "gated": False, "disabled": False, "library_name": "x"}
        names = [{"rfilename": path.relative_to(folder).as_posix()} for path in files]
        return self.json(about | {"siblings": names})

    def commits(self, repo, revision, folder, query):
        known = self.hub.repositories[repo].history.get(revision, [("initial commit", folder)])
        page = int(query.get("p", ["0"])[0])
        url = f"{self.hub.endpoint}{urlsplit(self.path).path}?p={page + 1}"
        more = {"Link": f'<{url}>; rel="next"'} if len(known) > (page + 1) * PAGE else {}
        about = {"message": "", "date": "2024-01-01T00:00:00.000Z", "authors": []}
        part = known[page * PAGE : (page + 1) * PAGE]
        self.json(
            [{"id": commit_of(repo, to), "title": title, **about} for title, to in part], more
        )

    def describe(self, folder, path):
        about = {"type": "file", "path": path.relative_to(folder).as_posix()}
        about |= {"size": path.stat().st_size}
        if path.suffix not in LARGE:
            return about | {"oid": _blob(path)}
        large = {"oid": sha256_of(path), "size": about["size"], "pointerSize": 134}
        return about | {"oid": hashlib.sha1(large["oid"].encode()).hexdigest(), "lfs": large}

    def resolve(self, repo, revision, name):
        known = self.hub.repositories.get(repo)
        identified = self.headers.get("Authorization") == f"Bearer {self.hub.token}"
        if known is not None and known.gated and not identified:
            return self.refuse(401, "GatedRepo")
        folder = self.find(repo, revision)
        if folder is None:
            return None
        commit = {"X-Repo-Commit": commit_of(repo, folder)}
        path = folder / name
        if not path.is_file():
            return self.refuse(404, "EntryNotFound", **commit)
        if path.suffix not in LARGE:
            return self.file(path, commit | {"ETag": f'"{_blob(path)}"'})
        if not self.hub.redirects:
            return self.file(path, commit | {"ETag": f'"{sha256_of(path)}"'})
        linked = {
            "X-Linked-Etag": f'"{sha256_of(path)}"',
            "X-Linked-Size": str(path.stat().st_size),
        }
        location = f"{self.hub.storage}/blob/{self.hub.signature}{quote(str(path))}"
        return self.answer(302, b"", commit | linked | {"Location": location})

    def file(self, path, headers):
        asked = f"{self.command} {self.path} {self.headers.get('Range')}"
        size = path.stat().st_size
        start, stop = 0, size
        given = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or "")
        partial_ = given is not None and not self.hub.fault(["no range"], asked)
        if partial_:
            start, stop = int(given[1]), min(size, int(given[2]) + 1)
            if start >= size:
                return self.answer(416, b"", {"Content-Range": f"bytes */{size}"})
        if self.hub.fault(["short"], asked):
            stop -= (stop - start) // 2
        if self.hub.fault(["shifted"], asked):
            start, stop = (start + 8, stop + 8) if stop + 8 <= size else (start - 8, stop - 8)
        self.send_response(206 if partial_ else 200)
        headers = {"Content-Length": str(stop - start), "Accept-Ranges": "bytes", **headers}
        if partial_:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        if self.hub.fault(["encoded"], asked):
            headers["Content-Encoding"] = "gzip"
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.send_body(path, start, stop, self.hub.fault(["cut", "stall"], asked))
        return None

    def send_body(self, path, start, stop, fault):
        since, first = time.perf_counter(), start
        end = min(stop, start + fault.after) if fault else stop
        with path.open("rb") as file:
            file.seek(start)
            while start < end:
                chunk = file.read(min(CHUNK, end - start))
                start += len(chunk)
                self.hub.pace(len(chunk), since, start - first)
                self.wfile.write(chunk)
        if fault:
            self.wfile.flush()
            time.sleep(30 if fault.kind == "stall" else 0)
            raise _Broken


def folder_hub(root, **settings):
    """A stand-in for ROOT/namespace/name/branch/."""
    repositories = {}
    for branch in sorted(Path(root).glob("*/*/*")):
        name = f"{branch.parent.parent.name}/{branch.parent.name}"
        repositories.setdefault(name, Repository()).branches[branch.name] = branch
    return StandIn(repositories, **settings)


@contextmanager
def wait_for_interrupt():
    with suppress(KeyboardInterrupt):
        yield
        threading.Event().wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root")
    parser.add_argument("--latency", type=float, default=0, help="seconds before each answer")
    parser.add_argument("--mbit", type=float, default=0, help="Mbit/s of a connection, 0: no limit")
    parser.add_argument("--link-mbit", type=float, default=0, help="Mbit/s of all of them together")
    settings = vars(parser.parse_args())
    with folder_hub(settings.pop("root"), **settings) as hub, wait_for_interrupt():
        print(hub.endpoint, flush=True)


if __name__ == "__main__":
    main()
