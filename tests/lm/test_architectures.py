"""Architectures: one step under an adapter, saved, loaded, merged and loaded again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from tests.arrange import config, engine_for, problems
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForImageTextToText

from opsd import OPSDTrainer, methods
from opsd.lm.loading import load_model, with_adapter
from opsd.publish.export import export
from opsd.rollout.engine import Engine, Sampling
from opsd.types import UserError

HEADS = {"head_dim": 8}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
WINDOW = {"sliding_window": 24}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "cohere2": {"logit_scale": 0.5, **HEADS, **WINDOW},
    "gemma2": {"final_logit_softcapping": 5.0, **HEADS, **WINDOW},
    "gemma3_text": {**HEADS, **WINDOW},
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, **HEADS, **WINDOW},
    "granite": {"logits_scaling": 2.0},
    "llama": {},
    "mistral": {},
    "mixtral": {"num_local_experts": 4},
    "olmo3": WINDOW,
    "phi3": {},
    "qwen2": {},
    "qwen3": HEADS,
    "qwen3_moe": {**EXPERTS, **HEADS},
    "smollm3": {},
}
RECURRENT: dict[str, dict[str, Any]] = {
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "qwen3_next": {
        "layer_types": ["linear_attention", "full_attention"],
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        **EXPERTS,
        **HEADS,
    },
}
SEEING: dict[str, dict[str, Any]] = {
    "gemma3": {
        "text_config": {**HEADS, **WINDOW},
        "vision_config": {"image_size": 28, "patch_size": 14, "num_attention_heads": 2},
        "mm_tokens_per_image": 4,
    },
    "qwen2_5_vl": {
        "text_config": {
            "rope_parameters": {
                **{"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
            }
        },
        "vision_config": {"depth": 1, "num_heads": 2, "out_hidden_size": 32},
    },
}
"""Models that see, too, and are trained on text."""
PLAIN = Sampling(max_tokens=30)


def save_tiny(name: str, tokenizer: Any, folder: Path) -> Path:
    torch.manual_seed(0)
    settings = {
        "vocab_size": len(tokenizer) + 3,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
        "initializer_range": 0.2,
    }
    if name in SEEING:
        own = dict(SEEING[name])
        text = settings | own.pop("text_config")
        vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
        ids = {f"{kind}_token_id": len(tokenizer) for kind in ("image", "video", "vision_start")}
        own["vision_config"] = vision | own["vision_config"]
        made = CONFIG_MAPPING[name](text_config=text, **(ids if name != "gemma3" else {}), **own)
        model = AutoModelForImageTextToText.from_config(made)
    else:
        made = CONFIG_MAPPING[name](**settings | {**ARCHITECTURES, **RECURRENT}[name])
        model = AutoModelForCausalLM.from_config(made)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(torch.tensor([[5, 6, 7, 8]])).logits


# PEFT says of models with experts that a pattern of its own finds nothing.
@pytest.mark.filterwarnings("ignore:The following .*_pattern keys did not match")
@pytest.mark.parametrize("name", [*ARCHITECTURES, *SEEING])
def test_trains_saves_loads_and_merges(name, tmp_path, tokenizer):
    base = save_tiny(name, tokenizer, tmp_path / "base")
    run = OPSDTrainer(
        model=str(base),
        method=methods.opsd(),
        args=config(tmp_path / "run", max_steps=1, learning_rate=0.05, max_grad_norm=1e9),
        train_dataset=problems(4),
        peft_config=LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear"),
    )
    run.train()
    run.save_model(str(tmp_path / "lora"))
    (row,) = [row for row in run.state.log_history if "loss" in row]
    assert row["loss"] > 0 and row["grad_norm"] > 0
    trained = logits(run.model)
    assert (trained - logits(load_model(str(base)))).abs().max() > 1e-3
    torch.testing.assert_close(logits(load_model(str(tmp_path / "lora"))), trained)
    whole = export(tmp_path / "lora", tmp_path / "whole")
    auto = AutoModelForImageTextToText if name in SEEING else AutoModelForCausalLM
    merged = logits(auto.from_pretrained(whole))
    torch.testing.assert_close(merged, trained, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [*ARCHITECTURES, *RECURRENT, *SEEING])
def test_decodes_with_a_cache_as_it_reads_without_one(name, tmp_path, tokenizer):
    """Rows of different lengths, which end and begin at different steps, beyond any window."""
    model = load_model(str(save_tiny(name, tokenizer, tmp_path))).eval()
    engine = engine_for(model, tokenizer, batch_tokens=600)
    texts = ["Neema", "Neema has 3 eggs and 4 more.", "Neema has 3 eggs and 4 more.", "eggs " * 40]
    prompts = [tokenizer(text)["input_ids"] for text in texts]
    for prompt, made in zip(prompts, engine.generate(prompts, PLAIN, range(4)), strict=True):
        with torch.no_grad():
            read = model(input_ids=torch.tensor([[*prompt, *made.ids]])).logits[
                0, :, : len(tokenizer)
            ]
        logp = read.float().log_softmax(-1)[len(prompt) - 1 : -1]
        expected = logp.gather(-1, torch.tensor(made.ids).unsqueeze(-1)).squeeze(-1)
        torch.testing.assert_close(torch.tensor(made.logprobs), expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("name", SEEING)
def test_an_adapter_on_all_layers_leaves_those_that_see_alone(name, tmp_path, tokenizer):
    base = load_model(str(save_tiny(name, tokenizer, tmp_path)))
    adapter = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear")
    trained = [n for n, p in with_adapter(base, adapter, 0).named_parameters() if p.requires_grad]
    assert trained and all(".language_model.layers." in n for n in trained)


def test_a_mixture_that_another_engine_routes_is_no_base_for_importance_ratios(tmp_path, tokenizer):
    def trainer(name: str, method: Any, **about: Any) -> OPSDTrainer:
        args = config(tmp_path / "run", max_steps=1)
        base = str(save_tiny(name, tokenizer, tmp_path / name))
        return OPSDTrainer(model=base, method=method, args=args, train_dataset=problems(4), **about)

    class Elsewhere(Engine):
        """Never asked."""

    elsewhere = {"engine": Elsewhere()}
    ratios = methods.grpo(group=2)
    with pytest.raises(UserError, match=r"mixture of experts may route .* leave engine out"):
        trainer("mixtral", ratios, **elsewhere)
    trainer("mixtral", ratios)
    trainer("mixtral", methods.opsd(), **elsewhere)
    trainer("llama", ratios, **elsewhere)
