"""What a teacher knows and says is measured as its names say, and the verdict follows from it."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.arrange import command, problems
from transformers import AutoModelForCausalLM, AutoTokenizer

from opsd.data.controls import coming_to, wrong, wrong_answers
from opsd.lm.built_in import model_path
from opsd.preview.measure import measure
from opsd.preview.page import preview_page
from opsd.preview.rows import preview
from opsd.preview.worth import ALONE, ANOTHER, CHANGE, NOT, TRAIN, UNFORCED, UNKNOWN, WRONG, worth
from opsd.prompts.contexts import Context, StudentPrompt
from opsd.prompts.prompt import prompt_ids
from opsd.recipe import schema as recipes
from opsd.recipe.schema import Recipe
from opsd.recipe.train import make_trainer
from opsd.rollout.sources import OnPolicy
from opsd.types import Group, Problem, UserError

PLAIN = {"prefill": "", "template_options": {"enable_thinking": False}}
PROBLEMS = 24


def recipe(method: Any, language: str = "swa", **changes: Any) -> Recipe:
    content = {
        "model": "miniature",
        "method": method,
        "data": {"source": "miniature", "language": language},
        "sampling": {"max_completion_length": 32, "temperature": 1.0, "top_k": 0, "top_p": 1.0},
    }
    return recipes.parse({**content, **changes})


def copsd(**context: Any) -> dict[str, Any]:
    teacher = {"context": {**PLAIN, **context}}
    return {"name": "copsd", "student": PLAIN, "signal": {"teacher": teacher}}


def content(
    student: float = 0.2,
    teacher: float = 0.8,
    gain: tuple[float, float, float] = (0.6, 0.4, 0.8),
    follows: float = 0.1,
    tokens: int = 50,
    **changes: Any,
) -> dict[str, Any]:
    rows = {"student": student, "teacher": teacher, WRONG: 0.1}
    made = [{"reader": n, "right": {"value": v}, "tokens": 60} for n, v in rows.items()]
    made[1]["tokens"], made[-1]["follows"] = tokens, follows
    return {
        "answers": made,
        "gain": dict(zip(("value", "low", "high"), gain, strict=True)),
        **{"nats": 0.3, "explained": {ANOTHER: 0.1, ALONE: 0.2}, "wording": {"terse": 0.2}},
        **changes,
    }


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    return measure(recipe(copsd()), PROBLEMS)


def test_a_teacher_that_is_told_nothing_is_the_student():
    method = copsd()
    method["signal"]["teacher"]["context"] = {"type": "student", **PLAIN}
    found = measure(recipe(method), 8)
    assert abs(found["nats"]) < 1e-6 and all(abs(p["nats"]) < 1e-6 for p in found["by_position"])
    assert found["verdict"] == NOT
    assert "predicts what the student does" in " ".join(found["reasons"])


def test_distances_are_those_of_whole_distributions(told):
    # One rollout of a problem whose teacher's and student's prompts are written by hand.
    asked = recipe(copsd(), train={"seed": 3})
    found = measure(asked, 1)
    assert ANOTHER not in found["explained"]  # there is no other problem
    folder = model_path("miniature")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    (problem,) = problems(1, "swa")
    (term,) = [term for _, term in asked.method.signals]
    (view,) = term.teacher.context(Group(problem, ()), 0)
    ids = rollout_of(asked, problem)
    logp = []
    for one in (asked.method.student.view(problem), view):
        prompt = prompt_ids(tokenizer, one)
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *ids]])).logits[0]
        logp.append(logits[len(prompt) - 1 : -1, : len(tokenizer)].log_softmax(-1))
    student, teacher = logp
    nats = (teacher.exp() * (teacher - student)).sum(-1)
    assert found["nats"] == pytest.approx(nats.mean().item(), rel=1e-4)
    assert found["by_position"][0]["nats"] == pytest.approx(
        nats[: found["by_position"][0]["tokens"]].mean().item(), rel=1e-4
    )


def rollout_of(asked: Recipe, problem: Problem) -> tuple[int, ...]:
    """What the student writes of a problem, by a trainer's own sampler."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(asked, Path(folder), [problem])
        sampler = trainer.generator.sampler.outside_training(trainer.args.seed)
        trainer.generator.sync(0)
        (group,) = sampler.sample([problem], OnPolicy(), step=0, phase="student")
    return group.rollouts[0].completion_ids


def wilson(share: float, n: int) -> tuple[float, float]:
    z = 1.96
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * (share * (1 - share) / n + z**2 / (4 * n**2)) ** 0.5
    return centre - half, centre + half


def test_answers_of_student_and_teacher_are_counted(told):
    rows = {row["reader"]: row for row in told["answers"]}
    assert list(rows) == ["student", "teacher", ANOTHER, WRONG]
    for row in rows.values():
        right = row["right"]
        low, high = wilson(right["value"], PROBLEMS)
        assert right["low"] == pytest.approx(low, abs=0.03)
        assert right["high"] == pytest.approx(high, abs=0.03)
    assert rows["teacher"]["right"]["value"] > rows["student"]["right"]["value"] + 0.3
    assert rows[ANOTHER]["right"]["value"] < rows["student"]["right"]["value"]
    assert told["gain"]["value"] == pytest.approx(
        rows["teacher"]["right"]["value"] - rows["student"]["right"]["value"]
    )
    assert told["verdict"] == TRAIN and told["explained"][ANOTHER] < 0
    assert sum(part["tokens"] for part in told["by_position"]) == pytest.approx(
        rows["student"]["tokens"] * PROBLEMS
    )


