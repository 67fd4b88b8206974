"""Remarks on where prompts end and replies begin: when they are made, and that remedies work."""

from __future__ import annotations

import re
from typing import Any

import pytest
from tests.prompts.families import FAMILIES, tokenizer_of

from opsd.methods.signals import loss_terms
from opsd.prompts.boundary import notes, prompt_notes, reply_follows, thinking
from opsd.prompts.contexts import Solution, StudentPrompt
from opsd.prompts.prompt import prompt_text
from opsd.recipe import schema as recipes
from opsd.recipe.schema import Recipe
from opsd.types import Group, Problem, View

PROBLEM = Problem(
    "Neema ana mayai 3.",
    language="swa",
    privileged={"solution": "Ni \\boxed{3}.", "translation": "Neema has 3 eggs."},
)
CHATML = ["qwen3", "qwen2.5"]
TAGLESS = [name for name, family in FAMILIES.items() if not family.tags]


def of(recipe: Recipe, tokenizer: Any, **settings: Any) -> list[str]:
    """The remarks on a recipe's prompts."""
    ((_, leaf),) = loss_terms(recipe.method.signal)
    (teacher,) = leaf.teacher.context(Group(PROBLEM, ()), 0)
    return notes(tokenizer, recipe.method.student.view(PROBLEM), teacher, **settings)


def remedies(note: str) -> list[str]:
    """What a note tells to `--set`, as a shell passes it on: single quotes change nothing."""
    return re.findall(r"--set '([^']*)'", note)


def about(student: StudentPrompt, teacher: Solution, tokenizer: Any, **settings: Any) -> list[str]:
    (view,) = teacher(Group(PROBLEM, ()), 0)
    return notes(tokenizer, student.view(PROBLEM), view, **settings)


def bare(tokenizer: Any, **named: str) -> Any:
    """The same tokens without a chat template."""
    return type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, **named)


@pytest.mark.parametrize(
    ("ending", "state"),
    [
        ("<|im_start|>assistant\n", "unsaid"),
        ("assistant\n<think>\n", "open"),
        ("assistant\n<think>\nKama", "open"),
        ("assistant\n<think>\n\n</think>\n\n", "closed"),
        ("", "unsaid"),
    ],
)
def test_a_reply_begins_inside_thinking_or_after_it_or_neither(ending: str, state: str):
    assert thinking(ending) == state


@pytest.mark.parametrize("name", FAMILIES)
def test_prompts_that_end_alike_need_no_remark(name: str):
    assert about(StudentPrompt(), Solution(), tokenizer_of(name)) == []


@pytest.mark.parametrize("name", ["qwen3", "deepseek_r1"])
def test_copsd_needs_no_remark_where_the_tag_is_known(name: str):
    found = of(recipes.load("copsd"), tokenizer_of(name))
    assert not [note for note in found if "first token" in note or ".prefill" in note]


@pytest.mark.parametrize("name", TAGLESS)
def test_a_tag_that_is_no_token_is_told_with_a_remedy_that_works(name: str):
    tokenizer = tokenizer_of(name)
    found = [note for note in of(recipes.load("copsd"), tokenizer) if ".prefill" in note]
    assert len(found) == 2 and all("is not one token of this tokenizer but" in n for n in found)
    mended = recipes.load("copsd", [part for note in found for part in remedies(note)])
    assert mended.method.student.prefill == "{{ think_prefix }}"
    assert not [note for note in of(mended, tokenizer) if ".prefill" in note]


def test_the_first_token_is_told_with_two_remedies_that_work():
    tokenizer = tokenizer_of("qwen3")
    (note,) = of(recipes.load("opsd"), tokenizer)
    assert "after a closed </think>, the teacher's right after the assistant's header" in note
    alike, skipped = remedies(note)
    assert of(recipes.load("opsd", [alike]), tokenizer) == []
    ((_, leaf),) = loss_terms(recipes.load("opsd", [skipped]).method.signal)
    assert [(w.type, w.n) for w in leaf.weighting] == [("skip_first", 1)]
    assert of(recipes.load("opsd", [skipped]), tokenizer, first_taught=False) == []


def test_a_teachers_closed_thought_is_a_third_remedy():
    closed = r'method.signal.teacher.context.prefill="<think>\n\n</think>\n\n"'
    assert of(recipes.load("opsd", [closed]), tokenizer_of("qwen3")) == []


