"""Authors: what they are asked, what of their writing is shown, and to which rollout it belongs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from tests.arrange import problems, sampler_for

from opsd.authors.authors import ModelAuthor
from opsd.authors.critique import accepted, first_changed, quoted, shared_prefix, steps
from opsd.prompts.contexts import Critique, ReasonFirst, Rubric
from opsd.rollout.engine import Completion, Sampling
from opsd.types import Finish, Group, Rollout

RIGHT = "<step_1> 2 + 3 = 5 mangoes\n<step_2> 5 x 2 = 10 mangoes\n<answer> \\boxed{10}"
WRONG = "<step_1> 2 + 3 = 5 mangoes\n<step_2> 5 x 2 = 12 mangoes\n<answer> \\boxed{12}"


class Given:
    """An engine whose completions are given texts, in order; it remembers what it was asked."""

    def __init__(self, tokenizer, texts: Sequence[str], finish: Finish = Finish.STOP) -> None:
        self.tokenizer, self.texts, self.finish = tokenizer, list(texts), finish
        self.asked: list[tuple[str, Sampling, int]] = []

    def generate(self, prompts, sampling, seeds, progress=None) -> list[Completion]:
        calls = zip(prompts, seeds, strict=True)
        self.asked += [(self.tokenizer.decode(p), sampling, seed) for p, seed in calls]
        given = [tuple(self.tokenizer(self.texts.pop(0))["input_ids"]) for _ in prompts]
        return [Completion(ids, (0.0,) * len(ids), self.finish) for ids in given]

    def sync(self, model) -> None:
        """No weights are used."""


def group(*texts: str) -> Group:
    (problem,) = problems(1)
    rollouts = tuple(Rollout((1,), (2,), text, Finish.STOP) for text in texts)
    return Group(problem, rollouts)


def author(**changes) -> ModelAuthor:
    return replace(ModelAuthor("critique", "critic", check="critique", max_tokens=50), **changes)


def test_a_critique_is_shown_for_the_rollout_that_it_is_of(tokenizer):
    engine = Given(
        tokenizer, [f"CASE: D\n{RIGHT}", f"<think>hm</think>CASE: A\n{RIGHT}", "nothing"]
    )
    sampler = sampler_for(engine, tokenizer)
    made = author()([group(WRONG, RIGHT, "what?")], sampler, 3)
    assert [note["critique"] for note in made[0].notes] == [RIGHT, RIGHT, None]
    assert sampler.counts.generated_tokens > 0 and len({seed for *_, seed in engine.asked}) == 3
    problem = made[0].problem
    for (prompt, sampling, _), text in zip(engine.asked, (WRONG, RIGHT, "what?"), strict=True):
        assert problem.text in prompt and text in prompt
        assert problem.privileged["solution"] in prompt  # the critic knows it; the teacher will not
        assert sampling == Sampling(temperature=0.0, max_tokens=50)
    (view,) = Critique()(made[0], 0)
    shown = view.messages[-1]["content"]
    assert problem.text in shown and RIGHT in shown and "CASE" not in shown
    assert problem.privileged["solution"] not in shown and "= 12" not in shown
    assert Critique()(made[0], 2) is None and Critique()(group(WRONG), 0) is None


def test_one_engine_call_writes_for_all_groups_and_a_rubric_is_the_whole_groups(tokenizer):
    engine = Given(tokenizer, ["Essential: adds", "Avoid: guessing"])
    groups = [group("a", "b"), group(), group("c")]
    writer = ModelAuthor("rubric", "rubric_writer", per="problem", max_tokens=50)
    made = writer(groups, sampler_for(engine, tokenizer), 0)
    assert len(engine.asked) == 2
    assert [[note["rubric"] for note in g.notes] for g in made] == [
        ["Essential: adds"] * 2,
        [],
        ["Avoid: guessing"],
    ]
    (view,) = Rubric()(made[0], 1)
    shown, solution = view.messages[-1]["content"], made[0].problem.privileged["solution"]
    assert "Essential: adds" in shown and solution not in shown
    (told,) = Rubric(solution=True)(made[0], 1)
    assert solution in told.messages[-1]["content"]


def test_what_is_cut_off_or_empty_is_none_and_earlier_notes_stay(tokenizer):
    sampler = sampler_for(Given(tokenizer, ["half a", "half b"], Finish.LENGTH), tokenizer)
    writer = ModelAuthor("analysis", "analysis", max_tokens=50)
    first = replace(group("a", "b"), notes=({"rubric": "r"}, {"rubric": None}))
    (made,) = writer([first], sampler, 0)
    assert made.notes == ({"rubric": "r", "analysis": None}, {"rubric": None, "analysis": None})
    assert ReasonFirst()(made, 0) is None
    whole = sampler_for(Given(tokenizer, ["", "<think>why</think> because"]), tokenizer)
    (made,) = writer([first], whole, 0)
    assert [note["analysis"] for note in made.notes] == [None, "because"]


def test_the_datasets_own_text_is_shown_without_an_author():
    one = group("a")
    problem = replace(one.problem, privileged={**one.problem.privileged, "rubric": "mine"})
    (view,) = Rubric()(replace(one, problem=problem), 0)
    assert "mine" in view.messages[-1]["content"]
    refused = replace(one, problem=problem, notes=({"rubric": None},))
    assert Rubric()(refused, 0) is None


@pytest.mark.parametrize(
    ("critique", "completion", "text"),
    [
        (f"CASE: A\n{RIGHT}", RIGHT, RIGHT),
        (f"CASE: A\n {RIGHT}\n", RIGHT.replace("\n", "  "), RIGHT),
        (f"CASE: A\n{RIGHT}", WRONG, None),  # says that it changes nothing, and does
        (f"CASE: D\n{RIGHT}", WRONG, RIGHT),
        (f"CASE: D\n{RIGHT}", RIGHT, None),  # finds an error, and changes nothing
        (f"CASE: D\n{RIGHT}\nNot 5 x 2 = 12 mangoes", WRONG, None),  # quotes the error
        (f"CASE: C\n{RIGHT}", "<step_1> 2 + 3 = 5 mangoes", RIGHT),
        (f"CASE: B\n{RIGHT}", RIGHT, RIGHT),
        (RIGHT, WRONG, None),
        ("CASE: E\nx", WRONG, None),
        ("CASE: D", WRONG, None),
        ("", WRONG, None),
    ],
)
def test_a_critique_has_its_form_and_does_not_teach_the_error(critique, completion, text):
    assert accepted(critique, completion) == text


def test_steps_are_told_apart_by_tags_or_lines():
    assert steps(RIGHT)[:2] == ["2 + 3 = 5 mangoes", "5 x 2 = 10 mangoes"]
    assert first_changed(WRONG, RIGHT) == "5 x 2 = 12 mangoes"
    assert first_changed(RIGHT, RIGHT) is None
    assert shared_prefix(WRONG, RIGHT) == 0.5 and shared_prefix("", RIGHT) == 0.0
    assert quoted("a b c d e", "x a b c d e y") and not quoted("a b c d e", "a b c x d e")
    assert quoted("12", "it is 12 ok") and not quoted("", "")
