"""The next step's rollouts, written while this one learns, by an engine with its own weights."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.arrange import config, gap, problems, weights_of
from transformers import TrainerCallback

from opsd import OPSDTrainer, methods
from opsd.lm.loading import load_model
from opsd.rollout.engine import Completion
from opsd.rollout.hf import HFEngine
from opsd.runs.files import read_jsonl
from opsd.types import UserError

STEPS = 5


class Apart(HFEngine):
    """The same engine on a copy of the model, whose weights change when they are handed over."""

    is_remote = True

    def __init__(self, model: Any, **settings: Any) -> None:
        super().__init__(copy.deepcopy(model), **settings)
        self.versions = 0
        self.written: list[int] = []

    def sync(self, model: Any) -> None:
        self.model.load_state_dict(model.state_dict())
        self.versions += 1

    def generate(self, prompts: Sequence[Any], *args: Any, **kwargs: Any) -> list[Completion]:
        self.written.append(self.versions)
        return super().generate(prompts, *args, **kwargs)


class StopAt(TrainerCallback):
    """Ends a run early, as if it had died after a checkpoint."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step == self.step


@pytest.fixture
def start(tiny_folder, tokenizer):
    def run(folder: Path, *, method: Any = None, **changes: Any) -> OPSDTrainer:
        model = load_model(str(tiny_folder))
        own = {"eos_ids": [tokenizer.eos_token_id], "pad_id": 0, "vocab": len(tokenizer)}
        how = {"max_steps": STEPS, "async_rollouts": True, "logging_steps": 1, **changes}
        return OPSDTrainer(
            model,
            method or methods.opsd(),
            config(folder, **how),
            problems(8),
            processing_class=tokenizer,
            engine=Apart(model, **own),
        )

    return run


def written(folder: Path) -> list[tuple[int, str, list[int]]]:
    rows = read_jsonl(folder / "rollouts" / "rank0.jsonl")
    return [(row["step"], row["problem"], row["completion_ids"]) for row in rows]


def test_rollouts_are_one_step_old_and_of_the_same_problems(tmp_path, start):
    plain, ahead = (start(tmp_path / str(yes), async_rollouts=yes) for yes in (False, True))
    plain.train()
    ahead.train()
    # Two steps an epoch: what an epoch begins with is written when it begins.
    assert plain.generator.engine.written == [1, 2, 3, 4, 5]
    assert ahead.generator.engine.written == [1, 1, 2, 2, 3]
    ours, theirs = written(tmp_path / "True"), written(tmp_path / "False")
    assert [row[:2] for row in ours] == [row[:2] for row in theirs]
    assert ours[:4] == theirs[:4] and ours[4:8] != theirs[4:8]
    counts = [t.state.log_history[-2]["generated_tokens"] for t in (plain, ahead)]
    assert counts[1] == sum(len(row[2]) for row in ours) and counts[0] > 0
    lengths = [row["completions/mean_length"] for row in ahead.state.log_history if "loss" in row]
    assert len(lengths) == STEPS


def test_a_resumed_run_equals_the_uninterrupted(tmp_path, start):
    saving = {"save_strategy": "steps", "save_steps": 1}
    whole = start(tmp_path / "whole", **saving)
    whole.train()
    first = start(tmp_path / "cut", **saving)
    first.add_callback(StopAt(3))
    first.train()
    again = start(tmp_path / "cut", **saving)
    again.train(resume_from_checkpoint=True)
    assert gap(weights_of(again.model), weights_of(whole.model)) == 0
    assert written(tmp_path / "cut") == written(tmp_path / "whole")


def test_what_cannot_be_written_ahead_is_refused(tmp_path, start, tiny_folder):
    with pytest.raises(UserError, match="grpo reuses rollouts"):
        start(tmp_path, method=methods.grpo(group=2, reuse=2))
    with pytest.raises(UserError, match="needs an engine that runs elsewhere"):
        OPSDTrainer(
            str(tiny_folder), methods.opsd(), config(tmp_path, async_rollouts=True), problems(8)
        )
