"""The client of a vLLM server over real connections to a server of this test's own: what it asks,
what it makes of replies, and of a server that refuses, fails, lies or is not there. Against vLLM
itself: `tests/vllm/test_server.py`."""

from __future__ import annotations

import gc
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from pydantic import ValidationError
from tests.rollout.contract import PLAIN

from opsd.lm.loading import load_model
from opsd.rollout.engine import EngineDown, EngineSetup
from opsd.rollout.vllm_server import VLLMServer
from opsd.types import Finish, UserError

HANGS_UP = 0


class Server(ThreadingHTTPServer):
    """Answers with what `script` holds in turn, then well: every prompt with its last two ids."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: list[tuple[int, str]] = []
        self.asked: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.reply({"data": [{"id": "served"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        ids = body["prompt"][-2:]
        cut = "length" if len(ids) == 2 else "stop"
        logprobs = {"token_logprobs": [-0.5] * len(ids)}
        self.reply({"choices": [{"token_ids": ids, "logprobs": logprobs, "finish_reason": cut}]})

    def reply(self, well: dict[str, Any]) -> None:
        status, text = self.server.script.pop(0) if self.server.script else (200, json.dumps(well))
        self.close_connection = status == HANGS_UP
        if self.close_connection:
            return
        self.send_response(status)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *args: object) -> None:
        """Says nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def model(tiny_folder) -> Any:
    return load_model(str(tiny_folder))


@pytest.fixture
def start(model, tokenizer) -> Any:
    """Makes a client of the server at an address."""

    def client(url: str, **choice: Any) -> Any:
        setup = EngineSetup(model, tokenizer, [tokenizer.eos_token_id], len(tokenizer), 64)
        return VLLMServer(url, **choice).start(setup)

    return client


def test_completions_come_in_the_prompts_order(server: Server, start):
    engine, told = start(server.url, concurrency=2), []
    prompts = [(9, 8, n) for n in range(6)] + [(3,)]
    made = engine.generate(prompts, PLAIN, range(7), lambda *news: told.append(news))
    assert [c.ids for c in made] == [(8, n) for n in range(6)] + [(3,)]
    assert [c.finish for c in made] == [Finish.LENGTH] * 6 + [Finish.STOP]
    assert made[0].logprobs == (-0.5, -0.5) and len(told) == 7
    assert sorted(told) == sorted((1, len(c.ids)) for c in made)
    assert {(tuple(x["prompt"]), x["seed"]) for x in server.asked} == set(
        zip(prompts, range(7), strict=True)
    )
    assert {x["model"] for x in server.asked} == {"served"}


@pytest.mark.parametrize(
    ("reply", "error", "told"),
    [
        (
            (404, "no\n such model"),
            UserError,
            r"/v1/completions refuses \(404: no such model\); st",
        ),
        ((503, "overloaded"), EngineDown, r"/v1/completions fails \(503: overloaded\)$"),
        ((200, "<html>"), UserError, "does not answer like vLLM$"),
        ((200, '{"choices": []}'), UserError, "does not answer like vLLM$"),
    ],
)
def test_what_is_no_answer_is_one_line(server: Server, start, reply, error, told: str):
    engine = start(server.url)
    server.script = [reply]
    with pytest.raises(error, match=told) as raised:
        engine.generate([(1, 2)], PLAIN, [0])
    assert "\n" not in str(raised.value)


def test_a_server_that_has_gone_is_an_engine_that_is_down(server: Server, start):
    engine = start(server.url)
    server.script = [(HANGS_UP, "")]
    with pytest.raises(EngineDown, match=rf"^{server.url} does not respond \("):
        engine.generate([(1, 2)], PLAIN, [0])


def test_a_server_that_comes_up_late_is_waited_for(server: Server, start):
    server.script = [(503, "loading"), (404, "not yet")]
    engine = start(server.url, timeout=4.0)
    assert engine.up[server.url].served == "served" and not server.script


@pytest.mark.parametrize("text", ["{}", '{"data": []}', "hello"])
def test_another_server_is_told_from_vllm(server: Server, start, text: str):
    server.script = [(200, text)]
    with pytest.raises(UserError, match=r"^http://127.0.0.1:\d+ is not served by vLLM$"):
        start(server.url)


def test_a_server_that_never_comes_is_one_line_without_its_password(server: Server, start):
    server.script = [(401, "no")] * 50
    url = server.url.replace("//", "//me:word@")
    with pytest.raises(
        UserError, match=r"no server answers at http://127.0.0.1:\d+ within 2 s"
    ) as e:
        start(url, timeout=2.0)
    assert "word" not in str(e.value) and "401" in str(e.value) and "\n" not in str(e.value)


def test_an_address_that_is_none_is_refused(start):
    with pytest.raises(ValidationError, match="http"):
        VLLMServer("localhost:8000")
    with pytest.raises(UserError, match="is not a valid address"):
        start("http://[::1")


def test_an_engine_leaves_no_folder_behind(server: Server, start, tmp_path):
    engine = start(server.url, folder=str(tmp_path))
    assert list(tmp_path.iterdir()) == [engine.folder]
    del engine
    gc.collect()
    assert not list(tmp_path.iterdir())
