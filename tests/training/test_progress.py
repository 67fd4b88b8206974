"""What is seen of a step while it is taken: rollouts, tokens, rate, and what is left."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.arrange import config, problems

from opsd import OPSDTrainer, methods
from opsd.data.batches import StepShape
from opsd.training import callbacks
from opsd.training.callbacks import TrainingProgress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that a test sets."""
    now = [0.0]
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: now[0])
    return now


def begun(disabled: bool, **choices: Any) -> TrainingProgress:
    """A training of ten steps with two micro-batches each, before its fourth step."""
    shown = TrainingProgress(**choices)
    shown.progress.disable = disabled
    state = SimpleNamespace(is_world_process_zero=True, global_step=3, max_steps=10)
    shown.on_train_begin(SimpleNamespace(gradient_accumulation_steps=2), state, None)
    return shown


def bar_of(shown: TrainingProgress) -> tuple[float, str]:
    (task,) = shown.progress.tasks
    return task.completed, task.description


def test_the_bar_moves_while_rollouts_are_written_and_learned_from(clock):
    shown = begun(disabled=True)
    told = shown.writing("rollout", 4, 100)
    clock[0] = 10.0
    told(0, 40)
    assert bar_of(shown) == (3 + 0.5 * 0.1, "writing 0/4, 4 tokens/s")
    clock[0] = 20.0
    told(3, 20)  # three have ended early
    assert bar_of(shown) == (3 + 0.5 * 0.75, "writing 3/4, 3 tokens/s")
    shown.phase("grading")
    assert bar_of(shown) == (3.375, "grading")
    seen = []
    for number, parts in ((0, 2), (1, 2), (0, 1)):
        shown.learning(number, parts, 50)
        clock[0] += 10.0
        for who in ("teacher", "student"):
            shown.reading(who)
            seen.append(bar_of(shown))
    assert seen == [
        *((3.5, f"{who} 0%") for who in ("teacher", "student")),
        *((3.625, f"{who} 25%, 5 tokens/s") for who in ("teacher", "student")),
        *((3.75, f"{who} 50%, 5 tokens/s") for who in ("teacher", "student")),
    ]
    shown.on_step_end(None, SimpleNamespace(global_step=4), None)
    assert bar_of(shown) == (4, "training")
    # Of the step's 50 seconds 20 went by before the first pass: so much of the next one is writing.
    shown.writing("rollout", 4, 100)(2, 1)
    assert bar_of(shown)[0] == pytest.approx(4 + 0.4 * 0.5)


@pytest.mark.parametrize(("phase", "name"), [("critique", "critique"), ("eval", "dev")])
def test_what_is_no_rollout_moves_no_step(clock, phase, name):
    shown = begun(disabled=True)
    clock[0] = 10.0
    shown.writing(phase, 4, 100)(2, 50)
    assert bar_of(shown) == (3, f"{name} 2/4, 50,000 tokens/s")


def test_without_a_terminal_a_long_step_tells_how_far_it_is_now_and_then(
    clock, capsys, monkeypatch
):
    monkeypatch.setattr(callbacks, "remaining", lambda task: 169.3)
    shown = begun(disabled=True)
    told = shown.writing("rollout", 4, 100)
    for second in range(1, 71):
        clock[0] = float(second)
        told(0, 2)
    assert capsys.readouterr().err.splitlines() == [
        "step 3/10, 0:02:49 left  writing 0/4, 2 tokens/s",
        "step 3/10, 0:02:49 left  writing 0/4, 2 tokens/s",
    ]


def test_without_a_terminal_short_steps_are_a_line_now_and_then(clock, capsys):
    shown = begun(disabled=True)
    for step in range(4, 10):
        clock[0] += 7.0
        state = SimpleNamespace(is_world_process_zero=True, global_step=step, max_steps=10)
        shown.on_log(None, state, None, logs={"loss": 1 / step})
    shown.on_log(None, state, None, logs={"eval_avg@k": 0.25})
    shown.on_log(None, state, None, logs={"train_runtime": 3.0})
    lines = [line.split("  ", 1)[1] for line in capsys.readouterr().err.splitlines()]
    assert lines == ["loss 0.1250", "dev avg@k 0.250"]  # after 35 seconds; dev scores always


@pytest.mark.parametrize(
    ("rewarded", "reward", "told"),
    [
        (False, 0.25, "loss 0.0000  correct 0.25"),
        (False, 0.6, "loss 0.0000  reward 0.600  correct 0.25"),
        (True, 0.25, "loss 0.0000  reward 0.250  correct 0.25"),
    ],
)
def test_a_reward_of_its_own_is_told_and_nothing_is_less_than_zero(capsys, rewarded, reward, told):
    shown = begun(disabled=True, rewarded=rewarded)
    state = SimpleNamespace(is_world_process_zero=True, global_step=10, max_steps=10)
    shown.on_log(None, state, None, logs={"loss": -1e-9, "reward": reward, "accuracy": 0.25})
    (line,) = capsys.readouterr().err.splitlines()
    assert line.split("  ", 1)[1] == told


def test_a_run_tells_it(tmp_path: Path, tokenizer, monkeypatch: pytest.MonkeyPatch):
    seen: list[str] = []
    tell = TrainingProgress._tell

    def told(self: Any, what: str, within: float | None = None) -> None:
        seen.append(what.split()[0])
        tell(self, what, within)

    monkeypatch.setattr(TrainingProgress, "_tell", told)
    args = config(
        tmp_path,
        max_steps=1,
        gradient_accumulation_steps=2,
        disable_tqdm=False,
        save_strategy="steps",
        save_steps=1,
        eval_strategy="steps",
        eval_steps=1,
    )
    data = {"train_dataset": problems(8), "eval_dataset": problems(2)}
    OPSDTrainer("miniature", methods.opsd(), args, **data).train()
    phases = ["writing", "grading", "teacher", "student", "dev", "saving"]
    assert list(dict.fromkeys(seen)) == phases
    assert seen.count("student") == 2


def test_a_line_says_how_many_rollouts_a_step_takes_and_by_which_settings():
    shape = StepShape(rollouts=32, group=4, micro_batches=8, world=4)
    assert shape.described == (
        "128 rollouts, 4 of each of 32 problems = per_device_train_batch_size 4 x"
        " gradient_accumulation_steps 8 x 4 process(es); rollouts_per_step sets the product"
    )
