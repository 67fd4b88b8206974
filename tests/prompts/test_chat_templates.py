"""Prompts through the chat templates of real models' families: ids, beginnings, turns, thinking."""

from __future__ import annotations

import pytest
from tests.prompts.families import FAMILIES, tokenizer_of

from opsd.languages.registry import language
from opsd.prompts.boundary import end_of_turn, prompt_notes, reply_follows, thinking
from opsd.prompts.contexts import Solution, StudentPrompt
from opsd.prompts.prompt import prompt_ids, prompt_parts, prompt_text
from opsd.types import Group, Problem, UserError, View

SOLVED = {"solution": "One and one are two. \\boxed{2}"}
TEXT = Problem("1 + 1 = ?", answer="2", language="swa", privileged=SOLVED)
TALK = Problem(
    (
        {"role": "system", "content": "Answer in Swahili."},
        {"role": "user", "content": "Habari?"},
        {"role": "assistant", "content": "<think>\nA greeting.\n</think>\n\nNzuri sana."},
        {"role": "user", "content": "1 + 1 = ?"},
    ),
    language="swa",
    privileged=SOLVED,
)
PREFIX = language("swa").think_prefix
THINK = "<think>\n{{ think_prefix }}"
HEADERS = {
    "qwen3": "<|im_start|>assistant\n",
    "qwen2.5": "<|im_start|>assistant\n",
    "llama3": "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "gemma3": "<start_of_turn>model\n",
    "deepseek_r1": "<｜Assistant｜><think>\n",
    "olmo2": "<|assistant|>\n",
}

every_family = pytest.mark.parametrize("name", FAMILIES)
begun = pytest.mark.parametrize("name", [name for name, f in FAMILIES.items() if f.bos])
either_way = pytest.mark.parametrize("adds_bos", [False, True], ids=["plain", "adds_bos"])


def views(problem: Problem, **settings: object) -> list[View]:
    """The problem as a student and as a teacher reads it."""
    (teacher,) = Solution(**settings)(Group(problem, ()), 0)
    return [StudentPrompt(**settings).view(problem), teacher]


def shown(name: str, problem: Problem = TEXT, **settings: object) -> str:
    return prompt_text(tokenizer_of(name), StudentPrompt(**settings).view(problem))


@either_way
@pytest.mark.parametrize("problem", [TEXT, TALK], ids=["text", "conversation"])
@every_family
def test_ids_are_the_templates_own(name: str, problem: Problem, adds_bos: bool):
    tokenizer = tokenizer_of(name, adds_bos)
    for view in views(problem, template_options={"enable_thinking": True}):
        theirs = tokenizer.apply_chat_template(
            list(view.messages), add_generation_prompt=True, return_dict=False, enable_thinking=True
        )
        assert list(prompt_ids(tokenizer, view)) == theirs
        assert tokenizer.decode(theirs) == prompt_text(tokenizer, view)


@either_way
@pytest.mark.parametrize("problem", [TEXT, TALK], ids=["text", "conversation"])
@begun
def test_a_prompt_begins_once(name: str, problem: Problem, adds_bos: bool):
    tokenizer = tokenizer_of(name, adds_bos)
    bos = tokenizer.bos_token_id
    for view in views(problem, prefill=THINK):
        ids = prompt_ids(tokenizer, view)
        assert ids[0] == bos != ids[1]
        assert bos not in ids[1:] or tokenizer.eos_token_id == bos
        # What these tokenizers make of the same text by themselves.
        by_itself = tokenizer(prompt_text(tokenizer, view))["input_ids"]
        assert (by_itself[:2] == [bos, bos]) is adds_bos


@every_family
def test_the_reply_follows_the_assistants_header(name: str):
    tokenizer = tokenizer_of(name)
    for view in [*views(TEXT), *views(TALK)]:
        assert reply_follows(tokenizer, view) == HEADERS[name]
        assert prompt_text(tokenizer, view).endswith(HEADERS[name])


@every_family
def test_the_system_message_is_read_once_and_by_both_roles(name: str):
    for view in views(TALK):
        text = prompt_text(tokenizer_of(name), view)
        assert text.count("Answer in Swahili.") == 1
        assert text.index("Answer in Swahili.") < text.index("Habari?")
        assert "Be of help." not in text


def test_qwen_2_5_says_something_where_nobody_does():
    assert shown("qwen2.5").startswith("<|im_start|>system\nBe of help.<|im_end|>\n")


@every_family
def test_both_roles_read_the_same_earlier_turns(name: str):
    student, teacher = (prompt_text(tokenizer_of(name), view) for view in views(TALK))
    assert student.count("Nzuri sana.") == teacher.count("Nzuri sana.") == 1
    until = student.index("1 + 1 = ?")
    assert teacher[:until] == student[:until] and teacher != student
    assert "\\boxed{2}" in teacher and "\\boxed{2}" not in student


