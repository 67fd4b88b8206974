"""Numbers that are none: never learned from, saved, loaded, or written as anything but null."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.arrange import config, gap, odd_length, problems, weights_of

from opsd import methods
from opsd.lm.loading import load_model
from opsd.methods.parsing import method
from opsd.publish.export import export
from opsd.rollout.engine import Sampling
from opsd.runs.files import read_jsonl, to_json
from opsd.runs.folder import RunFolder
from opsd.training.trainer import OPSDTrainer
from opsd.types import RunFailed, UserError, Verdict


def spoilt(trainer: OPSDTrainer, *steps: int) -> OPSDTrainer:
    """A trainer whose backward pass gives no number in these steps."""
    make = trainer.training_step

    def training_step(model: Any, inputs: Any, count: Any = None) -> Any:
        loss = make(model, inputs, count)
        if trainer.state.global_step + 1 in steps:
            next(p for p in model.parameters() if p.grad is not None).grad[0] = math.nan
        return loss

    trainer.training_step = training_step
    return trainer


def trainer_for(folder: Path, model: str, **changes: Any) -> OPSDTrainer:
    args = config(folder, **changes)
    return OPSDTrainer(model, methods.opsd(), args, problems(8))


def strict(path: Path) -> list[dict[str, Any]]:
    """The rows of a file that is JSON by the book: without NaN."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{path} holds {name}")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def test_a_step_without_numbers_is_left_out_and_counted(tmp_path, tiny_folder):
    whole = trainer_for(tmp_path / "a", str(tiny_folder), max_steps=1)
    whole.train()
    run = spoilt(trainer_for(tmp_path / "b", str(tiny_folder), max_steps=2), 2)
    run.train()
    assert gap(weights_of(run.model), weights_of(whole.model)) == 0
    first, second = strict(tmp_path / "b" / "metrics.jsonl")
    assert "nonfinite_steps" not in first and second["nonfinite_steps"] == 1
    assert second["grad_norm"] is None and second["loss"] is not None
    assert run.state.log_history[1]["grad_norm"] is None


def test_a_log_line_with_a_loss_that_is_no_number_has_none(tmp_path, tiny_folder):
    run = trainer_for(tmp_path, str(tiny_folder), max_steps=4, logging_steps=2)
    inner, losses = run._pass, []

    def _pass(*given: Any) -> Any:
        loss = inner(*given)
        losses.append(float(loss))
        return loss * math.nan if len(losses) in (2, 3, 4) else loss

    run._pass = _pass
    run.finite.LIMIT = 4
    run.train()
    rows = strict(tmp_path / "metrics.jsonl")  # such a step is logged at once
    assert [(row["step"], row["loss"]) for row in rows] == [(2, None), (3, None), (4, None)]
    assert [row["nonfinite_steps"] for row in rows] == [1, 1, 1]


def test_a_teacher_does_not_move_at_a_step_that_is_left_out(tmp_path, tiny_folder):
    weights = {"type": "ema", "decay": 0.5}
    chosen = method({"name": "opsd", "signal": {"teacher": {"weights": weights}}})
    args = config(tmp_path, max_steps=1)
    run = spoilt(OPSDTrainer(str(tiny_folder), chosen, args, problems(4)), 1)
    (keeper,) = run.weights.values()
    before = {name: value.clone() for name, value in keeper.weights.items()}
    run.train()
    assert gap(keeper.weights, before) == 0


def test_several_in_a_row_end_the_run_and_no_checkpoint_is_lost(tmp_path, tiny_folder):
    saved = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 1}
    run = spoilt(trainer_for(tmp_path, str(tiny_folder), max_steps=9, **saved), 3, 4, 5)
    told = r"3 steps in a row to step 5: .*the last checkpoint is checkpoint-2"
    with pytest.raises(RunFailed, match=told):
        run.train()
    assert [f.name for f in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]
    assert len(strict(tmp_path / "metrics.jsonl")) == 5


