"""What happens beside the steps of a training run: progress, teachers that move, an end in time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType, gather_object
from torch import Tensor
from transformers import TrainerCallback

from opsd.console import bar, log
from opsd.rollout.engine import Progress, silent
from opsd.runs import checkpoint
from opsd.teacher.copies import TeacherWeights
from opsd.teacher.weights import Weights
from opsd.training.stopping import Stopped, StopSignal
from opsd.types import RunFailed


class TrainingProgress(TrainerCallback):
    """A bar over the optimizer steps, which moves within a step too, and where standard error is no
    terminal a line per log, and one every `SELDOM` seconds that a step takes."""

    SELDOM = 30.0
    WRITING = 0.5
    """The part of a step that its rollouts count for."""

    def __init__(self) -> None:
        self.progress = bar()
        self.task: Any = None
        self.step = self.steps = self.passes = self.passed = 0
        self._told = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self.step, self.steps = state.global_step, state.max_steps
            self.passes = args.gradient_accumulation_steps
            self.progress.start()
            self.task = self.progress.add_task(
                "training", total=state.max_steps, completed=state.global_step, unit="step", note=""
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.step, self.passed = state.global_step, 0
        self._told = time.monotonic()
        if self.task is not None:
            self.progress.update(self.task, completed=self.step, description="training")

    def writing(self, phase: str, rollouts: int, horizon: int) -> Progress:
        """What is told how an engine call comes on, of so many rollouts of at most `horizon`
        tokens."""
        if self.task is None:
            return silent
        begun, ended, written = time.monotonic(), 0, 0

        def told(done: int, tokens: int = 0) -> None:
            nonlocal ended, written
            ended, written = ended + done, written + tokens
            rate = written / max(time.monotonic() - begun, 1e-3)
            part = max(ended / rollouts, written / (rollouts * horizon))
            left = (rollouts * horizon - written) / max(rate, 1e-3)
            self._tell(
                f"{phase} {ended}/{rollouts}, {rate:,.1f} tokens/s",
                f"{written:,} tokens so far, at most {left:,.0f} s left",
                self.WRITING * part if phase == "rollout" else 0.0,
            )

        return told

    def learning(self, number: int, parts: int) -> None:
        """A pass begins, so many of `parts` of a micro-batch being done."""
        if self.task is None:
            return
        done = (self.passed + number / parts) / self.passes
        self._tell(f"learning {done:.0%}", "", self.WRITING + (1 - self.WRITING) * done)
        self.passed += number == parts - 1

    def _tell(self, what: str, more: str, part: float) -> None:
        self.progress.update(self.task, completed=self.step + part, description=what)
        if self.progress.disable and time.monotonic() - self._told > self.SELDOM:
            self._told = time.monotonic()
            log(f"step {self.step + 1}/{self.steps}  {what}{more and ', '}{more}")

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if not state.is_world_process_zero or not logs:
            return
        note = _note(logs)
        if self.task is not None:
            self.progress.update(self.task, completed=state.global_step, note=note)
        if self.progress.disable and note:
            log(f"step {state.global_step}/{state.max_steps}  {note}")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.progress.stop()


class FiniteSteps(TrainerCallback):
    """Leaves steps out whose loss or gradient is no number (NaN, infinite): weights and teachers
    stay as they are, and no checkpoint takes the place of a better one. After `LIMIT` such steps in
    a row the run ends."""

    LIMIT = 3

    def __init__(self, accelerator: Any, run: Path) -> None:
        self.accelerator, self.run = accelerator, run
        self.clear()

    def clear(self) -> None:
        """Begins to count."""
        self.norm: Any = 0.0
        self.in_a_row = self.left_out = self.without_loss = 0
        self._bad_loss = False

    def counted(self, loss: Tensor) -> Tensor:
        """A loss as the Trainer may add it up: 0 in place of one that is no number."""
        bad = not bool(torch.isfinite(loss))
        self._bad_loss |= bad
        return torch.zeros_like(loss) if bad else loss

    def on_pre_optimizer_step(
        self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any
    ) -> None:
        scaled = self.accelerator.scaler is not None
        # A scaler finds its scale by gradients that overflow, and leaves such steps out itself.
        bad_norm = not scaled and not math.isfinite(float(self.norm or 0.0))
        found = [(self._bad_loss, bad_norm)]
        found = gather_object(found) if args.world_size > 1 else found
        bad_loss, self._bad_loss = any(loss for loss, _ in found), False
        self.without_loss += bad_loss
        if not bad_loss and not any(norm for _, norm in found):
            self.in_a_row = 0
            return
        if self.accelerator.distributed_type == DistributedType.DEEPSPEED:  # its step is taken
            raise RunFailed(f"step {state.global_step + 1}: {self._told()}")
        if not scaled:
            optimizer.zero_grad()
        self.in_a_row += 1
        self.left_out += 1

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.in_a_row:
            control.should_save = control.should_evaluate = False
            control.should_log = True

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.refuse(state)

    def tell(self, logs: dict[str, Any]) -> None:
        """Adds to a log line how many of its steps were left out; where one had no loss, the line
        has none."""
        if self.without_loss:
            logs["loss"] = math.nan
        if self.left_out:
            logs["nonfinite_steps"] = self.left_out
        self.left_out = self.without_loss = 0

    def refuse(self, state: Any) -> None:
        """Raises RunFailed where too many steps in a row were left out."""
        if self.in_a_row >= self.LIMIT:
            raise RunFailed(
                f"{self.in_a_row} steps in a row to step {state.global_step}: {self._told()}"
            )

    def _told(self) -> str:
        newest = max(checkpoint.complete(self.run), default=None)
        kept = f"checkpoint-{newest} is the last one" if newest else "there is no checkpoint before"
        return (
            "the loss or its gradient is no number (NaN, or infinite); lower learning_rate or"
            f" max_grad_norm. {kept}"
        )


class TeacherUpdates(TrainerCallback):
    """Moves the teachers' weights after every optimizer step, but for those that were left out:
    after them there is nothing to follow. `reuse` is the method's."""

    def __init__(
        self, weights: Mapping[Weights, TeacherWeights], reuse: int, finite: FiniteSteps
    ) -> None:
        self.weights, self.reuse, self.finite = weights, reuse, finite

    def on_step_end(
        self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any
    ) -> None:
        if self.finite.in_a_row:
            return
        for choice, own in self.weights.items():
            if choice.moves(state.global_step, self.reuse):
                own.update(model, state.global_step, state.max_steps)


