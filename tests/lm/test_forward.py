"""The head that the exact loss multiplies by is the one that the model's own logits come from."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tests.conftest import tiny_model
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, Qwen3ForCausalLM

from opsd.lm.forward import check_head, head_of, hidden_rows, score
from opsd.lm.layout import continued, pad_right
from opsd.types import UserError

IDS = [3, 14, 15, 92, 65, 35, 89]
VOCAB = 120
SIZES = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
ARCHITECTURES = {
    "llama": {},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {},
    "mistral": {},
    "olmo2": {},
    "granite": {"logits_scaling": 8.0, "embedding_multiplier": 12.0},
    "cohere": {"logit_scale": 0.0625},
    "gemma2": {"final_logit_softcapping": 30.0, "query_pre_attn_scalar": 8},
    "gemma3_text": {"query_pre_attn_scalar": 8},
    "phi3": {},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4},
}


def tiny(kind: str) -> nn.Module:
    torch.manual_seed(0)
    # Peaked enough that a cap or a scale cannot hide in rounding.
    config = CONFIG_MAPPING[kind](**SIZES, **ARCHITECTURES[kind], initializer_range=0.5)
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_usual_architectures_are_known(kind: str):
    check_head(tiny(kind), IDS, VOCAB, 1e-4)


@pytest.mark.parametrize(
    ("kind", "setting", "neutral"),
    [
        ("gemma2", "final_logit_softcapping", None),
        ("granite", "logits_scaling", 1.0),
        ("cohere", "logit_scale", 1.0),
    ],
)
def test_a_cap_or_a_scale_makes_a_difference(kind: str, setting: str, neutral: float | None):
    """So that the check above says something: a head without it gives other probabilities."""
    model = tiny(kind)
    rows = hidden_rows(model, pad_right([continued(IDS[:1], IDS[1:])], 0))
    right = head_of(model, VOCAB).logits(rows).log_softmax(-1)
    setattr(model.config, setting, neutral)
    without = head_of(model, VOCAB).logits(rows).log_softmax(-1)
    assert (right - without).abs().max() > 0.01


class Doubled(Qwen3ForCausalLM):
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(*args, **kwargs)
        output.logits = output.logits * 2
        return output


def test_a_model_that_alters_its_logits_is_refused():
    model = Doubled(tiny_model(VOCAB).config)
    model.load_state_dict(tiny_model(VOCAB).state_dict())
    with pytest.raises(UserError, match="Doubled: its logits are not its output weight") as error:
        check_head(model, IDS, VOCAB, 1e-3)
    assert "\n" not in str(error.value)


def test_logits_that_are_not_numbers_are_refused():
    model = tiny_model(VOCAB)
    model.lm_head.weight.data[3] = float("nan")
    with pytest.raises(UserError):
        check_head(model, IDS, VOCAB, 1e-3)


def test_an_adapter_on_the_head_is_refused():
    lora = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj", "lm_head"])
    model = get_peft_model(tiny_model(VOCAB, tie_word_embeddings=False), lora)
    with pytest.raises(UserError, match="LoRA on the output head"):
        head_of(model, VOCAB)


def test_an_adapter_elsewhere_takes_part_in_the_rows():
    lora = LoraConfig(
        task_type="CAUSAL_LM", r=2, target_modules="all-linear", init_lora_weights=False
    )
    model = get_peft_model(tiny_model(VOCAB), lora)
    check_head(model, IDS, VOCAB, 1e-4)
    padded = pad_right([continued(IDS[:1], IDS[1:])], 0)
    with_it = hidden_rows(model, padded)
    with model.disable_adapter():
        assert (with_it - hidden_rows(model, padded)).abs().max() > 1e-3


def test_a_model_without_an_output_layer_is_refused():
    model = tiny_model(VOCAB)
    model.set_output_embeddings(None)
    with pytest.raises(UserError, match="no output embeddings"):
        head_of(model, VOCAB)


def test_the_heads_rows_end_where_the_tokenizers_ids_do():
    model = tiny_model(VOCAB)
    assert head_of(model, VOCAB).vocab == VOCAB
    assert head_of(model, 10**6).vocab == model.config.vocab_size == VOCAB + 5


def test_checking_leaves_the_models_mode_alone():
    for training in (True, False):
        model = tiny_model(VOCAB).train(training)
        check_head(model, IDS, VOCAB, 1e-3)
        assert model.training is training


def test_score_reads_in_evaluation_mode_and_lends_nothing_with_a_gradient():
    model = tiny_model(VOCAB).train()
    model.model.layers[0].mlp = nn.Sequential(model.model.layers[0].mlp, nn.Dropout(0.9))
    rows, head = score(model, [continued(IDS[:3], IDS[3:])], 0, VOCAB)
    again, _ = score(model, [continued(IDS[:3], IDS[3:])], 0, VOCAB)
    assert rows.equal(again) and model.training
    assert not rows.requires_grad and not head.trained
    assert rows.shape == (len(IDS) - 3, 64)
