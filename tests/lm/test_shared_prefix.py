"""Completions that go on from one reading of their prompt are read as in whole sequences."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.conftest import tiny_model
from tests.lm.test_architectures import ARCHITECTURES, RECURRENT, save_tiny

from opsd.lm.forward import hidden_rows, score
from opsd.lm.layout import PACKED, PADDED, continued
from opsd.lm.loading import load_model
from opsd.lm.shared_prefix import attends, score_shared, split, trained_rows, worth_sharing

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
    assert read == [(3, 49), (6, 40)]
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


FEW_SHOT = [(*LONG, *range(70 + i, 72 + 2 * i)) for i in range(5)]
"""Prompts that differ behind the same worked examples."""


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_all_prompts_begin_with_is_read_once(name: str, tmp_path: Path, tokenizer):
    model = load_model(str(save_tiny(name, tokenizer, tmp_path)))
    inputs = [*map(continued, FEW_SHOT, COMPLETIONS)]
    parts = split(inputs)
    assert parts.beginnings == [LONG] and parts.places == [0] * 5
    assert worth_sharing(inputs, PADDED)
    whole, _ = score(model, inputs, 0, len(tokenizer))
    shared, _ = score_shared(model, inputs, 0, len(tokenizer))
    torch.testing.assert_close(shared, whole, rtol=0, atol=1e-5)


def test_the_cut_that_leaves_fewer_tokens_is_taken():
    groups = [*map(continued, [FEW_SHOT[0]] * 3 + [FEW_SHOT[4]] * 3, [(1, 2, 3)] * 6)]
    short, long = (len(FEW_SHOT[i]) - 1 for i in (0, 4))
    assert sorted(map(len, split(groups).beginnings)) == [50]
    apart = [*map(continued, [LONG] * 3 + [MIDDLE[::-1]] * 3, [(1, 2, 3)] * 6)]
    assert sorted(map(len, split(apart).beginnings)) == [32, 49] and short < long
    for parts, inputs in ((split(groups), groups), (split(apart), apart)):
        for place, rest, whole in zip(parts.places, parts.rest, inputs, strict=True):
            told = (*parts.beginnings[place], *rest.ids)
            assert told == whole.ids[:-1] and len(rest.read) == len(whole.read)
            assert [rest.ids[i] for i in rest.read] == [whole.ids[i] for i in whole.read]


def test_prompts_of_a_single_token_have_no_beginning():
    inputs = [continued((5,), (1,) * 20), continued((5,), (2,) * 20), continued(LONG, (3,))]
    assert not worth_sharing(inputs, PADDED)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("prompts", [FEW_SHOT, [LONG] * 5], ids=["few-shot", "one prompt"])
def test_gradients_are_those_of_whole_sequences(name, prompts, tmp_path: Path, tokenizer):
    model = load_model(str(save_tiny(name, tokenizer, tmp_path))).train()
    inputs = [*map(continued, prompts, COMPLETIONS)]
    passes: list[int] = []
    model.get_decoder().register_forward_pre_hook(lambda *_: passes.append(1))
    draw = torch.Generator().manual_seed(0)
    weights = None
    found = []
    for read in (
        lambda: trained_rows(model, inputs, 0, PADDED),
        lambda: hidden_rows(model, PADDED.collate(inputs, 0)),
    ):
        model.zero_grad()
        rows = read()
        weights = torch.randn(rows.shape, generator=draw) if weights is None else weights
        (rows * weights).sum().backward()
        gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        found.append((rows.detach(), gradients))
    (ours, by_ours), (theirs, by_theirs) = found
    assert len(passes) == 3
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    assert by_ours.keys() == by_theirs.keys() and len(by_ours) > 10
    for name, gradient in by_theirs.items():
        scale = gradient.abs().max().item()
        torch.testing.assert_close(by_ours[name], gradient, rtol=0, atol=2e-5 * scale + 1e-6)


def test_where_activations_are_recomputed_sequences_are_read_whole():
    model = tiny_model(100).train()
    read = []
    model.model.register_forward_pre_hook(
        lambda trunk, args, kwargs: read.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    inputs = [*map(continued, [LONG] * 3, COMPLETIONS)]
    model.gradient_checkpointing_enable()
    trained_rows(model, inputs, 0, PADDED)
    model.gradient_checkpointing_disable()
    trained_rows(model, inputs, 0, PADDED)
    assert read == [(3, 90), (1, 49), (3, 40)]
