"""What every engine promises, as tests that each one's own file takes over: tokens that the model
would say, their log-probabilities, and randomness by seed alone (a tolerance per engine)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.arrange import engine_for
from torch import nn
from typing_extensions import get_protocol_members

from opsd.rollout.engine import Completion, Engine, Sampling
from opsd.types import Finish

PLAIN = Sampling(max_tokens=12)
SEEDS = list(range(5))


def ids_of(made: list[Completion]) -> list[tuple[int, ...]]:
    return [completion.ids for completion in made]


def assert_log_probs(
    model: nn.Module,
    prompts: list[Any],
    made: list[Completion],
    vocab: int,
    temperature: float,
    tolerance: float = 1e-3,
) -> None:
    """Those of the whole distribution, by a plain forward pass."""
    for prompt, completion in zip(prompts, made, strict=True):
        with torch.no_grad():
            read = model(input_ids=torch.tensor([[*prompt, *completion.ids]])).logits
        logp = (read[0, len(prompt) - 1 : -1, :vocab] / temperature).log_softmax(-1)
        expected = logp.gather(-1, torch.tensor(completion.ids).unsqueeze(-1)).squeeze(-1)
        told = torch.tensor(completion.logprobs)
        torch.testing.assert_close(told, expected, rtol=0, atol=tolerance)


class EngineContract:
    """To be inherited, with fixtures `engine` (synced to `model`), `model`, `tokenizer`, `prompts`
    (five), and the largest difference of log-probabilities in nats."""

    tolerance = 1e-3

    @pytest.mark.parametrize(
        "how",
        [{}, {"temperature": 1.3, "top_p": 0.9, "top_k": 7}, {"temperature": 0.6, "min_p": 0.01}],
    )
    def test_log_probs_are_of_the_whole_distribution(self, engine, model, tokenizer, prompts, how):
        sampling = replace(PLAIN, **how)
        made = engine.generate(prompts, sampling, SEEDS)
        told = [completion.logprobs is not None for completion in made]
        assert told == [engine.returns_logprobs(sampling)] * len(prompts)
        if all(told):
            temperature = how.get("temperature", 1.0)
            vocab = len(tokenizer)
            assert_log_probs(model, prompts, made, vocab, temperature, self.tolerance)

    def test_greedy_rollouts_are_those_of_the_model_itself(self, engine, model, tokenizer, prompts):
        greedy = replace(PLAIN, temperature=0.0, max_tokens=40)
        ours = engine_for(model, tokenizer).generate(prompts, greedy, SEEDS)
        theirs = engine.generate(prompts, greedy, SEEDS)
        assert [(c.ids, c.finish) for c in theirs] == [(c.ids, c.finish) for c in ours]

    def test_a_completion_ends_with_its_ending_token_or_at_the_limit(
        self, engine, tokenizer, prompts
    ):
        for completion in engine.generate(prompts, PLAIN, SEEDS):
            ended = completion.ids[-1] == tokenizer.eos_token_id
            assert (completion.finish is Finish.STOP) == ended
            assert ended or len(completion.ids) == PLAIN.max_tokens
            assert tokenizer.eos_token_id not in completion.ids[:-1]

    def test_a_draw_depends_on_its_seed_alone(self, engine, prompts):
        told: list[tuple[int, ...]] = []
        together = engine.generate(prompts, PLAIN, SEEDS, lambda *news: told.append(news))
        assert sum(done for done, *_ in told) == len(prompts)
        backwards = engine.generate(prompts[::-1], PLAIN, SEEDS[::-1])[::-1]
        assert ids_of(backwards) == ids_of(together)
        alone = [engine.generate([p], PLAIN, [s])[0] for p, s in zip(prompts, SEEDS, strict=True)]
        assert ids_of(alone) == ids_of(together)
        others = engine.generate(prompts, PLAIN, [seed + 100 for seed in SEEDS])
        assert ids_of(others) != ids_of(together)

    def test_it_says_what_it_is(self, engine):
        assert all(hasattr(engine, name) for name in get_protocol_members(Engine))
        assert isinstance(engine.is_remote, bool)
        assert engine.returns_logprobs(PLAIN)
