"""Student and teacher read alike: the training pass is the reading pass, whatever the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.arrange import config, problems
from tests.conftest import tiny_model
from torch import nn
from transformers import MixtralConfig, MixtralForCausalLM

from opsd import methods
from opsd.lm.agreement import AGREEMENT, refuse_other_training_pass
from opsd.lm.loading import switch_randomness_off
from opsd.methods.signals import Distill, Teacher
from opsd.objective.divergences import forward_kl
from opsd.prompts.contexts import OwnPrompt
from opsd.training.trainer import OPSDTrainer
from opsd.types import UserError

IDS = tuple(range(1, 24))


class Noise(nn.Module):
    """Random in training only, under a name that nobody knows."""

    def __init__(self, inner: nn.Module, size: float) -> None:
        super().__init__()
        self.inner, self.wobble = inner, size

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        read = self.inner(*args, **kwargs)
        return read + self.wobble * torch.randn_like(read) if self.training else read


class Shift(Noise):
    """Other in training, but never random."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        read = self.inner(*args, **kwargs)
        return read + self.wobble if self.training else read


@pytest.mark.parametrize("kind", [Noise, Shift])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_only_training_has_is_found_and_named(kind, dtype):
    model = tiny_model(900)
    model.model.layers[1].mlp = kind(model.model.layers[1].mlp, 0.5)
    with pytest.raises(UserError, match=r"starts in 'model.layers.1.mlp' \((Noise|Shift)\)"):
        refuse_other_training_pass(model.to(dtype), IDS, 900)


def test_little_noise_is_found_too():
    model = tiny_model(900)
    model.model.embed_tokens = Noise(model.model.embed_tokens, 3e-2)
    with pytest.raises(UserError, match="reads one text differently in training mode"):
        refuse_other_training_pass(model, IDS, 900)


def mixture(**changes: Any) -> MixtralForCausalLM:
    torch.manual_seed(0)
    sizes = {"vocab_size": 985, "hidden_size": 64, "intermediate_size": 64, "head_dim": 16}
    layers = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2}
    return MixtralForCausalLM(MixtralConfig(**sizes, **layers, **experts, **changes))


def test_dropout_is_switched_off_and_noise_in_the_routing_of_experts_is_refused(tokenizer):
    model = mixture(attention_dropout=0.3)
    with pytest.raises(UserError, match="differently in training mode"):
        refuse_other_training_pass(model, IDS, 900)
    switch_randomness_off(model)
    refuse_other_training_pass(model, IDS, 900)
    noisy = mixture(router_jitter_noise=0.3)
    switch_randomness_off(noisy)
    with pytest.raises(UserError, match=r"starts in .*mlp"):
        refuse_other_training_pass(noisy, IDS, 900)


def test_the_same_prompt_gives_no_divergence_while_a_mixture_trains(tmp_path: Path, tokenizer):
    own = Distill(Teacher(OwnPrompt(), weights={"type": "live"}), forward_kl)
    args = config(tmp_path, max_steps=1)
    method = methods.Method("mine", own)
    model = mixture(attention_dropout=0.3)
    run = OPSDTrainer(model, method, args, problems(4), processing_class=tokenizer)
    run.train()
    assert abs(run.state.log_history[0]["divergence"]) < AGREEMENT


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_models_without_randomness_pass(dtype):
    refuse_other_training_pass(tiny_model(900).to(dtype), IDS, 900)
    refuse_other_training_pass(mixture().to(dtype), IDS, 900)


def test_the_trainer_refuses_it_before_the_first_step(tmp_path, tokenizer):
    model = tiny_model(len(tokenizer))
    model.model.layers[0].mlp = Noise(model.model.layers[0].mlp, 0.1)
    with pytest.raises(UserError, match=r"model.layers.0.mlp' \(Noise\)"):
        args = config(tmp_path)
        OPSDTrainer(model, methods.opsd(), args, problems(4), processing_class=tokenizer)
