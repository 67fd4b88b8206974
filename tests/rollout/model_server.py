"""A server of a test's own that speaks as `vllm serve` does, and as SGLang's does, and answers from
a model: it can be killed, begun anew on the same port, told to hang, to fail, or to write with
other weights."""

from __future__ import annotations

import contextlib
import copy
import json
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from peft import PeftModel
from tests.arrange import engine_for
from torch import nn

from opsd.lm.loading import load_model
from opsd.rollout.engine import Sampling
from opsd.rollout.weight_sync import PROBED

SERVED = "served"
_TURNS = threading.Lock()
"""Models are loaded, and write, one after another."""


class ModelServer:
    """One replica. `asked` has the seed, and the name of the weights, of all that it was asked in
    training; `heard` is told of each such question before it is answered, `reached` of whatever it
    is sent."""

    def __init__(
        self, model: nn.Module, tokenizer: Any, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        self.base, self.tokenizer = model, tokenizer
        self.asked: list[tuple[int, str]] = []
        self.heard: Callable[[], None] = lambda: None
        self.reached: Callable[[], None] = lambda: None
        self.status = 200
        self.hangs = threading.Event()
        self.goes_on = threading.Event()
        self.disturb: Callable[[nn.Module], None] = lambda model: None
        self.busy = self.busiest = 0
        self.host, self.port = host, port
        self.http: _Server | None = None
        self.begin()

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def begin(self) -> None:
        """Comes up, with the weights of the start."""
        self.model: Any = copy.deepcopy(self.base)
        self.adapters: dict[str, Any] = {}
        self.http = _Server(self, (self.host, self.port))
        self.port = self.http.server_port
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def kill(self) -> None:
        """Goes, in the middle of whatever it was asked."""
        http, self.http = self.http, None
        if http is not None:
            http.cut()

    def completion(self, asked: dict[str, Any]) -> dict[str, Any]:
        sampling = Sampling(asked["temperature"], max_tokens=asked["max_tokens"])
        model = {SERVED: self.model, **self.adapters}[asked["model"]]
        with _TURNS:
            engine = engine_for(model, self.tokenizer)
            (made,) = engine.generate([asked["prompt"]], sampling, [asked["seed"]])
        return {
            "choices": [
                {
                    "token_ids": list(made.ids),
                    "logprobs": {"token_logprobs": list(made.logprobs or ())},
                    "finish_reason": made.finish.value,
                }
            ]
        }


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, replica: ModelServer, address: tuple[str, int]) -> None:
        self.replica = replica
        self.open: set[socket.socket] = set()
        super().__init__(address, _Handler)

    def cut(self) -> None:
        """Closes its port and all connections, half-way through an answer too."""
        self.shutdown()
        self.socket.close()
        for connection in list(self.open):
            with contextlib.suppress(OSError):  # its handler has ended
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that was cut is no news."""
        if not isinstance(sys.exception(), OSError | ValueError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.server.open.add(self.connection)

    def finish(self) -> None:
        self.server.open.discard(self.connection)
        super().finish()

    def do_GET(self) -> None:
        replica = self.server.replica
        names = [SERVED, *replica.adapters]
        self.reply(replica.status, {"data": [{"id": name} for name in names]})

    def do_POST(self) -> None:
        replica = self.server.replica
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer: dict[str, Any] = {}
        replica.reached()
        status = replica.status
        if self.path.endswith("/load_lora_adapter"):
            with _TURNS:
                base = copy.deepcopy(replica.model)
                adapted: Any = PeftModel.from_pretrained(base, asked["lora_path"]).eval()
            replica.disturb(adapted)
            replica.adapters[asked["lora_name"]] = adapted
        elif self.path.endswith("/unload_lora_adapter"):
            known = replica.adapters.pop(asked["lora_name"], None)
            status = status if known else 404 if self.path.startswith("/v1") else 400
        elif self.path in ("/collective_rpc", "/update_weights_from_disk"):
            path = asked.get("model_path") or asked["kwargs"]["weights_path"]
            with _TURNS:
                replica.model = load_model(path).eval()
        elif self.path == "/v1/completions":
            status, answer = self.written(asked, 404)
        elif self.path == "/generate":
            own = asked["sampling_params"]
            said = {
                "model": asked.get("lora_path", SERVED),
                "prompt": asked["input_ids"],
                "max_tokens": own["max_new_tokens"],
                "temperature": own["temperature"],
                "seed": own["sampling_seed"],
            }
            assert own["top_k"] == -1 and asked["return_logprob"]
            status, answer = self.written(said, 400)
            answer = in_sglangs_words(answer) if answer else {}
        self.reply(status, answer)

    def written(self, asked: dict[str, Any], unknown: int) -> tuple[int, dict[str, Any]]:
        """A completion, with its status; of weights that are not there, the `unknown` one."""
        replica, probed = self.server.replica, asked["max_tokens"] == PROBED.max_tokens
        if not probed:
            replica.asked.append((asked["seed"], asked["model"]))
            replica.busy += 1
            replica.busiest = max(replica.busy, replica.busiest)
            replica.heard()
            if replica.hangs.is_set():
                replica.goes_on.wait()
        there = asked["model"] in (SERVED, *replica.adapters)
        status = replica.status if there else unknown
        answer = replica.completion(asked) if status == 200 else {}
        replica.busy -= not probed
        return status, answer

    def reply(self, status: int, answer: dict[str, Any]) -> None:
        text = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *args: object) -> None:
        """Says nothing."""


def in_sglangs_words(answer: dict[str, Any]) -> dict[str, Any]:
    (made,) = answer["choices"]
    pairs = zip(made["logprobs"]["token_logprobs"], made["token_ids"], strict=True)
    return {
        "text": "",
        "meta_info": {
            "output_token_logprobs": [[logprob, token, None] for logprob, token in pairs],
            "finish_reason": {"type": made["finish_reason"]},
        },
    }


@contextmanager
def serving(model: nn.Module, tokenizer: Any, count: int) -> Iterator[Sequence[ModelServer]]:
    """So many replicas, until the end of the block."""
    with ExitStack() as stack:
        replicas = [ModelServer(model, tokenizer) for _ in range(count)]
        for replica in replicas:
            stack.callback(replica.kill)
            stack.callback(replica.goes_on.set)
        yield replicas