class TimelyEnd(TrainerCallback):
    """Stops when the tokens are spent, and when the run is told to. `spent` are the tokens that
    this process has generated; `catch_up` does what a run that was told to stop has left undone."""

    def __init__(
        self, stop: StopSignal, spent: Callable[[], int], catch_up: Callable[[], None]
    ) -> None:
        self.stop, self.spent, self.catch_up = stop, spent, catch_up

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # Where a step is left in the middle, all before it has to be written down already.
        alone = args.world_size == 1 and not args.async_rollouts
        logged = args.logging_strategy == "steps" and args.logging_steps == 1
        self.stop.leave_at(once=alone and logged)
        self.catch_up()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        told = gather_object([(self.spent(), self.stop.number)])
        budget = args.max_generated_tokens
        if budget is not None and sum(spent for spent, _ in told) >= budget:
            control.should_training_stop = True
        numbers = [number for _, number in told if number is not None]
        if numbers:
            # All processes know by now: they leave an evaluation together, at its beginning.
            self.stop.take(numbers[0])
            control.should_save = control.should_training_stop = True
        # What is measured but not logged yet is in no checkpoint.
        control.should_log |= control.should_save

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_log |= control.should_save
        # Saved, and told to all callbacks; the Trainer would finish as if this were the end.
        if self.stop.number is not None and control.should_training_stop:
            raise Stopped


def _note(logs: dict[str, Any]) -> str:
    """The few numbers that say whether a run is well."""
    shown = (
        ("divergence", "divergence", ".4f"),
        ("loss", "loss", ".4f"),
        ("accuracy", "correct", ".2f"),
        ("completions/mean_length", "length", ".0f"),
        ("generated_tokens", "tokens", ",d"),
        ("eval_avg@k", "dev avg@k", ".3f"),
        ("eval_format_rate", "dev format", ".2f"),
        ("nonfinite_steps", "steps left out", "d"),
    )
    return "  ".join(f"{label} {logs[key]:{form}}" for key, label, form in shown if key in logs)
