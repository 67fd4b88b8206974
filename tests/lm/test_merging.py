"""An adapter in its base's weights: the same function for a while, and no trace afterwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from tests.arrange import engine_for
from tests.conftest import tiny_model
from torch import Tensor, nn

from opsd.lm.merging import merged
from opsd.rollout.engine import Sampling

IDS = torch.tensor([[5, 9, 2, 40, 7, 33]])


def adapted(dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """A tiny model under an adapter that has learned something."""
    torch.manual_seed(0)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", **changes}
    made = get_peft_model(tiny_model(64).to(dtype), LoraConfig(task_type="CAUSAL_LM", **settings))
    for name, parameter in made.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.2)
    return made.eval()


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def merged_layers(model: nn.Module) -> list[str]:
    every = model.named_modules()
    return [name for name, module in every if isinstance(module, LoraLayer) and module.merged]


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


def test_the_merged_model_is_the_adapted_one_and_the_base_comes_back_bit_for_bit():
    model = adapted()
    places = {name: p.data_ptr() for name, p in model.named_parameters()}
    before, on = state(model), logits(model)
    with model.disable_adapter():
        assert (logits(model) - on).abs().max() > 0.1
    with merged(model):
        linear = [n for n, m in model.named_modules() if type(m) is nn.Linear and "base_layer" in n]
        assert len(merged_layers(model)) == len(linear) > 0
        assert (logits(model) - on).abs().max() < 1e-5
        # W + (alpha / r) B A, written out in float64.
        for name in merged_layers(model):
            layer = model.get_submodule(name)
            down, up = (part["default"].weight.double() for part in (layer.lora_A, layer.lora_B))
            wanted = before[f"{name}.base_layer.weight"].double() + 2 * up @ down
            assert (layer.base_layer.weight.double() - wanted).abs().max() < 1e-6
    assert equal(state(model), before) and not merged_layers(model)
    assert {name: p.data_ptr() for name, p in model.named_parameters()} == places
    assert logits(model).equal(on)


@pytest.mark.parametrize("fault", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_what_ends_the_writing_early_undoes_it_too(fault: type[BaseException], tokenizer):
    model = adapted()
    before = state(model)
    engine = engine_for(model, tokenizer)

    def stop(done: int, tokens: int = 0) -> None:
        assert merged_layers(model)
        raise fault

    with pytest.raises(fault):
        engine.generate([(5, 9)], Sampling(max_tokens=4), [0], stop)
    assert equal(state(model), before) and not merged_layers(model)


def two_adapters() -> Any:
    model = adapted()
    model.add_adapter("other", LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear"))
    model.base_model.set_adapter(["default", "other"])
    return model


UNMERGED: dict[str, Callable[[], Any]] = {
    "DoRA": lambda: adapted(use_dora=True),
    "a bias of LoRA's own": lambda: adapted(lora_bias=True, target_modules=["q_proj"]),
    "bfloat16": lambda: adapted(torch.bfloat16),
    "several adapters": two_adapters,
    "no adapter": lambda: tiny_model(64),
}


@pytest.mark.filterwarnings("ignore:.*lora_bias")
@pytest.mark.parametrize("kind", UNMERGED)
def test_what_would_be_another_function_stays_unmerged(kind: str):
    model = UNMERGED[kind]()
    on = logits(model)
    with merged(model):
        assert not merged_layers(model) and logits(model).equal(on)


def test_an_adapter_that_is_off_stays_off():
    model = adapted()
    with model.disable_adapter():
        off = logits(model)
        with merged(model):
            assert logits(model).equal(off)


def test_weights_that_are_lower_than_float32_under_autocast_stay_unmerged():
    model = adapted()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        on = logits(model)
        with merged(model):
            assert not merged_layers(model) and logits(model).equal(on)


@pytest.mark.filterwarnings("ignore:.*tie_word_embeddings")
def test_a_layer_of_another_kind_reads_beside_merged_ones():
    """An adapter on the embeddings is no linear layer's: it stays, the rest is merged."""
    model = adapted(target_modules=["q_proj", "embed_tokens"])
    nn.init.normal_(model.base_model.model.model.embed_tokens.lora_embedding_B["default"])
    on = logits(model)
    with merged(model):
        assert all("q_proj" in name for name in merged_layers(model)) and merged_layers(model)
        assert (logits(model) - on).abs().max() < 1e-4


def test_a_weight_that_two_layers_share_is_added_to_by_neither():
    torch.manual_seed(0)
    base = tiny_model(64)
    first, second = base.model.layers[:2]
    second.self_attn.q_proj.weight = first.self_attn.q_proj.weight
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.2)
    model.eval()
    on = logits(model)
    with merged(model):
        assert (logits(model) - on).abs().max() < 1e-5


def test_the_log_probs_that_are_recorded_are_the_adapted_models(tokenizer):
    model = adapted()
    engine = engine_for(model, tokenizer, vocab=64, eos_ids=[63])
    (made,) = engine.generate([(5, 9, 2)], Sampling(max_tokens=6, temperature=0.7), [3])
    ids = torch.tensor([[5, 9, 2, *made.ids]])
    with torch.no_grad():
        logp = (model(input_ids=ids).logits[0, 2:-1, :64].double() / 0.7).log_softmax(-1)
    own = logp.gather(-1, ids[0, 3:].unsqueeze(-1)).squeeze(-1)
    assert (own - torch.tensor(made.logprobs)).abs().max() < 1e-5
