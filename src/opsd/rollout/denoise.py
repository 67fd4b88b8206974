"""Rollouts of masked diffusion language models: block by block, a few tokens in each step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from opsd.lm.diffusion import masked_diffusion
from opsd.lm.forward import causal_lm, score
from opsd.lm.layout import MASKED, ModelInput
from opsd.lm.merging import merged
from opsd.rollout.drawing import drawn
from opsd.rollout.engine import Completion, Decoding, Progress, Sampling, silent
from opsd.rollout.model_engine import ModelEngine
from opsd.rollout.rows import Canvas
from opsd.types import Finish, Trajectory, UserError


class DenoisingEngine(ModelEngine):
    """Generates canvases of `max_tokens` tokens, in batches of at most `batch_tokens` tokens.

    In each step, a token is drawn for every masked position of the current block at the sampling
    temperature (the same distribution as LLaDA's Gumbel maximum). The step commits those that are
    likeliest under the distribution without temperature. A row ends with the block that contains
    its first end token; the positions behind that block are filled with end tokens and count as
    never written.

    Every step processes the whole canvas: nothing is cached between steps, so that a state's
    distributions are those of training.
    """

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        seeds: Sequence[int],
        progress: Progress | None = None,
    ) -> list[Completion]:
        decoding = sampling.decoding or decoding_of(self.model)
        block = min(decoding.block_length, sampling.max_tokens)
        if sampling.max_tokens % block:
            whole = sampling.max_tokens // block * block
            raise UserError(
                f"a canvas of {sampling.max_tokens} tokens does not divide into blocks of {block}:"
                f" set max_completion_length to {whole} or {whole + block}"
            )
        done: dict[int, Completion] = {}
        # Prompts of similar length are batched together, so that there is little padding.
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        while order:
            longest = len(prompts[order[-1]]) + sampling.max_tokens
            size = max(1, self.batch_tokens // longest)
            taken, order = order[-size:], order[:-size]
            writer = _Writer(self, sampling, decoding, progress or silent)
            rows = [(i, tuple(prompts[i]), seeds[i]) for i in taken]
            with merged(self.model):
                done.update(writer.write(rows))
        return [done[i] for i in range(len(prompts))]


def canvas_of(model: nn.Module, length: int, eos_id: int) -> Canvas | None:
    """A model's canvas of `length` tokens; None if the model generates left to right."""
    kind = masked_diffusion(model)
    return kind and Canvas(length, kind.mask_id, eos_id, kind.shifted)


def keep_decoding(model: nn.Module, decoding: Decoding | None) -> None:
    """Store the decoding settings in the model's generation config, which is saved with the
    model."""
    from transformers import GenerationConfig

    writer: Any = causal_lm(model)
    if decoding is None or getattr(writer, "generation_config", None) is None:
        return
    kept = writer.generation_config.to_diff_dict() | {
        "block_length": decoding.block_length,
        "tokens_per_step": decoding.tokens_per_step,
    }
    # With this flag, loading would derive it from the model's configuration again.
    kept.pop("_from_model_config", None)
    writer.generation_config = GenerationConfig(**kept)


def decoding_of(model: nn.Module) -> Decoding:
    """A model's decoding settings from its generation_config.json (`block_length`,
    `tokens_per_step`)."""
    own: Any = getattr(causal_lm(model), "generation_config", None)
    known = {name: getattr(own, name, None) for name in ("block_length", "tokens_per_step")}
    return Decoding(**{name: value for name, value in known.items() if value is not None})


@dataclass
class _Row:
    """An unfinished canvas: its token ids, masks included, and each token's step (-1: not yet
    committed) and log-probability."""

    number: int
    prompt: tuple[int, ...]
    random: torch.Generator
    ids: list[int]
    steps: list[int]
    logprobs: list[float]


class _Writer:
    """Generates one batch of canvases."""

    def __init__(
        self, engine: DenoisingEngine, sampling: Sampling, decoding: Decoding, progress: Progress
    ) -> None:
        self.engine, self.sampling, self.decoding = engine, sampling, decoding
        self.progress = progress
        kind = masked_diffusion(engine.model)
        if kind is None:
            raise UserError("the model is not a masked diffusion model: it generates left to right")
        self.kind = kind

    def write(self, given: Sequence[tuple[int, tuple[int, ...], int]]) -> dict[int, Completion]:
        n = self.sampling.max_tokens
        live = [
            _Row(
                number,
                prompt,
                torch.Generator().manual_seed(seed),
                [self.kind.mask_id] * n,
                [-1] * n,
                [0.0] * n,
            )
            for number, prompt, seed in given
        ]
        done: dict[int, Completion] = {}
        block, step = min(self.decoding.block_length, n), 0
        for start in range(0, n, block):
            for quota in self._quotas(block):
                self._step(live, range(start, start + block), step, quota)
                self.progress(0, quota * len(live))
                step += 1
            ended = [row for row in live if self._ended(row, start + block)]
            done.update({row.number: self._completion(row, step) for row in ended})
            self.progress(len(ended))
            live = [row for row in live if row.number not in done]
            if not live:
                break
        return done

    def _quotas(self, block: int) -> list[int]:
        """The number of tokens that each step of a block commits."""
        each = self.decoding.tokens_per_step
        return [min(each, block - first) for first in range(0, block, each)]

    def _step(self, rows: Sequence[_Row], block: range, step: int, quota: int) -> None:
        """Commits `quota` tokens of every row's block."""
        masked = [[i for i in block if row.steps[i] < 0] for row in rows]
        logits = self._logits(rows, masked)
        tokens, logp, confidence = self._drawn(rows, masked, logits)
        first = 0
        for row, places in zip(rows, masked, strict=True):
            own = slice(first, first + len(places))
            first += len(places)
            for k in confidence[own].topk(quota).indices.tolist():
                at = places[k]
                row.ids[at] = int(tokens[own][k])
                row.logprobs[at] = float(logp[own][k])
                row.steps[at] = step

    def _logits(self, rows: Sequence[_Row], masked: Sequence[Sequence[int]]) -> Tensor:
        """The logits of every masked token, row by row `[N, V]`."""
        inputs = [
            ModelInput(
                (*row.prompt, *row.ids),
                [len(row.prompt) + i - self.kind.shifted for i in places],
            )
            for row, places in zip(rows, masked, strict=True)
        ]
        engine = self.engine
        hidden_ND, head = score(engine.model, inputs, engine.pad_id, engine.vocab, MASKED)
        return head.logits(hidden_ND).float()

    def _drawn(
        self, rows: Sequence[_Row], masked: Sequence[Sequence[int]], logits: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """A token for every masked position, the natural log of its probability at the sampling
        temperature, and the confidence that decides whether it is committed. The mask token is
        never drawn. Each row has its own random numbers, so that its completion does not depend on
        the other rows."""
        temperature, plain = self.sampling.temperature, logits.log_softmax(-1)
        mask = torch.tensor([self.kind.mask_id], device=logits.device)
        logp = (logits / temperature).log_softmax(-1) if temperature else plain
        open_ = logp.index_fill(-1, mask, float("-inf"))
        if temperature == 0:
            tokens = open_.argmax(-1)
        else:
            counts = [len(places) for places in masked]
            numbers = torch.cat(
                [
                    torch.rand(n, generator=row.random, dtype=torch.float64)
                    for row, n in zip(rows, counts, strict=True)
                ]
            )
            tokens = drawn(open_, numbers.to(logits.device), self.sampling)
        at = tokens.unsqueeze(-1)
        confidence = plain.gather(-1, at).squeeze(-1)
        if self.decoding.remasking == "random":
            confidence = torch.cat(
                [
                    torch.rand(len(places), generator=row.random)
                    for row, places in zip(rows, masked, strict=True)
                ]
            )
        return tokens.cpu(), logp.gather(-1, at).squeeze(-1).cpu(), confidence.cpu()

    def _ended(self, row: _Row, written: int) -> bool:
        return written == len(row.ids) or any(i in self.engine.eos_ids for i in row.ids[:written])

    def _completion(self, row: _Row, steps: int) -> Completion:
        ends = [i for i, token in enumerate(row.ids) if token in self.engine.eos_ids]
        end = ends[0] if ends else len(row.ids)
        for i, committed in enumerate(row.steps):
            if committed < 0:
                row.ids[i], row.steps[i] = self.engine.eos_ids[0], steps
        written = Trajectory(
            tuple(row.ids),
            tuple(row.steps),
            tuple(row.logprobs),
            min(self.decoding.block_length, len(row.ids)),
            end,
        )
        finish = Finish.STOP if ends else Finish.LENGTH
        return Completion(
            tuple(row.ids[: end + 1]), tuple(row.logprobs[: end + 1]), finish, written
        )
