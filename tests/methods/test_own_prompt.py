"""`own_prompt` is the student's own prompt, whatever a recipe makes of that."""

from __future__ import annotations

import pytest
from tests.arrange import config, odd_length, problems

from opsd import OPSDTrainer
from opsd.methods.parsing import method
from opsd.types import Group, UserError

OTHER = {"template_options": {"enable_thinking": True}, "template": "Say: {{ problem }}"}


@pytest.mark.parametrize(("name", "view"), [("grpo", 0), ("purified_opsd", 2), ("demopsd", 1)])
def test_it_refers_to_the_methods_student(name, view):
    given = {"name": name, "student": OTHER} | ({"beta": 0.1} if name == "grpo" else {})
    made = method(given)
    (leaf,) = (x for _, x in made.signals if x.type == "distill")
    context = leaf.teacher.context
    context = context.contexts[view] if context.type == "multi_view" else context
    problem = problems(1)[0]
    (read,) = context(Group(problem, ()), 0)
    own = made.student.view(problem)
    assert (read.messages, read.template_options) == (own.messages, own.template_options)
    assert read.name == "own_prompt"


def test_before_any_step_the_student_is_no_way_from_its_reference(tmp_path):
    trainer = OPSDTrainer(
        model="miniature",
        method=method({"name": "grpo", "beta": 0.04, "group": 2, "student": OTHER}),
        args=config(tmp_path, max_steps=1),
        train_dataset=problems(2),
        verifier=odd_length,
    )
    trainer.train()
    assert abs(trainer.state.log_history[0]["divergence"]) < 1e-6


def test_it_is_no_prompt_to_sample_with():
    (leaf,) = (x for _, x in method({"name": "grpo", "beta": 0.1}).signals if x.teacher)
    unbound = method({"name": "grpo", "beta": 0.1}).signal.terms[1][1].teacher.context
    assert leaf.teacher.context.prompt is not None and unbound.prompt is None
    with pytest.raises(UserError, match="own_prompt"):
        unbound(Group(problems(1)[0], ()), 0)