def test_a_reference_that_is_copied_is_seen():
    method = copsd()
    method["name"], method["signal"]["teacher"]["context"] = "opsd", PLAIN
    data = {"source": "miniature-long", "language": "eng"}
    sampling = {"max_completion_length": 100, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    asked = recipe(method, model="miniature-long", data=data, sampling=sampling)
    found = measure(asked, 12)
    row = next(row for row in found["answers"] if row["reader"] == WRONG)
    assert row["follows"] > 0.3 and row["right"]["value"] + row["follows"] <= 1
    assert found["explained"][ANOTHER] > 0.5
    assert f"a wrong solution, it repeats that one's answer in {row['follows']:.0%}" in " ".join(
        found["reasons"]
    )


def test_a_wrong_solution_names_another_answer_wherever_it_names_its_own():
    given = problems(6, "eng")
    for one, right, answer in zip(wrong(given, 0), given, wrong_answers(given, 0), strict=True):
        assert one.answer == right.answer != answer
        assert answer in one.privileged["solution"]
        assert one == coming_to(right, answer)
    silent = replace(given[0], privileged={"solution": "It is known."})
    assert coming_to(silent, "5") is None
    with pytest.raises(UserError, match="does not state its answer"):
        wrong([silent, given[1]], 0)


class AfterRollouts(Context):
    """Shows what others of the group have written, and nothing before."""

    def __call__(self, group: Group, i: int, draw: Any = None) -> Any:
        return StudentPrompt(**PLAIN)(group, i) if group.rollouts else None


def test_a_student_that_is_made_to_begin_in_a_way_answers_freely_as_well():
    method = copsd()
    method["student"] = PLAIN | {"prefill": "Kwanza"}
    method["signal"]["teacher"]["context"]["prefill"] = "Kwanza"
    found = measure(recipe(method), 4)
    rows = [row["reader"] for row in found["answers"]]
    assert rows == ["student", UNFORCED, "teacher", ANOTHER, WRONG]
    forced, free = (row["tokens"] for row in found["answers"][:2])
    assert forced < free  # the beginning is no part of the answer


def test_what_cannot_be_asked_before_there_are_rollouts_is_said():
    asked = recipe(copsd())
    signal = asked.method.signal
    teacher = replace(signal.teacher, context=AfterRollouts())
    method = replace(asked.method, signal=replace(signal, teacher=teacher))
    found = measure(asked.model_copy(update={"method": method}), 4)
    assert [row["reader"] for row in found["answers"]] == ["student"] and found["gain"] is None
    assert any("before there are rollouts" in line for line in found["not_measured"])
    assert found["verdict"] == NOT  # it reads what the student reads


def test_a_method_without_a_teacher_is_refused():
    with pytest.raises(UserError, match="grpo has no teacher"):
        measure(recipe("grpo"), 4)


def test_a_beginning_that_decides_the_language_is_said_to():
    made = content()
    made["answers"][0]["fidelity"] = 0.95
    made["answers"].append(made["answers"][0] | {"reader": UNFORCED, "fidelity": 0.2})
    told = "95% of what it writes is in the language, 20% without"
    assert told in " ".join(worth(made)[1])


@pytest.mark.parametrize(
    ("changes", "verdict", "says"),
    [
        ({}, TRAIN, "Telling helps: of the teacher's answers 80% are right, of the student's 20%"),
        ({"gain": (-0.1, -0.2, 0.0)}, NOT, "Telling does not help"),
        ({"gain": (0.1, -0.1, 0.3)}, UNKNOWN, "Measure more problems"),
        ({"gain": None}, UNKNOWN, "could not be measured"),
        ({"nats": 0.001}, NOT, "0.001 nats a token apart"),
        ({"follows": 0.7}, CHANGE, "It copies"),
        ({"tokens": 20}, TRAIN, "to be short: its answers have 20 tokens, the student's 60"),
        ({"tokens": 200}, TRAIN, "It teaches to be long"),
        ({"explained": {ANOTHER: 0.9}}, CHANGE, "form more than content: 90%"),
        ({"explained": {ANOTHER: -2.0}}, TRAIN, "none of what it would teach"),
        ({"explained": {ALONE: 0.8}}, TRAIN, "`purified_opsd`"),
        ({"wording": {"terse": 0.1, "verbose": 0.6}}, TRAIN, "in verbose words"),
    ],
)
def test_verdicts_follow_from_what_was_measured(changes, verdict, says):
    made = content() | {"gain": None} if "gain" in changes and not changes["gain"] else None
    found, reasons = worth(made or content(**changes))
    assert found == verdict and says in " ".join(reasons)


def test_the_command_and_the_page_show_it(tmp_path, told, monkeypatch, capsys):
    asked = recipe(copsd())
    path = tmp_path / "recipe.yaml"
    path.write_text(recipes.dump(asked))
    given = ("preview", str(path), "--rows", "0", "--measure", "4")
    assert command(monkeypatch, *given, "--json") == 0
    measured = json.loads(capsys.readouterr().out)["measured"]
    assert measured["problems"] == 4
    assert command(monkeypatch, *given) == 0
    assert measured["verdict"].capitalize() in capsys.readouterr().out
    page = preview_page(preview(asked, 0) | {"measured": told})
    assert told["verdict"].capitalize() in page and "<rect" in page


def test_a_page_without_measurements_is_written_as_before():
    page = preview_page(preview(recipe(copsd()), 1))
    assert "worth" not in page and 'id="row-1"' in page
