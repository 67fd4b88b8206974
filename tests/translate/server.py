"""A server on this machine that speaks the chat-completions protocol, and translates a few problems
into Swahili and German, and the built-in world's into its languages; as often as it is told to, it
fails first."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opsd.languages.registry import language
from opsd.miniature.lexicon import LANGUAGES
from opsd.miniature.world import problems

ENGLISH = "Juma has {n} eggs and buys {m} more at the market. How many eggs does he have now?"
THEIRS = {
    "Swahili": "Juma ana mayai {n} na ananunua mengine {m} sokoni. Je, sasa ana mayai mangapi?",
    "German": "Juma hat {n} Eier und kauft {m} weitere auf dem Markt. Wie viele Eier hat er jetzt?",
}
_FORMS = {
    name: re.compile(re.escape(text).replace(r"\{n\}", r"(\d+)").replace(r"\{m\}", r"(\d+)"))
    for name, text in {"English": ENGLISH, **THEIRS}.items()
}


def english(n: int, m: int) -> str:
    return ENGLISH.format(n=n, m=m)


def translated(language: str, n: int, m: int) -> str:
    return THEIRS[language].format(n=n, m=m)


@cache
def of_world() -> dict[str, dict[str, str]]:
    """The built-in world's first problems in English, and what each is in its languages."""
    made: dict[str, dict[str, str]] = {}
    for split, code in itertools.product(("train", "test"), LANGUAGES):
        for problem in problems("miniature", split, code, 40):
            english = problem.privileged.get("translation", problem.text)
            made.setdefault(english, {})[language(code).name] = problem.text
    return made


def answer(body: dict) -> str:
    """What a good translator, and solver, says to a question."""
    asked = body["messages"][-1]["content"]
    for form in _FORMS.values():
        if found := form.search(asked):
            n, m = map(int, found.groups())
            break
    else:
        return _of_world(asked)
    if wanted := re.search(r"from \w+ into (\w+)\.", asked):
        return english(n, m) if wanted[1] == "English" else translated(wanted[1], n, m)
    return rf"{n} + {m} = \boxed{{{n + m}}}"


def _of_world(asked: str) -> str:
    wanted = re.search(r"from English into (\w+)\.", asked)
    known = next((theirs for text, theirs in of_world().items() if text in asked), {})
    return known.get(wanted[1], "?") if wanted else "?"


class Server(ThreadingHTTPServer):
    """`faults` are what the next requests meet, one each; after them all is well. Requests wait
    until as many are there as `meet` at once."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, answer: Callable[[dict], str] = answer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer
        self.faults: list[str] = []
        self.asked: list[dict] = []
        self.times: list[float] = []
        self.together = self.most = 0
        self.pause = 0.0
        self.meet: threading.Barrier | None = None
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    @property
    def questions(self) -> list[str]:
        return [body["messages"][-1]["content"] for body in self.asked]

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that has gone is none of ours."""


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        with server.lock:
            server.asked.append(body)
            server.times.append(time.monotonic())
            fault = server.faults.pop(0) if server.faults else ""
            server.together += 1
            server.most = max(server.most, server.together)
        time.sleep(30.0 if fault == "slow" else server.pause)
        if server.meet is not None:
            server.meet.wait(60)
        with server.lock:
            server.together -= 1
        self._reply(fault, body)

    def _reply(self, fault: str, body: dict) -> None:
        match fault:
            case "429":
                self._send(429, b'{"error": {"message": "slow down"}}', {"Retry-After": "0.2"})
            case "500" | "401":
                self._send(int(fault), b'{"error": {"message": "no"}}')
            case "cut":  # in the middle of the content that was announced
                self.send_response(200)
                self.send_header("Content-Length", "5000")
                self.end_headers()
                self.wfile.write(b'{"choices": [')
                self.connection.close()
            case "malformed":
                self._send(200, b'{"choices": [}')
            case "empty":
                self._send(200, b'{"choices": []}')
            case "kind":
                self._send(200, completion(["a", "list"]))
            case "half":  # of a character that takes two
                self._send(200, completion("\ud83d").decode().encode("utf-8", "surrogatepass"))
            case "long":
                self._send(200, completion("Juma ana", "length"))
            case "wrong":
                self._send(200, completion("The answer is 13."))
            case _:
                self._send(200, completion(self.server.answer(body)))

    def _send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        """Says nothing."""


def completion(text: object, finish: str = "stop") -> bytes:
    """A reply of the protocol."""
    message = {"role": "assistant", "content": text}
    reply = {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120},
    }
    return json.dumps(reply).encode()


@contextlib.contextmanager
def serving(answer: Callable[[dict], str] = answer) -> Iterator[Server]:
    with Server(answer) as made:
        threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True).start()
        yield made
        made.shutdown()
