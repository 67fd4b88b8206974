"""Alignment identity: a teacher that reads what the student reads says what the student says.

Through the real path: trainer, rollouts, both forward passes, the fused loss, the run folder; on
the chat templates of real models' families.
"""

from dataclasses import replace
from statistics import mean

import peft
import pytest
import torch
from tests.arrange import problems
from tests.prompts.families import FAMILIES, save_tiny, tokenizer_of
from transformers import AutoModelForCausalLM

from opsd import OPSDConfig, OPSDTrainer
from opsd.languages.registry import language
from opsd.lm import forward as score
from opsd.lm.built_in import model_path
from opsd.lm.layout import PADDED, Layout, pad_right
from opsd.lm.loading import load_tokenizer
from opsd.methods import Method
from opsd.methods.signals import Distill, Teacher
from opsd.objective.divergences import forward_kl
from opsd.objective.weighting import SkipFirst
from opsd.prompts.contexts import Solution, StudentPrompt
from opsd.rollout.sources import FromDataset, OnPolicy
from opsd.runs.files import read_jsonl
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
TALK = Problem(
    (
        {"role": "system", "content": "Count slowly."},
        {"role": "user", "content": "1 + 1 = ?"},
        {"role": "assistant", "content": "<think>\nOne, two.\n</think>\n\nTwo."},
        {"role": "user", "content": "And 1 more?"},
    ),
    answer="3",
    privileged={"solution": "It is \\boxed{3}."},
)
THINKS = {"enable_thinking": True}
ANSWERS = {"enable_thinking": False}
THINK_PREFIX = "<think>\n{{ think_prefix }}"
STUDENTS = {
    "thinking off": StudentPrompt(),
    "thinking on": StudentPrompt(template_options=THINKS),
    "prefill": StudentPrompt(template_options=THINKS, prefill=THINK_PREFIX),
}
LORA = peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")


def divergences(
    folder,
    tokenizer,
    output,
    *,
    student,
    teacher=None,
    source=None,
    lora=False,
    given=PROBLEMS,
    weighting=(),
    sharpness=4.0,
    **changes,
):
    """Per-token divergences of every rollout of one step, and the rollouts' rows. `sharpness`
    brings random weights far from uniform, so that contexts matter."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(sharpness if parameter.dim() > 1 else 1.0)
    method = Method(
        name="identity",
        student=student,
        source=source or OnPolicy(),
        signal=Distill(Teacher(teacher or student), forward_kl, weighting),
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
        train_dataset=given,
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
def test_packed_the_same_context_gives_no_divergence(lora, tiny_folder, tokenizer, tmp_path):
    found, _ = divergences(
        tiny_folder,
        tokenizer,
        tmp_path,
        student=STUDENTS["thinking on"],
        lora=lora,
        packing="on",
        per_device_train_batch_size=4,
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
    def shifted(inputs, pad_id):
        batch = pad_right(inputs, pad_id)
        return replace(batch, rows_N=batch.rows_N - 1)

    def score_shifted(*given):
        return score.score(*given[:-1], Layout(shifted, PADDED.tokens))

    monkeypatch.setattr("opsd.teacher.scorer.score", score_shifted)
    found, _ = divergences(tiny_folder, tokenizer, tmp_path, student=STUDENTS["thinking off"])
    assert found.median() > 1e-4


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    """A family of chat models: its name, a tiny model's folder, its tokenizer."""
    folder = save_tiny(request.param, tmp_path_factory.mktemp("families") / request.param)
    return request.param, folder, tokenizer_of(request.param)


def test_the_same_context_gives_no_divergence_under_any_template(family, tmp_path):
    _, folder, tokenizer = family
    student = StudentPrompt(template_options=THINKS, prefill=THINK_PREFIX)
    found, rows = divergences(
        folder, tokenizer, tmp_path, student=student, given=[*PROBLEMS[:3], TALK]
    )
    assert len(rows) == 4 and found.abs().max() < 1e-6
    for row in rows:
        assert row["prompt_ids"] == row["views"][0]["prompt_ids"]
        # The prefix is the prompt's: a rollout has its whole budget still before it.
        prompt = tokenizer.decode(row["prompt_ids"])
        assert prompt.endswith(f"<think>\n{language('eng').think_prefix}")
        assert len(row["completion_ids"]) == 10 or row["finish"] == "stop"
    assert max(len(row["completion_ids"]) for row in rows) == 10


