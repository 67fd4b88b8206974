"""Completions that go on from one reading of their prompt are read as in whole sequences."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.conftest import tiny_model
from tests.lm.test_architectures import ARCHITECTURES, RECURRENT, save_tiny

from opsd.lm.forward import score
from opsd.lm.layout import PACKED, PADDED, continued
from opsd.lm.loading import load_model
from opsd.lm.shared_prefix import attends, score_shared, worth_sharing

LONG, MIDDLE, SHORT = (tuple(range(5, 5 + n)) for n in (50, 33, 7))
PROMPTS = [LONG, LONG, MIDDLE, LONG, SHORT, MIDDLE]
COMPLETIONS = [tuple(range(9 + i, 9 + i + n)) for i, n in enumerate((9, 1, 40, 30, 5, 2))]
INPUTS = [*map(continued, PROMPTS, COMPLETIONS)]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_rows_are_those_of_whole_sequences(name: str, tmp_path: Path, tokenizer):
    """Prompts of several lengths, two of which are longer than a window of 24 tokens."""
    model = load_model(str(save_tiny(name, tokenizer, tmp_path))).train()
    assert attends(model)
    whole, _ = score(model, INPUTS, 0, len(tokenizer))
    forked, head = score_shared(model, INPUTS, 0, len(tokenizer))
    assert whole.std() > 0.1 and model.training
    torch.testing.assert_close(forked, whole, rtol=0, atol=1e-5)
    assert not forked.requires_grad and not head.trained


@pytest.mark.parametrize("name", RECURRENT)
def test_a_recurrent_state_is_not_handed_on(name: str, tmp_path: Path, tokenizer):
    assert not attends(load_model(str(save_tiny(name, tokenizer, tmp_path))))


def test_each_prompt_is_read_once_and_not_held_for_every_completion():
    model = tiny_model(100)
    read, held = [], []

    def note(trunk, args, kwargs):
        read.append(tuple(kwargs["input_ids"].shape))
        held.append(kwargs["past_key_values"])

    model.model.register_forward_pre_hook(note, with_kwargs=True)
    score_shared(model, INPUTS, 0, 100)
    assert read == [(3, 50), (6, 40)]
    assert all(layer.keys.numel() == layer.values.numel() == 0 for layer in held[1].layers)


@pytest.mark.parametrize(
    ("prompts", "length", "pays"),
    [([LONG] * 4, 40, True), ([LONG, MIDDLE], 40, False), ([SHORT] * 4, 40, False)],
    ids=["one prompt", "two prompts", "short prompts"],
)
def test_it_must_save_a_fifth_of_the_tokens(prompts, length: int, pays: bool):
    assert worth_sharing([continued(p, (1,) * length) for p in prompts], PADDED) is pays


def test_padding_counts_where_there_is_none_otherwise():
    """Of 350 tokens 100 would be saved, and 130 of padding come on top."""
    inputs = [continued(LONG, (1,) * n) for n in (100, 50, 50)]
    assert worth_sharing(inputs, PADDED) and not worth_sharing(inputs, PACKED)
