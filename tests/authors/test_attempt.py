"""The author that tries a problem itself, as the teacher reads it."""

from __future__ import annotations

from dataclasses import replace

from tests.arrange import config, problems, sampler_for

from opsd import OPSDTrainer
from opsd.authors.authors import AttemptAuthor
from opsd.methods.parsing import method
from opsd.prompts.contexts import Solution
from opsd.rollout.engine import Completion
from opsd.types import Finish, Group, Problem, Rollout, Verdict


class Writes:
    """An engine that writes what it is told to, and keeps what it was asked."""

    def __init__(self, tokenizer, *texts: str, finish: Finish = Finish.STOP) -> None:
        self.tokenizer, self.texts, self.finish = tokenizer, texts, finish
        self.prompts: list[str] = []

    def generate(self, prompts, sampling, seeds, progress=None):
        self.prompts += [self.tokenizer.decode(ids) for ids in prompts]
        ids = [tuple(self.tokenizer(t, add_special_tokens=False)["input_ids"]) for t in self.texts]
        return [Completion(own, None, self.finish) for own in ids]


def right(pairs) -> list[Verdict | None]:
    return [
        None if "?" in text else Verdict(1.0, problem.answer in text, True)
        for problem, text, _ in pairs
    ]


def asked(tokenizer, *texts: str, **changes) -> tuple[list[Group], Writes]:
    engine = Writes(tokenizer, *texts, **changes)
    rollout = Rollout((1,), (2,), "x", Finish.STOP)
    groups = [Group(p, (rollout, rollout)) for p in problems(len(texts), "eng")]
    author = AttemptAuthor(context=Solution())
    return author(groups, sampler_for(engine, tokenizer, verify=right), 0), engine


def test_what_is_right_is_noted_of_the_whole_group_and_nothing_else(tokenizer):
    answers = [p.answer for p in problems(3, "eng")]
    made, engine = asked(tokenizer, f"It is {answers[0]}", "It is none", "Is it?")
    noted = [[note["attempt"] for note in group.notes] for group in made]
    assert noted == [[f"It is {answers[0]}"] * 2, [None] * 2, [None] * 2]
    for problem, prompt in zip(problems(3, "eng"), engine.prompts, strict=True):
        assert problem.text in prompt and problem.privileged["solution"] in prompt


def test_what_is_cut_off_is_none(tokenizer):
    answer = problems(1, "eng")[0].answer
    made, _ = asked(tokenizer, f"It is {answer}", finish=Finish.LENGTH)
    assert [note["attempt"] for note in made[0].notes] == [None, None]


def test_other_notes_stay_and_a_group_without_rollouts_is_not_asked(tokenizer):
    engine = Writes(tokenizer, "It is none")
    rollout = Rollout((1,), (2,), "x", Finish.STOP)
    first, second = problems(2, "eng")
    groups = [Group(first, (rollout,), ({"rubric": "r"},)), Group(second, ())]
    made = AttemptAuthor()(groups, sampler_for(engine, tokenizer, verify=right), 0)
    assert made[0].notes == ({"rubric": "r", "attempt": None},) and made[1].notes == ()
    assert len(engine.prompts) == 1


def learned(folder, model: str, answers: bool) -> float:
    """Rollouts of a step that are learned from, where the teacher is always or never right."""

    def judge(problem: Problem, completion: str) -> Verdict:
        return Verdict(float(answers), answers, True)

    context = {"type": "filtered", "where": "teacher_right", "context": {"type": "solution"}}
    author = {"type": "attempt", "max_tokens": 40}
    changed = {"signal": {"teacher": {"context": context}}, "authors": [author]}
    args = config(folder, max_steps=1, max_completion_length=32)
    rows = [replace(p, answer=p.answer) for p in problems(4)]
    run = OPSDTrainer(model, method({"name": "opsd", **changed}), args, rows, verifier=judge)
    run.train()
    return run.state.log_history[0]["rollouts_learned"]


def test_only_what_the_teacher_gets_right_is_taught(tmp_path):
    assert learned(tmp_path / "right", "miniature-tiny", answers=True) > 0
    assert learned(tmp_path / "wrong", "miniature-tiny", answers=False) == 0
