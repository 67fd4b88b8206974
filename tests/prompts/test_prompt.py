"""From problems to token ids: templates, prefills, conversations; what a template may not do."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from opsd.languages.registry import language
from opsd.miniature.tokenizer import build_tokenizer
from opsd.prompts.contexts import StudentPrompt
from opsd.prompts.prompt import fill, prompt_ids, prompt_text, view
from opsd.types import Problem, UserError, View

PROBLEM = Problem(
    "Neema ana mayai 3.",
    answer="3",
    language="swa",
    privileged={"solution": "Ni \\boxed{3}.", "translation": "Neema has 3 eggs."},
)


def test_the_student_reads_the_problem_and_the_instruction_of_its_language():
    assert fill("student", PROBLEM) == f"Neema ana mayai 3.\n\n{language('swa').instruction}"


def test_the_solution_template_shows_problem_solution_transition_and_instruction():
    swa = language("swa")
    assert fill("solution", PROBLEM) == (
        f"{swa.labels.problem}: Neema ana mayai 3.\n\n{swa.labels.solution}:\n{swa.labels.begin}\n"
        f"Ni \\boxed{{3}}.\n{swa.labels.end}\n\n{swa.transition}\n{swa.instruction}"
    )


@pytest.mark.parametrize(
    "include",
    [
        ("problem",),
        ("translation",),
        ("solution",),
        ("problem", "solution"),
        ("problem", "translation", "solution"),
    ],
)
def test_the_crosslingual_template_shows_what_is_included(include: tuple[str, ...]):
    text = fill("crosslingual", PROBLEM, include=include)
    shown = {
        "problem": "Neema ana mayai 3." in text,
        "translation": "Neema has 3 eggs." in text,
        "solution": "Ni \\boxed{3}." in text,
    }
    assert [name for name, there in shown.items() if there] == list(include)
    assert text.endswith(language("swa").instruction)
    assert not text.startswith("\n")


@pytest.mark.parametrize("name", ["solution", "crosslingual"])
def test_the_teachers_prompt_ends_with_its_languages_own_last_line(name: str):
    german = Problem("Was ist 1 + 1?", language="deu", privileged=dict(PROBLEM.privileged))
    closing, instruction = language("deu").closing, language("deu").instruction
    assert closing != instruction
    text = fill(name, german, include=("problem", "solution"))
    assert text.endswith(closing) and instruction not in text
    assert fill("student", german).endswith(instruction)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ problem }} ({{ labels.solution }})", "Neema ana mayai 3. (Suluhisho)"),
        ("{% if answer == '3' %}three{% else %}other{% endif %}", "three"),
        ("Solve\nit", "Solve\nit"),
    ],
)
def test_a_template_may_be_written_in_place(template: str, text: str):
    assert fill(template, PROBLEM) == text


def test_a_template_may_be_a_file(tmp_path: Path):
    path = tmp_path / "mine.jinja"
    path.write_text("{{ translation }}\n{{ problem }}\n")
    assert fill(str(path), PROBLEM) == "Neema has 3 eggs.\nNeema ana mayai 3."


def test_an_unknown_template_names_the_shipped_ones():
    with pytest.raises(UserError, match="one of analysis, careless_writer, critic"):
        fill("solutoin", PROBLEM)


@pytest.mark.parametrize("name", ["solution", "crosslingual"])
def test_a_text_that_the_row_lacks_is_named(name: str):
    bare = Problem("p", privileged={"translation": "t"})
    with pytest.raises(UserError) as error:
        fill(name, bare, include=("problem", "solution"))
    told = str(error.value)
    assert bare.id in told and "'solution'" in told and "\n" not in told
    assert "it has: translation" in told and f"the prompt template '{name}' shows" in told


def test_an_answer_that_is_not_known_is_missing_and_not_the_word_none():
    with pytest.raises(UserError, match="'answer'"):
        fill("{{ answer }}", Problem("p"))


def test_a_syntax_error_names_its_line():
    with pytest.raises(UserError, match="line 2"):
        fill("fine\n{% if %}", PROBLEM)


@pytest.mark.parametrize(
    "attack",
    [
        "{{ problem.__class__ }}",
        "{{ problem.__class__.__mro__[1].__subclasses__() }}",
        "{{ ''.__class__ }}",
        "{{ labels.__init__.__globals__ }}",
        "{{ labels['__class__'] }}",
        "{{ problem|attr('__class__') }}",
        "{{ '{0.__class__}'.format(problem) }}",
        "{{ '{x.__class__}'.format_map({'x': problem}) }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{{ self.__init__.__globals__ }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}{{ os }}",
        "{{ range(10**9) | list }}",
        "{{ 1 / 0 }}",
        "{{ problem() }}",
    ],
)
def test_a_template_cannot_leave_its_sandbox(attack: str):
    with pytest.raises(UserError) as error:
        fill(attack, PROBLEM)
    assert "\n" not in str(error.value)


def test_a_template_cannot_change_what_it_is_given():
    with pytest.raises(UserError):
        fill("{{ include.append(1) }}", PROBLEM, include=["problem"])


def test_a_problem_that_looks_like_a_template_stays_text():
    made = Problem("{{ answer }} {% raw %}", answer="3", privileged={"solution": "{{ problem }}"})
    assert fill("{{ problem }} | {{ solution }}", made) == "{{ answer }} {% raw %} | {{ problem }}"


def test_earlier_turns_of_a_conversation_stay():
    turns = (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": "1 + 1?"},
    )
    seen = view("student", Problem(turns), "student")
    assert seen.messages[:3] == turns[:3]
    assert seen.messages[3]["content"].startswith("1 + 1?\n")


def test_the_prefill_is_text_after_the_header_and_keeps_its_newline(tokenizer):
    thinks = {"enable_thinking": True}
    prefill = "<think>\n{{ think_prefix }}\n"
    seen = view("student", PROBLEM, "student", prefill=prefill, template_options=thinks)
    assert seen.prefill == f"<think>\n{language('swa').think_prefix}\n"
    bare = View(seen.name, seen.messages, template_options=thinks)
    assert prompt_text(tokenizer, seen) == prompt_text(tokenizer, bare) + seen.prefill


@pytest.mark.parametrize("prefill", ["<think>", "<think>\n", "student", "Ndiyo, "])
def test_a_prefill_is_never_a_templates_name(prefill: str):
    assert view("student", PROBLEM, "student", prefill=prefill).prefill == prefill


def test_template_options_reach_the_chat_template(tokenizer):
    def shown(**options: bool) -> str:
        return prompt_text(tokenizer, view("student", PROBLEM, "student", template_options=options))

    assert shown(enable_thinking=True) != shown(enable_thinking=False)
    assert "</think>" in shown(enable_thinking=False)


def test_ids_are_those_of_the_text_without_further_special_tokens(tokenizer):
    seen = view("student", PROBLEM, "student", prefill="Kwanza")
    text = prompt_text(tokenizer, seen)
    assert tokenizer.decode(prompt_ids(tokenizer, seen)) == text
    assert text.count("<|im_start|>") == 2


def test_nothing_of_a_long_problem_is_cut_or_warned_of(monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    tokenizer = build_tokenizer()  # one that has not warned yet
    long = Problem("yai " * 20_000 + "mwisho")
    ids = prompt_ids(tokenizer, view("student", long, "student"))
    assert len(ids) > 20_000 > tokenizer.model_max_length
    assert "mwisho" in tokenizer.decode(ids[-200:])
    assert caplog.text == ""


def test_a_tokenizer_without_a_chat_template_reads_the_messages():
    plain = build_tokenizer()
    plain.chat_template = None
    messages = ({"role": "system", "content": "S"}, {"role": "user", "content": "U"})
    assert prompt_text(plain, View("v", messages, prefill="go")) == "S\n\nU\n\ngo"


@pytest.mark.parametrize("name", ["problem", "answer", "instruction", "labels"])
def test_a_privileged_text_cannot_stand_for_the_problem(name):
    row = Problem("2 + 2 = ?", answer="4", privileged={name: "It is 4."})
    with pytest.raises(UserError, match=f"'{name}'.*data.columns"):
        StudentPrompt().view(row)
