"""Rollouts with the training model itself, as loaded by Transformers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from opsd.lm.attention import shared_heads
from opsd.lm.forward import causal_lm, evaluating, head_of, trunk_of
from opsd.lm.merging import merged
from opsd.lm.sharding import within_forward
from opsd.objective.head import Head
from opsd.rollout.decode import ActiveBatch, Reader, decode
from opsd.rollout.drawing import drawn
from opsd.rollout.engine import Completion, Progress, Sampling, silent
from opsd.rollout.model_engine import ModelEngine
from opsd.types import Finish


class HFEngine(ModelEngine):
    """Generates in a batch of at most `batch_tokens` tokens, prompts and horizons together. Rows
    enter it, longest prompts first, as others leave."""

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        seeds: Sequence[int],
        progress: Progress | None = None,
    ) -> list[Completion]:
        reader = Reader(
            trunk=trunk_of(self.model),
            config=causal_lm(self.model).config,
            device=next(self.model.parameters()).device,
            pad_id=self.pad_id,
        )
        writer = _Writer(
            head_of(self.model, self.vocab), sampling, seeds, self.eos_ids, progress or silent
        )
        admit = self._admission(prompts, sampling.max_tokens)
        with evaluating(self.model), merged(self.model), shared_heads(self.model):
            within_forward(self.model, lambda model: decode(reader, prompts, admit, writer))
        return [writer.done[i] for i in range(len(prompts))]

    def _admission(
        self, prompts: Sequence[Sequence[int]], horizon: int
    ) -> Callable[[ActiveBatch | None], list[int]]:
        """The function that selects prompts to start next to the live rows: by length, equal ones
        together, as many as fit, and only once there is room for a quarter of a full batch."""
        keys = [(-len(prompt), tuple(prompt)) for prompt in prompts]
        waiting = sorted(range(len(prompts)), key=lambda i: (keys[i], i))

        def admit(live: ActiveBatch | None) -> list[int]:
            if not waiting or (live is not None and not live.joinable):
                return []
            width = max(len(prompts[waiting[0]]), live.width if live else 0) + horizon
            fitting = max(self.batch_tokens // width, 0 if live else 1)
            room = min(fitting - (len(live.numbers) if live else 0), len(waiting))
            if room <= 0 or (live is not None and 4 * room < min(fitting, len(waiting))):
                return []
            taken = waiting[:room]
            del waiting[:room]
            return taken

        return admit


@dataclass
class _Sequence:
    """An unfinished completion, and its random numbers."""

    numbers: Any
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


@dataclass
class _Writer:
    """Draws each row's next token with the row's own stream of uniform numbers, and stores it with
    its log-probability."""

    head: Head
    sampling: Sampling
    seeds: Sequence[int]
    eos_ids: Sequence[int]
    progress: Progress
    drafts: dict[int, _Sequence] = field(default_factory=dict)
    done: dict[int, Completion] = field(default_factory=dict)

    def __call__(self, hidden_BD: Tensor, rows: Sequence[int]) -> list[int | None]:
        drafts = [self._draft(row) for row in rows]
        logits = self.head.logits(hidden_BD)
        if self.sampling.temperature > 0:
            logits /= self.sampling.temperature
        logp = logits.log_softmax(-1)
        if self.sampling.temperature > 0:
            numbers = torch.tensor([float(d.numbers[len(d.ids)]) for d in drafts]).double()
            chosen = drawn(logp, numbers.to(logp.device), self.sampling)
        else:
            chosen = logp.argmax(-1)
        kept = logp.gather(-1, chosen.unsqueeze(-1)).squeeze(-1)
        # In one transfer, since each one waits for the device; doubles represent any token id
        # exactly.
        tokens, logprobs = torch.stack([chosen.double(), kept.double()]).tolist()
        written = zip(rows, drafts, tokens, logprobs, strict=True)
        following = [self._next(row, draft, int(token), p) for row, draft, token, p in written]
        self.progress(following.count(None), len(rows))
        return following

    def _draft(self, row: int) -> _Sequence:
        if row not in self.drafts:
            stream = torch.Generator().manual_seed(self.seeds[row])
            numbers = torch.rand(self.sampling.max_tokens, generator=stream, dtype=torch.float64)
            self.drafts[row] = _Sequence(numbers.numpy())
        return self.drafts[row]

    def _next(self, row: int, draft: _Sequence, token: int, logprob: float) -> int | None:
        draft.ids.append(token)
        draft.logprobs.append(logprob)
        ended = token in self.eos_ids
        if not ended and len(draft.ids) < self.sampling.max_tokens:
            return token
        finish = Finish.STOP if ended else Finish.LENGTH
        self.done[row] = Completion(tuple(draft.ids), tuple(draft.logprobs), finish)
        del self.drafts[row]
        return None