@pytest.mark.parametrize("name", ["qwen3", "deepseek_r1"])
def test_earlier_thinking_is_dropped(name: str):
    assert "A greeting." not in shown(name, TALK)


def test_gemma_folds_the_system_text_and_wants_turns_to_alternate():
    assert shown("gemma3", TALK).startswith(
        "<bos><start_of_turn>user\nAnswer in Swahili.\n\nHabari?<end_of_turn>\n<start_of_turn>model"
    )
    twice = Problem(({"role": "user", "content": "a"}, {"role": "user", "content": "b"}))
    with pytest.raises(UserError, match=r"turns: user, user; .* must take turns") as error:
        shown("gemma3", twice)
    assert "\n" not in str(error.value)


@every_family
def test_a_written_reply_ends_as_the_template_ends_a_turn(name: str):
    tokenizer = tokenizer_of(name)
    assert tokenizer.convert_ids_to_tokens(end_of_turn(tokenizer)) == FAMILIES[name].end


def test_without_a_template_a_turn_has_no_end_of_its_own(tokenizer):
    plain = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer)
    assert end_of_turn(plain) is None
    plain.chat_template = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
    assert end_of_turn(plain) is None
    plain.chat_template = "{{ raise_exception('no') }}"
    assert end_of_turn(plain) is None


@every_family
def test_a_think_prefix_opens_the_thinking_once(name: str):
    tokenizer = tokenizer_of(name)
    for view in views(TALK, prefill=THINK, template_options={"enable_thinking": True}):
        text = prompt_text(tokenizer, view)
        header = HEADERS[name].removesuffix("<think>\n")
        assert text.endswith(f"{header}<think>\n{PREFIX}")
        assert thinking(reply_follows(tokenizer, view)) == "open"
        template, prefill = prompt_parts(tokenizer, view)
        assert prefill == f"<think>\n{PREFIX}" and template.endswith(header)


@every_family
def test_thinking_can_be_closed_by_a_prefill(name: str):
    (view, _) = views(TEXT, prefill="<think>\n\n</think>\n\n")
    header = HEADERS[name].removesuffix("<think>\n")
    assert prompt_text(tokenizer_of(name), view).endswith(f"{header}<think>\n\n</think>\n\n")
    assert thinking(reply_follows(tokenizer_of(name), view)) == "closed"


@pytest.mark.parametrize("opening", ["<think>", "<think>\n", "<think>\n\n"])
def test_the_recipes_own_spacing_counts_where_both_open(opening: str):
    tokenizer = tokenizer_of("deepseek_r1")
    text = prompt_text(tokenizer, View("v", views(TEXT)[0].messages, prefill=f"{opening}So"))
    assert text.endswith(f"<｜Assistant｜>{opening}So") and text.count("<think>") == 1


def test_a_prefill_without_the_tag_follows_an_opened_tag():
    assert shown("deepseek_r1", prefill="{{ think_prefix }}").endswith(f"<think>\n{PREFIX}")


def test_closed_thinking_is_not_opened_again():
    off = {"enable_thinking": False}
    assert shown("qwen3", template_options=off).endswith("<think>\n\n</think>\n\n")
    with pytest.raises(UserError, match=r"'student'.*opens it again.*enable_thinking: true"):
        shown("qwen3", template_options=off, prefill=THINK)
    assert shown("qwen3", template_options=off, prefill="So").endswith("</think>\n\nSo")


@every_family
def test_tags_in_a_problem_are_the_problems_own(name: str):
    for tag in ("<think>", "</think>"):
        text = shown(name, Problem(f"What does {tag} mean in {tag}"), template="{{ problem }}")
        assert text.endswith(HEADERS[name]) and f"What does {tag} mean in {tag}" in text
        held = Problem(f"mean {tag}")
        assert f"mean {tag}" in shown(name, held, template="{{ problem }}", prefill="<think>\nA")


def test_without_a_template_nothing_is_taken_for_an_opening(tokenizer):
    plain = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer)
    view = View("v", ({"role": "user", "content": "a <think>"},), prefill="<think>\nb")
    assert prompt_text(plain, view) == "a <think>\n\n<think>\nb"


@every_family
def test_options_that_a_template_does_not_know_change_nothing(name: str):
    assert shown(name, template_options={"colour": "red"}) == shown(name)
    view = StudentPrompt(template_options={"colour": "red"}).view(TEXT)
    (note,) = prompt_notes(tokenizer_of(name), view)
    assert "method.student.template_options" in note and "'colour'" in note


@pytest.mark.parametrize(
    "option",
    ["tokenize", "add_generation_prompt", "continue_final_message", "max_length", "messages"],
)
def test_the_tokenizers_own_arguments_are_no_options(option: str):
    with pytest.raises(UserError, match=f"'student'.*'{option}'"):
        shown("qwen3", template_options={option: True})
