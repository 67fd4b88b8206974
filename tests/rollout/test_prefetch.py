"""The next step's rollouts, written while this one learns, by an engine with its own weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.arrange import config, gap, problems, weights_of
from transformers import TrainerCallback

from opsd import OPSDTrainer, methods
from opsd.authors.authors import FunctionAuthor
from opsd.lm.loading import load_model
from opsd.rollout.engine import Completion, Engine
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


class Kept(Apart):
    """The same, which goes on with the weights of before where it is asked to."""

    pins_weights = True

    @contextmanager
    def pinned(self) -> Iterator[Engine]:
        own = copy.copy(self)
        own.model = copy.deepcopy(self.model)
        yield own


class StopAt(TrainerCallback):
    """Ends a run early, as if it had died after a checkpoint."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step == self.step


@pytest.fixture
def start(tiny_folder, tokenizer):
    def run(
        folder: Path, *, method: Any = None, engine: type = Apart, rows: int = 8, **changes: Any
    ) -> OPSDTrainer:
        model = load_model(str(tiny_folder))
        own = {"eos_ids": [tokenizer.eos_token_id], "pad_id": 0, "vocab": len(tokenizer)}
        how = {"max_steps": STEPS, "async_rollouts": True, "logging_steps": 1, **changes}
        return OPSDTrainer(
            model,
            method or methods.opsd(),
            config(folder, **how),
            problems(rows),
            processing_class=tokenizer,
            engine=engine(model, **own),
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


AHEAD: dict[str, Any] = {
    "engine": Kept,
    "rows": 64,
    "max_steps": 8,
    "async_rollouts": {"max_staleness": 3},
}


def test_rollouts_are_as_old_as_they_may_be_and_no_older(tmp_path, start):
    trainer = start(tmp_path, **AHEAD)
    trainer.train()
    versions = [0, 0, 0, 0, 1, 2, 3, 4]
    ages = [step - version for step, version in enumerate(versions)]
    # Handovers are counted by the engine, from 1.
    assert sorted(trainer.generator.engine.written) == [version + 1 for version in versions]
    rows = list(read_jsonl(tmp_path / "rollouts" / "rank0.jsonl"))
    assert {(row["step"], row["weights_version"]) for row in rows} == set(enumerate(versions))
    logged = [row for row in trainer.state.log_history if "loss" in row]
    assert [row["staleness/mean"] for row in logged] == ages
    assert [row["staleness/max"] for row in logged] == ages
    # Weights that have moved on read otherwise than those that wrote.
    gaps = [row["sampling/sampling_logp_difference/mean"] for row in logged]
    assert gaps[0] < 1e-6 and min(gaps[1:]) > 1e-5


def test_true_is_one_step(tmp_path, start):
    runs = []
    for ahead in (True, {"max_staleness": 1}):
        runs.append(start(tmp_path / str(len(runs)), **AHEAD | {"async_rollouts": ahead}))
        runs[-1].train()
    assert gap(*(weights_of(run.model) for run in runs)) == 0
    assert written(tmp_path / "0") == written(tmp_path / "1")


def test_a_resumed_run_learns_from_what_was_under_way(tmp_path, start):
    saving = {"save_strategy": "steps", "save_steps": 1, **AHEAD}
    whole = start(tmp_path / "whole", **saving)
    whole.train()
    first = start(tmp_path / "cut", **saving)
    first.add_callback(StopAt(4))
    first.train()
    again = start(tmp_path / "cut", **saving)
    again.train(resume_from_checkpoint=True)
    assert gap(weights_of(again.model), weights_of(whole.model)) == 0
    assert written(tmp_path / "cut") == written(tmp_path / "whole")
    assert len(again.generator.engine.written) == 1  # three of the four steps were under way


def test_what_is_older_than_a_resumed_run_allows_is_written_anew(tmp_path, start, capsys):
    saving = {"save_strategy": "steps", "save_steps": 1, **AHEAD}
    first = start(tmp_path, **saving)
    first.add_callback(StopAt(4))
    first.train()
    again = start(tmp_path, **saving | {"async_rollouts": True})
    again.train(resume_from_checkpoint=True)
    told = "rollouts of steps 5, 6, 7 are older than max_staleness: generating them again"
    assert told in capsys.readouterr().err
    logged = [row for row in again.state.log_history if "loss" in row]
    assert [row["staleness/max"] for row in logged] == [0, 1, 2, 3, 0, 1, 1, 1]


def says_nothing(problem: Any, completion: str, right: bool | None) -> None:
    """An author's text."""


def test_who_cannot_keep_weights_writes_one_step_ahead(tmp_path, start):
    with pytest.raises(UserError, match="above 1 needs an engine that keeps older weights"):
        start(tmp_path, **AHEAD | {"engine": Apart})
    author = FunctionAuthor("critique", function=f"{__name__}:says_nothing")
    authored = replace(methods.step_critique(), authors=(author,))
    with pytest.raises(UserError, match="above 1 is not for step_critique, whose authors"):
        start(tmp_path, method=authored, **AHEAD)


@pytest.mark.parametrize(
    "ahead", [{"max_staleness": 0}, {"steps": 2}, {}, 3, {"max_staleness": "2"}]
)
def test_how_old_is_a_number_of_steps(tmp_path, ahead):
    with pytest.raises(ValueError, match=r"async_rollouts: it should be true, false, or \{max_st"):
        config(tmp_path, async_rollouts=ahead)
