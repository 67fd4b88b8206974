"""Traces: what they say of every reader agrees with the models read directly, in float64."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.arrange import config, every_second, problems
from transformers import AutoModelForCausalLM

from opsd import methods
from opsd.methods.method import Method
from opsd.methods.signals import Advantage, Teacher
from opsd.objective.credit import Gated, PolicyGradient
from opsd.objective.targets import PerView
from opsd.objective.weighting import SkipFirst
from opsd.prompts.contexts import Demonstration, MultiView, Solution
from opsd.prompts.tokens import pieces
from opsd.rollout.sources import OnPolicy
from opsd.runs.files import read_jsonl
from opsd.training.trainer import OPSDTrainer
from opsd.types import Problem

AMHARIC = "ዋጋው 12 ብር ነው። \\boxed{12}"


def traces(folder: Path, model: Path, method: Method, **changes: Any) -> list[dict[str, Any]]:
    """What a short run of a method wrote down."""
    given = changes.pop("given", problems(8))
    args = config(folder, **{"max_steps": 1, "trace_steps": 1, **changes})
    trainer = OPSDTrainer(
        str(model), method, args=args, train_dataset=given, verifier=every_second()
    )
    trainer.train()
    return list(read_jsonl(folder / "traces" / "rank0.jsonl"))


def read(model: Path, tokenizer: Any, prompt: list[int], completion: list[int]) -> torch.Tensor:
    """Log-probabilities [N, V] at every position of a completion."""
    reader = AutoModelForCausalLM.from_pretrained(model)
    with torch.no_grad():
        logits = reader(torch.tensor([[*prompt, *completion]])).logits[0]
    rows = logits[len(prompt) - 1 : -1, : len(tokenizer)]
    return rows.double().log_softmax(-1)


def close(one: Any, other: Any) -> bool:
    return torch.allclose(
        torch.as_tensor(one, dtype=torch.float64),
        torch.as_tensor(other, dtype=torch.float64),
        rtol=1e-4,
        atol=2e-6,
    )


def test_every_reader_is_the_model_read_directly(tmp_path: Path, tiny_folder: Path, tokenizer):
    row = traces(tmp_path, tiny_folder, methods.copsd())[0]
    student, teacher = row["readers"]
    assert (student["name"], teacher["name"], teacher["weights"]) == (
        "student",
        "crosslingual",
        "frozen",
    )
    for reader, prompt in (
        (student, row["prompt_ids"]),
        (teacher, row["views"][0]["prompt_ids"]),
    ):
        logp = read(tiny_folder, tokenizer, prompt, row["completion_ids"])
        assert close(reader["entropy"], -(logp.exp() * logp).sum(-1))
        own = torch.tensor(row["completion_ids"])
        assert close(reader["logp"], logp.gather(-1, own.unsqueeze(-1)).squeeze(-1))
        best = logp.exp().topk(8).values
        assert close([[p for _, p in top] for top in reader["top"]], best)


def test_a_pair_is_the_divergence_before_its_clip(tmp_path: Path, tiny_folder: Path, tokenizer):
    row = traces(tmp_path, tiny_folder, methods.copsd())[0]
    (signal,) = row["signals"]
    (pair,) = signal["pairs"]
    assert (pair["from"], pair["to"], pair["part"]) == ("student", "crosslingual", "whole")
    s, t = (
        read(tiny_folder, tokenizer, prompt, row["completion_ids"])
        for prompt in (row["prompt_ids"], row["views"][0]["prompt_ids"])
    )
    assert close(pair["divergence"], (t.exp() * (t - s)).sum(-1))
    assert max(pair["divergence"]) > 1e-3
    assert close(pair["divergence"], signal["unclipped"])
    assert close(pair["divergence"], row["divergence"])
    assert close(signal["value"], (t.exp() * (t - s)).clamp(max=0.05).sum(-1))
    own = torch.tensor(row["completion_ids"]).unsqueeze(-1)
    assert close(pair["log_ratio"], (t - s).gather(-1, own).squeeze(-1))


def test_a_purified_signal_comes_in_its_parts(tmp_path: Path, tiny_folder: Path, tokenizer):
    row = traces(tmp_path, tiny_folder, methods.purified_opsd())[0]
    names = [reader["name"] for reader in row["readers"]]
    assert names == ["student", "solution", "reference_only", "own_prompt", "target"]
    (signal,) = row["signals"]
    pairs = {pair["part"]: pair for pair in signal["pairs"]}
    assert pairs.keys() == {"whole", "reference", "question", "base", "target"}
    ratios = {part: torch.tensor(pair["log_ratio"]) for part, pair in pairs.items()}
    assert close(ratios["whole"], ratios["reference"] + ratios["question"])
    # Before the first step the student is the base.
    assert close(ratios["base"], 0 * ratios["base"])
    assert close(pairs["target"]["divergence"], signal["unclipped"])
    t, r, b = (
        read(tiny_folder, tokenizer, view["prompt_ids"], row["completion_ids"])
        for view in row["views"]
    )
    d = (t - r) - (t - r).mean(-1, keepdim=True)
    target = (b + 10 * torch.tanh(d / 10)).log_softmax(-1)
    assert close(row["readers"][-1]["entropy"], -(target.exp() * target).sum(-1))
    m = ((t.exp() + r.exp()) / 2).log()
    jsd = 0.5 * ((t.exp() * (t - m)).sum(-1) + (r.exp() * (r - m)).sum(-1))
    assert close(pairs["question"]["divergence"], jsd) and jsd.max() > 1e-4


def test_gated_views_vote_for_the_advantage(tmp_path: Path, tiny_folder: Path):
    teacher = Teacher(MultiView((Solution(), Demonstration(of="dataset"))), target=PerView())
    signal = Advantage(Gated(dead_zone=0.0), PolicyGradient(), teacher)
    method = Method(name="voted", paper="none", source=OnPolicy(group=2), signal=signal)
    given = [
        Problem(p.prompt, p.answer, p.language, {**p.privileged, "demonstration": "Jibu ni 4."})
        for p in problems(8)
    ]
    (signal,) = traces(tmp_path, tiny_folder, method, given=given)[0]["signals"]
    assert signal["votes"].keys() == {"solution", "demonstration"}
    assert any(value != 0 for value in signal["advantage"])
    sums = [sum(votes) for votes in zip(*signal["votes"].values(), strict=True)]
    assert close(sums, signal["advantage"])
    losses = [-a * v for a, v in zip(signal["advantage"], signal["value"], strict=True)]
    assert close(losses, signal["loss"])


def test_tokens_out_of_the_loss_are_told(tmp_path: Path, tiny_folder: Path):
    method = methods.opsd()
    signal = method.signal.__class__(method.signal.teacher, weighting=(SkipFirst(2),))
    changed = Method(name="skipping", paper="none", student=method.student, signal=signal)
    (signal,) = traces(tmp_path, tiny_folder, changed)[0]["signals"]
    assert signal["in_loss"] == [False, False, *[True] * (len(signal["value"]) - 2)]
    assert signal["weight"] == [1.0] * len(signal["value"])


def test_a_character_of_several_tokens_stands_at_its_first(
    tmp_path: Path, tiny_folder: Path, tokenizer
):
    given = [Problem(f"ጥያቄ {i}", "12", "amh", {"solution": AMHARIC}) for i in range(8)]
    row = traces(tmp_path, tiny_folder, methods.sft(), given=given, max_completion_length=200)[0]
    assert "".join(row["tokens"]).startswith(AMHARIC)
    assert len(row["tokens"]) == len(row["completion_ids"])
    assert row["tokens"][:3] == ["ዋ", "", ""]
    assert row["question"].startswith("ጥያቄ")
    # A candidate for the last byte of a character is the character; others go by their names.
    (student,) = row["readers"]
    shown = {text for top in student["top"] for text, _ in top}
    assert not any("\ufffd" in text for text in shown)
    assert all(math.isfinite(value) for value in row["signals"][0]["loss"])


@pytest.mark.parametrize("text", [AMHARIC, "שָׁלוֹם, مرحبا", "", "a\u200db 👩‍👩‍👧"])
def test_pieces_are_the_text(text: str, tokenizer):
    found = pieces(tokenizer.decode, tokenizer(text)["input_ids"])
    assert "".join(piece for piece, _ in found) == text
    assert sum(count for _, count in found) == len(tokenizer(text)["input_ids"])
