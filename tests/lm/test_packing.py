"""Sequences without padding in one row are read, and learned from, as each by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tests.conftest import tiny_model
from tests.lm.test_architectures import ARCHITECTURES, RECURRENT, save_tiny
from torch import Tensor

from opsd.lm.agreement import layout_for, reads_packed
from opsd.lm.forward import hidden_rows
from opsd.lm.layout import PACKED, PADDED, Layout, continued
from opsd.lm.loading import load_model
from opsd.types import UserError

PROBE = [7, 5, 9, 11, 6, 8]
PROMPTS = [tuple(range(5, 5 + n)) for n in (50, 3, 33)]
COMPLETIONS = [tuple(range(9 + i, 9 + i + n)) for i, n in enumerate((9, 40, 1))]
CROSSES = {"gpt_oss"}
"""Attends, but does not look at where a packed sequence begins."""


def rows_and_gradients(model: Any, layout: Layout) -> tuple[Tensor, dict[str, Tensor]]:
    """Hidden states, and the gradient of a sum of them by every trained parameter."""
    model.zero_grad()
    rows = hidden_rows(model, layout.collate([*map(continued, PROMPTS, COMPLETIONS)], 0))
    (rows * torch.linspace(-1, 1, rows.numel()).view_as(rows)).sum().backward()
    return rows.detach(), {
        name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None
    }


# PEFT says of models with experts that a pattern of its own finds nothing.
@pytest.mark.filterwarnings("ignore:The following .*_pattern keys did not match")
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", sorted(ARCHITECTURES.keys() - CROSSES))
def test_rows_and_gradients_are_those_of_padded_sequences(
    name: str, attention: str, tmp_path: Path, tokenizer
):
    folder = save_tiny(name, tokenizer, tmp_path)
    base = load_model(str(folder), attn_implementation=attention)
    lora = LoraConfig(
        task_type="CAUSAL_LM", r=2, target_modules="all-linear", init_lora_weights=False
    )
    model = get_peft_model(base, lora)
    assert reads_packed(model, PROBE)
    packed, gradients = rows_and_gradients(model, PACKED)
    padded, expected = rows_and_gradients(model, PADDED)
    torch.testing.assert_close(packed, padded, rtol=0, atol=2e-5)
    largest = max(gradient.abs().max().item() for gradient in expected.values())
    assert gradients.keys() == expected.keys() and largest > 0.1
    for parameter, gradient in expected.items():
        assert (gradients[parameter] - gradient).abs().max() < 1e-5 * largest, parameter


@pytest.mark.parametrize("name", [*sorted(CROSSES), *RECURRENT])
def test_a_model_that_reads_across_sequences_is_found_out(name: str, tmp_path: Path, tokenizer):
    model = load_model(str(save_tiny(name, tokenizer, tmp_path)))
    assert not reads_packed(model, PROBE)
    assert layout_for(model, "auto", PROBE) is PADDED
    with pytest.raises(UserError, match="reads packed sequences as one") as error:
        layout_for(model, "on", PROBE)
    assert "\n" not in str(error.value)


def test_packing_is_a_choice_where_it_costs_a_mask_of_all_tokens():
    model = tiny_model(100)
    assert layout_for(model, "auto", PROBE) is PADDED
    assert layout_for(model, "off", PROBE) is PADDED
    assert layout_for(model, "on", PROBE) is PACKED


@pytest.mark.slow  # its kernels are compiled
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_packing_is_the_default_where_attention_skips_what_is_not_a_sequences_own():
    model = tiny_model(100)
    model.set_attn_implementation("flex_attention")
    assert layout_for(model, "off", PROBE) is PADDED
    assert layout_for(model, "auto", PROBE) is PACKED
