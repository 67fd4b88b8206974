"""A peer writes of what it has solved itself; its texts come to the rollouts that they are of."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from tests.arrange import problems, sampler_for
from tests.authors.test_authors import Given

from opsd.authors.peer import Attempt, PeerAuthor, Tutor
from opsd.prompts.contexts import Feedback
from opsd.types import Finish, Group, Rollout, Verdict

ONE, OTHER = problems(2)
SOUND = "Fikiri kwanza juu ya kila namba."


def wrote(problem, feedback: str = SOUND) -> str:
    """A tutor's text about the first word of a problem."""
    return f"CONCEPT: {problem.text.split()[0]}\nFEEDBACK: {feedback}"


def group(problem, *rights: bool, length: int = 3) -> Group:
    rollouts = tuple(
        Rollout((1,), (2,) * (length - i), f"try {i}", Finish.STOP, None, Verdict(0.0, right, True))
        for i, right in enumerate(rights)
    )
    return Group(problem, rollouts)


@dataclass
class Answers:
    """The other model, which has attempts and has written its texts already."""

    attempts: list[Attempt]
    texts: list[str | None]
    given: list[Any] = field(default_factory=list)

    def trade(self, step: int, offer: Any) -> Any:
        self.given.append((step, offer))
        return self.attempts if len(self.given) == 1 else self.texts


def tutor(other: Answers | None, **changes: Any) -> Tutor:
    made = PeerAuthor(max_tokens=60, **changes).begin()
    made.meet(other)
    return made


def test_texts_cross_and_nothing_else(tokenizer):
    other = Answers([Attempt(ONE, "their try", False)], ["for the first", None])
    author = tutor(other)
    engine = Given(tokenizer, [f"<think>hm</think>{wrote(ONE)}"])
    (made,) = author([group(ONE, True, False)], sampler_for(engine, tokenizer), 5)
    assert made.notes == ({"peer": "for the first"}, {"peer": None})
    (step, attempts), (same, texts) = other.given
    assert step == same == 5 and texts == [SOUND]
    assert attempts == [Attempt(ONE, "try 0", True), Attempt(ONE, "try 1", False)]
    ((prompt, sampling, _),) = engine.asked
    assert ONE.text in prompt and "their try" in prompt and "try 0" in prompt  # its own, right one
    assert "which is wrong" in prompt and "try 1" not in prompt
    assert ONE.privileged["solution"] not in prompt and ONE.privileged["translation"] not in prompt
    assert (sampling.temperature, sampling.max_tokens) == (0.0, 60)


@pytest.mark.parametrize(
    ("rights", "least", "open_"),
    [
        ((False, False), 0.0, False),
        ((False, False), 1.0, False),
        ((True, False), 0.0, True),
        ((True, False), 0.5, True),
        ((True, False), 0.51, False),
        ((True, True), 1.0, True),
    ],
)
def test_a_tutor_writes_of_what_it_knows_enough_of(tokenizer, rights, least, open_):
    other = Answers([Attempt(ONE, "?", False)], [None, None])
    author = tutor(other, min_pass_rate=least)
    engine = Given(tokenizer, [wrote(ONE)] * open_)
    author([group(ONE, *rights)], sampler_for(engine, tokenizer), 0)
    assert other.given[1][1] == ([SOUND] if open_ else [None])
    assert author.measured["unsolved"] == (not open_) and author.measured["asked"] == 1


def test_of_its_own_right_solutions_the_shortest_is_shown(tokenizer):
    engine = Given(tokenizer, [wrote(ONE)])
    other = Answers([Attempt(ONE, "?", False)], [None] * 3)
    tutor(other)([group(ONE, True, True, False)], sampler_for(engine, tokenizer), 0)
    assert "try 1" in engine.asked[0][0] and "try 0" not in engine.asked[0][0]


def test_a_problem_of_the_others_alone_is_tried_first_in_one_call_more(tokenizer):
    theirs = [Attempt(OTHER, "a", False), Attempt(OTHER, "b", True), Attempt(ONE, "c", False)]
    engine = Given(tokenizer, ["mine", "mine", wrote(OTHER), wrote(OTHER), wrote(ONE)])
    seen: list[Group] = []
    sampler = sampler_for(engine, tokenizer, observe=seen.extend)
    other = Answers(theirs, [None])
    tutor(other)([group(ONE, True)], sampler, 0)
    assert other.given[1][1] == [SOUND] * 3
    assert OTHER.text in engine.asked[0][0] and "mine" in engine.asked[2][0]
    assert len({seed for _, _, seed in engine.asked}) == 5
    assert seen == []  # no rollouts of its own
    assert sampler.counts.generated_tokens > 0


def test_every_rejection_is_counted_by_its_reason_and_the_counts_go_on(tokenizer):
    texts = [
        *("no form", f"CONCEPT: quark\nFEEDBACK: {SOUND}"),
        *(wrote(ONE, f"Jibu {ONE.answer} ni sawa kabisa."), wrote(ONE)),
    ]
    attempts = [Attempt(ONE, str(i), False) for i in range(4)] + [Attempt(OTHER, "x", False)]
    author = tutor(Answers(attempts, [None]))
    engine = Given(tokenizer, texts)
    author([group(ONE, True), group(OTHER)], sampler_for(engine, tokenizer), 0)
    counted = {"asked": 5, "unsolved": 1, "form": 1, "concept": 1, "short": 1, "written": 1}
    assert author.measured == counted | {"cut_off": 0}
    again = tutor(Answers(attempts[:1], [None]))
    again.load_state_dict(author.state_dict())
    cut = sampler_for(Given(tokenizer, [wrote(ONE)], Finish.LENGTH), tokenizer)
    again([group(ONE, True)], cut, 1)
    assert again.measured == counted | {"asked": 6, "cut_off": 1}


def test_alone_a_model_is_told_nothing(tokenizer):
    groups = [group(ONE, True, False)]
    assert tutor(None)(groups, sampler_for(Given(tokenizer, []), tokenizer), 0) == groups


def shown(made: Group, i: int) -> str | None:
    views = Feedback(demonstration="both", author="peer", template="peer_feedback")(made, i)
    return views and views[0].messages[-1]["content"]


def test_the_teacher_reads_a_right_sibling_and_the_remark_or_whichever_there_is():
    made = group(ONE, True, False)
    made = replace(made, notes=({"peer": "Angalia."}, {"peer": "Tazama."}))
    assert "Angalia." in shown(made, 0) and "try" not in shown(made, 0)  # none is right but itself
    assert "Tazama." in shown(made, 1) and "try 0" in shown(made, 1)
    assert ONE.text in shown(made, 1) and "Angalia" not in shown(made, 1)
    silent = replace(made, notes=({"peer": None}, {"peer": None}))
    assert shown(silent, 0) is None and "remarks" not in shown(silent, 1)
    assert shown(group(ONE, True, False), 0) is None  # nobody has written
