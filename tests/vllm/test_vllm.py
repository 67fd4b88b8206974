"""The vLLM engine against vLLM itself, in the process of the tests."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tests.arrange import config, engine_for, problems
from tests.rollout.contract import PLAIN, SEEDS, EngineContract, assert_log_probs, ids_of
from torch import nn

from opsd import VLLM, OPSDTrainer
from opsd.lm.loading import load_model
from opsd.methods import Method
from opsd.methods.signals import Distill, Teacher
from opsd.objective.divergences import jsd
from opsd.prompts.contexts import Solution
from opsd.rollout.engine import EngineSetup
from opsd.types import Finish, UserError

pytest.importorskip("vllm", reason="vllm is not installed: it has an environment of its own")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")

# Compared at 1 whatever rollouts are drawn at: all but greedily, where engines must agree.
WARM = Method(name="warm", signal=Distill(Teacher(Solution()), jsd(0.5), temperature=1.0))


@pytest.fixture(scope="module")
def prompts(tokenizer) -> list[tuple[int, ...]]:
    texts = ["Neema", "Neema has 3 eggs and 4 more.", "1 + 1", "a" * 20, "Kí ni?"]
    return [tuple(tokenizer(text)["input_ids"]) for text in texts]


def adapted(model: Any, seed: int = 0, strength: float = 0.3) -> Any:
    """The model under an adapter that changes what it says."""
    lora = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear")
    return stirred(get_peft_model(model, lora), seed, strength)


def stirred(model: Any, seed: int, strength: float = 0.3) -> Any:
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=strength)
    return model


def engine_of(model: nn.Module, tokenizer: Any, **choice: Any) -> Any:
    setup = EngineSetup(model, tokenizer, [tokenizer.eos_token_id], len(tokenizer), 256)
    engine = VLLM(**choice).start(setup)
    engine.sync(model)
    return engine


@pytest.fixture(scope="module")
def lora(tiny_folder) -> Any:
    return adapted(load_model(str(tiny_folder))).eval()


@pytest.fixture(scope="module")
def engine(lora, tokenizer) -> Any:
    return engine_of(lora, tokenizer)


class TestContract(EngineContract):
    @pytest.fixture
    def model(self, lora) -> Any:
        return lora


def test_an_ending_token_belongs_to_the_completion(engine, lora, tokenizer, prompts):
    greedy = replace(PLAIN, temperature=0.0)
    (plain,) = engine.generate(prompts[:1], greedy, [0])
    end = plain.ids[4]
    own = engine.eos_ids
    engine.eos_ids = [end]
    try:
        (cut,) = engine.generate(prompts[:1], greedy, [0])
    finally:
        engine.eos_ids = own
    assert cut.ids == plain.ids[: plain.ids.index(end) + 1] and cut.finish is Finish.STOP
    assert plain.finish is Finish.LENGTH and len(plain.ids) == PLAIN.max_tokens


def test_rows_of_the_vocabulary_without_a_token_are_never_sampled(engine, prompts):
    greedy = replace(PLAIN, temperature=0.0)
    (first,) = engine.generate(prompts[:1], greedy, [0])
    whole, engine.vocab = engine.vocab, max(first.ids)
    try:
        for sampling in (greedy, PLAIN):
            made = engine.generate(prompts, sampling, SEEDS)
            assert max(max(c.ids) for c in made) < engine.vocab
    finally:
        engine.vocab = whole


def test_after_a_sync_the_outputs_change_and_agree(engine, lora, tokenizer, prompts):
    greedy = replace(PLAIN, temperature=0.0)
    before = engine.generate(prompts, greedy, SEEDS)
    with lora.disable_adapter():
        engine.sync(lora)
        base = engine.generate(prompts, greedy, SEEDS)
        assert ids_of(base) == ids_of(engine_for(lora, tokenizer).generate(prompts, greedy, SEEDS))
    stirred(lora, 1)
    engine.sync(lora)
    after = engine.generate(prompts, greedy, SEEDS)
    assert len({str(ids_of(made)) for made in (before, base, after)}) == 3
    assert_log_probs(lora, prompts, after, len(tokenizer), 1.0)
    assert len(list(engine.folder.iterdir())) == 1  # the earlier adapter's files are gone


def test_weights_that_did_not_arrive_are_refused(engine, lora, monkeypatch):
    stale = engine._put_on(lora)
    stirred(lora, 2)
    monkeypatch.setattr(engine, "_put_on", lambda model: stale)
    with pytest.raises(UserError, match=r"nats from the trainer's, more than 0\.001"):
        engine.sync(lora)
    monkeypatch.undo()
    engine.sync(lora)


def test_whole_weights_are_handed_over(tiny_folder, tokenizer, prompts):
    model = load_model(str(tiny_folder)).eval()
    engine = engine_of(model, tokenizer)
    before = engine.generate(prompts, PLAIN, SEEDS)
    for parameter in model.parameters():
        parameter.data.mul_(1.1)
    engine.sync(model)
    after = engine.generate(prompts, PLAIN, SEEDS)
    assert ids_of(after) != ids_of(before)
    assert_log_probs(model, prompts, after, len(tokenizer), 1.0)


def test_a_run_is_as_with_the_model_itself(tmp_path: Path, tiny_folder):
    """Greedy rollouts, three steps whose weights reach vLLM: the losses agree to rounding."""

    def losses(folder: Path, engine: Any) -> list[float]:
        trainer = OPSDTrainer(
            str(tiny_folder),
            WARM,
            config(folder, max_steps=3, temperature=1e-3, learning_rate=0.05),
            problems(12),
            peft_config=LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear"),
            engine=engine,
        )
        trainer.train()
        rows = (folder / "rollouts" / "rank0.jsonl").read_text("utf-8").splitlines()
        written.append([json.loads(row)["completion_ids"] for row in rows])
        return [row["loss"] for row in trainer.state.log_history if "loss" in row]

    written: list[Any] = []
    ours, theirs = losses(tmp_path / "hf", None), losses(tmp_path / "vllm", VLLM())
    assert written[0] == written[1] and len(written[0]) == 12
    assert ours == pytest.approx(theirs, rel=1e-3) and len(set(ours)) == 3


def test_a_rank_that_vllm_has_no_room_for_is_refused(tiny_folder, tokenizer):
    model = get_peft_model(load_model(str(tiny_folder)), LoraConfig(task_type="CAUSAL_LM", r=600))
    with pytest.raises(UserError, match="up to rank 512, not 600"):
        engine_of(model, tokenizer)
