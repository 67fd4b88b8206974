"""Samples from a model behind an OpenAI-compatible endpoint (vLLM's, SGLang's, llama.cpp's server).

The server applies the chat template and must return the log-probabilities of its tokens: they come
with the tokens themselves, so that one generation serves every budget, as with a local model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from opsd.console import counting
from opsd.evaluate.samples import Protocol
from opsd.rollout.endpoint import ChatEndpoint, NoAnswer, connect, shown
from opsd.rollout.engine import Completion, prompt_seed
from opsd.types import Finish, Message, Problem, UserError

Item = tuple[str, int]


@dataclass(frozen=True)
class Endpoint:
    """The endpoint that serves a model. `key_variable` names the environment variable that contains
    the API key; `timeout` is in seconds, for one answer; a failed request is repeated up to
    `retries` times."""

    base_url: str
    key_variable: str = "OPENAI_API_KEY"
    concurrency: int = 8
    timeout: float = 600.0
    retries: int = 5

    @property
    def place(self) -> str:
        return f"at {shown(self.base_url)}"

    def __post_init__(self) -> None:
        if not 0 < self.timeout < math.inf:
            raise UserError(f"--timeout {self.timeout:g}: write a number of seconds above 0")


class Pieces:
    """A tokenizer for completions whose tokens are texts already, without control tokens."""

    added_tokens_decoder: Mapping[Any, Any] = MappingProxyType({})

    def decode(self, ids: Sequence[Any], skip_special_tokens: bool = False) -> str:
        return b"".join(ids).decode("utf-8", "replace")


@dataclass(frozen=True)
class _Asked:
    """Requests samples from one endpoint under one protocol."""

    endpoint: ChatEndpoint
    protocol: Protocol

    def __call__(self, problem: Problem, item: Item) -> Completion:
        """One completion, its tokens as bytes."""
        view = self.protocol.prompt.view(problem)
        messages: list[Message] = list(view.messages)
        extra: dict[str, Any] = {}
        if view.template_options:
            extra["chat_template_kwargs"] = view.template_options
        if view.prefill:
            messages.append({"role": "assistant", "content": view.prefill})
            extra |= {"continue_final_message": True, "add_generation_prompt": False}
        sampling = self.protocol.sampling
        extra |= {"top_k": sampling.top_k} if sampling.top_k else {}
        extra |= {"min_p": sampling.min_p} if sampling.min_p else {}
        seed = prompt_seed(self.protocol.seed, 0, item[0], item[1], "evaluate")
        return self.endpoint.ask(
            lambda reply: _completion(reply, self.endpoint.base_url),
            messages=messages,
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=seed % 2**31,
            logprobs=True,
            extra_body=extra,
        )


def _completion(reply: Any, base_url: str | None) -> Completion:
    choice = reply.choices[0]
    said = choice.message.content or ""
    content = choice.logprobs and choice.logprobs.content
    if content is None or (not content and said):
        raise UserError(
            f"{shown(base_url)} returns no log-probabilities, which tell what the tokens are: start"
            " the server with log-probabilities enabled"
        )
    pieces = [
        x.token.encode("utf-8", "replace") if x.bytes is None else bytes(x.bytes) for x in content
    ]
    finish = Finish.LENGTH if choice.finish_reason == "length" else Finish.STOP
    # As with a local model, the token that ends the turn is counted, but is not part of the text.
    if finish is Finish.STOP and pieces and not said.encode().endswith(pieces[-1]):
        pieces[-1] = b""
    return Completion(tuple(pieces), tuple(x.logprob for x in content), finish)  # type: ignore[arg-type]


def draw(
    endpoint: Endpoint,
    model: str,
    protocol: Protocol,
    problems: Mapping[str, Problem],
    missing: Sequence[Item],
    keep: Callable[[Item, Completion], str],
) -> None:
    """Requests the missing samples, several at a time. `keep` is called with each completion as it
    arrives, and returns a text about all so far, for the progress bar.

    Raises UserError at once if the endpoint refuses every request, or if none of the first requests
    is answered; and at the end if some were not answered. Completions that arrived are kept, and
    the same command requests the rest.
    """
    about = (endpoint.base_url, endpoint.key_variable, endpoint.timeout, endpoint.retries)
    ask = _Asked(connect(model, *about, who="evaluate"), protocol)
    failed: list[str] = []
    came = 0
    with (
        counting(f"{model} at {shown(endpoint.base_url)}", len(missing), "sample") as advance,
        ThreadPoolExecutor(endpoint.concurrency) as pool,
    ):
        waiting = {pool.submit(ask, problems[item[0]], item): item for item in missing}
        try:
            for future in as_completed(waiting):
                tokens, told = 0, None
                try:
                    completion = future.result()
                    told = keep(waiting[future], completion)
                    tokens = len(completion.ids)
                    came += 1
                except NoAnswer as error:
                    failed.append(str(error))
                    if not came and len(failed) >= 2 * endpoint.concurrency:
                        who = "no sample is answered" if error.reached else "no server answers"
                        raise UserError(
                            f"{who} at {shown(endpoint.base_url)} ({failed[-1]})"
                        ) from error
                advance(1, tokens, told)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if failed:
        raise UserError(
            f"{len(failed)} of {len(missing)} samples got no answer ({failed[-1]}); run the same"
            " command again to request them"
        )
