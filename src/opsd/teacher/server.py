"""`opsd serve-teacher`: serves a teacher over HTTP by sending the last hidden states of the taught
positions. A client with the model's head computes the exact distribution from them, so that D
numbers per token are sent instead of V logits.

Routes: `GET /health`; `GET /teacher`, what is served (`wire.About`); `GET /head`, the output layer;
`POST /tokenize` (`wire.TextsQuestion`); `POST /rows` (`wire.RowsQuestion`). Tensors are sent as
safetensors. A wrong request gets status 4xx and one line of text. There is no authentication.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors.torch import save
from torch import Tensor

from opsd.console import log
from opsd.lm.agreement import layout_for
from opsd.lm.forward import check_head, head_of, score
from opsd.lm.layout import Layout, ModelInput
from opsd.lm.loading import load_model, load_tokenizer, tokenized, vocabulary
from opsd.lm.parameters import fingerprint, fingerprint_of
from opsd.lm.shared_prefix import attends, score_shared, worth_sharing
from opsd.objective.head import Head
from opsd.teacher.wire import ROWS, About, RowsQuestion, TextsAnswer, TextsQuestion, tensors_of
from opsd.types import UserError

_PROBE = "Neema has 12 eggs and 345 more: how many are there?"
_BYTES_PER_TOKEN = 32
"""JSON bytes of a request per token: an id and a position, with separators."""
_SPARE = 1 << 20
"""Additional bytes that a request may have."""
_IDLE = 60.0
"""Seconds after which a silent connection is closed."""
_LOCAL = ("127.0.0.1", "localhost")


class Refused(Exception):
    """A refused request: an HTTP status, and one line that says why."""

    def __init__(self, status: int, told: str) -> None:
        super().__init__(told)
        self.status = status


class ServedModel:
    """A model that computes hidden states, in one forward pass at a time of at most `batch_tokens`
    tokens, padding included, or one sequence. A request may have as many tokens, or as many as the
    longest sequence that the model supports, whichever is more."""

    def __init__(self, model: Any, tokenizer: Any, name: str, batch_tokens: int) -> None:
        self.model, self.tokenizer = model.requires_grad_(False).eval(), tokenizer
        self.batch_tokens = batch_tokens
        self.lock = threading.Lock()
        self.vocab = vocabulary(tokenizer)
        self.ids = model.get_input_embeddings().weight.shape[0]
        probe = tokenizer(_PROBE)["input_ids"]
        check_head(model, probe, self.vocab, 1e-3 if model.dtype == torch.float32 else 0.1)
        self.layout: Layout = layout_for(model, "auto", probe)
        self.shares = attends(model)
        self.head: Head = head_of(model, self.vocab)
        longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        text = ",".join(f"{token}:{i}" for token, i in sorted(tokenizer.get_vocab().items()))
        own = hashlib.sha256(text.encode()).hexdigest()[:16]
        self.about = About(
            model=name,
            fingerprint=fingerprint(model) + own,
            head=fingerprint_of(tensors_of(self.head)),
            dtype=str(self.head.weight.dtype).removeprefix("torch."),  # type: ignore[arg-type]
            hidden_size=self.head.weight.shape[1],
            logits=self.head.weight.shape[0],
            softcap=self.head.softcap,
            scale=self.head.scale,
            max_length=longest,
            batch_tokens=batch_tokens,
            max_tokens=max(batch_tokens, longest or 0),
        )

    @property
    def max_bytes(self) -> int:
        """The maximum size of a request, in bytes."""
        return self.about.max_tokens * _BYTES_PER_TOKEN + _SPARE

    def rows(self, question: RowsQuestion) -> bytes:
        """The requested rows. Raises Refused for sequences that the model cannot process."""
        inputs = [ModelInput(tuple(own.ids), own.read) for own in question.sequences]
        self._refuse(question.fingerprint, inputs)
        rows: list[Tensor] = [torch.empty(0)] * len(inputs)
        for batch in self._batches(inputs):
            for i, own in zip(batch, self._read([inputs[i] for i in batch]), strict=True):
                rows[i] = own.to(getattr(torch, question.dtype))
        return save({ROWS: torch.cat(rows)})

    def _read(self, inputs: Sequence[ModelInput]) -> Sequence[Tensor]:
        """Each sequence's rows, in host memory."""
        known = (self.model, inputs, self.tokenizer.pad_token_id, self.vocab)
        with self.lock:
            if self.shares and worth_sharing(inputs, self.layout):
                rows_ND, _ = score_shared(*known)
            else:
                rows_ND, _ = score(*known, self.layout)
            return rows_ND.cpu().split([len(x.read) for x in inputs])

    def _batches(self, inputs: Sequence[ModelInput]) -> list[list[int]]:
        """The indices of the sequences in each batch; if there are several batches, sequences of
        similar length are batched together."""
        lengths = [len(x.ids) for x in inputs]
        if self.layout.tokens(lengths) <= self.batch_tokens:
            return [[*range(len(inputs))]]
        batches: list[list[int]] = [[]]
        for i in sorted(range(len(inputs)), key=lambda i: -lengths[i]):
            together = [lengths[i], *(lengths[k] for k in batches[-1])]
            if batches[-1] and self.layout.tokens(together) > self.batch_tokens:
                batches.append([])
            batches[-1].append(i)
        return batches

    def _refuse(self, expected: str, inputs: Sequence[ModelInput]) -> None:
        about = self.about
        if expected != about.fingerprint:
            told = f"{about.model} is served, with the fingerprint {about.fingerprint}"
            raise Refused(409, f"{told}, not {expected}")
        tokens = sum(len(x.ids) for x in inputs)
        if tokens > about.max_tokens:
            told = f"{tokens:,} tokens in a request; at most {about.max_tokens:,} are allowed"
            raise Refused(413, f"{told}: split it, or raise --max-num-batched-tokens")
        for number, x in enumerate(inputs):
            if about.max_length is not None and len(x.ids) > about.max_length:
                told = f"sequence {number} has {len(x.ids):,} tokens"
                raise Refused(400, f"{told}, but the model supports at most {about.max_length:,}")
            if max(x.ids) >= self.ids:
                told = f"sequence {number} has the id {max(x.ids)}"
                raise Refused(400, f"{told}, but the model has only {self.ids} ids")
            if max(x.read) >= len(x.ids):
                told = f"sequence {number}: position {max(x.read)} is requested"
                raise Refused(400, f"{told}, but it has {len(x.ids)} tokens")

    def tokenize(self, question: TextsQuestion) -> TextsAnswer:
        """Tokenize texts."""
        with self.lock:  # a fast tokenizer's settings are not thread-safe
            made = tokenized(self.tokenizer, question.texts)
        return TextsAnswer(ids=[ids for ids, _ in made], texts=[text for _, text in made])


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "opsd"
    timeout = _IDLE
    server: TeacherServer

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def _get(self) -> tuple[bytes, str]:
        served = self.server.served
        match self.path:
            case "/health":
                return b"", _TEXT
            case "/teacher":
                return served.about.model_dump_json().encode(), _JSON
            case "/head":
                with served.lock:
                    own = {k: v.detach().cpu() for k, v in tensors_of(served.head).items()}
                return save({k: v.contiguous() for k, v in own.items()}), _BYTES
        raise Refused(404, f"no such route: {self.path[:100]}")

    def _post(self) -> tuple[bytes, str]:
        served = self.server.served
        match self.path:
            case "/rows":
                return served.rows(self._question(RowsQuestion)), _BYTES
            case "/tokenize":
                made = served.tokenize(self._question(TextsQuestion))
                return made.model_dump_json().encode(), _JSON
        raise Refused(404, f"no such route: {self.path[:100]}")

    def _question(self, kind: type[Any]) -> Any:
        most = self.server.served.max_bytes
        said = self.headers.get("Content-Length", "")
        if not said.isascii() or not said.isdigit():
            self.close_connection = True
            raise Refused(411, "a request needs a Content-Length")
        if int(said) > most:
            self.close_connection = True  # the request's body is not read
            raise Refused(413, f"{int(said):,} bytes in a request; at most {most:,} are allowed")
        body = self.rfile.read(int(said))
        try:
            return kind.model_validate_json(body)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise Refused(400, f"{place}: {first['msg']}" if place else first["msg"]) from error

    def _answer(self, make: Any) -> None:
        try:
            body, kind, status = *make(), 200
        except Refused as error:
            body, kind, status = str(error).encode(), _TEXT, error.status
        except OSError:  # the connection is closed
            self.close_connection = True
            return
        except Exception as error:
            told = " ".join(str(error).split())[:300] or type(error).__name__
            log(f"{self.path}: {told}")
            body, kind, status = told.encode(), _TEXT, 500
        with contextlib.suppress(OSError):
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: there are too many requests."""


_TEXT, _JSON, _BYTES = "text/plain; charset=utf-8", "application/json", "application/octet-stream"


class TeacherServer(ThreadingHTTPServer):
    """Listens at an address; port 0 means any free port."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, served: ServedModel, host: str, port: int) -> None:
        self.served = served
        super().__init__((host, port), _Handler)

    @property
    def url(self) -> str:
        return f"http://{self.server_address[0]}:{self.server_address[1]}"


def serve(
    name: str, host: str, port: int, batch_tokens: int, dtype: str | None, attention: str | None
) -> None:
    """Serve a model until interrupted, on the GPU if there is one.

    Raises UserError for a model that cannot be loaded completely or whose logits do not come from
    its head alone, and if the server cannot listen at the address.
    """
    started = time.monotonic()
    model = load_model(name, dtype=dtype, attn_implementation=attention)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    served = ServedModel(model, load_tokenizer(name), Path(name).name, batch_tokens)
    try:
        server = TeacherServer(served, host, port)
    except (OSError, OverflowError) as error:
        raise UserError(f"cannot listen at {host}:{port} ({error}): --host, --port") from error
    about = served.about
    log(
        f"serving {about.model} ({about.dtype}, fingerprint {about.fingerprint}) at {server.url},"
        f" loaded in {time.monotonic() - started:.0f} s; end it with Ctrl-C"
    )
    if host not in _LOCAL:
        log(f"{host}: whoever reaches this address can use the model; see docs/SECURITY.md")
    with server:
        server.serve_forever()