def test_the_last_steps_without_numbers_are_no_success(tmp_path, tiny_folder):
    run = spoilt(trainer_for(tmp_path, str(tiny_folder), max_steps=4), 2, 3, 4)
    with pytest.raises(RunFailed, match="3 steps in a row to step 4"):
        run.train()


def test_a_learning_rate_that_ruins_the_weights_ends_the_run(tmp_path, tiny_folder):
    saved = {"save_strategy": "steps", "save_steps": 1}
    run = trainer_for(tmp_path, str(tiny_folder), max_steps=9, learning_rate=1e38, **saved)
    with pytest.raises(RunFailed, match="learning_rate"):
        run.train()
    assert strict(tmp_path / "metrics.jsonl")


def test_weights_that_are_no_numbers_are_neither_saved_nor_loaded_nor_exported(
    tmp_path, tiny_folder
):
    run = trainer_for(tmp_path / "run", str(tiny_folder))
    next(run.model.parameters()).data[0, 0] = math.inf
    with pytest.raises(RunFailed, match=r"embed_tokens.weight' contains NaN or infinite values"):
        run.save_model(str(tmp_path / "model"))
    folder = tmp_path / "spoilt"
    load_model(str(tiny_folder)).save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][3] = math.nan
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"'model.norm.weight' contains NaN or infinite values"):
        load_model(str(folder))
    (folder / "tokenizer.json").write_bytes((tiny_folder / "tokenizer.json").read_bytes())
    config = (tiny_folder / "tokenizer_config.json").read_bytes()
    (folder / "tokenizer_config.json").write_bytes(config)
    with pytest.raises(UserError, match="contains NaN or infinite values"):
        export(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("reward", [math.nan, math.inf])
def test_a_reward_that_is_no_number_names_its_problem(tmp_path, tiny_folder, reward):
    rows = problems(4)
    run = OPSDTrainer(
        str(tiny_folder),
        methods.grpo(group=2),
        config(tmp_path),
        rows,
        verifier=lambda problem, text: Verdict(reward, False, True),
    )
    with pytest.raises(UserError, match=rf"the reward {reward} for problem [0-9a-f]{{16}}"):
        run.train()


def test_a_verifier_that_gives_no_verdict_is_told_so(tmp_path, tiny_folder):
    args = config(tmp_path)
    judge: Any = lambda problem, text: 1.0  # noqa: E731
    run = OPSDTrainer(str(tiny_folder), methods.grpo(group=2), args, problems(4), verifier=judge)
    with pytest.raises(UserError, match=r"the verifier .* gave 1\.0 for problem"):
        run.train()


@pytest.mark.parametrize("temperature", [1e-320, 1e-4, math.nan, math.inf, -1.0])
def test_temperatures_that_no_logits_survive_are_refused(tmp_path, temperature):
    with pytest.raises(ValueError, match="temperature"):
        config(tmp_path, temperature=temperature)
    with pytest.raises(UserError, match="temperature"):
        Sampling(temperature=temperature)


def test_json_stays_json(tmp_path):
    row = {"a": math.nan, "b": [1.5, -math.inf, {"c": (math.inf, "NaN")}], "d": None}
    assert to_json(row) == '{"a": null, "b": [1.5, null, {"c": [null, "NaN"]}], "d": null}'
    RunFolder(tmp_path).append("metrics.jsonl", [row])
    assert strict(tmp_path / "metrics.jsonl") == list(read_jsonl(tmp_path / "metrics.jsonl"))


def test_a_verifier_of_ones_own_may_say_nothing(tmp_path, tiny_folder):
    args = config(tmp_path, max_steps=1)
    silent = [None, None]
    run = OPSDTrainer(str(tiny_folder), methods.opsd(), args, problems(4), verifier=odd_length)
    run.verifier = lambda problem, text: silent[0]
    run.train()
    assert torch.isfinite(torch.tensor(run.state.log_history[0]["loss"]))
