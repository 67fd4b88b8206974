"""The arithmetic of what a run is estimated to cost."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from benchmarks.costs import GPU, SETTINGS, Setting, decode, estimate, memory, step
from benchmarks.shapes import SHAPES
from peft import LoraConfig, get_peft_model
from transformers import Qwen3ForCausalLM

OPSD, GRPO = SETTINGS.values()


@pytest.mark.parametrize("name", SHAPES)
def test_parameters_are_those_of_the_model(name: str):
    shape = replace(SHAPES[name], layers=2)
    with torch.device("meta"):
        model = Qwen3ForCausalLM(shape.config)
        assert model.num_parameters() == shape.parameters
        lora = LoraConfig(task_type="CAUSAL_LM", r=64, target_modules="all-linear")
        adapted = get_peft_model(model, lora)
    assert adapted.num_parameters(only_trainable=True) == shape.lora(64)


def test_the_sizes_are_the_public_ones():
    billions = {name: shape.parameters / 1e9 for name, shape in SHAPES.items()}
    assert billions == pytest.approx(
        {"Qwen3-1.7B": 1.72, "Qwen3-4B": 4.02, "Qwen3-8B": 8.19, "Qwen3-32B": 32.76}, abs=0.01
    )


def test_a_settings_tokens():
    assert OPSD.generated == 32 * 1024 * 100
    assert GRPO.generated == 32 * 16_000 * 250
    assert (OPSD.products, GRPO.products) == (3, 2)


def test_a_step_of_the_released_code_takes_about_what_was_published():
    shape, gpu = SHAPES["Qwen3-1.7B"], GPU()
    two_calls_of_four = step(shape, OPSD, 8, gpu, at_once=4)
    assert two_calls_of_four.seconds == pytest.approx(9, rel=0.2)
    assert step(shape, OPSD, 8, gpu, at_once=8).seconds < 0.7 * two_calls_of_four.seconds


def test_decoding_reads_the_weights_once_per_token_and_the_cache_so_far():
    shape, gpu = SHAPES["Qwen3-4B"], GPU(layer_overhead=0.0)
    setting = Setting(1, 1000, 1, prompt=0)
    weights = 1000 * 2 * (shape.body + shape.head)
    cache = shape.kv * 1000 * 1000 / 2
    assert decode(shape, setting, 1, gpu) == pytest.approx((weights + cache) / gpu.bandwidth)


def test_memory_is_the_sum_of_its_parts():
    shape = SHAPES["Qwen3-8B"]
    used, shards = memory(shape, OPSD), memory(shape, OPSD, 8)
    assert used.weights == 2 * shape.parameters and used.sequence == 1224 * 147_456
    assert used.learning == pytest.approx(
        used.weights + used.adapter + used.activations + used.loss
    )
    assert shards.learning_weights == used.weights / 8 and shards.weights == used.weights


def test_more_gpus_shorten_a_run_and_what_does_not_fit_says_so():
    rows = [estimate("Qwen3-4B", "OPSD, 1,024 tokens", n) for n in (1, 4, 8)]
    hours = [row["hours"] for row in rows]
    assert hours == sorted(hours, reverse=True)
    assert not estimate("Qwen3-32B", "OPSD, 1,024 tokens", 1)["fits"]
    assert estimate("Qwen3-32B", "OPSD, 1,024 tokens", 4)["sharded"]
    assert estimate("Qwen3-4B", "GRPO, 16,000 tokens", 1)["waves"] > 1
