"""Datasets by hub name and revision, from a local server that speaks the hub's language."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import pytest

NAME, FILE = "someone/sums", "data/train.jsonl"
COMMITS = {"main": "a" * 40, "v1": "b" * 40}


def rows(revision: str) -> bytes:
    texts = [f"{revision} {i}" for i in range(3)]
    return "".join(json.dumps({"problem": t, "Answer": "1"}) + "\n" for t in texts).encode()


class Hub(BaseHTTPRequestHandler):
    """One dataset of one file, at two revisions."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        """Silent."""

    def answer(self, status: int, content: Any = b"", **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        path = unquote(urlparse(self.path).path)
        names = {commit: revision for revision, commit in COMMITS.items()}
        about, _, rest = path.partition(f"/{NAME}")
        parts = rest.strip("/").split("/")
        asked = parts[1] if len(parts) > 1 else "main"
        revision = names.get(asked, asked)
        if revision not in COMMITS:
            self.answer(404, {"error": "no"}, X_Error_Code="RevisionNotFound")
        elif about == "/datasets" and rest.endswith(FILE):
            self.answer(
                200,
                rows(revision),
                ETag=hashlib.sha1(rows(revision)).hexdigest(),
                X_Repo_Commit=COMMITS[revision],
            )
        elif about == "/api/datasets" and parts[0] == "tree":
            entry = {"type": "file", "path": FILE, "size": len(rows(revision)), "oid": "0" * 40}
            folder = {"type": "directory", "path": "data", "oid": "1" * 40}
            self.answer(200, [entry] if parts[-1] == "data" else [folder])
        elif about == "/api/datasets" and parts[0] in ("", "revision"):
            siblings = [{"rfilename": FILE}]
            self.answer(200, {"id": NAME, "sha": COMMITS[revision], "siblings": siblings})
        else:
            self.answer(404, {"error": "no"}, X_Error_Code="EntryNotFound")

    do_HEAD = do_GET


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


PROGRAM = """
import json, sys
from opsd.data.problems import Data, load_problems, read
from opsd.types import UserError
told = []
for given in json.loads(sys.argv[1]):
    data = Data(source="someone/sums", **given)
    try:
        if data.streaming:
            problems = load_problems(data)[0].read()
            told.append(sorted(next(problems).text for _ in range(3)))
        else:
            told.append([p.text for p in read(data)])
    except UserError as error:
        told.append(str(error))
print(json.dumps(told))
"""


def test_a_dataset_of_the_hub_is_read_at_its_revision_whole_and_as_a_stream(
    hub: str, tmp_path: Path
):
    asked = [
        {},
        {"revision": "v1"},
        {"revision": "v1", "streaming": True},
        {"revision": "v9"},
        {"split": "dev"},
        {"config": "swa"},
    ]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(asked)],
        env={**os.environ, "HF_ENDPOINT": hub, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    newest, older, streamed, revision, split, config = json.loads(done.stdout)
    assert newest == ["main 0", "main 1", "main 2"]
    assert older == streamed == ["v1 0", "v1 1", "v1 2"]
    for line in (revision, split, config):
        assert line.startswith("data.source: 'someone/sums' is neither a file nor a dataset")
    assert "v9" in revision and "dev" in split and "swa" in config
