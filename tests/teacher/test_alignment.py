"""Alignment identity: a teacher that reads what the student reads says what the student says.

Through the real path: trainer, rollouts, both forward passes, the fused loss, the run folder.
"""

from dataclasses import replace

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from opsd import OPSDConfig, OPSDTrainer
from opsd.methods import Method
from opsd.objective.divergences import forward_kl
from opsd.objective.signals import Distill, Teacher
from opsd.rollout.source import FromDataset, OnPolicy
from opsd.run import read_jsonl
from opsd.teacher import score
from opsd.teacher.context import Solution, StudentPrompt
from opsd.types import Problem

PROBLEMS = [
    Problem(text, answer="3", privileged={"solution": f"{text} It is \\boxed{{3}}."})
    for text in (
        "1 + 2 = ?",
        "Ann has 1 apple. She gets 2 more. How many apples does she have now?",
        "2 + 1 = ?",
        "How many?",
    )
]
THINKS = {"enable_thinking": True}
STUDENTS = {
    "thinking off": StudentPrompt(),
    "thinking on": StudentPrompt(template_options=THINKS),
    "prefill": StudentPrompt(template_options=THINKS, prefill="<think>\n{{ think_prefix }}"),
}
LORA = peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")


def divergences(
    folder, tokenizer, output, *, student, teacher=None, source=None, lora=False, **changes
):
    """Per-token divergences of every rollout of one step, and the rollouts' rows."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        for parameter in model.parameters():  # far from uniform, so that contexts matter
            parameter.mul_(4.0 if parameter.dim() > 1 else 1.0)
    method = Method(
        name="identity",
        student=student,
        source=source or OnPolicy(),
        signal=Distill(Teacher(teacher or student), forward_kl),
    )
    settings = {
        "max_steps": 1,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "max_completion_length": 10,
        "top_k": 0,
        "top_p": 1.0,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
    }
    trainer = OPSDTrainer(
        model,
        method,
        OPSDConfig(output_dir=str(output), **(settings | changes)),
        train_dataset=PROBLEMS,
        processing_class=tokenizer,
        peft_config=LORA if lora else None,
    )
    trainer.train()
    rows = list(read_jsonl(output / "rollouts" / "rank0.jsonl"))
    assert len({len(row["prompt_ids"]) for row in rows}) > 1
    for row in rows:
        assert len(row["divergence"]) == len(row["completion_ids"]) > 0
    return torch.tensor([d for row in rows for d in row["divergence"]]), rows


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("name", STUDENTS)
def test_the_same_context_gives_no_divergence(name, lora, tiny_folder, tokenizer, tmp_path):
    found, rows = divergences(
        tiny_folder, tokenizer, tmp_path, student=STUDENTS[name], lora=lora, temperature=1.1
    )
    assert len(rows) == 4 and found.abs().max() < 1e-6
    assert all(row["prompt_ids"] == row["views"][0]["prompt_ids"] for row in rows)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_end_is_learned_where_padding_looks_the_same(
    lora, checkpointing, tiny_folder, tokenizer, tmp_path
):
    same = type(tokenizer).from_pretrained(tiny_folder)
    same.pad_token = same.eos_token
    found, rows = divergences(
        tiny_folder,
        same,
        tmp_path,
        student=STUDENTS["thinking off"],
        source=FromDataset("solution"),
        lora=lora,
        gradient_checkpointing=checkpointing,
    )
    assert found.abs().max() < 1e-6
    for row in rows:
        assert row["completion_ids"].count(same.eos_token_id) == 1
        assert row["completion_ids"][-1] == same.eos_token_id


def test_passes_of_any_size_agree(tiny_folder, tokenizer, tmp_path):
    found, _ = divergences(
        tiny_folder,
        tokenizer,
        tmp_path,
        student=STUDENTS["thinking on"],
        max_tokens_per_pass=80,
        loss_chunk_rows=3,
    )
    assert found.abs().max() < 1e-6


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_another_context_is_noticed(lora, tiny_folder, tokenizer, tmp_path):
    found, rows = divergences(
        tiny_folder,
        tokenizer,
        tmp_path,
        student=STUDENTS["thinking off"],
        teacher=Solution(),
        lora=lora,
    )
    assert found.median() > 1e-4 and found.min() >= 0
    assert all(row["prompt_ids"] != row["views"][0]["prompt_ids"] for row in rows)


def test_a_shift_by_one_token_would_be_noticed(tiny_folder, tokenizer, tmp_path, monkeypatch):
    aligned = score.pad_right

    def shifted(prompts, completions, pad_id):
        padded = aligned(prompts, completions, pad_id)
        return replace(padded, rows_N=padded.rows_N - 1)

    monkeypatch.setattr(score, "pad_right", shifted)
    monkeypatch.setattr("opsd.trainer.check_head", lambda *a: None)
    found, _ = divergences(tiny_folder, tokenizer, tmp_path, student=STUDENTS["thinking off"])
    assert found.median() > 1e-4
