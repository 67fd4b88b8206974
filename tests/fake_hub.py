"""A hub on this machine: as much of its HTTP interface as pushing and loading a model uses.

Repositories live in memory, a commit is a snapshot of all files. A token is a user's name; what a
user may write begins with that name.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

TOKENS = {"hf_aaaaaaaaaaaaaaaa": "someone", "hf_bbbbbbbbbbbbbbbb": "reader"}


@dataclass
class Repository:
    private: bool = False
    gated: bool = False
    commits: list[dict[str, bytes]] = field(default_factory=lambda: [{}])

    def at(self, revision: str) -> dict[str, bytes] | None:
        if revision == "main":
            return self.commits[-1]
        known = {oid(number): files for number, files in enumerate(self.commits)}
        return known.get(revision)


@dataclass
class Hub:
    """`failures` holds statuses by a part of the path: each request there takes one."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    failures: dict[str, list[int]] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    address: str = ""

    def files(self, name: str) -> dict[str, bytes]:
        return self.repositories[name].commits[-1]


def oid(number: int) -> str:
    return f"{number:040x}"


@contextmanager
def serving() -> Iterator[Hub]:
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        """Silent."""

    def do_HEAD(self) -> None:
        self._route()

    def do_GET(self) -> None:
        self._route()

    def do_POST(self) -> None:
        self._route()

    def do_PUT(self) -> None:
        self._route()

    # Answers

    def _send(self, status: int, content: Any = b"", **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _refuse(self, status: int, code: str = "") -> None:
        self._send(status, {"error": code}, **({"X_Error_Code": code} if code else {}))

    # Requests

    def get_nothing(self) -> None:
        """What the library asks for on its own account."""
        self._send(200, {})

    def _route(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        for part, statuses in self.hub.failures.items():
            if part in path and statuses:
                return self._refuse(statuses.pop(0))
        for pattern, answer in _ROUTES:
            match = re.fullmatch(pattern, f"{self.command} {path}")
            if match:
                return answer(self, *match.groups())
        self.hub.unknown.append(f"{self.command} {path}")
        return self._refuse(404, "EntryNotFound")

    @property
    def _user(self) -> str | None:
        return TOKENS.get((self.headers.get("Authorization") or "").removeprefix("Bearer "))

    def _readable(self, name: str, revision: str = "main") -> dict[str, bytes] | None:
        """The files of a revision, or None after a refusal."""
        repository = self.hub.repositories.get(name)
        hidden = repository and repository.private and not self._writable(name)
        if repository is None or hidden:
            return self._refuse(404 if self._user else 401, "RepoNotFound")
        if repository.gated and self._user is None:
            return self._refuse(401, "GatedRepo")
        files = repository.at(revision)
        return self._refuse(404, "RevisionNotFound") if files is None else files

    def _writable(self, name: str) -> bool:
        return self._user is not None and name.startswith(f"{self._user}/")

    def _may_write(self, name: str) -> bool:
        if not self._writable(name):
            self._refuse(403 if self._user else 401)
        return self._writable(name)

    def post_create(self) -> None:
        asked = json.loads(self.body)
        name = f"{asked.get('organization') or self._user}/{asked['name']}"
        if not self._may_write(name):
            return
        private = asked.get("visibility") == "private" or asked.get("private", False)
        there = name in self.hub.repositories
        self.hub.repositories.setdefault(name, Repository(private=private))
        url = f"{self.hub.address}/{name}"
        self._send(409 if there else 200, {"url": url, "name": name})

    def post_validate(self) -> None:
        content = json.loads(self.body)["content"]
        try:
            yaml.safe_load(content.split("---")[1])
        except (yaml.YAMLError, IndexError) as error:
            return self._send(400, {"errors": [{"message": str(error)}]})
        self._send(200, {"errors": [], "warnings": []})

    def get_model(self, name: str, revision: str = "main") -> None:
        files = self._readable(name, revision)
        if files is not None:
            repository = self.hub.repositories[name]
            about = {
                "id": name,
                "sha": self._sha(name, revision),
                "private": repository.private,
                "siblings": [{"rfilename": file} for file in files],
            }
            self._send(200, about)

    def get_tree(self, name: str, revision: str, folder: str | None) -> None:
        files = self._readable(name, revision)
        if folder is not None:
            self._refuse(404, "EntryNotFound")
        elif files is not None:
            rows = [
                {"type": "file", "path": p, "size": len(b), "oid": hashlib.sha1(b).hexdigest()}
                for p, b in files.items()
            ]
            self._send(200, rows)

    def get_file(self, name: str, revision: str, path: str) -> None:
        files = self._readable(name, revision)
        if files is None:
            return
        headers = {"X_Repo_Commit": self._sha(name, revision)}
        if path not in files:
            return self._send(404, b"", X_Error_Code="EntryNotFound", **headers)
        etag = f'"{hashlib.sha256(files[path]).hexdigest()}"'
        self._send(200, files[path], ETag=etag, **headers)

    def post_preupload(self, name: str, revision: str) -> None:
        if self._may_write(name):
            files = [
                {
                    "path": f["path"],
                    "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for f in json.loads(self.body)["files"]
            ]
            self._send(200, {"files": files})

    def post_batch(self, name: str) -> None:
        if self._may_write(name):
            objects = [
                {**o, "actions": {"upload": {"href": f"{self.hub.address}/lfs/{o['oid']}"}}}
                for o in json.loads(self.body)["objects"]
            ]
            self._send(200, {"transfer": "basic", "objects": objects})

    def put_blob(self, digest: str) -> None:
        assert hashlib.sha256(self.body).hexdigest() == digest
        self.hub.blobs[digest] = self.body
        self._send(200)

    def post_commit(self, name: str, revision: str) -> None:
        if not self._may_write(name):
            return
        files = dict(self.hub.files(name))
        for line in self.body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
        commits = self.hub.repositories[name].commits
        commits.append(files)
        sha = oid(len(commits) - 1)
        self._send(200, {"commitUrl": f"{self.hub.address}/{name}/commit/{sha}", "commitOid": sha})

    def _sha(self, name: str, revision: str) -> str:
        return oid(len(self.hub.repositories[name].commits) - 1) if revision == "main" else revision


_NAME, _REVISION = r"([\w.-]+/[\w.-]+)", r"([^/]+)"
_ROUTES = [
    (r"GET /api/agent-harnesses", _Handler.get_nothing),
    (r"POST /api/repos/create", _Handler.post_create),
    (r"POST /api/validate-yaml", _Handler.post_validate),
    (rf"GET /api/models/{_NAME}", _Handler.get_model),
    (rf"GET /api/models/{_NAME}/revision/{_REVISION}", _Handler.get_model),
    (rf"GET /api/models/{_NAME}/tree/{_REVISION}(/.*)?", _Handler.get_tree),
    (rf"(?:GET|HEAD) /{_NAME}/resolve/{_REVISION}/(.+)", _Handler.get_file),
    (rf"POST /api/models/{_NAME}/preupload/{_REVISION}", _Handler.post_preupload),
    (rf"POST /{_NAME}\.git/info/lfs/objects/batch", _Handler.post_batch),
    (r"PUT /lfs/(\w+)", _Handler.put_blob),
    (rf"POST /api/models/{_NAME}/commit/{_REVISION}", _Handler.post_commit),
]
