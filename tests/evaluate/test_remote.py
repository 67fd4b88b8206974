"""A model behind an endpoint, against a real server that runs the tiny model: the same samples as
at home, whatever fails on the way."""

from __future__ import annotations

import contextlib
import json
import re
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.arrange import engine_for, problems
from transformers import AutoModelForCausalLM, AutoTokenizer

from opsd.cli.evaluation import _engine
from opsd.evaluate.command import evaluate_models
from opsd.evaluate.remote import Endpoint, Pieces, _completion
from opsd.evaluate.run import evaluate
from opsd.evaluate.samples import Protocol, protocol
from opsd.prompts.contexts import StudentPrompt
from opsd.rollout import endpoint
from opsd.rollout.engine import Sampling
from opsd.runs.files import read_jsonl
from opsd.types import Finish, UserError

pytest.importorskip("openai")

PROBLEMS = [*problems(3), *problems(2, "zul")]
KEY = "sk-not-to-be-seen"


class Server(ThreadingHTTPServer):
    """Answers greedily, as vLLM's server does; `script` holds statuses for the first requests, or
    bodies that are sent in place of an answer, `pauses` seconds before each."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder).eval()
        self.engine = engine_for(model, self.tokenizer)
        self.script: list[int | str] = []
        self.pauses: list[float] = []
        self.asked: list[dict[str, Any]] = []
        self.logprobs = True
        self.lock = threading.Lock()

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(f"http://127.0.0.1:{self.server_port}/v1", concurrency=2, retries=0)

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        messages = body["messages"]
        going_on = body.get("continue_final_message", False)
        prefill = messages[-1]["content"] if going_on else ""
        text = self.tokenizer.apply_chat_template(
            messages[:-1] if going_on else messages,
            tokenize=False,
            add_generation_prompt=True,
            **body.get("chat_template_kwargs", {}),
        )
        ids = self.tokenizer(text + prefill, add_special_tokens=False)["input_ids"]
        sampling = Sampling(temperature=0.0, max_tokens=body["max_tokens"])
        (made,) = self.engine.generate([ids], sampling, [0])
        content = [
            {"token": piece, "bytes": list(piece.encode()), "logprob": p, "top_logprobs": []}
            for piece, p in zip(self.pieces(made.ids), made.logprobs, strict=True)
        ]
        said = self.tokenizer.decode(made.ids, skip_special_tokens=True)
        finish = "length" if made.finish is Finish.LENGTH else "stop"
        choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant"}}
        choice["message"]["content"] = said
        choice["logprobs"] = {"content": content} if self.logprobs else None
        about = {"id": "1", "object": "chat.completion", "created": 1, "model": body["model"]}
        return {**about, "choices": [choice]}

    def pieces(self, ids: tuple[int, ...]) -> Iterator[str]:
        """What each token adds to the text; the one that ends the turn is among them."""
        before = ""
        for i in range(len(ids)):
            text = self.tokenizer.decode(ids[: i + 1])
            yield text[len(before) :]
            before = text


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.asked.append(body | {"key": self.headers["Authorization"]})
            scripted = self.server.script.pop(0) if self.server.script else 200
            pause = self.server.pauses.pop(0) if self.server.pauses else 0.0
            status = scripted if isinstance(scripted, int) else 200
            reply = self.server.answer(body) if status == 200 else {"error": {"message": "no"}}
        time.sleep(pause)
        with contextlib.suppress(ConnectionError):  # nobody may be waiting any more
            self.send_response(status)
            self.send_header("Retry-After-Ms", "1")
            self.end_headers()
            told = scripted if isinstance(scripted, str) else json.dumps(reply)
            self.wfile.write(told.encode())

    def log_message(self, *args: object) -> None:
        """Says nothing."""


@pytest.fixture
def server(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with Server(tiny_folder) as made:
        threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True).start()
        yield made
        made.shutdown()


def greedy(prompt: StudentPrompt | None = None) -> Protocol:
    return protocol(prompt or StudentPrompt(), Sampling(temperature=0.0), [8, 4])


def told(folder: Path) -> list[dict[str, Any]]:
    """What samples say, without whose they are; repetition is counted in tokens or their texts."""
    rows = sorted(
        read_jsonl(folder / "samples.jsonl"), key=lambda row: (row["problem"], row["sample"])
    )
    for row in rows:
        del row["model"], row["check"]
        for judged in row["budgets"].values():
            del judged["repetition"]
    return rows


@pytest.mark.parametrize(
    "prompt",
    [
        StudentPrompt(),
        StudentPrompt(prefill="<think>\nAh", template_options={"enable_thinking": True}),
    ],
)
def test_samples_are_those_that_are_drawn_at_home(server, tiny_folder, tmp_path, prompt):
    here, there = tmp_path / "here", tmp_path / "there"
    evaluate(str(tiny_folder), PROBLEMS, "suite", greedy(prompt), 2, here)
    outcome = evaluate(
        *("tiny", PROBLEMS, "suite", greedy(prompt), 2, there), engine=server.endpoint
    )
    assert told(there) == told(here) and len(told(here)) == 10
    assert {row["tokens"] for row in told(there)} >= {8}
    assert {row["model"] for row in outcome["results"]} == {"tiny"}
    seeds = [body["seed"] for body in server.asked]
    assert len(set(seeds)) == len(seeds) == 10 and max(seeds) < 2**31
    assert KEY not in "".join(p.read_text() for p in there.rglob("*") if p.is_file())


def test_what_failed_is_asked_for_again_by_the_same_command(server, tmp_path):
    server.script = [500, 200, 429]
    with pytest.raises(UserError, match=r"2 of 10 samples got no answer .*to request them"):
        evaluate("tiny", PROBLEMS, "suite", greedy(), 2, tmp_path, engine=server.endpoint)
    assert len(told(tmp_path)) == 8 and not (tmp_path / "result.json").exists()
    outcome = evaluate("tiny", PROBLEMS, "suite", greedy(), 2, tmp_path, engine=server.endpoint)
    assert len(server.asked) == 12 and len(told(tmp_path)) == 10
    assert [row["n_problems"] for row in outcome["results"]] == [3, 3, 2, 2]


@pytest.mark.parametrize("reply", ['{"choices": [', "a text", "{}", '{"choices": []}', 503, 429])
def test_a_reply_that_is_none_is_asked_for_again_and_that_is_said(server, tmp_path, capsys, reply):
    server.script = [200, reply]
    patient = replace(server.endpoint, retries=1)
    outcome = evaluate("tiny", PROBLEMS, "suite", greedy(), 1, tmp_path, engine=patient)
    assert len(server.asked) == 6 and len(told(tmp_path)) == 5
    assert [row["n_problems"] for row in outcome["results"]] == [3, 3, 2, 2]
    assert re.search(r"evaluate: .*; again in [0-9.]+ s \(tries left: 1\)", capsys.readouterr().err)


def test_an_endpoint_that_does_not_answer_in_time_is_said_to_be_slow_and_given_up(
    server, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(endpoint, "SLOW", 1.0)
    server.pauses = [0.0, 6.0]
    hasty = replace(server.endpoint, timeout=2.0, concurrency=1)
    with pytest.raises(UserError, match=r"1 of 5 samples got no answer .*timed out"):
        evaluate("tiny", PROBLEMS, "suite", greedy(), 1, tmp_path, engine=hasty)
    said = capsys.readouterr().err
    assert "for 1 s; one try may take 2 s" in said and said.count("no answer from") == 1
    assert len(told(tmp_path)) == 4


def test_the_commands_timeout_is_the_endpoints():
    assert _engine("hf", "http://here/v1", "KEY", 7.0).timeout == 7.0


def test_a_refusal_ends_it_at_once(server, tmp_path):
    server.script = [401] * 999
    with pytest.raises(UserError, match=r"evaluate: .* refuses model 'tiny'") as raised:
        evaluate("tiny", PROBLEMS, "suite", greedy(), 20, tmp_path, engine=server.endpoint)
    assert len(server.asked) < 80 and KEY not in str(raised.value)


def test_a_server_that_does_not_say_its_tokens_is_told_so(server, tmp_path):
    server.logprobs = False
    with pytest.raises(UserError, match="returns no log-probabilities"):
        evaluate("tiny", PROBLEMS, "suite", greedy(), 1, tmp_path, engine=server.endpoint)


def test_what_ends_the_turn_is_no_part_of_the_text():
    """As vLLM sends it: among the log-probabilities, not in the content."""
    tokens = [("It is B", -0.5), ("<|im_end|>", -0.1)]
    content = [SimpleNamespace(token=t, bytes=list(t.encode()), logprob=p) for t, p in tokens]
    choice = SimpleNamespace(
        message=SimpleNamespace(content="It is B"),
        logprobs=SimpleNamespace(content=content),
        finish_reason="stop",
    )
    made = _completion(SimpleNamespace(choices=[choice]), "http://x")
    assert Pieces().decode(made.ids) == "It is B" and len(made.ids) == 2
    choice.finish_reason = "length"
    assert Pieces().decode(_completion(SimpleNamespace(choices=[choice]), "u").ids).endswith(">")


def test_nobody_there_is_told_soon(tmp_path):
    nobody = Endpoint("http://user:password@127.0.0.1:9/v1", concurrency=2, retries=0)
    with pytest.raises(UserError, match="no server answers at http://127") as raised:
        evaluate("tiny", PROBLEMS, "suite", greedy(), 50, tmp_path, engine=nobody)
    assert "password" not in str(raised.value)


def test_a_reply_of_another_kind_is_one_line(server, tmp_path, monkeypatch):
    monkeypatch.setattr(Server, "answer", lambda self, body: {"choices": []})
    with pytest.raises(UserError, match=r"no sample is answered at .* sends an invalid answer"):
        evaluate("tiny", PROBLEMS, "suite", greedy(), 1, tmp_path, engine=server.endpoint)


def test_another_endpoint_is_another_model(server, tmp_path):
    data = tmp_path / "mine.jsonl"
    data.write_text('{"problem": "2 + 2?", "answer": "4"}\n')
    how = {"data": str(data), "languages": ["eng"], "budgets": [8], "temperature": 0.0}
    output = tmp_path / "out"
    evaluate_models(["tiny"], **how, output=output, engine=server.endpoint)
    with pytest.raises(UserError, match="samples of another kind"):
        other = replace(server.endpoint, base_url="http://user:password@127.0.0.1:9/v1")
        evaluate_models(["tiny"], **how, output=output, engine=other)
    assert "password" not in "".join(p.read_text() for p in output.rglob("*") if p.is_file())


def test_without_the_client_it_is_told_what_to_install(server, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(UserError, match=r"needs: pip install -e '\.\[endpoint\]'"):
        evaluate("tiny", PROBLEMS, "suite", greedy(), 1, tmp_path, engine=server.endpoint)
