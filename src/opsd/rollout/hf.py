"""Rollouts with Transformers' own `generate`, on the training model itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from opsd.rollout.collate import pad_left
from opsd.rollout.engine import Completion, Progress, Sampling
from opsd.teacher.score import causal_lm
from opsd.types import Finish, UserError


class HFEngine:
    """Batched generation with a KV cache, prompts padded on the left.

    Prompts are sorted by length and dealt into batches of at most `batch_tokens` tokens (prompts
    and horizons together), so that a batch neither overflows memory nor waits for one long prompt.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        eos_ids: Sequence[int],
        pad_id: int,
        vocab: int,
        batch_tokens: int = 65_536,
    ) -> None:
        if not eos_ids:
            raise UserError("the model names no end-of-sequence token; set one in its tokenizer")
        self.model = model
        self.eos_ids = tuple(dict.fromkeys(eos_ids))
        self.pad_id = pad_id
        self.vocab = vocab
        self.batch_tokens = batch_tokens

    def sync(self, model: nn.Module) -> None:
        """Generates with `model` from now on; its weights are read where they are."""
        self.model = model

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        seeds: Sequence[int],
        progress: Progress | None = None,
    ) -> list[Completion]:
        results: dict[int, Completion] = {}
        for batch in self._batches([len(p) for p in prompts], sampling.max_tokens):
            completions = self._generate(
                [prompts[i] for i in batch], sampling, [seeds[i] for i in batch]
            )
            results.update(zip(batch, completions, strict=True))
            if progress is not None:
                progress(len(batch))
        return [results[i] for i in range(len(prompts))]

    def _batches(self, lengths: Sequence[int], horizon: int) -> list[list[int]]:
        order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
        batches: list[list[int]] = []
        for i in order:
            current = batches[-1] if batches else []
            width = (lengths[current[0]] if current else lengths[i]) + horizon
            if not current or (len(current) + 1) * width > self.batch_tokens:
                batches.append([i])
            else:
                current.append(i)
        return batches

    @torch.no_grad()
    def _generate(
        self, prompts: list[Sequence[int]], sampling: Sampling, seeds: list[int]
    ) -> list[Completion]:
        device = next(self.model.parameters()).device
        ids, mask = pad_left(prompts, self.pad_id)
        choose = _Choose(sampling, seeds, self.vocab, device)
        was_training = self.model.training
        self.model.eval()
        base = causal_lm(self.model)
        # Settings that the model ships (penalties, suppressed tokens) would fill in what is not
        # named below, and change the distribution that rollouts are drawn from.
        shipped, base.generation_config = base.generation_config, GenerationConfig()
        try:
            output = self.model.generate(  # type: ignore[operator]
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                generation_config=GenerationConfig(
                    max_new_tokens=sampling.max_tokens,
                    do_sample=False,
                    use_cache=True,
                    repetition_penalty=1.0,
                    eos_token_id=list(self.eos_ids),
                    pad_token_id=self.pad_id,
                ),
                logits_processor=LogitsProcessorList([choose]),
                # Processes generate without each other, also where weights are usually sharded.
                synced_gpus=False,
            )
        finally:
            base.generation_config = shipped
            self.model.train(was_training)
        tokens = output[:, ids.shape[1] :].tolist()
        logprobs = torch.stack(choose.logprobs, dim=1).tolist()
        return [self._completion(t, p) for t, p in zip(tokens, logprobs, strict=True)]

    def _completion(self, tokens: list[int], logprobs: list[float]) -> Completion:
        """Cut after the first ending token: what follows is padding, also where pad == eos."""
        end = next((i for i, token in enumerate(tokens) if token in self.eos_ids), None)
        n = len(tokens) if end is None else end + 1
        finish = Finish.LENGTH if end is None else Finish.STOP
        return Completion(tuple(tokens[:n]), tuple(logprobs[:n]), finish)


class _Choose(LogitsProcessor):
    """Draws each row's token from its own stream of uniform numbers, and keeps its log-probability.

    A token is where the cumulative distribution passes the row's next number, so that a draw
    depends on the row's seed alone. The chosen token is the only one left standing.
    """

    def __init__(self, sampling: Sampling, seeds: list[int], vocab: int, device: Any) -> None:
        self.sampling, self.vocab = sampling, vocab
        self.logprobs: list[Tensor] = []
        self.warpers = LogitsProcessorList()
        if sampling.top_k > 0:
            self.warpers.append(TopKLogitsWarper(sampling.top_k))
        if sampling.top_p < 1:
            self.warpers.append(TopPLogitsWarper(sampling.top_p))
        if sampling.min_p > 0:
            self.warpers.append(MinPLogitsWarper(sampling.min_p))
        streams = [
            torch.rand(
                sampling.max_tokens,
                generator=torch.Generator().manual_seed(seed),
                dtype=torch.float64,
            )
            for seed in seeds
        ]
        self.uniform_BT = torch.stack(streams).to(device)

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        known = scores[:, : self.vocab].float()
        if self.sampling.temperature > 0:
            known = known / self.sampling.temperature
        logp = known.log_softmax(-1)
        if self.sampling.temperature > 0:
            chosen = self._draw(self.warpers(input_ids, logp))
        else:
            chosen = logp.argmax(-1)
        at = chosen.unsqueeze(-1)
        self.logprobs.append(logp.gather(-1, at).squeeze(-1))
        return torch.full_like(scores, float("-inf")).scatter_(-1, at, 0.0)

    def _draw(self, logits: Tensor) -> Tensor:
        cumulative = logits.softmax(-1, dtype=torch.float64).cumsum(-1)
        number = self.uniform_BT[:, len(self.logprobs)].unsqueeze(-1) * cumulative[:, -1:]
        drawn = torch.searchsorted(cumulative, number, right=True).squeeze(-1)
        # A number that rounds up to the whole mass falls on the last entry that has any.
        last = (logits > float("-inf")).long().cumsum(-1).argmax(-1)
        return torch.minimum(drawn, last)
