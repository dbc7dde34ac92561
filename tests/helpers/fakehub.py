"""A hub of a few files on this machine: the routes of huggingface.co that a download asks.

Not a test file: the tests of hub.py share it.
"""

import hashlib
import json
import re
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import close_session

INFO = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)/revision/(?P<revision>[^/]+)")
TREE = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)/tree/(?P<revision>[^/]+)")
FILE = re.compile(r"/(?P<repo>(spaces/)?[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<name>.+)")
XET = "/xet-token"
REPO_NOT_FOUND = {"X-Error-Code": "RepoNotFound"}
REVISION_NOT_FOUND = {"X-Error-Code": "RevisionNotFound"}
ENTRY_NOT_FOUND = {"X-Error-Code": "EntryNotFound"}
GATED = {"X-Error-Code": "GatedRepo"}


@dataclass(frozen=True)
class Refusal:
    """What every address in which `part` occurs is answered with."""

    part: str
    status: int
    headers: dict[str, str]
    body: bytes = b"{}"


class FakeHub:
    """Serves at `url` until `close`.

    `asked` lists the requests, as "GET /path". A test may set `refusals`, let the next `broken`
    downloads of weights break off half-way, serve `forged` bytes under a file's name, or keep
    files in Xet: `xet` has their hashes by name, and `xet_url` is where Xet lies. With a `token`,
    whoever does not send it is told that the licence must be accepted.
    """

    def __init__(self) -> None:
        self._revisions: dict[tuple[str, str], str] = {}
        self._files: dict[tuple[str, str], dict[str, bytes]] = {}
        self.asked: list[str] = []
        self.refusals: list[Refusal] = []
        self.broken, self.token = 0, ""
        self.forged: dict[str, bytes] = {}
        self.xet: dict[str, str] = {}
        self.xet_url = ""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def commit(self, repo: str, files: dict[str, bytes], revision: str = "main") -> str:
        """Let `revision` of `repo` ("owner/model", "spaces/owner/name") be `files`."""
        content = [(name, hashlib.sha1(data).hexdigest()) for name, data in sorted(files.items())]
        commit = hashlib.sha1(repr((repo, content)).encode()).hexdigest()
        self._revisions[repo, revision] = self._revisions[repo, commit] = commit
        self._files[repo, commit] = dict(files)
        return commit

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, path: str, sent: str | None = None) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and the whole body for an address; `sent`: the header Authorization."""
        if self.token and sent != f"Bearer {self.token}":
            return 401, GATED, b"{}"
        for refusal in self.refusals:
            if refusal.part in path:
                return refusal.status, refusal.headers, refusal.body
        if path == XET:
            token = {"Access-Token": "none", "Token-Expiration": "9999999999"}
            token["Cas-Url"] = self.xet_url
            return 200, {f"X-Xet-{name}": value for name, value in token.items()}, b""
        for route in (INFO, TREE, FILE):
            if found := route.fullmatch(path):
                break
        else:
            return 404, {}, b"{}"
        repo, revision = found["repo"], unquote(found["revision"])
        if repo not in {known for known, _ in self._files}:
            return 404, REPO_NOT_FOUND, b"{}"
        if (repo, revision) not in self._revisions:
            return 404, REVISION_NOT_FOUND, b"{}"
        commit = self._revisions[repo, revision]
        files = self._files[repo, commit]
        if route is INFO:
            return 200, {}, json.dumps({"id": repo, "sha": commit, "siblings": []}).encode()
        if route is TREE:
            entries = [
                {"type": "file", "path": name, "size": len(data), "oid": _etag(data)}
                for name, data in files.items()
            ]
            return 200, {}, json.dumps(entries).encode()
        name = unquote(found["name"])
        if name not in files:
            return 404, ENTRY_NOT_FOUND, b"{}"
        headers = {"ETag": f'"{_etag(files[name])}"', "X-Repo-Commit": commit}
        if name in self.xet:
            headers["X-Xet-Hash"] = self.xet[name]
            headers["X-Xet-Refresh-Route"] = self.url + XET
        return 200, headers, files[name]


def connect(monkeypatch: pytest.MonkeyPatch, folder: Path) -> FakeHub:
    """An empty hub for huggingface_hub, with an empty cache in `folder`, and nobody's token."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.setenv("HF_HOME", str(folder / "home"))
    served = FakeHub()
    for name, value in {
        "ENDPOINT": served.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": served.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(folder / "cache"),
        "HF_TOKEN_PATH": str(folder / "token"),
        "AGENT_HARNESSES_PATH": str(folder / "agents.json"),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": False,
        "DOWNLOAD_CHUNK_SIZE": 10_000,
    }.items():
        monkeypatch.setattr(constants, name, value)
    close_session()
    return served


def _etag(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


def _handler(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):  # HTTP/1.0: a connection is closed after its answer
        def do_HEAD(self) -> None:
            path = urlsplit(self.path).path
            hub.asked.append(f"HEAD {path}")
            self._send(*hub.answer(path, self.headers["Authorization"]))

        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            hub.asked.append(f"GET {path}")
            status, headers, data = hub.answer(path, self.headers["Authorization"])
            data = hub.forged.get(path.rpartition("/")[2], data) if status == 200 else data
            whole = len(data)
            if status == 200 and (asked := re.match(r"bytes=(\d+)-$", self.headers["Range"] or "")):
                start = int(asked[1])
                status, data = 206, data[start:]
                headers = headers | {"Content-Range": f"bytes {start}-{whole - 1}/{whole}"}
            self._send(status, headers, data)
            if path.endswith(".safetensors") and hub.broken:
                hub.broken -= 1
                data = data[: len(data) // 2]
            self.wfile.write(data)

        def _send(self, status: int, headers: dict[str, str], data: bytes) -> None:
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(data))}).items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_) -> None:
            pass

    return Handler
