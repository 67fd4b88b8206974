"""A run in Python leaves what the command leaves, and is gone on with and asked as it was."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from peft import LoraConfig
from tests import own_parts as own
from tests.arrange import command, config, gap, metrics, odd_length, problems, weights_of

from opsd import methods
from opsd.data.problems import Data
from opsd.evaluate.command import evaluate_models
from opsd.evaluate.prompt_protocol import prompt_protocol
from opsd.grade.texts import RegexVerifier
from opsd.methods.method import Method
from opsd.methods.parsing import method as parsed
from opsd.methods.signals import Distill, Teacher
from opsd.objective.divergences import forward_kl
from opsd.prompts.contexts import Solution, StudentPrompt
from opsd.publish.export import export
from opsd.recipe import schema as recipes
from opsd.recipe.content import Lora
from opsd.training.record import Content
from opsd.training.trainer import OPSDTrainer
from opsd.types import Problem, UserError, Verdict

DATA = Data(source="miniature", language="swa", limit=8, dev=2)
BOXED = RegexVerifier(r"boxed\{(?P<answer>[^}]*)")


def trained(folder: Path, model: Path, steps: int = 2, resume: bool = False, **given: Any) -> Any:
    args = config(folder, max_steps=steps, save_strategy="steps", save_steps=2)
    given = {"train_dataset": DATA, "verifier": BOXED, "method": methods.grpo(group=2), **given}
    trainer = OPSDTrainer(str(model), args=args, **given)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


@pytest.mark.parametrize("name", methods.catalogue())
def test_a_method_is_written_as_a_recipe_writes_it(name: str):
    content = Content()
    content.part("method", methods.catalogue()[name])
    assert not content.unwritten
    assert parsed(json.loads(json.dumps(content.keys["method"]))) == methods.catalogue()[name]


def test_its_recipe_is_the_trainer_and_the_command_goes_on_bit_for_bit(
    tmp_path, tiny_folder, monkeypatch
):
    def lora() -> LoraConfig:  # which PEFT fills in
        return LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules="all-linear")

    whole = trained(tmp_path / "whole", tiny_folder, 4, peft_config=lora())
    begun = trained(tmp_path / "run", tiny_folder, 2, peft_config=lora())
    recipe = recipes.load(str(tmp_path / "run"))
    assert not recipe.unwritten and recipe.verifier == BOXED and recipe.data == DATA
    assert recipe.method == begun.method and recipe.model.name == str(tiny_folder)
    assert recipe.model.lora == Lora(r=4, lora_alpha=8)
    assert recipe.train["learning_rate"] == 1e-3 and recipe.train["save_steps"] == 2
    assert (tmp_path / "run" / "model" / "adapter_model.safetensors").is_file()
    environment = json.loads((tmp_path / "run" / "env.json").read_text())
    assert environment["seed"] == 42 and environment["model"] == str(tiny_folder)

    more = ("--resume", "--set", "train.max_steps=4")
    assert command(monkeypatch, "train", str(tmp_path / "run"), *more) == 0
    assert metrics(tmp_path / "run")[:2] == metrics(tmp_path / "whole")[:2]
    losses = [
        [row for row in metrics(tmp_path / name) if "loss" in row] for name in ("run", "whole")
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 4
    again = trained(tmp_path / "run", tiny_folder, 4, resume=True, peft_config=lora())
    assert gap(weights_of(again.model), weights_of(whole.model)) == 0


@dataclass(frozen=True)
class Here(own.Plain):
    """Made here; its name leads to it."""


def test_a_method_of_ones_own_is_named(tmp_path, tiny_folder):
    method = Method(name="mine", signal=Distill(Teacher(Solution()), own.hellinger))
    trained(tmp_path, tiny_folder, method=method, verifier=odd_length)
    recipe = recipes.load(str(tmp_path))
    assert recipe.method == method and recipe.verifier is odd_length and not recipe.unwritten


def test_what_has_no_name_is_said_and_the_rest_is_there(tmp_path, tiny_folder, monkeypatch, capsys):
    prompt = StudentPrompt(prefill="Well,")
    nameless = lambda student, target: forward_kl(student, target)  # noqa: E731
    method = Method(name="mine", signal=Distill(Teacher(Solution()), nameless), student=prompt)
    rows = problems(8)
    lost = {"train_dataset": rows, "verifier": lambda p, c: Verdict(1.0, True, True)}
    trained(tmp_path, tiny_folder, method=method, **lost)
    content = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    wheres = [line.partition(":")[0] for line in content["unwritten"]]
    assert wheres == ["method.signal.divergence", "data", "verifier"]
    assert content["sampling"]["max_completion_length"] == 6
    assert "lacks values without a name (method.signal.divergence: " in capsys.readouterr().err

    assert command(monkeypatch, "train", str(tmp_path), "--resume") == 2
    told = capsys.readouterr().err
    assert "8 problems given as objects" in told and "resume_from_checkpoint=True" in told
    model = str(tmp_path / "model")
    with pytest.raises(UserError, match="its verifier has no name: choose one with"):
        prompt_protocol([model], None, False, None)
    asked = prompt_protocol([model], None, False, None, verifier=BOXED)
    assert asked.prompt == prompt and asked.languages == ("swa",)
    longer = trained(tmp_path, tiny_folder, 4, resume=True, method=method, **lost)
    assert longer.state.global_step == 4


def test_run_checkpoint_and_export_are_asked_and_judged_alike(tmp_path, tiny_folder):
    method = methods.opsd()
    trained(tmp_path / "run", tiny_folder, method=method)
    exported = export(tmp_path / "run", tmp_path / "out")
    kept = []
    for model in (tmp_path / "run", tmp_path / "run" / "checkpoint-2", exported):
        said = {"data": "miniature", "languages": ["swa"], "limit": 2, "samples": 1, "budgets": [4]}
        evaluate_models([str(model)], output=tmp_path / "eval" / model.name, **said)
        (claim,) = (tmp_path / "eval" / model.name).rglob("protocol.json")
        kept.append(json.loads(claim.read_text())["protocol"])
    assert kept[0] == kept[1] == kept[2] and kept[0]["verifier"]["type"] == "regex"
    assert kept[0]["prompt"]["template_options"] == method.student.template_options


def test_a_verifier_judges_training_dev_and_evaluation(tmp_path, tiny_folder):
    seen: list[str] = []

    def judge(problem: Problem, completion: str) -> Verdict:
        seen.append(problem.id)
        return Verdict(0.25, True, True)

    args = config(tmp_path, max_steps=1, eval_strategy="steps", eval_steps=1, eval_samples=2)
    trainer = OPSDTrainer(str(tiny_folder), methods.opsd(), args, DATA, verifier=judge)
    trainer.train()
    logged = metrics(tmp_path)
    assert next(row for row in logged if "loss" in row)["reward"] == 0.25
    assert next(row for row in logged if "eval_avg@k" in row)["eval_avg@k"] == 1.0
    assert len(seen) == 4 + 2 * 2
    said = {"data": "miniature", "languages": ["swa"], "limit": 2, "samples": 1, "budgets": [4]}
    outcome = evaluate_models([str(tmp_path)], output=tmp_path / "e", verifier=odd_length, **said)
    (result,) = outcome["results"]
    assert result["maj@k"] is None and result["reward"] == result["avg@k"]
