"""An author behind an endpoint, against a real server on this machine: refusals, failures, replies
that are none, slow ones, the cache, the counts."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError
from tests.arrange import problems

from opsd.authors.authors import AnyAuthor, FunctionAuthor
from opsd.authors.endpoint import EndpointAuthor
from opsd.authors.writing import Writing
from opsd.types import Finish, Group, Problem, Rollout, UserError

pytest.importorskip("openai")

KEY = "sk-not-to-be-seen"


class Server(ThreadingHTTPServer):
    """Answers with what `script` holds for each request in turn, then well."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: list[tuple[int, object]] = []
        self.asked: list[dict] = []
        self.together = self.most = 0
        self.pause = 0.0
        self.meet: threading.Barrier | None = None
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.asked.append(body | {"key": self.headers["Authorization"]})
            status, reply = self.server.script.pop(0) if self.server.script else (200, None)
            self.server.together += 1
            self.server.most = max(self.server.most, self.server.together)
        time.sleep(self.server.pause)
        if self.server.meet is not None:
            self.server.meet.wait(60)
        with self.server.lock:
            self.server.together -= 1
        said = body["messages"][-1]["content"][-20:].strip()
        content = json.dumps(completion(f"of {said}") if reply is None else reply)
        self.send_response(status)
        self.send_header("Retry-After-Ms", "1")
        self.end_headers()
        self.wfile.write((content if reply != "cut" else '{"choices": [').encode())

    def log_message(self, *args: object) -> None:
        """Says nothing."""


def completion(text: str | None, finish: str = "stop") -> dict:
    message = {"role": "assistant", "content": text}
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13},
    }


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with Server() as made:
        threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True).start()
        yield made
        made.shutdown()


def author(server: Server, tmp_path: Path, **changes) -> EndpointAuthor:
    made = EndpointAuthor(
        "critique",
        "{{ problem }} was answered with {{ completion }}",
        model="critic",
        base_url=server.url,
        cache=str(tmp_path / "cache"),
        retries=2,
        timeout=10.0,
        price=(2.0, 100.0),
    )
    return replace(made, **changes)


def group(*texts: str) -> Group:
    rollouts = tuple(Rollout((1,), (2,), text, Finish.STOP) for text in texts)
    return Group(problems(1)[0], rollouts)


def test_answers_come_to_their_rollouts_are_counted_and_asked_for_once(server, tmp_path):
    given = [group("first", "second", "first"), group()]
    at_work = author(server, tmp_path).begin()
    made = at_work(given, None, 0)
    notes = [note["critique"] for note in made[0].notes]
    assert notes[0] == notes[2] == "of answered with first" and "second" in notes[1]
    assert len(server.asked) == 2 and made[1].notes == ()
    assert server.asked[0]["model"] == "critic" and server.asked[0]["temperature"] == 0.0
    spent = {"requests": 2, "cached": 0, "failed": 0, "prompt_tokens": 20, "completion_tokens": 6}
    assert at_work.measured == spent | {"cost": pytest.approx((20 * 2 + 6 * 100) / 1e6)}
    again = author(server, tmp_path).begin()
    again.load_state_dict(at_work.state_dict())
    assert again(given, None, 1)[0].notes == made[0].notes and len(server.asked) == 2
    assert again.measured["cached"] == 2 and again.measured["requests"] == 2
    other = author(server, tmp_path, temperature=0.5).begin()
    other(given, None, 1)
    assert len(server.asked) == 4  # another question


@pytest.mark.parametrize(
    "failures",
    [
        [(429, {"error": {"message": "slow down"}})],
        [(500, {"error": {"message": "oops"}}), (503, {})],
        [(200, "cut")],
        [(200, {"choices": []}), (200, {"nothing": 1})],
        [(200, "a text")],
    ],
)
def test_a_failure_is_tried_again(failures, server, tmp_path):
    server.script = list(failures)
    at_work = author(server, tmp_path).begin()
    (made,) = at_work([group("first")], None, 0)
    assert made.notes[0]["critique"] == "of answered with first"
    assert len(server.asked) == 1 + len(failures) and at_work.measured["failed"] == 0


