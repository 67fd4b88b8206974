"""The client of teacher servers: it requests rows of hidden states, divides the tokens among the
servers, and has their head locally."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import cycle, islice
from typing import Any, Literal

import httpx2
import torch
import torch.distributed as dist
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from opsd.console import log
from opsd.credentials import cleaned
from opsd.lm.head_file import load_head
from opsd.lm.layout import ModelInput
from opsd.lm.loading import refuse_other_student, telling_texts, vocabulary
from opsd.lm.parameters import fingerprint_of
from opsd.objective.head import Head
from opsd.teacher.copies import RemoteReader, TeacherDown
from opsd.teacher.wire import (
    BIAS,
    ROWS,
    WEIGHT,
    About,
    Dtype,
    RowsQuestion,
    TextsAnswer,
    TextsQuestion,
    tensors_of,
)
from opsd.types import UserError

_START = "start it with opsd serve-teacher MODEL --host HOST --port PORT"
_RESUME = "--resume continues from the last checkpoint"
_CONNECTS = 10.0
"""Seconds to connect, however long an answer may take."""
_AT_ONCE = 2
"""Concurrent requests per server: one is on the wire while another one is computed."""


class Gone(Exception):
    """A server does not answer, or fails. One line: which server, and how it was noticed."""


class Server:
    """One server address. `tokens` is the number of tokens that were sent and not answered yet."""

    def __init__(self, url: str, timeout: float) -> None:
        self.name, self.tokens, self.here = cleaned(url), 0, True
        # A server closes idle connections; a connection that it is about to close must not be
        # reused.
        limits = httpx2.Limits(keepalive_expiry=30.0)
        patience = httpx2.Timeout(timeout, connect=min(timeout, _CONNECTS))
        try:
            self.http = httpx2.Client(base_url=url, timeout=patience, limits=limits)
        except httpx2.InvalidURL as error:
            raise UserError(f"teacher: {self.name} is not a valid address ({error})") from error
        weakref.finalize(self, self.http.close)

    def about(self) -> About:
        """What the server serves. Raises Gone if it does not answer."""
        try:
            return About.model_validate_json(self.fetch("/teacher"))
        except ValidationError as error:
            raise self.unknown() from error

    def fetch(self, path: str, question: BaseModel | None = None) -> bytes:
        """The response to a request. Raises Gone if there is none, UserError if the server refuses
        the request."""
        try:
            if question is None:
                reply = self.http.get(path)
            else:
                reply = self.http.post(path, content=question.model_dump_json())
        except httpx2.TransportError as error:
            told = cleaned(str(error)) or type(error).__name__
            raise Gone(f"{self.name} does not answer ({told})") from error
        if reply.is_success:
            return reply.content
        told = " ".join(reply.text[:2000].split())[:300]
        if reply.is_server_error:
            raise Gone(f"{self.name} fails ({reply.status_code}: {told})")
        raise UserError(f"teacher: {self.name} refuses ({reply.status_code}: {told})")

    def tensors(self, path: str, question: BaseModel | None = None) -> dict[str, Tensor]:
        """The tensors of a response."""
        try:
            return load(self.fetch(path, question))
        except SafetensorError as error:
            raise self.unknown() from error

    def unknown(self) -> UserError:
        """The error for a response in an unknown form."""
        return UserError(f"teacher: {self.name} does not answer like opsd serve-teacher")


class ServedReader(RemoteReader):
    """Servers of one model, at `urls`, for a student with this tokenizer. Their head is read from
    `checkpoint` if given, else the servers send it. Rows are sent as `dtype` ("auto": as computed).
    `timeout` is in seconds, for servers to start, to come back, and to answer.

    Raises UserError if a server does not start, if servers serve different models, if their
    tokenizer differs from the student's, and if the head in `checkpoint` is not theirs.
    """

    def __init__(
        self,
        urls: Sequence[str],
        tokenizer: Any,
        checkpoint: str | None = None,
        dtype: Dtype | Literal["auto"] = "auto",
        timeout: float = 600.0,
    ) -> None:
        self.vocab, self.checkpoint, self.timeout = vocabulary(tokenizer), checkpoint, timeout
        servers = [Server(url, timeout) for url in urls]
        until = time.monotonic() + timeout
        told = [_first_told(server, until) for server in servers]
        self.about = told[0]
        self.dtype: Dtype = self.about.dtype if dtype == "auto" else dtype
        self.batch_tokens = min(own.batch_tokens for own in told)
        shown = [f"{own.model} ({own.fingerprint}, {own.dtype})" for own in told]
        for server, own, other in zip(servers, told, shown, strict=True):
            if (own.fingerprint, own.dtype) != (self.about.fingerprint, self.about.dtype):
                raise UserError(
                    f"teacher: {server.name} serves {other}, {servers[0].name} {shown[0]}: serve"
                    " the same model in the same dtype at all addresses"
                )
        self._refuse_tokenizer(servers[0], tokenizer)
        # If several processes each send few requests, they start with different servers.
        first = dist.get_rank() if dist.is_initialized() else 0
        self.servers = list(islice(cycle(servers), first, first + len(servers)))
        self.lock = threading.Lock()
        self.pool = ThreadPoolExecutor(_AT_ONCE * len(servers), "teacher")
        self.heads: dict[torch.device, Head] = {}

    def _refuse_tokenizer(self, server: Server, tokenizer: Any) -> None:
        question = TextsQuestion(texts=telling_texts(tokenizer))
        try:
            made = TextsAnswer.model_validate_json(server.fetch("/tokenize", question))
            theirs = list(zip(made.ids, made.texts, strict=True))
        except (ValidationError, ValueError) as error:
            raise server.unknown() from error
        refuse_other_student(server.name, tokenizer, theirs, self.about.logits)

    def head(self, device: torch.device) -> Head:
        if device not in self.heads:
            own = self._read_head()
            weight, bias = (x if x is None else x.to(device) for x in (own.weight, own.bias))
            self.heads[device] = replace(own, weight=weight, bias=bias)
        return self.heads[device]

    def _read_head(self) -> Head:
        about = self.about
        if self.checkpoint is not None:
            head = load_head(self.checkpoint, self.vocab, getattr(torch, about.dtype))
        else:
            sent = self._from_any(lambda server: server.tensors("/head"))
            head = Head(
                sent[WEIGHT],
                sent.get(BIAS),
                vocab=min(self.vocab, about.logits),
                softcap=about.softcap,
                scale=about.scale,
            )
        same = (head.softcap, head.scale) == (about.softcap, about.scale)
        if not same or fingerprint_of(tensors_of(head)) != about.head:
            where = self.checkpoint or self.servers[0].name
            raise UserError(f"teacher: the head of '{where}' is not that of {about.model}")
        return head

    def ask(self, inputs: Sequence[ModelInput]) -> Callable[[], list[Tensor]]:
        asked = [(part, self._sent([inputs[i] for i in part])) for part in self._parts(inputs)]
        nothing = torch.empty(0, self.about.hidden_size, dtype=getattr(torch, self.dtype))

        def receive() -> list[Tensor]:
            rows = [nothing] * len(inputs)
            for part, future in asked:
                for i, own in zip(part, future.result(), strict=True):
                    rows[i] = own
            return rows

        return receive

    def _parts(self, inputs: Sequence[ModelInput]) -> list[list[int]]:
        """The indices of the sequences in each request. A request has as many tokens as a server
        processes at once, or, if there are fewer, every server gets a share. Equal prompts are
        grouped."""
        asked = [i for i, x in enumerate(inputs) if x.read]
        asked.sort(key=lambda i: inputs[i].prompt)
        here = max(1, sum(server.here for server in self.servers))
        tokens = sum(len(inputs[i].ids) for i in asked)
        most = min(self.batch_tokens, -(-tokens // here))
        parts: list[list[int]] = []
        room = 0
        for i in asked:
            if not parts or len(inputs[i].ids) > room:
                parts.append([])
                room = most
            parts[-1].append(i)
            room -= len(inputs[i].ids)
        return parts

    def _sent(self, inputs: Sequence[ModelInput]) -> Future[Sequence[Tensor]]:
        sequences: Any = [{"ids": x.ids, "read": list(x.read)} for x in inputs]
        question = RowsQuestion(
            fingerprint=self.about.fingerprint, dtype=self.dtype, sequences=sequences
        )
        tokens = sum(len(x.ids) for x in inputs)
        lengths = [len(x.read) for x in inputs]
        wanted = (sum(lengths), self.about.hidden_size), getattr(torch, self.dtype)

        def read(server: Server) -> Sequence[Tensor]:
            rows = server.tensors("/rows", question).get(ROWS)
            if rows is None or (tuple(rows.shape), rows.dtype) != wanted:
                raise server.unknown()
            return rows.split(lengths)

        return self.pool.submit(self._from_any, read, tokens)

    def _from_any(self, read: Callable[[Server], Any], tokens: int = 0) -> Any:
        """The response of the server with the fewest pending tokens. A server that fails is skipped
        from then on. When all have failed, wait for one to come back. Raises TeacherDown if none
        does, or if all fail twice."""
        failures = 0
        while True:
            with self.lock:
                here = [server for server in self.servers if server.here]
                server = min(here, key=lambda server: server.tokens, default=None)
                if server is not None:
                    server.tokens += tokens
            if server is None:
                self._wait_for_one()
                continue
            try:
                return read(server)
            except Gone as error:
                failures += 1
                with self.lock:
                    first, server.here = server.here, False
                    others = any(other.here for other in self.servers)
                if first:
                    fate = "others take its requests" if others else "waiting until one answers"
                    log(f"teacher: {error}; it is left out; {fate}")
                if failures > 2 * len(self.servers):
                    raise TeacherDown(f"teacher: {error}; {_RESUME}") from error
            finally:
                with self.lock:
                    server.tokens -= tokens

    def _wait_for_one(self) -> None:
        """Wait until a server is back with the same model. Raises TeacherDown if none comes
        back."""
        until, told = time.monotonic() + self.timeout, ""
        while True:
            for server in self.servers:
                try:
                    same = server.about().fingerprint == self.about.fingerprint
                except Gone as error:
                    told = str(error)
                    continue
                if not same:
                    told = f"{server.name} now serves another model"
                    continue
                with self.lock:
                    server.here = True
                return
            if time.monotonic() > until:
                raise TeacherDown(f"teacher: no server is left ({told}); {_START}; {_RESUME}")
            time.sleep(min(1.0, self.timeout / 4))


def _first_told(server: Server, until: float) -> About:
    """What a server serves, once it has started."""
    waits = False
    while True:
        try:
            return server.about()
        except Gone as error:
            left = until - time.monotonic()
            if left <= 0:
                raise UserError(f"teacher: {error}; {_START}") from error
            if not waits:
                log(f"teacher: {error}; waiting for it, {left:.0f} s at most")
            waits = True
            time.sleep(min(1.0, max(0.05, until - time.monotonic())))