def test_both_roles_are_read_at_the_same_tokens_under_any_template(family, tmp_path, monkeypatch):
    _, folder, tokenizer = family
    read = []

    def recorded(inputs, pad_id):
        padded = pad_right(inputs, pad_id)
        predicted = padded.ids_BL.flatten()[padded.rows_N + 1].tolist()
        assert predicted == [token for x in inputs for token in x.completion]
        read.append(([len(x.prompt) for x in inputs], predicted))
        return padded

    monkeypatch.setattr("opsd.lm.agreement.PADDED", Layout(recorded, PADDED.tokens))
    found, _ = divergences(
        folder,
        tokenizer,
        tmp_path,
        student=StudentPrompt(template_options=THINKS),
        teacher=Solution(template_options=THINKS, prefill=THINK_PREFIX),
        given=[*PROBLEMS[:3], TALK],
        trace_steps=0,
    )
    passes = read[-4:]  # teacher and student of both passes
    for teacher, student in (passes[:2], passes[2:]):
        assert teacher[1] == student[1]
        assert all(t > s for t, s in zip(teacher[0], student[0], strict=True))
    assert found.min() >= 0 and found.median() > 1e-4


def test_a_written_reply_ends_with_the_templates_token_also_where_padding_is_the_same(
    family, tmp_path
):
    name, folder, tokenizer = family
    same = type(tokenizer).from_pretrained(folder)
    same.pad_token = FAMILIES[name].end
    end = same.convert_tokens_to_ids(FAMILIES[name].end)
    found, rows = divergences(
        folder,
        same,
        tmp_path,
        student=StudentPrompt(),
        teacher=Solution(),
        source=FromDataset("solution"),
        given=[*PROBLEMS[:3], TALK],
    )
    for row in rows:
        assert row["completion_ids"].count(end) == 1 and row["completion_ids"][-1] == end
        assert row["divergence"][-1] > 0
    assert len(found) == sum(len(row["completion_ids"]) for row in rows)


CLOSED = "<think>\n\n</think>\n\n"
DIFFERENT = Solution(template_options=THINKS)


def first_and_later(output, teacher, weighting=()):
    """The built-in model answers without thinking: the mean divergence of the first tokens and of
    all others, in nats, and the mean that was learned from."""
    folder = model_path("miniature")
    _, rows = divergences(
        folder,
        load_tokenizer("miniature"),
        output,
        student=StudentPrompt(template_options=ANSWERS),
        teacher=teacher,
        given=problems(8),
        weighting=weighting,
        sharpness=1.0,
        max_completion_length=24,
        per_device_train_batch_size=4,
    )
    first = [row["divergence"][0] for row in rows]
    later = [nats for row in rows for nats in row["divergence"][1:]]
    (line,) = [line for line in read_jsonl(output / "metrics.jsonl") if "loss" in line]
    assert line["divergence"] == pytest.approx(line["loss"], rel=1e-4)
    return mean(first), mean(later), line["loss"]


def test_a_teacher_that_thinks_wants_another_first_token(tmp_path):
    first, later, learned = first_and_later(tmp_path, DIFFERENT)
    assert first > 8 and first > 10 * later
    assert learned > 2 * later  # one token of about twenty is most of the loss


@pytest.mark.parametrize(
    "teacher",
    [Solution(template_options=ANSWERS), Solution(template_options=THINKS, prefill=CLOSED)],
    ids=["alike", "closed by prefill"],
)
def test_roles_whose_prompts_end_alike_want_the_same_first_token(teacher, tmp_path):
    first, later, _ = first_and_later(tmp_path, teacher)
    assert first < 0.01 < later


def test_the_first_token_can_be_left_out(tmp_path):
    first, later, learned = first_and_later(tmp_path, DIFFERENT, (SkipFirst(1),))
    assert first > 8  # still written down, but not learned
    assert learned == pytest.approx(later, rel=1e-4)