def test_other_differences_between_the_endings_are_told_as_text():
    (note,) = about(StudentPrompt(prefill="Jibu:"), Solution(), tokenizer_of("llama3"))
    assert "'<|start_header_id|>assistant<|end_header_id|>\\n\\nJibu:'"[-20:] in note
    assert "the same prefill" in note


def test_a_template_that_thinks_in_spite_of_its_option_is_told_with_a_remedy_that_works():
    tokenizer = tokenizer_of("deepseek_r1")
    found = [note for note in of(recipes.load("opsd"), tokenizer) if "anyway" in note]
    (note,) = found
    (closed,) = remedies(note)
    mended = recipes.load("opsd", [closed])
    ending = reply_follows(tokenizer, mended.method.student.view(PROBLEM))
    assert ending == "<｜Assistant｜><think>\n\n</think>\n\n"


def test_nothing_privileged_is_told():
    (note,) = about(
        StudentPrompt(),
        Solution(template="{{ problem }}\n\n{{ instruction }}"),
        tokenizer_of("qwen3"),
    )
    assert "exactly what the student reads" in note


@pytest.mark.parametrize("name", CHATML)
def test_special_tokens_in_a_text_are_told(name: str):
    view = StudentPrompt().view(Problem("What is <|im_end|> for? And <|im_start|>? <|pad|>"))
    found = prompt_notes(tokenizer_of(name), view)
    assert [note.split("contains ")[1].split(",")[0] for note in found] == [
        "<|im_end|>",
        "<|im_start|>",
    ]


@pytest.mark.parametrize("adds_bos", [False, True])
def test_a_prompt_that_begins_twice_is_told(adds_bos: bool):
    tokenizer = tokenizer_of("llama3", adds_bos)
    view = StudentPrompt().view(PROBLEM)
    assert prompt_notes(tokenizer, view) == []
    twice = bare(tokenizer, bos_token="<|begin_of_text|>")
    twice.chat_template = "{{ bos_token }}" + tokenizer.chat_template
    (note,) = prompt_notes(twice, view)
    assert "begins with <|begin_of_text|> twice" in note
    # Without a template the tokenizer writes its own.
    twice.chat_template = None
    begun = View("v", ({"role": "user", "content": "<|begin_of_text|>Hi"},))
    assert any("twice" in note for note in prompt_notes(twice, begun)) is adds_bos


def test_a_date_in_every_prompt_is_told_with_a_remedy_that_works():
    tokenizer = bare(tokenizer_of("llama3"), bos_token="<|begin_of_text|>")
    tokenizer.chat_template = (
        "{{ bos_token }}{% if not date_string is defined %}"
        "{% set date_string = strftime_now('%d %b %Y') %}{% endif %}{{ date_string }}\n"
        "{% for m in messages %}{{ m.content }}{% endfor %}"
    )
    (note,) = prompt_notes(tokenizer, StudentPrompt().view(PROBLEM))
    assert "today's date" in note
    mended = recipes.load("opsd", remedies(note))
    view = mended.method.student.view(PROBLEM)
    assert prompt_notes(tokenizer, view) == []
    assert prompt_text(tokenizer, view).startswith("<|begin_of_text|>26 Jul 2024\n")


def test_a_space_at_the_end_of_a_prefill_is_told():
    (note,) = prompt_notes(tokenizer_of("qwen3"), StudentPrompt(prefill="Jibu: ").view(PROBLEM))
    assert note.startswith("method.student.prefill ends with a space")


def test_options_without_a_template_are_told(tokenizer):
    plain = bare(tokenizer)
    view = StudentPrompt(template_options={"enable_thinking": True}).view(PROBLEM)
    (note,) = prompt_notes(plain, view)
    assert "no chat template" in note
    assert reply_follows(plain, view) == ""


@pytest.mark.parametrize("name", FAMILIES)
def test_every_remark_is_one_line(name: str):
    student = StudentPrompt(template_options={"colour": 1}, prefill="<think>\nA ")
    teacher = Solution(prefill="<think>\n\n</think>\n\n")
    found = about(student, teacher, tokenizer_of(name))
    assert len(found) >= 3 and not any("\n" in note for note in found)
