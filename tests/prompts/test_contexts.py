"""What teachers are shown."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError
from tests.arrange import problems

from opsd.prompts.contexts import AnyContext, Crosslingual, Solution, StudentPrompt, TeacherPrompt
from opsd.prompts.prompt import prompt_text
from opsd.types import Finish, Group, Problem, Rollout, UserError

(PROBLEM,) = problems(1, "yor")
GROUP = Group(PROBLEM, ())
CONTEXTS = [StudentPrompt(), Solution(), Crosslingual()]


@pytest.mark.parametrize("context", CONTEXTS)
def test_a_context_is_one_view_named_after_it(context):
    (view,) = context(GROUP, 0)
    assert (view.name, view.prefill, view.scale) == (context.type, "", 1.0)
    assert view.messages[-1]["role"] == "user"
    assert PROBLEM.text in view.messages[-1]["content"]


def test_only_the_privileged_contexts_show_privileged_texts():
    solution, translation = PROBLEM.privileged["solution"], PROBLEM.privileged["translation"]
    shown = {}
    for context in CONTEXTS:
        (view,) = context(GROUP, 0)
        content = view.messages[-1]["content"]
        shown[context.type] = (solution in content, translation in content)
    assert shown == {
        "student": (False, False),
        "solution": (True, False),
        "crosslingual": (True, True),
    }


def test_a_view_does_not_depend_on_the_rollouts():
    rollout = Rollout((1,), (2,), "text", Finish.STOP)
    for context in CONTEXTS:
        assert context(Group(PROBLEM, (rollout, rollout)), 1) == context(GROUP, 0)


@pytest.mark.parametrize("kind", [StudentPrompt, Solution, Crosslingual])
def test_template_prefill_and_options_are_the_contexts_own(kind, tokenizer):
    context = kind(
        template="{{ problem }} {{ labels.begin }}",
        prefill="<think>\n{{ think_prefix }}\n",
        template_options={"enable_thinking": True},
    )
    (view,) = context(GROUP, 0)
    text = prompt_text(tokenizer, view)
    assert view.messages[-1]["content"].startswith(f"{PROBLEM.text} [")
    assert text.endswith(view.prefill) and view.prefill.startswith("<think>\n")
    assert view.template_options == {"enable_thinking": True}


def test_crosslingual_leaves_out_what_is_not_included():
    (view,) = Crosslingual(include=("problem", "translation"))(GROUP, 0)
    content = view.messages[-1]["content"]
    assert PROBLEM.privileged["translation"] in content
    assert PROBLEM.privileged["solution"] not in content


def test_a_row_without_the_privileged_text_is_the_users_mistake():
    bare = Group(Problem("p", language="yor", privileged={"solution": "s"}), ())
    with pytest.raises(UserError, match="'translation'"):
        Crosslingual()(bare, 0)
    assert Crosslingual(include=("problem", "solution"))(bare, 0)


def test_a_rows_own_teacher_prompt_replaces_its_last_turn():
    turns = (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "1 + 1?"},
    )
    told = {"teacher_prompt": "1 + 1? Hint: {{ count }} your fingers.\n"}
    (view,) = TeacherPrompt()(Group(Problem(turns, privileged=told), ()), 0)
    assert view.name == "teacher_prompt"
    assert view.messages[:-1] == turns[:-1]
    last = {"role": "user", "content": "1 + 1? Hint: {{ count }} your fingers."}
    assert view.messages[-1] == last
    (alone,) = TeacherPrompt()(Group(Problem("1 + 1?", privileged=told), ()), 0)
    assert alone.messages == (last,)


def test_a_row_without_a_teacher_prompt_is_named():
    with pytest.raises(UserError, match=rf"{PROBLEM.id}.*'teacher_prompt'") as error:
        TeacherPrompt()(GROUP, 0)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("context", [*CONTEXTS, TeacherPrompt()])
def test_contexts_go_to_plain_values_and_back(context):
    adapter = TypeAdapter(AnyContext)
    assert adapter.validate_python(adapter.dump_python(context, mode="json")) == context


def test_unknown_keys_and_texts_are_refused():
    with pytest.raises(ValidationError):
        TypeAdapter(AnyContext).validate_python({"type": "solution", "colour": "red"})
    with pytest.raises(ValidationError):
        Crosslingual(include=("answer",))
