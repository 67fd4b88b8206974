"""Somebody's own target, context, credit, divergence, weighting and engine: trained, logged,
resumed and reported, from Python and from a recipe, without a line of the package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from tests import own_parts as own
from tests.arrange import command, config, gap, metrics, odd_length, problems, weights_of

from opsd.methods.method import Method
from opsd.methods.signals import Advantage, Distill, Sum, Teacher
from opsd.objective.credit import PolicyGradient
from opsd.objective.support import TopK
from opsd.objective.targets import PerView
from opsd.prompts.contexts import Crosslingual, MultiView, Solution
from opsd.recipe.schema import dump, load, parse
from opsd.rollout.sources import OnPolicy
from opsd.runs.files import read_jsonl
from opsd.teacher.weights import Frozen, Live
from opsd.training.trainer import OPSDTrainer
from opsd.types import UserError

LOGGED = ("target/surest", "token/views_apart", "token/hesitation", "support/student")
OWN = "tests.own_parts"
METHOD = Method(
    name="mine",
    source=OnPolicy(group=2),
    signal=Sum(
        (
            (
                1.0,
                Distill(
                    Teacher(own.RandomSibling(), target=own.Sharper(2.0)),
                    own.hellinger,
                    weighting=(own.Hesitant(),),
                ),
            ),
            (0.5, Distill(Teacher(Solution(), support=TopK(k=20)), own.hellinger)),
            (
                0.5,
                Advantage(
                    own.EitherTeacher(),
                    PolicyGradient(),
                    Teacher(MultiView((Solution(), Crosslingual())), target=PerView()),
                ),
            ),
        )
    ),
)


def trained(folder: Path, model: Path, steps: int, **changes: Any) -> OPSDTrainer:
    trainer = OPSDTrainer(
        str(model),
        METHOD,
        config(folder, max_steps=steps, save_strategy="steps", save_steps=2, trace_steps=2),
        problems(8),
        verifier=odd_length,
        engine=own.Recording(),
    )
    trainer.train(**changes)
    return trainer


def test_they_train_log_and_resume_bit_for_bit(tmp_path, tiny_folder):
    whole = trained(tmp_path / "whole", tiny_folder, 4)
    assert whole.generator.engine.asked > 0
    rows = [row for row in metrics(tmp_path / "whole") if "loss" in row]
    assert all(name in row for row in rows for name in LOGGED)
    assert rows[0]["token/views_apart"] > 0 and 0 < rows[0]["target/surest"] <= 1
    trained(tmp_path / "again", tiny_folder, 2)
    again = trained(tmp_path / "again", tiny_folder, 4, resume_from_checkpoint=True)
    assert gap(weights_of(whole.model), weights_of(again.model)) == 0
    assert [r for r in metrics(tmp_path / "again") if "loss" in r] == rows
    siblings = [
        view["prompt"]
        for row in read_jsonl(tmp_path / "whole" / "rollouts" / "rank0.jsonl")
        for view in row["views"]
        if view["name"] == "sibling"
    ]
    assert siblings


def recipe() -> dict[str, Any]:
    return {
        "model": "miniature",
        "method": {
            "name": "opsd",
            "source": {"type": "on_policy", "group": 4},
            "signal": {
                "teacher": {
                    "context": {"type": f"{OWN}:RandomSibling"},
                    "target": {"type": f"{OWN}:Sharper", "power": 2.0},
                },
                "divergence": f"{OWN}:hellinger",
                "weighting": [{"type": f"{OWN}:Hesitant", "share": 0.5}],
            },
        },
        "data": {"source": "miniature", "language": "swa", "limit": 12},
        "sampling": {"max_completion_length": 32},
        "engine": f"{OWN}:Recording",
        "train": {
            "max_steps": 2,
            "per_device_train_batch_size": 8,
            "gradient_accumulation_steps": 1,
            "save_steps": 1,
            "use_cpu": True,
            "report_to": [],
        },
    }


def test_a_recipe_names_them_and_the_run_remembers(tmp_path, monkeypatch, capsys):
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(recipe()), "utf-8")
    loaded = load(str(file))
    assert loaded.method.signal.divergence is own.hellinger
    assert loaded.method.signal.teacher.target == own.Sharper(2.0)
    assert parse(yaml.safe_load(dump(loaded))).method == loaded.method

    output = tmp_path / "run"
    assert command(monkeypatch, "train", str(file), "--output", str(output)) == 0
    assert f"{OWN}:hellinger" in (output / "recipe.yaml").read_text("utf-8")
    again = ("train", str(file), "--output", str(output), "--resume", "--set", "train.max_steps=4")
    assert command(monkeypatch, *again) == 0
    assert [row["step"] for row in metrics(output) if "loss" in row] == [1, 2, 3, 4]
    assert command(monkeypatch, "report", str(output), "--output", str(tmp_path / "page.html")) == 0
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "token/hesitation" in page
    capsys.readouterr()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"target": {"type": "nowhere:Thing"}}, r"target: there is no 'nowhere:Thing'"),
        ({"target": {"type": f"{OWN}:Nothing"}}, r"target: there is no"),
        ({"target": {"type": f"{OWN}:Sharper", "colour": 1}}, r"colour: unknown key|Sharper"),
        ({"target": {"type": f"{OWN}:hellinger"}}, r"is not a valid target: it lacks"),
        ({"target": f"{OWN}:LOGGED"}, r"there is no"),
        ({"target": {"type": "singel"}}, r"target: it is single, .*, not 'singel'"),
    ],
)
def test_what_is_no_part_is_one_line(change: dict[str, Any], told: str):
    content = recipe()
    content["method"]["signal"]["teacher"] |= change
    with pytest.raises(UserError, match=told) as error:
        parse(content)
    assert "\n" not in str(error.value)


def test_a_verifier_without_a_verdict_is_refused_where_rewards_are_read(tmp_path, tiny_folder):
    trainer = OPSDTrainer(
        str(tiny_folder), METHOD, config(tmp_path), problems(8), verifier=lambda problem, text: None
    )
    with pytest.raises(UserError, match="mine reads rewards, but the verifier gave no verdict"):
        trainer.train()
    assert trainer.state.global_step == 0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"target": {"type": ["single"]}}, "target: it is single"),
        ({"target": [1]}, "target: it is single"),
        ({"target": {"type": ".nowhere:Thing"}}, "there is no '.nowhere:Thing'"),
        ({"target": {"type": f"{OWN}:Sharper", "powr": 2}}, "'powr' is an unknown key"),
        ({"target": {"type": f"{OWN}:Plain", "power": 2}}, "not allowed: not a dataclass"),
        ({"target": {"type": f"{OWN}:PLAIN"}}, "is an instance: make its class a dataclass"),
        ({"target": {"type": f"{OWN}:Broken"}}, "Broken cannot be created: on purpose"),
        ({"context": {"type": f"{OWN}:TooFew"}}, "cannot be called as context\\(group, i, draw\\)"),
        ({"weights": []}, "weights: .*at least 1"),
    ],
)
def test_other_ways_of_being_no_part_are_one_line_too(change: dict[str, Any], told: str):
    content = recipe()
    content["method"]["signal"]["teacher"] |= change
    with pytest.raises(UserError, match=told) as error:
        parse(content)
    assert "\n" not in str(error.value)


def test_as_many_weights_as_views(tmp_path, tiny_folder):
    teacher = Teacher(Solution(), weights=(Frozen(), Live()))
    method = Method(name="mine", signal=Distill(teacher, own.hellinger))
    trainer = OPSDTrainer(str(tiny_folder), method, config(tmp_path), problems(8))
    with pytest.raises(UserError, match=r"has 2 weights, but its context 'solution' gives 1"):
        trainer.train()