@pytest.mark.parametrize(
    ("reply", "tries", "told"),
    [
        ((429, {"error": {"message": "slow down"}}), 3, "slow down"),
        ((500, {}), 3, "500"),
        ((200, "cut"), 3, "sends an invalid answer"),
        ((200, {"choices": []}), 3, "sends an invalid answer"),
        ((400, {"error": {"message": "too long"}}), 1, "too long"),
    ],
)
def test_after_the_last_try_there_is_no_text_and_nothing_is_cached(
    reply, tries, told, server, tmp_path, capsys
):
    server.script = [reply] * tries
    at_work = author(server, tmp_path, concurrency=1).begin()
    (made,) = at_work([group("first", "second")], None, 0)
    assert made.notes[0]["critique"] is None and at_work.measured["failed"] == 1
    assert made.notes[1]["critique"] == "of answered with second"
    said = capsys.readouterr().err
    assert "1 of 2 questions have no answer" in said and told in said
    assert said.count("; again in ") == tries - 1
    (made,) = at_work([group("first")], None, 0)
    assert made.notes[0]["critique"] == "of answered with first"


def test_a_slow_endpoint_is_given_up_and_one_that_never_answers_ends_the_run(server, tmp_path):
    server.pause = 0.5
    at_work = author(server, tmp_path, timeout=0.05, retries=1).begin()
    with pytest.raises(UserError, match=r"1 of 1 questions have no answer .*timed out.*resume"):
        at_work([group("first")], None, 0)


def test_a_cached_answer_that_a_kill_cut_off_is_asked_for_again(server, tmp_path):
    at_work = author(server, tmp_path).begin()
    at_work([group("first")], None, 0)
    (file,) = (tmp_path / "cache").glob("*/*.json")
    file.write_text('{"text": "of')
    (made,) = at_work([group("first")], None, 0)
    assert made.notes[0]["critique"] == "of answered with first" and len(server.asked) == 2


def test_questions_are_asked_side_by_side_but_not_too_many(server, tmp_path):
    server.meet = threading.Barrier(4)
    texts = [f"number {i}" for i in range(12)]
    (made,) = author(server, tmp_path, concurrency=4).begin()([group(*texts)], None, 0)
    assert [note["critique"][-2:] for note in made.notes] == [t[-2:] for t in texts]
    assert server.most == 4


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_is_the_users_error_and_does_not_show_the_key(status, server, tmp_path):
    server.script = [(status, {"error": {"message": "no such model"}})] * 9
    with pytest.raises(UserError, match=r"refuses model 'critic'.*no such model") as raised:
        author(server, tmp_path).begin()([group("first")], None, 0)
    assert KEY not in str(raised.value) and len(server.asked) == 1
    assert server.asked[0]["key"] == f"Bearer {KEY}"


def test_what_is_cut_off_or_empty_is_none(server, tmp_path):
    server.script = [(200, completion("half", "length")), (200, completion(None))]
    at_work = author(server, tmp_path, concurrency=1).begin()
    (made,) = at_work([group("first", "second")], None, 0)
    assert [note["critique"] for note in made.notes] == [None, None]


def test_without_a_key_or_a_model_one_line_says_so(monkeypatch, tmp_path):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    lonely = EndpointAuthor("rubric", "{{ problem }}", per="problem", model="m", cache=None)
    with pytest.raises(UserError, match="OPENAI_API_KEY"):
        lonely.begin()
    with pytest.raises(ValidationError, match="name of an environment variable") as raised:
        replace(lonely, key_variable="sk-123")
    assert "is the name of an environment variable, not a key" in str(raised.value)
    with pytest.raises(ValidationError, match="needs the name of the endpoint's model"):
        TypeAdapter(AnyAuthor).validate_python(
            {"type": "endpoint", "name": "rubric", "template": "x"}
        )


def write(problem: Problem, completion: str, right: bool | None) -> str | None:
    return f"{completion} of {problem.answer}: {right}" if completion != "none" else None


def count(problem: Problem, completion: str, right: bool | None) -> int:
    return len(completion)


def test_a_function_of_ones_own_writes():
    mine = FunctionAuthor("critique", function="tests.authors.test_endpoint:write")
    one = group("x", "none")
    (made,) = mine.begin()([one], None, 0)
    assert made.notes[0]["critique"] == f"x of {one.problem.answer}: None"
    assert made.notes[1]["critique"] is None and isinstance(mine, Writing)
    for bad in ("nowhere:write", "tests.authors.test_endpoint:none", "no colon"):
        with pytest.raises(UserError, match="write package\\.module:Name"):
            replace(mine, function=bad).begin()
    with pytest.raises(UserError, match="gave int, not a text"):
        replace(mine, function="tests.authors.test_endpoint:count").begin()([one], None, 0)
